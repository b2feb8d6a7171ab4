"""How often neighbouring exits agree."""

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from offramp.reports.figures.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    TWO_COLUMNS,
    VERMILLION,
    legend_below,
    new_figure,
)
from offramp.reports.labels import system_name
from offramp.reports.loading import read_tables

_LOOKS = [
    (BLUE, "o", "-"),
    (VERMILLION, "s", "--"),
    (GREEN, "^", "-."),
    (BLACK, "D", ":"),
    (ORANGE, "v", (0, (5, 1))),
    (PURPLE, "P", (0, (3, 1, 1, 1))),
    (SKY, "X", (0, (1, 1))),
    (GREY, "<", (0, (6, 2))),
]
_PANELS = {"agreement": "Agrees with the exit before (%)", "accuracy": "Test accuracy (%)"}


def draw(files: Sequence[Path]) -> Figure:
    """How often neighbouring exits agree.

    On test data: the share of samples on which an exit predicts what the exit before it predicts (left), and each
    exit's accuracy if all samples left there (right). Lines are means over seeds, bands ± one standard deviation over
    seeds. No policy and no threshold is in it: this is what patience and BEEM count on.

    Parameters
    ----------
    files : sequence of paths
        Exits that `offramp evaluate` wrote, of all seeds.
    """
    (exits,) = read_tables(files, "exits")
    if "agreement" not in exits:
        raise ValueError("agreement: the exits have no column agreement; expected what this version's evaluate writes")
    looks = dict(zip(exits["system"].unique(), cycle(_LOOKS)))
    figure, axes = new_figure(TWO_COLUMNS, 2.5, 1, 2)
    for (number, label), ax in zip(_PANELS.items(), axes):
        for system, (color, marker, style) in looks.items():
            seeds = 100 * exits[exits["system"] == system].dropna(subset=[number]).set_index("exit")[number]
            mean, sd = seeds.groupby("exit").mean(), seeds.groupby("exit").std().fillna(0)
            ax.fill_between(mean.index, mean - sd, mean + sd, color=color, alpha=0.18, linewidth=0)
            ax.plot(mean.index, mean, color=color, marker=marker, linestyle=style, markersize=3.5)
        ax.set(xlabel="Exit", ylabel=label, xlim=(0.7, exits["exit"].max() + 0.3))
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    handles = [
        Line2D([], [], color=color, marker=marker, linestyle=style, label=system_name(system))
        for system, (color, marker, style) in looks.items()
    ]
    legend_below(figure, handles, min(4, len(handles)))
    return figure
