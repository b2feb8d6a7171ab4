"""The effect of each setting on control and cost."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from offramp.comparison.sensitivity import ALL
from offramp.reports.figures import style
from offramp.reports.loading import read_tables

_NUMBERS = {
    "error": "Mean control error\n(points)",
    "worst": "Largest control error\n(points)",
    "short": "Falls short\n(% of δ)",
    "cost_excess": "Change of cost\n(% of full model)",
}
_PITCH = 0.19  # inches per setting


def draw(files: Sequence[Path]) -> Figure:
    """Effect of settings on control and cost.

    One factor is varied at a time, and all other settings are those of the study. The first setting of each factor is
    the reference, and dashed lines mark its value in the rows below. Control error is the distance between test
    accuracy and δ, over all values of δ between the accuracies of the first and the last exit. Accuracy falls short if
    it is below δ. Large markers are means over systems and seeds with 95 % bootstrap intervals over test samples and
    seeds, and small dots are the systems. The intervals of control errors are corrected for the amount by which
    resampling increases a distance. Policies were fitted on validation data. If only a part of the validation samples
    is used, results are averaged over several draws.

    Parameters
    ----------
    files : sequence of one path
        The table that `offramp sensitivity` wrote.
    """
    (table,) = read_tables(files, "sensitivity")
    table = table.astype({"setting": str})
    styles = style.policy_styles(table["policy"])
    factors = dict(list(table.groupby("factor", sort=False)))
    settings = {factor: list(rows["setting"].unique()) for factor, rows in factors.items()}
    sizes = [len(names) + 0.3 for names in settings.values()]
    height = _PITCH * sum(sizes) + 0.24 * len(factors) + 0.8
    grid = {"sharex": "col", "sharey": "row", "height_ratios": sizes}
    figure, axes = style.new_figure(style.TWO_COLUMNS, height, len(factors), len(_NUMBERS), **grid)
    for k, (factor, rows) in enumerate(factors.items()):
        across = axes[k * len(_NUMBERS) : (k + 1) * len(_NUMBERS)]
        for ax, number in zip(across, _NUMBERS):
            _panel(ax, rows, settings[factor], number, styles)
            style.name_rows(ax, settings[factor])
        across[0].set_title(factor[0].upper() + factor[1:], loc="left", x=0, fontweight="bold")
    for ax, title in zip(axes[-len(_NUMBERS) :], _NUMBERS.values()):
        ax.set_xlabel(title)
    handles = [*style.entries(styles, linestyle="-"), style.entry("each system", linewidth=0, marker=".", markersize=3)]
    handles.append(style.entry("reference", linewidth=0.7, linestyle=style.DASHED))
    style.legend_below(figure, handles, len(handles))
    return figure


def _panel(ax: Axes, rows: pd.DataFrame, settings: list[str], number: str, styles: Mapping[str, style.Look]) -> None:
    labels = [label for label in styles if label in set(rows["policy"])]
    for p, label in enumerate(labels):
        its, look = rows[rows["policy"] == label], styles[label]
        place = its["setting"].map(settings.index) + (p - (len(labels) - 1) / 2) * 0.8 / len(labels)
        pooled = its["system"] == ALL
        ax.plot(100 * its.loc[~pooled, number], place[~pooled], ".", color=look.color, markersize=2.5, alpha=0.6)
        reference = its.loc[pooled & its["reference"], number].iloc[0]
        style.draw_intervals(ax, its[pooled], number, place[pooled], look, reference, scale=100)
