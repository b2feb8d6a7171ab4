"""Error against average cost."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator

from offramp.reports.figures.style import (
    BLACK,
    GREY,
    ONE_COLUMN,
    TWO_COLUMNS,
    PolicyStyle,
    legend_below,
    new_figure,
    policy_styles,
)
from offramp.reports.labels import system_name, unit
from offramp.reports.loading import chosen_policies, read_tables

_SHOWN = ("confidence", "pcee", "pcee-ws", "oracle")
_FULL = {"small": ("s", "--"), "large": ("^", ":")}


def draw(files: Sequence[Path], pairs: Sequence[tuple[str, str]], policies: Sequence[str] | None = None) -> Figure:
    """Error against average cost.

    Test error against average cost, for pairs of a smaller and a larger system: the larger one with early exits
    against the smaller full one. Every dot is one seed at one threshold δ > 0; lines are means over seeds at equal
    cost, as far as every seed goes, bands ± one standard deviation over seeds. Squares and triangles are the full
    models, one a seed; thin lines mark their means: what lies below and left of the squares' lines beats the smaller
    full model. The oracle's points, alike whatever δ, are shown by their mean. Policies were fitted on validation data.
    Costs are on a logarithmic scale; errors above three times those of the full models are cut off.

    Parameters
    ----------
    files : sequence of paths
        Curves and exits that `offramp evaluate` wrote, of all seeds.
    pairs : sequence of (small, large)
    policies : sequence of str
        Labels to show; max softmax, PCEE, PCEE-WS and the oracle, where the files have them, if not given.
    """
    curves, exits = read_tables(files, "curve", "exits")
    labels = chosen_policies(policies, _SHOWN, curves["policy"].unique())
    curves = curves[(curves["threshold"] > 0) & curves["policy"].isin(labels)]
    full = exits[exits["exit"] == exits.groupby("system")["exit"].transform("max")]  # a row a system and seed
    for small, large in pairs:
        for name, table in ((small, full), (large, full), (large, curves)):
            if name not in set(table["system"]):
                raise ValueError(
                    f"pair {small}, {large}: no run of {name}; the files have {', '.join(full['system'].unique())}"
                )
    styles = policy_styles(labels)
    columns = min(3, len(pairs))
    rows = -(-len(pairs) // columns)
    figure, axes = new_figure(TWO_COLUMNS if columns > 1 else ONE_COLUMN, 2.2 * rows + 0.5, rows, columns)
    for ax in axes[len(pairs) :]:
        ax.remove()
    for ax, (small, large) in zip(axes, pairs):
        _panel(
            ax, full[full["system"] == small], full[full["system"] == large], curves[curves["system"] == large], styles
        )
        ax.set_title(f"{system_name(large)} with exits\nagainst {system_name(small)}, full")
    for ax in axes[::columns]:
        ax.set_ylabel("Test error (%)")
    handles = [
        Line2D([], [], color=s.color, marker=s.marker, linestyle=s.linestyle, label=s.name) for s in styles.values()
    ]
    handles += [
        Line2D(
            [],
            [],
            color=GREY,
            marker=marker,
            markerfacecolor="white",
            markeredgecolor=BLACK,
            markeredgewidth=0.7,
            linewidth=0.8,
            linestyle=line,
            label=f"{size} model, full",
        )
        for size, (marker, line) in _FULL.items()
    ]
    legend_below(figure, handles, 3 if columns > 1 else 2)
    return figure


def _panel(
    ax: Axes, small: pd.DataFrame, large: pd.DataFrame, curves: pd.DataFrame, styles: dict[str, PolicyStyle]
) -> None:
    factor, prefix = unit(large["cost"])
    for label, style in styles.items():
        each = [one for _, one in curves[curves["policy"] == label].groupby("seed")]
        _policy(ax, each, style, factor)
    for size, table in (("small", small), ("large", large)):
        marker, line = _FULL[size]
        cost, error = table["cost"] / factor, 100 * (1 - table["accuracy"])
        ax.axhline(error.mean(), color=GREY, linewidth=0.8, linestyle=line, zorder=1)
        if size == "small":
            ax.axvline(cost.mean(), color=GREY, linewidth=0.8, linestyle=line, zorder=1)
        ax.plot(cost, error, marker, color="white", markeredgecolor=BLACK, markeredgewidth=0.7, zorder=4)
    ax.set_xlabel(f"Average cost ({prefix}MACs)")
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_locator(NullLocator())
    worst = 100 * (1 - min(small["accuracy"].mean(), large["accuracy"].mean()))
    lowest, highest = ax.get_ylim()
    ax.set_ylim(max(0, lowest), min(highest, max(1, 3 * worst)))


def _policy(ax: Axes, each: list[pd.DataFrame], style: PolicyStyle, factor: float) -> None:
    for one in each:
        ax.plot(
            one["cost"] / factor,
            100 * (1 - one["accuracy"]),
            style.marker,
            color=style.color,
            markersize=2,
            alpha=0.25,
            markeredgewidth=0,
        )
    grid, errors = over_seeds(each)  # (G,), (S, G)
    mean, sd = 100 * errors.mean(0), 100 * errors.std(0, ddof=min(1, len(each) - 1))
    if len(grid) == 1:
        cost_sd = np.std([one["cost"].mean() for one in each], ddof=min(1, len(each) - 1))
        ax.errorbar(
            grid / factor,
            mean,
            sd,
            cost_sd / factor,
            fmt=style.marker,
            color=style.color,
            markersize=6,
            elinewidth=0.8,
            zorder=5,
        )
        return
    ax.fill_between(grid / factor, mean - sd, mean + sd, color=style.color, alpha=0.18, linewidth=0)
    ax.plot(grid / factor, mean, color=style.color, linestyle=style.linestyle, zorder=3)


def over_seeds(each: Sequence[pd.DataFrame], points: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """The seeds' errors on common costs.

    Returns
    -------
    cost : ndarray of shape (G,)
        Costs that every seed reaches; where there are none, or a seed has one operating point only, the mean cost
        (G = 1).
    error : ndarray of shape (S, G)
        Interpolated between neighbouring operating points.
    """
    curves = [one.groupby("cost")["accuracy"].mean() for one in each]  # sorted by cost
    low, high = max(curve.index.min() for curve in curves), min(curve.index.max() for curve in curves)
    if low >= high or min(map(len, curves)) == 1:
        cost = np.array([np.mean([curve.index.to_numpy().mean() for curve in curves])])
        return cost, np.array([[1 - curve.mean()] for curve in curves])
    cost = np.linspace(low, high, points)
    return cost, np.stack([1 - np.interp(cost, curve.index, curve) for curve in curves])
