"""One look for all figures: sizes, colours, and a fixed look for each policy."""

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import matplotlib as mpl
import pandas as pd
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator

from offramp._io.writing import whole_file
from offramp.reports.labels import FRONT_NAMES, in_order, policy_name

ONE_COLUMN, TWO_COLUMNS = 3.35, 6.9  # inches, widths of a journal page

# Okabe & Ito's colours, which colour-blind readers can tell apart
BLACK, GREY, ORANGE, SKY, GREEN = "#000000", "#7F7F7F", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, VERMILLION, PURPLE = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
PALE = "#E8E8E8"

RC = {
    "font.family": "DejaVu Sans",  # comes with Matplotlib: the same on every machine
    "axes.edgecolor": BLACK,
    "grid.color": "#E0E0E0",
    "grid.linewidth": 0.4,
    "figure.titlesize": "medium",
    "lines.markersize": 4,
    "pdf.fonttype": 42,  # text stays text
    "savefig.dpi": 200,
    **dict.fromkeys(("axes.grid", "figure.constrained_layout.use"), True),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon", "patch.force_edgecolor"), False),
    **dict.fromkeys(("axes.linewidth", "hatch.linewidth", "xtick.major.width", "ytick.major.width"), 0.6),
    **dict.fromkeys(("xtick.major.size", "ytick.major.size"), 3.5),
}
DASHED = (0, (4, 2))
_DASHES = {"-": "", "--": (3.7, 1.6), "-.": (6.4, 1.6, 1, 1.6), ":": (1, 1.65)}


@dataclass(frozen=True)
class Look:
    """How the line of a policy, a system or a kind of cascade looks."""

    name: str
    color: str
    marker: str
    linestyle: str | tuple

    @property
    def dashes(self) -> str | tuple:
        """The line style as seaborn takes it."""
        return _DASHES[self.linestyle] if isinstance(self.linestyle, str) else self.linestyle[1]


_KNOWN = {
    "confidence": (VERMILLION, "o", "-"),
    "margin": (PURPLE, "v", "-."),
    "entropy": (SKY, "^", ":"),
    "temperature": (ORANGE, "s", "--"),
    "isotonic": (PURPLE, "p", (0, (3, 1, 1, 1))),
    "pcee": (BLUE, "D", "-"),
    "pcee-ws": (GREEN, "P", "--"),
    "budget": (SKY, "X", "-"),
    "patience": (GREY, "s", ":"),
    "beem-c": (SKY, "v", "--"),
    "beem-a": (BLACK, "^", "-"),
    "ztw": (ORANGE, "<", "-."),
    "patient-confident": (PURPLE, "^", "--"),
    "f-pabee": (GREY, "v", (0, (5, 1))),
    "normalized-entropy": (ORANGE, "^", ":"),
    "hidden-similarity": (PURPLE, "D", ":"),
    "oracle": (BLACK, "*", ":"),
    "random": (GREY, "X", ":"),  # seaborn mixes no filled markers with x
}
_REMAINING = [
    (PURPLE, "<", (0, (5, 1, 1, 1, 1, 1))),
    (SKY, "h", (0, (6, 2))),
    (GREY, "d", "-."),
    (ORANGE, ">", (0, (1, 1))),
    (YELLOW, "X", "-"),
]
# Of the fronts of a search
KIND_STYLES = {
    "pair": Look(FRONT_NAMES["pair"], VERMILLION, "o", "-"),
    "triple": Look(FRONT_NAMES["triple"], BLUE, "D", (0, (5, 1.2))),
    "random": Look(FRONT_NAMES["random"], GREY, "X", ":"),
    "oracle": Look(FRONT_NAMES["oracle"], GREEN, "*", "-."),
}


def policy_styles(labels: Iterable[str]) -> dict[str, Look]:
    """The look of each policy label, in the order of print; those without a look of their own share the remaining
    ones by turns."""
    remaining = cycle(_REMAINING)
    return {
        label: Look(policy_name(label), *(_KNOWN[label] if label in _KNOWN else next(remaining)))
        for label in in_order(labels)
    }


def looks(styles: Mapping[str, Look], by: str) -> dict:
    """What seaborn's scatterplot and lineplot take for colours and markers by a column of labels."""
    order = list(styles)
    mapped = {"hue": by, "hue_order": order, "palette": {label: look.color for label, look in styles.items()}}
    mapped |= {"style": by, "style_order": order, "markers": {label: look.marker for label, look in styles.items()}}
    return mapped | {"legend": False}


def draw_lines(
    ax: Axes, table: pd.DataFrame, x: str, y: str, styles: Mapping[str, Look], by: str = "policy", **options
) -> dict[str, Line2D]:
    """seaborn's lineplot, a line a label: means of the rows of equal x, and a band of ± one standard deviation. Where
    no x comes twice, nothing is averaged.

    Returns
    -------
    dict of str to Line2D
        The lines by their labels, in the order of `styles`.
    """
    if table.empty:
        return {}
    before = len(ax.lines)
    if not table.duplicated([by, x]).any():
        options |= {"estimator": None, "errorbar": None}  # which is faster by far
    options = {"errorbar": "sd", "err_kws": {"alpha": 0.16, "linewidth": 0}, "markeredgewidth": 0.3} | options
    dashes = {label: look.dashes for label, look in styles.items()}
    sns.lineplot(table, x=x, y=y, dashes=dashes, ax=ax, **(looks(styles, by) | options))
    there = set(table.loc[table[[x, y]].notna().all(axis=1), by])
    return dict(zip([label for label in styles if label in there], ax.lines[before:]))


def draw_intervals(
    ax: Axes, rows: pd.DataFrame, number: str, place: pd.Series, look: Look, reference: float, scale: float = 1.0
) -> None:
    """A mark a row with the bar of its interval, which was computed already, and a value carried down the rows."""
    ax.axvline(scale * reference, color=look.color, linewidth=0.7, linestyle=DASHED, zorder=1)
    ax.hlines(place, scale * rows[f"{number}_low"], scale * rows[f"{number}_high"], color=look.color, linewidth=1.2)
    ax.plot(scale * rows[number], place, look.marker, color=look.color, markersize=3.6, zorder=3)


def name_rows(ax: Axes, names: Sequence[str]) -> None:
    """Names of rows on the y axis, from top to bottom."""
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.grid(axis="y", visible=False)
    ax.tick_params(axis="y", length=0)


def log_scale(axis: Axis, text: str = "{x:g}", subs: Sequence[float] = (1, 2, 5)) -> None:
    """A logarithmic axis with ticks at 1, 2, 5, 10 and so on, in plain numbers."""
    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(text)


def new_figure(width: float, height: float, rows: int = 1, columns: int = 1, **options) -> tuple[Figure, list[Axes]]:
    """An empty figure and its axes, row by row. No pyplot, so nothing is kept behind the scenes."""
    figure = Figure(figsize=(width, height))
    return figure, list(figure.subplots(rows, columns, squeeze=False, **options).flat)


def grid_of_panels(panels: int, height: float, **options) -> tuple[Figure, list[Axes], int]:
    """An empty figure of as many panels, each of that height in inches, their axes row by row, and the number of
    columns."""
    columns = panels if panels < 4 else 2 if panels == 4 else 3
    rows = -(-panels // columns)
    figure, axes = new_figure(TWO_COLUMNS if columns > 1 else ONE_COLUMN, height * rows + 0.5, rows, columns, **options)
    for ax in axes[panels:]:
        ax.remove()
    return figure, axes[:panels], columns


def entry(label: str, color: str = BLACK, **look) -> Line2D:
    """A line of the legend."""
    return Line2D([], [], color=color, label=label, **look)


def entries(styles: Mapping[str, Look], **changes) -> list[Line2D]:
    """A line of the legend for each look; changes to all of them."""
    return [
        entry(look.name, look.color, **({"linestyle": look.linestyle, "marker": look.marker} | changes))
        for look in styles.values()
    ]


def legend_below(figure: Figure, handles: Sequence[Artist], columns: int) -> None:
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, handlelength=2.6, columnspacing=1.4)


def settings():
    """seaborn's ticks at the sizes of a paper, with the changes above, whatever the user's own configuration says."""
    defaults = {name: value for name, value in mpl.rcParamsDefault.items() if name != "backend"}
    return mpl.rc_context(defaults | sns.axes_style("ticks") | sns.plotting_context("paper", font_scale=0.8) | RC)


def save(figure: Figure, out: Path) -> None:
    """Write OUT.pdf and OUT.png, the same bytes for the same figure, both or none."""
    pictures = {}
    for kind, metadata in (("pdf", {"CreationDate": None}), ("png", {})):
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, metadata=metadata)
        pictures[kind] = buffer.getvalue()
    for kind, picture in pictures.items():
        with whole_file(f"{out}.{kind}") as partial:
            partial.write_bytes(picture)
