"""How many times less cascades cost than single models, accuracy by accuracy."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from offramp.reports.figures import style
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
