"""Exit rate of pairs at equal accuracy, against the difference in accuracy of the two models."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import seaborn as sns
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator

from offramp.reports.figures import style
from offramp.reports.loading import read_tables

_COLORS = "cividis_r"  # from light to dark; suitable for colour-blind readers
_NEVER = 0.04  # height of the marks of pairs without an exit rate, as a share of the axis


def draw(files: Sequence[Path]) -> Figure:
    """Exit rate of pairs, and the reduction of cost.

    Every ordered pair of a cheaper and a more expensive model, for each seed, on validation data. Left: the largest
    share of samples that may leave at the small model while the pair is at least as accurate as the large model alone,
    against the difference in accuracy (large model minus small model; the small model is more accurate left of 0).
    Right: the cost of the large model alone divided by the cost of the pair at this exit rate (logarithmic scale). All
    samples use the small model, so a pair costs less than the large model (above 1×, circles) only if the exit rate is
    above the ratio of the two costs, small divided by large. Squares are pairs that are as accurate as the large model
    and cost more. The colour is the cost of the large model divided by the cost of the small one. Crosses at the bottom
    are pairs that are less accurate than the large model at every threshold.

    Parameters
    ----------
    files : sequence of one path
        The table of relations that `offramp search` wrote.
    """
    (pairs,) = read_tables(files, "relations")
    pairs = pairs.assign(
        difference=100 * (pairs["accuracy_large"] - pairs["accuracy_small"]),
        ratio=pairs["cost_large"] / pairs["cost_small"],
        rate=100 * pairs["exit_rate"],
        cheaper=pairs["reduction"] > 1,
    )
    never = pairs.loc[pairs["rate"].isna(), "difference"]
    norm = LogNorm(pairs["ratio"].min(), max(pairs["ratio"].max(), 1.01 * pairs["ratio"].min()))
    known = pairs["reduction"].dropna()
    low, high = min(known.min(), 0.9) if len(known) else 0.9, max(known.max(), 1.1) if len(known) else 1.1
    look = {"s": 18, "edgecolor": style.BLACK, "linewidth": 0.4, "zorder": 3, "legend": False}
    look |= {"hue": "ratio", "hue_norm": norm, "palette": _COLORS}
    look |= {"style": "cheaper", "markers": {True: "o", False: "s"}}
    figure, axes = style.new_figure(style.TWO_COLUMNS, 3.25, 1, 2, sharex=True)
    for ax, number in zip(axes, ("rate", "reduction")):
        sns.scatterplot(pairs, x="difference", y=number, ax=ax, **look)
        at_bottom = np.full(len(never), _NEVER)
        ax.plot(never, at_bottom, "x", color=style.BLACK, markersize=3.5, transform=ax.get_xaxis_transform())
        ax.axvline(0, color=style.BLACK, linewidth=0.7, linestyle=(0, (1, 2)), zorder=2)
        ax.set_xlabel("Accuracy of large model minus\nsmall model (points)")
    axes[0].set(ylim=(-10, 104), ylabel="Exit rate at equal accuracy (%)")
    axes[0].yaxis.set_major_locator(FixedLocator(range(0, 101, 20)))
    style.log_scale(axes[1].yaxis, "{x:g}×", (1, 2, 5) if high / low > 3 else (1, 1.2, 1.5, 2, 3, 5, 7, 9))
    # Leaves room for the crosses at the bottom
    axes[1].set(ylim=(low / (high / low) ** 0.12, high * (high / low) ** 0.05))
    axes[1].set_ylabel("Reduction of cost at equal accuracy")
    axes[1].axhline(1, color=style.BLACK, linewidth=0.9, zorder=2)
    bar = figure.colorbar(ScalarMappable(norm, _COLORS), ax=axes, pad=0.02, aspect=28)
    bar.set_label("Ratio of costs, large / small model")
    style.log_scale(bar.ax.yaxis, "{x:g}×")
    marks = {"o": "cheaper than the large model alone", "s": "as accurate, and no cheaper", "x": "never as accurate"}
    mark = {"linestyle": "", "fillstyle": "none", "markeredgewidth": 0.7}
    style.legend_below(figure, [style.entry(label, marker=marker, **mark) for marker, label in marks.items()], 3)
    return figure
