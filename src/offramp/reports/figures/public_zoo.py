"""Fronts of public models, and the exit rate that a cascade of two of them needs."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from offramp.cascades.fronts import interpolated_cost, needed_exit_rate
from offramp.cascades.public_models import COSTS, front, read_zoo
from offramp.reports.figures import style

_TABLES = [(style.VERMILLION, "s"), (style.BLUE, "o")]
_STEP, _INTERPOLATED = {"linestyle": "-"}, {"linestyle": (0, (2, 1)), "linewidth": 0.8}
_HOLLOW = {"fillstyle": "none", "markeredgewidth": 0.7}
_LEAST = 58.0  # % top-1; less accurate models are cut off
# Large models: the cheapest with at least this accuracy, and the most accurate one
_LARGE = {80.0: (style.ORANGE, "^"), 86.0: (style.GREEN, "D"), np.inf: (style.PURPLE, "v")}
_AIMS = {"to cost 1.9× less": (1.9, (0, (4, 1.5))), "to cost as much (1×)": (1.0, "-")}
_GAP = 8.0  # points


def draw(files: Sequence[Path]) -> Figure:
    """Fronts of public models, and exit rates to beat them.

    Top-1 accuracy on the validation images of ImageNet, for models that timm published, against their cost:
    multiply-accumulates (MACs) and measured time per image, on an RTX 3090 (the inverse of the throughput with large
    batches) and on a Core i7-12700H (one image at a time). Models without a measurement are left out. The step front is
    the highest accuracy at each cost. On the log-interpolated front, the logarithm of the cost is linear in accuracy
    between neighbours. Hollow marks are models that are on the front of MACs but not on the front of time. Bottom
    right: for three large models on the front of MACs of the last table, the share of images that must leave at a
    smaller model of the same front so that a cascade of the two costs as much as the large model alone (1×) or 1.9
    times less. Marks are models, and lines follow the log-interpolated front. These tables do not show whether so many
    images can leave without loss of accuracy. A model at two image sizes counts as two models. Models below 58 % and
    exit rates above 100 % are cut off.

    Parameters
    ----------
    files : sequence of one or two paths
        Tables from data/timm, the older one first.
    """
    if len(files) > len(_TABLES):
        raise ValueError(f"public-zoo: got {len(files)} tables; expected one or two")
    zoos = [read_zoo(path) for path in files]
    figure, axes = style.new_figure(style.TWO_COLUMNS, 5.4, 2, 2)
    seen = pd.concat(zoos)
    seen = seen[seen["top1"] >= _LEAST]
    for ax, (cost, (title, unit)) in zip(axes, COSTS.items()):
        if seen[cost].isna().all():
            ax.set_axis_off()
            continue
        for zoo, look in zip(zoos, _TABLES):
            _fronts(ax, zoo, cost, *look)
        style.log_scale(ax.xaxis, subs=(1,))
        ax.set(xlabel=unit, ylabel="Top-1 (%)", title=title, ylim=(_LEAST, 91.5), xlim=(0.7 * seen[cost].min(), None))
    axes[1].set_ylabel("")
    _exit_rates(axes[3], zoos[-1])
    handles = [
        style.entry(f"{zoo['zoo'].iloc[0]}: {len(zoo):,} models", color, marker=marker, markersize=3.5)
        for zoo, (color, marker) in zip(zoos, _TABLES)
    ]
    handles += [
        style.entry("step front", **_STEP),
        style.entry("log-interpolated front", **_INTERPOLATED),
        style.entry("a model", linestyle="", marker=".", markersize=3),
        style.entry("on the front of MACs, not of time", linestyle="", **_HOLLOW, marker="o"),
    ]
    style.legend_below(figure, handles, 3)
    return figure


def _fronts(ax: Axes, zoo: pd.DataFrame, cost: str, color: str, marker: str) -> None:
    members, of_macs = front(zoo, cost), front(zoo, "gmacs")
    elsewhere = of_macs[~of_macs.index.isin(members.index)]
    sns.scatterplot(zoo, x=cost, y="top1", color=color, s=1.3, linewidth=0, alpha=0.3, zorder=1, legend=False, ax=ax)
    ax.plot(elsewhere[cost], elsewhere["top1"], marker, color=color, zorder=2, **_HOLLOW)
    ax.plot(members[cost], members["top1"], color=color, drawstyle="steps-post", marker=marker, markersize=2.8, **_STEP)
    ax.plot(members[cost], members["top1"], color=color, **_INTERPOLATED)


def _exit_rates(ax: Axes, zoo: pd.DataFrame) -> None:
    """Draw the exit rate that a cascade needs, against how many points less accurate the small model is."""
    members = front(zoo, "gmacs")
    cost, top1 = members["gmacs"].to_numpy(), members["top1"].to_numpy()  # (F,)
    handles = []
    for least, (color, marker) in _LARGE.items():
        large = min(np.searchsorted(top1, least), len(top1) - 1)
        gap = np.linspace(0, min(_GAP, top1[large] - top1[0]), 200)
        between = interpolated_cost(cost, top1, top1[large] - gap)
        for reduction, line in _AIMS.values():
            ax.plot(gap, 100 * needed_exit_rate(between, cost[large], reduction), color=color, linestyle=line)
            needed = 100 * needed_exit_rate(cost[:large], cost[large], reduction)
            ax.plot(top1[large] - top1[:large], needed, marker, color=color, markersize=3)
        handles.append(style.entry(f"large model {top1[large]:.1f} %", color, marker=marker, markersize=3))
    ax.add_artist(ax.legend(handles=handles, loc="upper right"))
    aims = [style.entry(aim, linestyle=line) for aim, (_, line) in _AIMS.items()]
    ax.legend(handles=aims, loc="center right", bbox_to_anchor=(1, 0.36))  # between the two groups of lines
    ax.set(xlim=(0, _GAP), ylim=(0, 100), title=f"Exit rate needed by a pair ({zoo['zoo'].iloc[0]}, MACs)")
    ax.set(xlabel="Top-1 of large model minus small model (points)", ylabel="Must end at the small model (%)")
