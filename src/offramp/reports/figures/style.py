"""The style of all figures: sizes, colours, and a fixed look for each policy."""

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import LogLocator, NullLocator

from offramp._io.writing import whole_file
from offramp.reports.labels import FRONT_NAMES, about_quality, in_order, policy_name

ONE_COLUMN, TWO_COLUMNS = 3.35, 6.9  # widths on a journal page, in inches

# The colours of Okabe and Ito, which colour-blind readers can distinguish
BLACK, GREY, ORANGE, SKY, GREEN = "#000000", "#7F7F7F", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, VERMILLION, PURPLE = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
PALE = "#E8E8E8"

RC = {
    "font.family": "DejaVu Sans",  # included in Matplotlib, so figures look the same on every machine
    "axes.edgecolor": BLACK,
    "grid.color": "#E0E0E0",
    "grid.linewidth": 0.4,
    "figure.titlesize": "medium",
    "lines.markersize": 4,
    "pdf.fonttype": 42,  # TrueType, so that text in the .pdf remains text
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
    """The look of the line of a policy, a system or a kind of cascade."""

    name: str
    color: str
    marker: str
    linestyle: str | tuple

    @property
    def dashes(self) -> str | tuple:
        """The line style in the format of seaborn."""
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
    "router": (GREEN, "d", "-."),
    "oracle": (BLACK, "*", ":"),
    "random": (GREY, "X", ":"),  # seaborn cannot mix filled markers with x
}
_REMAINING = [
    (PURPLE, "<", (0, (5, 1, 1, 1, 1, 1))),
    (SKY, "h", (0, (6, 2))),
    (GREY, "d", "-."),
    (ORANGE, ">", (0, (1, 1))),
    (YELLOW, "X", "-"),
]
# Looks of the fronts of a search
KIND_STYLES = {
    "pair": Look(FRONT_NAMES["pair"], VERMILLION, "o", "-"),
    "triple": Look(FRONT_NAMES["triple"], BLUE, "D", (0, (5, 1.2))),
    "random": Look(FRONT_NAMES["random"], GREY, "X", ":"),
    "oracle": Look(FRONT_NAMES["oracle"], GREEN, "*", "-."),
}


def policy_styles(labels: Iterable[str]) -> dict[str, Look]:
    """Return the look of each policy label, in the order in which policies are listed.

    Policies without a look of their own use the remaining looks in turn.
    """
    remaining = cycle(_REMAINING)
    return {
        label: Look(policy_name(label), *(_KNOWN[label] if label in _KNOWN else next(remaining)))
        for label in in_order(labels)
    }


def stream_styles(methods: Iterable[str]) -> dict[str, Look]:
    """Return the look of each online policy: black for the static one, and colours in turn for the others."""
    colors = cycle([BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY])
    lines = cycle(["-", "--", "-.", ":"])
    return {
        label: Look(label, *((BLACK, "", "-") if label == "static" else (next(colors), "", next(lines))))
        for label in methods
    }


def shade_severities(ax: Axes, sample: np.ndarray, severity: np.ndarray) -> None:
    """Shade the severities of a stream, darker the higher they are.

    `sample` (n,) are the last samples of its parts, from 1, and `severity` (n,) those of the parts.
    """
    starts = np.flatnonzero(np.append(True, np.diff(severity) != 0))  # (segments,)
    before = np.append(0, sample)[starts]
    for begin, end, its in zip(before, np.append(before[1:], sample[-1]), severity[starts]):
        ax.axvspan(begin + 1, end + 1, color=GREY, alpha=0.3 * its / max(severity.max(), 1e-12), linewidth=0, zorder=0)


def looks(styles: Mapping[str, Look], by: str) -> dict:
    """Return the arguments of the scatterplot and lineplot of seaborn for colours and markers by a column of labels."""
    order = list(styles)
    mapped = {"hue": by, "hue_order": order, "palette": {label: look.color for label, look in styles.items()}}
    mapped |= {"style": by, "style_order": order, "markers": {label: look.marker for label, look in styles.items()}}
    return mapped | {"legend": False}


def draw_lines(
    ax: Axes, table: pd.DataFrame, x: str, y: str, styles: Mapping[str, Look], by: str = "policy", **options
) -> dict[str, Line2D]:
    """Draw one line per label with the lineplot of seaborn.

    Lines are means of the rows with equal x, with a band of ± one standard deviation. If every x occurs only once per
    label, nothing is averaged.

    Returns
    -------
    dict of str to Line2D
        The lines by label, in the order of `styles`.
    """
    if table.empty:
        return {}
    before = len(ax.lines)
    if not table.duplicated([by, x]).any():
        options |= {"estimator": None, "errorbar": None}  # much faster
    options = {"errorbar": "sd", "err_kws": {"alpha": 0.16, "linewidth": 0}, "markeredgewidth": 0.3} | options
    dashes = {label: look.dashes for label, look in styles.items()}
    sns.lineplot(table, x=x, y=y, dashes=dashes, ax=ax, **(looks(styles, by) | options))
    there = set(table.loc[table[[x, y]].notna().all(axis=1), by])
    return dict(zip([label for label in styles if label in there], ax.lines[before:]))


def draw_intervals(
    ax: Axes, rows: pd.DataFrame, number: str, place: pd.Series, look: Look, reference: float, scale: float = 1.0
) -> None:
    """Draw a mark and an interval from the table for each row, and a dashed line at the reference value."""
    ax.axvline(scale * reference, color=look.color, linewidth=0.7, linestyle=DASHED, zorder=1)
    ax.hlines(place, scale * rows[f"{number}_low"], scale * rows[f"{number}_high"], color=look.color, linewidth=1.2)
    ax.plot(scale * rows[number], place, look.marker, color=look.color, markersize=3.6, zorder=3)


def name_rows(ax: Axes, names: Sequence[str]) -> None:
    """Write the names of rows on the y axis, from top to bottom."""
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.grid(axis="y", visible=False)
    ax.tick_params(axis="y", length=0)


def log_scale(axis: Axis, text: str = "{x:g}", subs: Sequence[float] = (1, 2, 5)) -> None:
    """Set a logarithmic axis with ticks at 1, 2, 5, 10 and so on, written as plain numbers."""
    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(text)


def new_figure(width: float, height: float, rows: int = 1, columns: int = 1, **options) -> tuple[Figure, list[Axes]]:
    """Return an empty figure and its axes, row by row. Does not use pyplot, which would keep the figure in memory."""
    figure = Figure(figsize=(width, height))
    return figure, list(figure.subplots(rows, columns, squeeze=False, **options).flat)


def grid_of_panels(panels: int, height: float, **options) -> tuple[Figure, list[Axes], int]:
    """Return an empty figure with this number of panels, its axes row by row, and the number of columns.

    `height` is the height of each panel in inches.
    """
    columns = panels if panels < 4 else 2 if panels == 4 else 3
    rows = -(-panels // columns)
    figure, axes = new_figure(TWO_COLUMNS if columns > 1 else ONE_COLUMN, height * rows + 0.5, rows, columns, **options)
    for ax in axes[panels:]:
        ax.remove()
    return figure, axes[:panels], columns


def entry(label: str, color: str = BLACK, **look) -> Line2D:
    """Return an entry of the legend."""
    return Line2D([], [], color=color, label=label, **look)


def entries(styles: Mapping[str, Look], **changes) -> list[Line2D]:
    """Return an entry of the legend for each look. `changes` apply to all of them."""
    return [
        entry(look.name, look.color, **({"linestyle": look.linestyle, "marker": look.marker} | changes))
        for look in styles.values()
    ]


def legend_below(figure: Figure, handles: Sequence[Artist], columns: int) -> None:
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, handlelength=2.6, columnspacing=1.4)


def settings():
    """Return a context with the style "ticks" of seaborn at the sizes of a paper, and with `RC`.

    All other settings are the defaults of Matplotlib. The configuration of the user has no effect.
    """
    defaults = {name: value for name, value in mpl.rcParamsDefault.items() if name != "backend"}
    return mpl.rc_context(defaults | sns.axes_style("ticks") | sns.plotting_context("paper", font_scale=0.8) | RC)


def write_about(artist: Artist, quality: str | None) -> None:
    """Write the name of the mean quality in place of accuracy in a figure or axes (see `labels.about_quality`)."""
    for text in artist.findobj(Text) if quality else ():
        text.set_text(about_quality(text.get_text(), quality))


def save(figure: Figure, out: Path) -> None:
    """Write OUT.pdf and OUT.png, both or neither. The same figure always gives the same bytes."""
    pictures = {}
    for kind, metadata in (("pdf", {"CreationDate": None}), ("png", {})):
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, metadata=metadata)
        pictures[kind] = buffer.getvalue()
    for kind, picture in pictures.items():
        with whole_file(f"{out}.{kind}") as partial:
            partial.write_bytes(picture)
