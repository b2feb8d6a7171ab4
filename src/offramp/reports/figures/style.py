"""One look for all figures: sizes, colours, and a fixed style for each policy."""

import io
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from offramp._io.writing import whole_file
from offramp.reports.labels import FRONT_NAMES, in_order, policy_name

ONE_COLUMN, TWO_COLUMNS = 3.35, 6.9  # inches, widths of a journal page

# Okabe & Ito's colours, which colour-blind readers can tell apart
BLACK, GREY, ORANGE, SKY, GREEN = "#000000", "#7F7F7F", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, VERMILLION, PURPLE = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
PALE = "#E8E8E8"

RC = {
    "font.size": 7.5,
    "font.family": "DejaVu Sans",  # comes with Matplotlib: the same on every machine
    "axes.labelsize": 7.5,
    "axes.titlesize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "figure.titlesize": 8,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#E0E0E0",
    "grid.linewidth": 0.4,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "hatch.linewidth": 0.6,
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
    "savefig.dpi": 200,
    "pdf.fonttype": 42,  # text stays text
}


@dataclass(frozen=True)
class PolicyStyle:
    name: str
    color: str
    marker: str
    linestyle: str | tuple


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
    "oracle": (BLACK, "*", ""),
    "random": (GREY, "x", ":"),
}
_REMAINING = [
    (PURPLE, "<", (0, (5, 1, 1, 1, 1, 1))),
    (SKY, "h", (0, (6, 2))),
    (GREY, "d", "-."),
    (ORANGE, ">", (0, (1, 1))),
    (YELLOW, "X", "-"),
]


def policy_styles(labels: Iterable[str]) -> dict[str, PolicyStyle]:
    """The style of each policy label, in the order of print; those without a style of their own share the remaining
    ones by turns."""
    remaining = cycle(_REMAINING)
    return {
        label: PolicyStyle(policy_name(label), *(_KNOWN[label] if label in _KNOWN else next(remaining)))
        for label in in_order(labels)
    }


# Of the fronts of a search
KIND_STYLES = {
    "pair": PolicyStyle(FRONT_NAMES["pair"], VERMILLION, "o", "-"),
    "triple": PolicyStyle(FRONT_NAMES["triple"], BLUE, "D", (0, (5, 1.2))),
    "random": PolicyStyle(FRONT_NAMES["random"], GREY, "x", ":"),
    "oracle": PolicyStyle(FRONT_NAMES["oracle"], GREEN, "*", "-."),
}


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


def legend_below(figure: Figure, handles: list, columns: int) -> None:
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, handlelength=2.6, columnspacing=1.4)


def settings():
    """Matplotlib's defaults with the changes above, whatever the user's own configuration says."""
    return mpl.rc_context({**{k: v for k, v in mpl.rcParamsDefault.items() if k != "backend"}, **RC})


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
