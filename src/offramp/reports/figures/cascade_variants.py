"""What measures of confidence, temperatures and ensembles do to the reduction of cost."""

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
_PITCH = 0.24  # inches a variant
_OFFSET = 0.17  # of a front's marks from the middle of their row


def draw(files: Sequence[Path]) -> Figure:
    """Reduction of cost by pairs, variant by variant.

    How many times less pairs cost than single models at equal test accuracy (logarithmic scale), geometric means over
    bands of accuracies, against the step and the log-interpolated front of single models. Pairs are chosen among single
    models and pairs on validation data. The first variant is on top, and dashed lines carry its values down; the black
    line is 1×. Bars are 95 % bootstrap intervals over test samples and seeds: all variants have the same samples, so
    that differences between them are surer than these show.

    Parameters
    ----------
    files : sequence of one path
        The reductions of `offramp search`.
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
