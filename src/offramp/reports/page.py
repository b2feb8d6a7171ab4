"""The report of a study: a single HTML page with linked charts, figures and tables, which needs no network."""

import base64
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader
from PIL import Image

from offramp._io.tables import read_table
from offramp._io.writing import AGAIN, write_text
from offramp.reports.catalogue import FIGURES, TABLES, Entry
from offramp.reports.labels import about_quality, system_name
from offramp.reports.loading import quality_of, read_tables
from offramp.reports.tables.writing import is_numeric

if TYPE_CHECKING:
    import pandas as pd

_TRIMMED = {"autoescape": True, "trim_blocks": True, "lstrip_blocks": True}
_LOOKS = {"holds": "holds", "better": "holds", "does not hold": "fails", "worse": "fails", "undecided": "open"}


@dataclass(frozen=True)
class FigureBlock:
    """A figure on the page."""

    id: str
    title: str
    caption: str
    image: str  # data URI
    width: int  # CSS pixels
    pdf: str  # relative link


@dataclass(frozen=True)
class Finding:
    """A sentence about a table, for example on one claim, and what it is about.

    `verdicts` are numbers of cases. `figure` is the id of the figure that shows them, if it is on the page.
    """

    text: str
    verdicts: dict[str, int] = field(default_factory=dict)
    systems: list[str] = field(default_factory=list)
    policies: list[str] = field(default_factory=list)
    figure: str | None = None


@dataclass(frozen=True)
class TableBlock:
    """A table on the page."""

    id: str
    title: str
    caption: str
    findings: list[Finding]
    header: list[str]
    rows: list[list[str]]
    numeric: list[bool]
    links: dict[str, str]  # kind of file: relative link

    @property
    def claims(self) -> list[Finding]:
        """The findings that are verdicts on claims, which are shown first."""
        return [finding for finding in self.findings if finding.verdicts]


def write_report(
    files: Sequence[Path],
    title: str,
    parameters: Mapping[str, Any],
    environment: Mapping[str, Any],
    command: str,
    out: Path,
    *,
    use: str | None = None,
    start: tuple[str, float] | None = None,
) -> None:
    """Write the report of a study.

    Parameters
    ----------
    files : sequence of paths
        Figures (STEM.png, with STEM.pdf in the same folder) and tables (STEM.csv, with STEM.tex), in the order in which
        they are shown. A stem is the name of a figure or table, or begins with it, for example reliability-vit.
    title : str
    parameters : mapping
        Settings of the study, as JSON values. `notes`, a text or a list of texts, is shown separately. In studies of
        captions, this is at the top.
    environment : mapping
        Hardware and software versions from `environment.environment`.
    command : str
        Command that creates the report.
    out : path
        HTML file to write.
    use, start
        As for `explorer.explorer`.

    Raises
    ------
    ValueError
        If a file is not a known figure or table, or if it is damaged.
    """
    parameters = dict(parameters)
    notes = parameters.pop("notes", [])
    files, of_points = (
        [path for path in map(Path, files) if (path.suffix == ".parquet") == its] for its in (False, True)
    )
    explored = None
    if of_points:
        from offramp.reports.explorer import explorer

        explored = explorer(read_tables(of_points, "points")[0], use, start)
    quality = quality_of([path for path in files if path.suffix == ".csv"])
    figures = {path.stem: f"figure-{path.stem}" for path in files if path.suffix == ".png"}
    blocks = [_block(path, Path(out).parent, quality, figures) for path in files]
    tables = [block for block in blocks if isinstance(block, TableBlock)]
    page = Environment(loader=PackageLoader("offramp.reports", "."), **_TRIMMED).get_template("page.html")
    write_text(
        out,
        page.render(
            title=title,
            explorer=explored,
            claims=[block for block in tables if block.claims],
            notes=[notes] if isinstance(notes, str) else notes,
            notes_first=bool(parameters.get("captions")),  # they say what a sample is
            figures=[block for block in blocks if isinstance(block, FigureBlock)],
            tables=tables,
            parameters=parameters,
            command=command,
            verdicts={verdict: f"verdict {look}" for verdict, look in _LOOKS.items()},
            environment=environment,
        )
        + "\n",
    )


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file, for example the settings of a study.

    Raises
    ------
    ValueError
        If the file is not valid JSON, or is not an object.
    """
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not a JSON file ({error})") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected a JSON object, got {type(values).__name__}")
    return values


def _block(path: Path, folder: Path, quality: str | None, figures: Mapping[str, str]) -> FigureBlock | TableBlock:
    def link(suffix: str) -> str:
        file = path.with_suffix(suffix)
        if not file.exists():
            raise ValueError(f"{path}: no {file.name} beside it")
        return Path(os.path.relpath(file, folder)).as_posix()

    if path.suffix == ".png":
        name = _registered(path, FIGURES)
        pdf = link(".pdf")
        try:
            picture = Image.open(path).convert("RGB").quantize(256)  # a third of the size
        except (OSError, SyntaxError) as error:  # Pillow raises SyntaxError for broken PNG files
            raise ValueError(f"{path}: not a readable picture ({error}); if damaged, {AGAIN}") from None
        packed = io.BytesIO()
        picture.save(packed, "PNG", optimize=True)
        image = f"data:image/png;base64,{base64.b64encode(packed.getvalue()).decode()}"
        width = int(0.7 * picture.width)  # 200 dpi is too large
        return FigureBlock(figures[path.stem], *_headline(path, FIGURES[name], quality), image, width, pdf)
    if path.suffix == ".csv":
        name = _registered(path, TABLES)
        table, numbers = TABLES[name].load(), read_table(path)
        try:
            text = table.text(numbers)
            markdown = table.markdown(numbers, text)
        except Exception as error:  # damaged tables lead to various errors
            raise ValueError(f"{path}: not a table of {name} ({error!r}); if damaged, {AGAIN}") from None
        readable = path.with_suffix(".md")
        if readable.exists() and readable.read_text(encoding="utf-8", errors="replace") != markdown:
            raise ValueError(f"{path}: {readable.name} beside it says something else; delete both and run again")
        return TableBlock(
            f"table-{path.stem}",
            *_headline(path, TABLES[name], quality),
            _findings(table.sentences(numbers), numbers, TABLES[name].evidence, figures),
            list(text),
            text.to_numpy().tolist(),
            [is_numeric(text[column]) for column in text],
            {"CSV": link(".csv"), "LaTeX": link(".tex")},
        )
    raise ValueError(f"{path}: expected a figure (.png) or a table (.csv)")


def _findings(
    sentences: Sequence[str], numbers: "pd.DataFrame", evidence: Mapping[int, str], figures: Mapping[str, str]
) -> list[Finding]:
    """Say what each sentence is about, if there is one per claim of the table. `evidence` is the figure of a claim."""
    claims = dict(iter(numbers.groupby("claim"))) if {"claim", "verdict"} <= set(numbers) else {}
    if len(claims) != len(sentences):
        return [Finding(sentence) for sentence in sentences]

    def named(cases: "pd.DataFrame", *columns: str) -> list[str]:
        return sorted({name for column in columns if column in cases for name in cases[column].dropna()})

    return [
        Finding(
            sentence,
            cases["verdict"].value_counts().to_dict(),
            named(cases, "system", "small"),
            named(cases, "policy"),
            figures.get(evidence.get(claim)),
        )
        for sentence, (claim, cases) in zip(sentences, claims.items())
    ]


def _registered(path: Path, registry: Mapping[str, Any]) -> str:
    """Return the longest registered name with which the name of the file begins."""
    fits = [name for name in registry if f"{path.stem}-".startswith(f"{name}-")]
    if not fits:
        raise ValueError(f"{path}: its name must begin with one of {', '.join(registry)}")
    return max(fits, key=len)


def _headline(path: Path, entry: Entry, quality: str | None) -> tuple[str, str]:
    title, caption = (about_quality(text, quality) for text in entry.headline)
    rest = path.stem.removeprefix(entry.name).removeprefix("-")
    return (f"{title}: {system_name(rest)}" if rest else title), caption
