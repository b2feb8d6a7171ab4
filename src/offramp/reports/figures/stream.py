"""Static and online policies over a stream whose corruption grows."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from offramp.reports.figures import style
from offramp.reports.labels import method_name, system_name
from offramp.reports.loading import read_tables

_SHOWN = ("static", "window", "discount", "platt", "aci")
_CONFIDENCE = {"color": style.SKY, "linewidth": 2.4, "linestyle": "-"}  # the alarm that needs no labels
_FULL = {"color": style.GREY, "linewidth": 2.4, "linestyle": "-", "alpha": 0.6}


def draw(files: Sequence[Path]) -> Figure:
    """A stream with drift.

    PCEE with the target accuracy as its threshold, on streams of test samples: clean ones first, and then corrupted
    ones, whose severity (at the top) grows. The static policy keeps the maps of the validation data; the others learn
    from labels that come late. From top to bottom: accuracy, with the target (dashed) and the full model (grey); cost
    in % of that of the full model; and the share of streams in which an alarm has been raised: by the confidences of
    the first exit, without labels (thick), and by the errors of each policy, if they are above 1 − target. Lines are
    means over kinds of corruption, seeds and random orders of the samples, and over blocks of samples. The table has
    each kind, and intervals.
    """
    (table,) = read_tables(files, "drift")
    systems = list(table[table["method"].isin(_SHOWN)].groupby("system", sort=False))
    width = style.ONE_COLUMN if len(systems) == 1 else style.TWO_COLUMNS
    figure, axes = style.new_figure(width, 5.2, 3, len(systems), sharex=True, sharey="row")
    looks = style.stream_styles(_SHOWN)
    styles = {method: replace(look, name=method_name(method)) for method, look in looks.items()}
    for k, (system, its) in enumerate(systems):
        column = axes[k :: len(systems)]
        _draw_stream(column, its, styles)
        column[0].set_title(system_name(system), pad=14)
        column[-1].set_xlabel("Sample")
    for ax, label in zip(axes[:: len(systems)], ("Accuracy (%)", "Cost (%)", "Alarms (% of streams)")):
        ax.set_ylabel(label)
    handles = [*style.entries(styles, marker=""), style.entry("full model", **_FULL)]
    handles += [style.entry("target accuracy", linewidth=0.7, linestyle=style.DASHED)]
    handles += [style.entry("alarm by confidences", **_CONFIDENCE)]
    style.legend_below(figure, handles, 2 if len(systems) == 1 else 4)
    return figure


def _draw_stream(column: Sequence[Axes], table: pd.DataFrame, styles: dict[str, style.Look]) -> None:
    accuracy, cost, alarms = column
    static = table[table["method"] == "static"]
    blocks = static.groupby("sample").mean(numeric_only=True)
    ends = blocks.index.to_numpy()  # (blocks,)
    middle = (ends + np.append(0, ends[:-1]) + 1) / 2  # (blocks,)
    accuracy.plot(middle, 100 * blocks["full_accuracy"], **_FULL)
    accuracy.axhline(100 * static["target"].iloc[0], color=style.BLACK, linewidth=0.7, linestyle=style.DASHED)
    alarms.step([1, *ends], _share_raised(static["alarm_confidence"], static, ends), where="post", **_CONFIDENCE)
    for method, look in styles.items():
        its = table[table["method"] == method]
        line = {"color": look.color, "linestyle": look.linestyle, "linewidth": 1.1}
        means = its.groupby("sample")[["accuracy", "cost"]].mean()
        accuracy.plot(middle, 100 * means["accuracy"], **line)
        cost.plot(middle, 100 * means["cost"], **line)
        alarms.step([1, *ends], _share_raised(its["alarm_risk"], its, ends), where="post", **line)
    alarms.set_ylim(-4, 104)
    severity = blocks["severity"].to_numpy()
    for ax in column:
        style.shade_severities(ax, ends, severity)
        ax.set_xlim(1, ends[-1])
    for value in np.unique(severity):
        inside = middle[severity == value].mean()
        accuracy.annotate(
            "clean" if value == 0 else f"severity {value:g}" if inside < middle.mean() else f"{value:g}",
            (inside, 1),
            xycoords=("data", "axes fraction"),
            xytext=(0, 2),
            textcoords="offset points",
            ha="center",
            fontsize="small",
        )


def _share_raised(alarm: pd.Series, table: pd.DataFrame, ends: np.ndarray) -> list[float]:
    """Return the share of streams (%) with an alarm at the first sample, and at the end of each block."""
    streams = [table[name] for name in ("corruption", "seed", "order")]
    raised = alarm.groupby(streams).first().fillna(np.inf).to_numpy()  # (streams,)
    return [100 * float((raised <= sample).mean()) for sample in (1, *ends)]
