"""Reliability diagrams."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from offramp.calibration import ReliabilityDiagram
from offramp.reports.figures.style import (
    BLACK,
    BLUE,
    GREY,
    ONE_COLUMN,
    TWO_COLUMNS,
    VERMILLION,
    legend_below,
    new_figure,
)
from offramp.reports.labels import system_name
from offramp.reports.loading import read_tables

_OVER = {"facecolor": "white", "edgecolor": VERMILLION, "hatch": "/////", "linewidth": 0.6}
_UNDER = {"facecolor": BLUE, "edgecolor": "white", "hatch": "\\\\\\\\\\", "linewidth": 0.6}


def draw(files: Sequence[Path], exits: Sequence[int] | None = None) -> Figure:
    """Reliability diagrams.

    Of some exits on validation data: accuracy of the samples in each bin of confidence (max softmax), hatched the gap
    to their mean confidence (above the bar: overconfident), and below it the share of samples in each bin. Bins of all
    seeds are pooled; the expected calibration error (ECE) is that of the pooled bins.

    Parameters
    ----------
    files : sequence of paths
        Bins that `offramp calibrate --reliability` wrote, of all seeds of one system.
    exits : sequence of int
        Exits to show, from 1; the first, middle and last where not given.
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
    for i, ax, below in zip(exits, axes, axes[len(exits) :]):
        diagram = pooled(bins[bins["exit"] == i])
        _panel(ax, below, diagram)
        ax.set_title(f"Exit {i} of {last}: ECE {100 * diagram.ece:.1f} %")
    axes[0].set_ylabel("Accuracy")
    axes[len(exits)].set_ylabel("Samples (%)")
    seeds = bins["seed"].nunique()
    figure.suptitle(f"{system_name(systems[0])}, validation data, {seeds} seed{'s' if seeds > 1 else ''} pooled")
    handles = [
        Patch(color=BLUE, label="accuracy"),
        Patch(**_OVER, label="overconfidence"),
        Patch(**_UNDER, label="underconfidence"),
        Line2D([], [], color=BLACK, linewidth=0.8, linestyle="--", label="accuracy = confidence"),
    ]
    legend_below(figure, handles, 4 if len(exits) > 2 else 2)
    return figure


def pooled(bins: pd.DataFrame) -> ReliabilityDiagram:
    """One diagram of the bins of one exit from several seeds.

    Raises
    ------
    ValueError
        If the seeds have other bins.
    """
    grouped = bins.assign(
        confident=bins["count"] * bins["mean_confidence"], right=bins["count"] * bins["accuracy"]
    ).groupby(["lower", "upper"])
    if (grouped.size() != bins["seed"].nunique()).any():
        raise ValueError("reliability: the files have other bins; expected the same for every seed")
    total = grouped[["count", "confident", "right"]].sum().reset_index()
    count = total["count"].to_numpy()
    edges = np.append(total["lower"], total["upper"].iloc[-1])
    with np.errstate(invalid="ignore"):
        return ReliabilityDiagram(
            edges, count, total["confident"].to_numpy() / count, total["right"].to_numpy() / count
        )


def _panel(ax: Axes, below: Axes, diagram: ReliabilityDiagram) -> None:
    full = diagram.count > 0  # (M,)
    left, width = diagram.edges[:-1][full], np.diff(diagram.edges)[full]
    accuracy, confidence = diagram.accuracy[full], diagram.mean_confidence[full]
    ax.bar(left, accuracy, width, align="edge", color=BLUE, edgecolor="white", linewidth=0.5)
    for sure, look in ((confidence > accuracy, _OVER), (confidence < accuracy, _UNDER)):
        ax.bar(left[sure], (confidence - accuracy)[sure], width[sure], accuracy[sure], align="edge", **look)
    ax.plot([0, 1], [0, 1], color=BLACK, linewidth=0.8, linestyle="--")
    ax.set(xlim=(0, 1), ylim=(0, 1))
    below.bar(
        left,
        100 * diagram.count[full] / diagram.count.sum(),
        width,
        align="edge",
        color=GREY,
        edgecolor="white",
        linewidth=0.5,
    )
    below.set_xlabel("Confidence (max softmax)")
