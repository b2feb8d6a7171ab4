"""A table as numbers (.csv) and as text (.md, .tex)."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from tabulate import tabulate

from offramp._io.tables import write_table
from offramp._io.writing import write_text
from offramp.reports.labels import about_quality, title_and_caption
from offramp.reports.loading import quality_in


@dataclass(frozen=True)
class Table:
    """The functions that make a table.

    Attributes
    ----------
    numbers : function of the input files
        Returns the numbers as tidy data at full precision. Its docstring is the title and the caption of the table.
    readable : function of the numbers
        Returns the rows that are worth showing as text.
    findings : function of the numbers
        Returns sentences that state what the table shows. By default there are none.
    """

    numbers: Callable[..., pd.DataFrame]
    readable: Callable[[pd.DataFrame], pd.DataFrame]
    findings: Callable[[pd.DataFrame], list[str]] = lambda numbers: []

    def write(self, numbers: pd.DataFrame, out: Path) -> None:
        """Write OUT.csv, OUT.md and OUT.tex. Each file is written completely or not at all."""
        text = self.text(numbers)
        write_table(numbers, f"{out}.csv")
        write_text(f"{out}.md", self.markdown(numbers, text))
        write_text(f"{out}.tex", _latex(text, self.about(numbers)))

    def text(self, numbers: pd.DataFrame) -> pd.DataFrame:
        """Return the readable form of the numbers, with the name of the mean quality if answers are not classes."""
        return self.readable(numbers).rename(columns=lambda name: about_quality(name, quality_in(numbers)))

    def sentences(self, numbers: pd.DataFrame) -> list[str]:
        """Return what the table shows, in words."""
        return [about_quality(sentence, quality_in(numbers)) for sentence in self.findings(numbers)]

    def markdown(self, numbers: pd.DataFrame, text: pd.DataFrame) -> str:
        """Return the content of OUT.md. `text` is the readable form of the numbers."""
        return _markdown(text, self.sentences(numbers), self.about(numbers))

    def about(self, numbers: pd.DataFrame) -> str:
        """Return title and caption."""
        return about_quality("{}. {}".format(*title_and_caption(self.numbers)), quality_in(numbers))


def cell(value: float, low: float = np.nan, high: float = np.nan, sd: float = np.nan, *, digits: int, sign: str = ""):
    """Format `mean [low, high] ± sd` with typographic minus signs. Parts that are NaN are left out; a NaN mean is –."""
    if np.isnan(value):
        return "–"

    def number(x: float) -> str:
        text = f"{x:{sign}.{digits}f}"
        return text if float(text) else f"{0:.{digits}f}"

    text = number(value)
    if not np.isnan(low):
        text += f" [{number(low)}, {number(high)}]"
    if not np.isnan(sd):
        text += f" ± {sd:.{digits}f}"
    return text.replace("-", "−")


def as_shown(name: str) -> list[str]:
    """Return the columns of a number, its interval and its standard deviation, in the order of `cell`."""
    return [name, f"{name}_low", f"{name}_high", f"{name}_sd"]


def cells(table: pd.DataFrame, name: str, *, scale: float = 1.0, digits: int, sign: str = "") -> list[str]:
    """Format the number `name` of each row, with its interval and its standard deviation over seeds if known."""
    values = table.reindex(columns=as_shown(name)).to_numpy(np.float64) * scale  # (rows, 4)
    return [cell(*row, digits=digits, sign=sign) for row in values]


def costs(table: pd.DataFrame, name: str, factor: float) -> list[str]:
    """As `cells`, for a cost that is divided by a factor: 2 decimals, or 3 significant digits below 0.1."""
    return [
        cell(*row, digits=2 if not 0 < row[0] < 0.1 else 2 - math.floor(math.log10(row[0])))
        for row in table.reindex(columns=as_shown(name)).to_numpy(np.float64) / factor  # (rows, 4)
    ]


def is_numeric(column: Sequence[str]) -> bool:
    """Return whether all texts of a column are numbers, possibly with an interval or spread (then right-aligned)."""
    return all(re.fullmatch(r"[+−]?[\d.]+( [\[±].*)?|–|baseline|reference", text) for text in column)


def _markdown(text: pd.DataFrame, findings: Sequence[str], caption: str) -> str:
    return "\n\n".join([*findings, _tabulate(text, "pipe"), caption]) + "\n"


_LONG = 45  # number of rows that fit on a page
_TEX = str.maketrans(
    {
        **{character: f"\\{character}" for character in "&%$#_{}"},
        **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
        **{"−": "$-$", "±": r"$\pm$", "×": r"$\times$", "δ": r"$\delta$", "≤": r"$\leq$", "≥": r"$\geq$"},
        **{"→": r"$\rightarrow$", "–": "--", "…": r"\dots{}", "∞": r"$\infty$", "<": "$<$", ">": "$>$", "|": "$|$"},
    }
)


def _latex(text: pd.DataFrame, caption: str) -> str:
    """Return plain LaTeX without booktabs. A table that is longer than a page is a longtable."""
    escaped = text.rename(columns=lambda name: name.translate(_TEX)).map(lambda value: value.translate(_TEX))
    body = _tabulate(escaped, "latex_raw", [is_numeric(text[name]) for name in text])
    notes = [f"% {caption.translate(_TEX)}"]
    if len(text) > _LONG:
        body = body.replace("{tabular}", "{longtable}")
        notes.append(r"% Needs \usepackage{longtable}.")
    return "\n".join([*notes, body]) + "\n"


def _tabulate(text: pd.DataFrame, style: str, numeric: Sequence[bool] | None = None) -> str:
    numeric = numeric or [is_numeric(text[name]) for name in text]
    return tabulate(
        text.to_numpy().tolist(),
        headers=list(text),
        tablefmt=style,
        disable_numparse=True,
        colalign=["right" if right else "left" for right in numeric],
    )
