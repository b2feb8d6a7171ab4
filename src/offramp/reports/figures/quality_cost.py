"""Accuracy against average cost, for each system."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from offramp.reports.displays import FrontierDisplay
from offramp.reports.figures import style
from offramp.reports.labels import cost_label, system_name
from offramp.reports.loading import chosen_policies, read_tables, unit_of


def draw(files: Sequence[Path], policies: Sequence[str] | None = None) -> Figure:
    """Accuracy against average cost.

    Test accuracy against average cost, for each system. Every threshold of the grid of the study is a point of a line;
    no threshold is chosen. Lines are means over seeds at equal cost, and bands are ± one standard deviation over seeds.
    A policy with a single operating point, such as the oracle, is a mark. Squares are the models of the system on their
    own, each at the cost of running it in this system (in a cascade, with all models before it). The triangle and the
    thin line are the last model. Policies were fitted on validation data. Costs are on a logarithmic scale.

    Parameters
    ----------
    files : sequence of paths
        The curves and exit tables that `offramp evaluate` wrote, for all seeds.
    policies : sequence of str
        Labels of the policies to show. By default all policies in the files.
    """
    curves, exits = read_tables(files, "curve", "exits")
    known = curves["policy"].unique()
    labels = chosen_policies(policies, known, known)
    curves = curves[curves["policy"].isin(labels)]
    systems = curves["system"].unique()
    figure, axes, columns = style.grid_of_panels(len(systems), 2.4)
    hollow = {"marker": "s", "markerfacecolor": "white", "markeredgecolor": style.BLACK, "markeredgewidth": 0.7}
    for system, ax in zip(systems, axes):
        its = exits[exits["system"] == system]
        is_last = its["exit"] == its["exit"].max()
        points = _without_first_exit(curves[curves["system"] == system])
        display = FrontierDisplay(points, its[is_last], unit_of(its), labels).plot(ax, legend=False)
        factor, _ = cost_label("", its.loc[is_last, "cost"], unit_of(its))
        others = its[~is_last]
        ax.plot(others["cost"] / factor, 100 * others["accuracy"], linestyle="", zorder=4, **hollow)
        ax.set(title=system_name(system), ylabel="")
    for ax in axes[::columns]:
        ax.set_ylabel("Test accuracy (%)")
    *of_policies, last = display.handles_
    last.set_label("last model")
    style.legend_below(figure, [*of_policies, style.entry("other models", linestyle="", **hollow), last], 3)
    return figure


def _without_first_exit(points: pd.DataFrame) -> pd.DataFrame:
    """Leave out δ ≤ 0, where all samples leave at once, of policies with a single operating point above 0."""
    above = points[points["threshold"] > 0]
    costs = above.groupby("policy")["cost"].nunique()
    return points[(points["threshold"] > 0) | ~points["policy"].isin(costs.index[costs == 1])]
