"""How many times less cascades cost than single models, accuracy by accuracy."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from offramp.reports.figures.style import BLACK, KIND_STYLES, TWO_COLUMNS, legend_below, new_figure
from offramp.reports.loading import of_base, read_tables

_FRONTS = {"step": "Against the step front", "interpolated": "Against the log-interpolated front"}


def draw(files: Sequence[Path]) -> Figure:
    """Reduction of cost at equal accuracy.

    What single models cost at an accuracy over what the chosen cascades cost there, on test data (logarithmic scale):
    left by the step front, where one pays for the cheapest model that is so accurate, right by the log-interpolated
    one, on which the logarithm of the cost is linear in accuracy between neighbouring models. Pairs are chosen among
    single models and pairs, triples among all three, on validation data. Random deferral is the best straight line
    between a small model and both models of a pair: above 1× against the step front, though it decides nothing. The
    oracle defers in hindsight. Bands are 95 % bootstraps over test samples and seeds, accuracy by accuracy; there
    is none where some of them do not reach the accuracy. The first variant is shown.

    Parameters
    ----------
    files : sequence of one path
        The reductions of `offramp search`.
    """
    (table,) = read_tables(files, "reductions")
    table = of_base(table)
    table = table[(table["low"] == table["high"]) & (table["scored_on"] == "test")].sort_values("low")
    figure, axes = new_figure(TWO_COLUMNS, 2.8, 1, 2, sharex=True, sharey=True)
    for ax, (front, title) in zip(axes, _FRONTS.items()):
        for kind, style in KIND_STYLES.items():
            line = table[(table["front"] == front) & (table["kind"] == kind)]
            at = 100 * line["low"]
            ax.fill_between(
                at, line["reduction_low"], line["reduction_high"], color=style.color, alpha=0.15, linewidth=0
            )
            ax.plot(at, line["reduction"], color=style.color, linestyle=style.linestyle, zorder=3)
        ax.axhline(1, color=BLACK, linewidth=0.9, zorder=2)
        ax.set(yscale="log", title=title, xlabel="Test accuracy (%)")
        ax.xaxis.set_major_locator(MaxNLocator(8, steps=(1, 2, 5, 10)))
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_minor_locator(NullLocator())
        ax.yaxis.set_major_formatter("{x:g}×")
    axes[0].set_ylabel("Reduction of cost")
    handles = [
        Line2D([], [], color=style.color, linestyle=style.linestyle, label=style.name)
        for kind, style in KIND_STYLES.items()
        if kind in set(table["kind"])
    ]
    legend_below(figure, handles, len(handles) or 1)
    return figure
