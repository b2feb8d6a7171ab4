"""Change of accuracy against speed-up."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator

from offramp.reports.figures.error_cost import over_seeds
from offramp.reports.figures.style import BLACK, PolicyStyle, grid_of_panels, legend_below, policy_styles
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
    styles = policy_styles(labels)
    systems = points["system"].unique()
    figure, axes, columns = grid_of_panels(len(systems), 2.3, sharey=True)
    highest = 0.8
    for system, ax in zip(systems, axes):
        highest = max(highest, _panel(ax, points[points["system"] == system], styles))
        ax.set_title(system_name(system))
    for ax in axes[::columns]:
        ax.set_ylabel("Accuracy − last exit's (points)")
    axes[0].set_ylim(_LOWEST, highest + 0.2)  # of all: they share it
    handles = [
        Line2D([], [], color=s.color, linestyle=s.linestyle, marker=s.marker, label=s.name) for s in styles.values()
    ]
    legend_below(figure, handles, 4 if columns > 1 else 3)
    return figure


def against_last_exit(curves: pd.DataFrame, exits: pd.DataFrame) -> pd.DataFrame:
    """The curves' points with `layers` (mean number of exits passed), `speedup` (exits over that: L·N / Σ i·n_i, as in
    the BEEM paper) and `loss` (accuracy − the last exit's of the same run)."""
    run = ["system", "seed"]
    last = exits.sort_values("exit").groupby(run)[["exit", "accuracy"]].last()
    points = curves.join(last.set_axis(["exits", "of_last"], axis=1), on=run)
    if (unknown := points["exits"].isna()).any():
        system, seed = points.loc[unknown, run].iloc[0]
        raise ValueError(f"speedup: no exits of {system} seed {seed}; expected what `offramp evaluate --exits` writes")
    exit_ = np.arange(1, int(points["exits"].max()) + 1)  # (L,)
    shares = points[[f"exit_{i}" for i in exit_]].fillna(0).to_numpy()  # (points, L)
    layers = shares @ exit_  # (points,)
    return points.assign(layers=layers, speedup=points["exits"] / layers, loss=points["accuracy"] - points["of_last"])


def _panel(ax: Axes, points: pd.DataFrame, styles: dict[str, PolicyStyle]) -> float:
    """Draw one system's lines; gives the highest point."""
    n_exits = points["exits"].iloc[0]
    furthest, highest = 2.0, 0.0
    for place, (label, style) in enumerate(styles.items()):
        of_policy = points[points["policy"] == label]
        if of_policy.empty:
            continue
        speedup, mean, sd, few = line(of_policy)  # (G,) each
        ax.fill_between(speedup, mean - sd, mean + sd, color=style.color, alpha=0.12, linewidth=0)
        ax.plot(
            speedup,
            mean,
            color=style.color,
            linestyle=style.linestyle,
            marker=style.marker,
            markersize=3.5,
            markevery=None if few else (0.03 * place, 0.24),  # not all at the same place
            zorder=4 if few else 3,
        )
        furthest = max(furthest, speedup[mean > _LOWEST].max(initial=1.0))
        highest = max(highest, mean.max())
    ax.axhline(0, color=BLACK, linewidth=0.7, zorder=2)
    ax.axvline(_CLAIMED, color=BLACK, linewidth=0.7, linestyle=(0, (1, 2)), zorder=2)
    ax.set_xscale("log")
    ax.set_xlim(0.98, 1.02 * min(furthest, n_exits))
    ax.xaxis.set_major_locator(FixedLocator(next(ticks for most, ticks in _TICKS.items() if furthest <= most)))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter("{x:g}×")
    ax.set_xlabel("Speed-up (layers)")
    return highest


def line(of_policy: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray, bool]:
    """One policy's line in one system, from the points of all seeds.

    Returns
    -------
    speedup, mean, sd : ndarray of shape (G,)
        Of the change of accuracy in points; sd over seeds, 0 of one seed.
    few : bool
        Are there so few operating points that each counts? They are averaged at equal threshold, others at equal
        speed-up: between two points accuracy is linear in the mean number of layers, as of samples that draw lots.
    """
    seeds = [one for _, one in of_policy.groupby("seed")]
    few = max(one["layers"].nunique() for one in seeds) <= of_policy["exits"].iloc[0] + 1
    if few:
        at = of_policy.groupby("threshold")
        table = pd.DataFrame({"speedup": at["speedup"].mean(), "mean": at["loss"].mean(), "sd": at["loss"].std()})
        table = table.drop_duplicates(["speedup", "mean"]).sort_values("speedup").fillna(0.0)
        return table["speedup"].to_numpy(), 100 * table["mean"].to_numpy(), 100 * table["sd"].to_numpy(), few
    curves = [one[["layers", "loss"]].set_axis(["cost", "accuracy"], axis=1) for one in seeds]
    layers, error = over_seeds(curves)  # (G,), (S, G): the error is 1 − the loss
    loss = 100 * (1 - error)
    speedup = of_policy["exits"].iloc[0] / layers
    return speedup, loss.mean(0), loss.std(0, ddof=min(1, len(seeds) - 1)), few
