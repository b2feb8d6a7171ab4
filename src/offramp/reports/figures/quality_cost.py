"""Accuracy against average cost, for each system."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from offramp.reports.displays import FrontierDisplay
from offramp.reports.figures import style
from offramp.reports.labels import cost_label, system_name
from offramp.reports.loading import chosen_policies, read_tables, unit_of


def draw(files: Sequence[Path], policies: Sequence[str] | None = None) -> Figure:
    """Accuracy against average cost.

    Test accuracy against average cost, for each system. Lines join all operating points that a threshold can reach, and
    no threshold is chosen; a straight line between two points is what a random choice between them gives. Lines are
    means over seeds at equal cost, and bands are ± one standard deviation over seeds. The oracle is a single point.
    Squares are the models of the system on their own, each at the cost of running it in this system (in a cascade, with
    all models before it). The triangle and the thin line are the last model. Policies were fitted on validation data.

    Parameters
    ----------
    files : sequence of paths
        The frontiers and exit tables that `offramp evaluate` wrote, for all seeds.
    policies : sequence of str
        Labels of the policies to show. By default all policies in the files.
    """
    curves, exits = read_tables(files, "curve", "exits")
    known = curves["policy"].unique()
    labels = chosen_policies(policies, known, known)
    shown = curves["policy"].isin(labels) & ((curves["policy"] != "oracle") | (curves["threshold"] == 1))
    systems = curves["system"].unique()
    figure, axes, columns = style.grid_of_panels(len(systems), 2.4)
    hollow = {"marker": "s", "markerfacecolor": "white", "markeredgecolor": style.BLACK, "markeredgewidth": 0.7}
    for system, ax in zip(systems, axes):
        its = exits[exits["system"] == system]
        is_last = its["exit"] == its["exit"].max()
        points = curves[(curves["system"] == system) & shown]
        display = FrontierDisplay(points, its[is_last], unit_of(its), labels).plot(ax, legend=False)
        factor, _ = cost_label("", its.loc[is_last, "cost"], unit_of(its))
        others = its[~is_last]
        ax.plot(others["cost"] / factor, 100 * others["accuracy"], linestyle="", zorder=4, **hollow)
        ax.set(title=system_name(system), ylabel="", xscale="linear", xlim=(0, None))
    for ax in axes[::columns]:
        ax.set_ylabel("Test accuracy (%)")
    *of_policies, last = display.handles_
    last.set_label("last model")
    style.legend_below(figure, [*of_policies, style.entry("other models", linestyle="", **hollow), last], 3)
    return figure
