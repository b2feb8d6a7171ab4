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
_LOWEST = -4.0  # points; what loses more is cut off
_CLAIMED = 1.5  # the least speed-up that the BEEM paper claims
_TICKS = {4: (1, 1.2, 1.5, 2, 2.5, 3, 4), np.inf: (1, 1.5, 2, 3, 5, 8, 12, 20)}  # for speed-ups up to so much


def draw(files: Sequence[Path], policies: Sequence[str] | None = None) -> Figure:
    """Change of accuracy against speed-up.

    Test accuracy minus that of the last exit, against the speed-up in layers: the number of exits over the mean number
    that a sample passes, so 1 is the full model (logarithmic scale). Policies were fitted on validation data; every
    shared threshold of the study's grid is a point, none is chosen. Lines are means over seeds at equal speed-up, as
    far as every seed goes, bands ± one standard deviation over seeds. Where a policy has a few operating points only,
    like patience, they are marked one by one, means over seeds at equal threshold, and joined. The thin lines are the
    last exit's accuracy and a speed-up of 1.5, the least that the BEEM paper claims; losses above 4 points are cut
    off.

    Parameters
    ----------
    files : sequence of paths
        Curves and exits that `offramp evaluate` wrote, of all seeds.
    policies : sequence of str
        Labels to show; max softmax, PCEE, PCEE-WS, patience, BEEM-C, BEEM-A and ZTW, where the files have them, if not
        given.
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
        ax.set_ylabel("Accuracy − last exit's (points)")
    axes[0].set_ylim(_LOWEST, highest + 0.2)  # of all: they share it
    style.legend_below(figure, style.entries(styles), 4 if columns > 1 else 3)
    return figure


def _panel(ax: Axes, points: pd.DataFrame, styles: Mapping[str, style.Look]) -> float:
    """Draw one system's lines; gives the highest point."""
    curves = {label: curve(its) for label, its in points.groupby("policy")}
    table = pd.concat([its.assign(policy=label) for label, (its, _) in curves.items()])
    lines = style.draw_lines(ax, table, "speedup", "loss", styles, markersize=4.5)
    furthest, highest = 2.0, 0.0
    for place, (label, line) in enumerate(lines.items()):
        line.set_markevery(None if curves[label][1] else (0.03 * place, 0.24))  # not all at the same place
        speedup, loss = line.get_data()
        furthest, highest = max(furthest, speedup[loss > _LOWEST].max(initial=1.0)), max(highest, loss.max())
    ax.axhline(0, color=style.BLACK, linewidth=0.7, zorder=1.5)
    ax.axvline(_CLAIMED, color=style.BLACK, linewidth=0.7, linestyle=(0, (1, 2)), zorder=1.5)
    style.log_scale(ax.xaxis, "{x:g}×")
    ax.xaxis.set_major_locator(FixedLocator(next(ticks for most, ticks in _TICKS.items() if furthest <= most)))
    ax.set(xlim=(0.98, 1.02 * min(furthest, points["exits"].iloc[0])), xlabel="Speed-up (layers)", ylabel="")
    return highest


def curve(points: pd.DataFrame) -> tuple[pd.DataFrame, bool]:
    """One policy's curve in one system, from the operating points of all seeds.

    Returns
    -------
    table : DataFrame
        seed, speedup and loss (in points), to be averaged at equal speed-up.
    few : bool
        Are there so few operating points that each counts? They stand at the mean speed-up of their threshold; others
        are brought to equal speed-up: between two points accuracy is linear in the mean number of layers, as of samples
        that draw lots.
    """
    exits = points["exits"].iloc[0]
    points = points.assign(loss=100 * points["loss"])
    if points.groupby("seed")["layers"].nunique().max() > exits + 1:
        return at_equal(points, "layers", "loss").eval("speedup = @exits / layers"), False
    means = points.groupby("threshold")[["speedup", "loss"]].mean()
    points = points[points["threshold"].isin(means.drop_duplicates().index)]
    return points.assign(speedup=points["threshold"].map(means["speedup"]))[["seed", "speedup", "loss"]], True
