"""Risk against coverage."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from offramp.reports.figures import style
from offramp.reports.labels import system_name
from offramp.reports.loading import chosen_policies, read_tables


def draw(files: Sequence[Path], policies: Sequence[str] | None = None) -> Figure:
    """Risk against coverage.

    Test error of the accepted answers against the share of answers that are accepted, if the answers with the lowest
    estimates are rejected. The estimate is the accuracy that the policy estimates, and max softmax for policies that
    estimate none. Samples leave at the cheapest shared threshold with which the policy is at least as accurate as the
    last exit on validation data, so the policies have different costs. Of answers with equal estimates, a random part
    is accepted: where many answers share one estimate, the line is flat. Lines are means over seeds. A lower line
    rejects better.

    Parameters
    ----------
    files : sequence of one path
        The table of rejection that `offramp compare` wrote.
    policies : sequence of str
        Labels of the policies to show. By default all policies in the table.
    """
    (table,) = read_tables(files, "rejection")
    known = table["policy"].unique()
    styles = style.policy_styles(chosen_policies(policies, known, known))
    table = table[table["policy"].isin(styles)]
    points = table.assign(coverage=100 * table["coverage"], error=100 * (1 - table["accuracy"]))
    systems = table["system"].unique()
    figure, axes, columns = style.grid_of_panels(len(systems), 2.4)
    for system, ax in zip(systems, axes):
        its = points[points["system"] == system]
        style.draw_lines(ax, its, "coverage", "error", styles, markevery=4, linewidth=1.0, markersize=3)
        ax.set(title=system_name(system), xlabel="Coverage (%)", ylabel="", xlim=(0, 102))
        ax.set_ylim(bottom=0)
    for ax in axes[::columns]:
        ax.set_ylabel("Error of accepted answers (%)")
    style.legend_below(figure, style.entries(styles), 4 if columns > 1 else 2)
    return figure
