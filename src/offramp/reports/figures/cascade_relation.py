"""How many samples may end at the small model of a pair, by how much the large one is better."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, LogLocator, NullLocator
from matplotlib.transforms import blended_transform_factory

from offramp.reports.figures.style import BLACK, TWO_COLUMNS, legend_below, new_figure
from offramp.reports.loading import read_tables

_COLORS = "cividis_r"  # from light to dark, and the same to colour-blind readers
_NEVER = 0.04  # where pairs without an exit rate stand, as a share of the axis's height


def draw(files: Sequence[Path]) -> Figure:
    """Exit rate of pairs, and what it saves.

    Every ordered pair of a cheaper and a dearer model, each seed's, on validation data. Left: the largest share of
    samples that may end at the small model such that the two are no less accurate than the large one alone, against
    how much more accurate the large model is; left of 0 the small one is. Right: what the large model alone costs over
    what the pair costs then (logarithmic scale). All samples pay for the small model, so a pair beats the large model
    (above 1×, and circles) only where the exit rate is above the ratio of the two costs, small over large; squares are
    pairs that are as accurate and cost more. The colour is how many times more the large model costs. Crosses at the
    bottom are pairs that are less accurate at every threshold.

    Parameters
    ----------
    files : sequence of one path
        The relations of `offramp search`.
    """
    (pairs,) = read_tables(files, "relations")
    difference = 100 * (pairs["accuracy_large"] - pairs["accuracy_small"]).to_numpy()  # (P,) points
    ratio = (pairs["cost_large"] / pairs["cost_small"]).to_numpy()  # (P,)
    norm = LogNorm(ratio.min(), max(ratio.max(), 1.01 * ratio.min()))
    figure, axes = new_figure(TWO_COLUMNS, 3.1, 1, 2)
    beats = (pairs["reduction"] > 1).to_numpy()
    for ax, values in zip(axes, (100 * pairs["exit_rate"].to_numpy(), pairs["reduction"].to_numpy())):
        for marker, those in (("o", beats), ("s", ~beats)):
            known = those & ~np.isnan(values)
            dots = ax.scatter(
                *(difference[known], values[known]),
                **{"c": ratio[known], "norm": norm, "cmap": _COLORS, "marker": marker},
                **{"s": 18, "edgecolors": BLACK, "linewidths": 0.4, "zorder": 3},
            )
        never = np.isnan(values)
        at_bottom = blended_transform_factory(ax.transData, ax.transAxes)
        ax.plot(difference[never], np.full(never.sum(), _NEVER), "x", color=BLACK, transform=at_bottom, markersize=3.5)
        ax.axvline(0, color=BLACK, linewidth=0.7, linestyle=(0, (1, 2)), zorder=2)
        ax.set_xlabel("Large model's accuracy above the small one's (points)")
    axes[0].set(ylim=(-10, 104), ylabel="Exit rate at equal accuracy (%)")
    axes[0].yaxis.set_major_locator(FixedLocator(range(0, 101, 20)))
    _reductions(axes[1], pairs["reduction"].to_numpy())
    bar = figure.colorbar(dots, ax=axes, pad=0.02, aspect=28)
    bar.set_label("Large model's cost over the small one's")
    bar.ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    bar.ax.yaxis.set_minor_locator(NullLocator())
    bar.ax.yaxis.set_major_formatter("{x:g}×")
    look = {"color": BLACK, "linestyle": "", "markersize": 4}
    handles = [
        Line2D([], [], marker="o", fillstyle="none", label="cheaper than the large model alone", **look),
        Line2D([], [], marker="s", fillstyle="none", label="as accurate, and no cheaper", **look),
        Line2D([], [], marker="x", label="never as accurate", **look),
    ]
    legend_below(figure, handles, 3)
    return figure


def _reductions(ax: Axes, reduction: np.ndarray) -> None:
    """The right panel's scale, with room below for the crosses, and its line at 1×."""
    known = reduction[~np.isnan(reduction)]
    low, high = min(known.min(initial=1), 0.9), max(known.max(initial=1), 1.1)
    ax.set(yscale="log", ylim=(low / (high / low) ** 0.12, high * (high / low) ** 0.05))
    ax.axhline(1, color=BLACK, linewidth=0.9, zorder=2)
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low > 3 else (1, 1.2, 1.5, 2, 3, 5, 7, 9)))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter("{x:g}×")
    ax.set_ylabel("Reduction of cost at equal accuracy")
