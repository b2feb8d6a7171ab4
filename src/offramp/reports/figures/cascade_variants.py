"""What measures of confidence, temperatures and ensembles do to the reduction of cost."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator

from offramp.reports.figures.style import BLACK, BLUE, VERMILLION, grid_of_panels, legend_below
from offramp.reports.labels import band_name, variant_name
from offramp.reports.loading import of_bands, read_tables

_FRONTS = {"step": (VERMILLION, "o", "step front"), "interpolated": (BLUE, "D", "log-interpolated front")}
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
    figure, axes, columns = grid_of_panels(len(bands), _PITCH * len(variants) + 0.6, sharey=True, sharex=True)
    for ax, (band, rows) in zip(axes, bands.items()):
        for k, (front, (color, marker, _)) in enumerate(_FRONTS.items()):
            its = rows[rows["front"] == front]
            place = its["variant"].map(variants.index) + (2 * k - 1) * _OFFSET
            of_base = its.loc[its["variant"] == variants[0], "reduction"]
            for value in of_base:
                ax.axvline(value, color=color, linewidth=0.7, linestyle=(0, (4, 2)), zorder=1)
            ax.hlines(place, its["reduction_low"], its["reduction_high"], color=color)
            ax.plot(its["reduction"], place, marker, color=color, markersize=3.6, zorder=3)
        ax.axvline(1, color=BLACK, linewidth=0.9, zorder=2)
        ax.set(xscale="log", title=f"Accuracies of {band}", xlabel="Reduction of cost")
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 4, 5, 7)))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_formatter("{x:g}×")
        ax.grid(axis="y", visible=False)
        ax.tick_params(axis="y", length=0)
        ax.set_yticks(range(len(variants)), map(variant_name, variants))
        ax.set_ylim(len(variants) - 0.4, -0.6)
    handles = [
        Line2D([], [], color=color, marker=marker, markersize=3.6, label=f"against the {front}")
        for color, marker, front in _FRONTS.values()
    ]
    handles.append(Line2D([], [], color=BLACK, linewidth=0.7, linestyle=(0, (4, 2)), label="first variant"))
    legend_below(figure, handles, 3 if columns > 1 else 1)
    return figure
