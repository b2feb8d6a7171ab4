"""Effect of confidence measures, temperature scaling and ensembles on the reduction of cost."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from offramp.reports.figures import style
from offramp.reports.labels import band_name, variant_name
from offramp.reports.loading import of_bands, read_tables

_FRONTS = {
    "step": style.Look("against the step front", style.VERMILLION, "o", "-"),
    "interpolated": style.Look("against the log-interpolated front", style.BLUE, "D", "-"),
}
_PITCH = 0.24  # inches per variant
_OFFSET = 0.17  # distance of the marks of a front from the middle of their row


def draw(files: Sequence[Path]) -> Figure:
    """Reduction of cost by pairs, for each variant.

    The cost of single models divided by the cost of pairs at equal test accuracy (logarithmic scale), as geometric
    means over bands of accuracies, compared with the step front and the log-interpolated front of single models. Pairs
    are chosen among single models and pairs on validation data. The first variant is at the top, and dashed lines mark
    its values in the rows below. The black line is 1×. Bars are 95 % bootstrap intervals over test samples and seeds.
    All variants are measured on the same samples, so differences between variants are more certain than these intervals
    suggest.

    Parameters
    ----------
    files : sequence of one path
        The table of reductions that `offramp search` wrote.
    """
    (table,) = read_tables(files, "reductions")
    variants = list(table["variant"].unique())
    table = of_bands(table)
    table = table[(table["kind"] == "pair") & (table["scored_on"] == "test") & (table["mean"] == "geometric")]
    bands = {band_name(*band): rows for band, rows in table.groupby(["low", "high"])}
    if not bands:
        raise ValueError("cascade-variants: pairs reach no band of accuracies on test data; expected one at least")
    height = _PITCH * len(variants) + 0.6
    figure, axes, columns = style.grid_of_panels(len(bands), height, sharey=True, sharex=True)
    for ax, (band, rows) in zip(axes, bands.items()):
        for offset, (front, look) in zip((-_OFFSET, _OFFSET), _FRONTS.items()):
            its = rows[rows["front"] == front].set_index("variant", drop=False)
            place = its["variant"].map(variants.index) + offset
            style.draw_intervals(ax, its, "reduction", place, look, its["reduction"].get(variants[0], float("nan")))
        ax.axvline(1, color=style.BLACK, linewidth=0.9, zorder=2)
        ax.set(title=f"Accuracies of {band}", xlabel="Reduction of cost")
        style.log_scale(ax.xaxis, "{x:g}×", (1, 1.5, 2, 3, 4, 5, 7))
        style.name_rows(ax, list(map(variant_name, variants)))
    handles = [*style.entries(_FRONTS), style.entry("first variant", linewidth=0.7, linestyle=style.DASHED)]
    style.legend_below(figure, handles, 3 if columns > 1 else 1)
    return figure
