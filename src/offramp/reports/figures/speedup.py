"""Change of accuracy against speed-up."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator

from offramp.comparison.matched import against_last_exit, at_equal
from offramp.reports.figures import style
from offramp.reports.labels import system_name
from offramp.reports.loading import chosen_policies, read_tables

_SHOWN = ("confidence", "pcee", "pcee-ws", "patience", "beem-c", "beem-a", "ztw")
_LOWEST = -4.0  # points; larger losses are cut off
_CLAIMED = 1.5  # the smallest speed-up that the BEEM paper claims
_TICKS = {4: (1, 1.2, 1.5, 2, 2.5, 3, 4), np.inf: (1, 1.5, 2, 3, 5, 8, 12, 20)}  # ticks by the largest speed-up shown


def draw(files: Sequence[Path], policies: Sequence[str] | None = None) -> Figure:
    """Change of accuracy against speed-up.

    Test accuracy minus the accuracy of the last exit, against the speed-up in layers. The speed-up is the number of
    exits divided by the mean number of exits that a sample passes, so 1 is the full model (logarithmic scale). Policies
    were fitted on validation data. Every shared threshold of the grid of the study is a point; no threshold is chosen.
    Lines are means over seeds at equal speed-up, over the range that every seed reaches, and bands are ± one standard
    deviation over seeds. For policies with only a few operating points, such as patience, each point is marked as the
    mean over seeds at equal threshold, and the points are joined. The thin lines are the accuracy of the last exit and
    a speed-up of 1.5, the smallest that the BEEM paper claims. Losses of more than 4 points are cut off.

    Parameters
    ----------
    files : sequence of paths
        The curves and exit tables that `offramp evaluate` wrote, for all seeds.
    policies : sequence of str
        Labels of the policies to show. By default those of max softmax, PCEE, PCEE-WS, patience, BEEM-C, BEEM-A and
        ZTW that the files contain.
    """
    curves, exits = read_tables(files, "curve", "exits")
    labels = chosen_policies(policies, _SHOWN, curves["policy"].unique())
    points = against_last_exit(curves[curves["policy"].isin(labels)], exits)
    styles = style.policy_styles(labels)
    systems = points["system"].unique()
    figure, axes, columns = style.grid_of_panels(len(systems), 2.3, sharey=True)
    highest = 0.8
    for system, ax in zip(systems, axes):
        highest = max(highest, _panel(ax, points[points["system"] == system], styles))
        ax.set_title(system_name(system))
    for ax in axes[::columns]:
        ax.set_ylabel("Change of accuracy (points)")
    axes[0].set_ylim(_LOWEST, highest + 0.2)  # for all panels, which share the y axis
    style.legend_below(figure, style.entries(styles), 4 if columns > 1 else 3)
    return figure


def _panel(ax: Axes, points: pd.DataFrame, styles: Mapping[str, style.Look]) -> float:
    """Draw the lines of one system. Return the highest y value."""
    curves = {label: curve(its) for label, its in points.groupby("policy")}
    table = pd.concat([its.assign(policy=label) for label, (its, _) in curves.items()])
    lines = style.draw_lines(ax, table, "speedup", "loss", styles, markersize=4.5)
    furthest, highest = 2.0, 0.0
    for place, (label, line) in enumerate(lines.items()):
        line.set_markevery(None if curves[label][1] else (0.03 * place, 0.24))  # not all at the same position
        speedup, loss = line.get_data()
        furthest, highest = max(furthest, speedup[loss > _LOWEST].max(initial=1.0)), max(highest, loss.max())
    ax.axhline(0, color=style.BLACK, linewidth=0.7, zorder=1.5)
    ax.axvline(_CLAIMED, color=style.BLACK, linewidth=0.7, linestyle=(0, (1, 2)), zorder=1.5)
    style.log_scale(ax.xaxis, "{x:g}×")
    ax.xaxis.set_major_locator(FixedLocator(next(ticks for most, ticks in _TICKS.items() if furthest <= most)))
    ax.set(xlim=(0.98, 1.02 * min(furthest, points["exits"].iloc[0])), xlabel="Speed-up (layers)", ylabel="")
    return highest


def curve(points: pd.DataFrame) -> tuple[pd.DataFrame, bool]:
    """Return the curve of one policy on one system, from the operating points of all seeds.

    Returns
    -------
    table : DataFrame
        seed, speedup and loss (in points), to be averaged at equal speed-up.
    few : bool
        Whether there are only few operating points, so that each is marked. Such points are placed at the mean speed-up
        of their threshold. Otherwise, the seeds are interpolated to equal speed-up: between two points, accuracy is
        linear in the mean number of layers, as if samples chose randomly between the two thresholds.
    """
    exits = points["exits"].iloc[0]
    points = points.assign(loss=100 * points["loss"])
    if points.groupby("seed")["layers"].nunique().max() > exits + 1:
        return at_equal(points, "layers", "loss").eval("speedup = @exits / layers"), False
    means = points.groupby("threshold")[["speedup", "loss"]].mean()
    points = points[points["threshold"].isin(means.drop_duplicates().index)]
    return points.assign(speedup=points["threshold"].map(means["speedup"]))[["seed", "speedup", "loss"]], True
