"""Reliability diagrams."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from offramp.reports.displays import ReliabilityDisplay
from offramp.reports.figures.style import ONE_COLUMN, TWO_COLUMNS, legend_below, new_figure
from offramp.reports.labels import system_name
from offramp.reports.loading import read_tables


def draw(files: Sequence[Path], exits: Sequence[int] | None = None) -> Figure:
    """Reliability diagrams.

    Reliability of some exits on validation data. Top: accuracy of the samples in each bin of confidence (max softmax).
    The hatched area is the gap between accuracy and mean confidence, which lies above the bar if the exit is
    overconfident. Bottom: share of samples in each bin. Bins of all seeds are pooled, and the expected calibration
    error (ECE) is computed from the pooled bins.

    Parameters
    ----------
    files : sequence of paths
        The tables of bins that `offramp calibrate --reliability` wrote, for all seeds of one system.
    exits : sequence of int
        Exits to show, counted from 1. By default the first, the middle and the last exit.
    """
    (bins,) = read_tables(files, "reliability")
    if len(systems := bins["system"].unique()) > 1:
        raise ValueError(f"reliability draws one system, got {', '.join(systems)}")
    last = bins["exit"].max()
    exits = list(exits or dict.fromkeys((1, (1 + last) // 2, last)))
    if wrong := [i for i in exits if not 1 <= i <= last]:
        raise ValueError(f"exit {wrong[0]}: {systems[0]} has exits 1 to {last}")
    width = max(ONE_COLUMN, TWO_COLUMNS * min(1, len(exits) / 3))
    figure, axes = new_figure(width, 3.1, 2, len(exits), sharex=True, sharey="row", height_ratios=[3, 1])
    for i, above, below in zip(exits, axes, axes[len(exits) :]):
        display = ReliabilityDisplay.from_bins(bins, i - 1).plot_samples(below).plot(above, legend=False)
    for ax in axes:
        ax.label_outer()
    seeds = bins["seed"].nunique()
    figure.suptitle(f"{system_name(systems[0])}, validation data, {seeds} seed{'s' if seeds > 1 else ''} pooled")
    legend_below(figure, display.handles_, 4 if len(exits) > 2 else 2)
    return figure
