"""Reduction of cost by cascades at each accuracy."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from offramp.reports.figures import style
from offramp.reports.loading import of_base, read_tables

_FRONTS = {"step": "Against the step front", "interpolated": "Against the log-interpolated front"}


def draw(files: Sequence[Path]) -> Figure:
    """Reduction of cost at equal accuracy.

    The cost of single models divided by the cost of the chosen cascades at the same accuracy, on test data (logarithmic
    scale). Left: compared with the step front, which is the cost of the cheapest model that is at least as accurate.
    Right: compared with the log-interpolated front, on which the logarithm of the cost is linear in accuracy between
    neighbouring models. Pairs are chosen among single models and pairs, and triples among single models, pairs and
    triples, on validation data. Random deferral is the best straight line between a small model and both models of a
    pair. It is above 1× against the step front, although it treats all samples alike. The oracle defers in hindsight.
    Bands are 95 % bootstrap intervals over test samples and seeds at each accuracy. There is no band if some of the
    resampled curves do not reach the accuracy. The first variant is shown.

    Parameters
    ----------
    files : sequence of one path
        The table of reductions that `offramp search` wrote.
    """
    (table,) = read_tables(files, "reductions")
    table = of_base(table)
    table = table[(table["low"] == table["high"]) & (table["scored_on"] == "test")].sort_values("low")
    table = table.assign(at=100 * table["low"])
    styles = {kind: look for kind, look in style.KIND_STYLES.items() if kind in set(table["kind"])}
    figure, axes = style.new_figure(style.TWO_COLUMNS, 2.8, 1, 2, sharex=True, sharey=True)
    for ax, (front, title) in zip(axes, _FRONTS.items()):
        rows = table[table["front"] == front]
        style.draw_lines(ax, rows, "at", "reduction", styles, "kind", markers=False)
        for kind, look in styles.items():
            its, shade = rows[rows["kind"] == kind], {"color": look.color, "alpha": 0.15, "linewidth": 0}
            ax.fill_between(its["at"], its["reduction_low"], its["reduction_high"], **shade)
        ax.axhline(1, color=style.BLACK, linewidth=0.9, zorder=1.5)
        ax.set(title=title, xlabel="Test accuracy (%)", ylabel="Reduction of cost")
        ax.xaxis.set_major_locator(MaxNLocator(8, steps=(1, 2, 5, 10)))
        style.log_scale(ax.yaxis, "{x:g}×")
        ax.label_outer()
    style.legend_below(figure, style.entries(styles, marker=None), len(styles) or 1)
    return figure
