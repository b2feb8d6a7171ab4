"""Agreement of neighbouring exits."""

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from offramp.reports.figures import style
from offramp.reports.labels import system_name
from offramp.reports.loading import read_tables

_LOOKS = [
    (style.BLUE, "o", "-"),
    (style.VERMILLION, "s", "--"),
    (style.GREEN, "^", "-."),
    (style.BLACK, "D", ":"),
    (style.ORANGE, "v", (0, (5, 1))),
    (style.PURPLE, "P", (0, (3, 1, 1, 1))),
    (style.SKY, "X", (0, (1, 1))),
    (style.GREY, "<", (0, (6, 2))),
]
_PANELS = {"agreement": "Agrees with previous exit (%)", "accuracy": "Test accuracy (%)"}


def draw(files: Sequence[Path]) -> Figure:
    """Agreement of neighbouring exits.

    On test data. Left: share of samples for which an exit makes the same prediction as the exit before it. Right:
    accuracy of each exit if all samples leave there. Lines are means over seeds, and bands are ± one standard deviation
    over seeds. The results do not depend on a policy or a threshold. Patience and BEEM are based on the agreement of
    neighbouring exits.

    Parameters
    ----------
    files : sequence of paths
        The exit tables that `offramp evaluate` wrote, for all seeds.
    """
    (exits,) = read_tables(files, "exits")
    if "agreement" not in exits:
        raise ValueError("agreement: the exits have no column agreement; expected what this version's evaluate writes")
    looks = {name: style.Look(system_name(name), *look) for name, look in zip(exits["system"].unique(), cycle(_LOOKS))}
    exits[list(_PANELS)] *= 100
    figure, axes = style.new_figure(style.TWO_COLUMNS, 2.5, 1, 2, sharex=True)
    for ax, (number, label) in zip(axes, _PANELS.items()):
        style.draw_lines(ax, exits, "exit", number, looks, by="system")
        ax.set(xlabel="Exit", ylabel=label, xlim=(0.7, exits["exit"].max() + 0.3))
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    style.legend_below(figure, style.entries(looks), min(4, len(looks)))
    return figure
