"""What matters to control and cost, and what does not."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from offramp.comparison.sensitivity import ALL
from offramp.reports.figures.style import BLACK, TWO_COLUMNS, PolicyStyle, legend_below, new_figure, policy_styles
from offramp.reports.loading import read_tables

_NUMBERS = {
    "error": "Mean control error\n(points)",
    "worst": "Largest control error\n(points)",
    "short": "Falls short\n(% of δ)",
    "cost_excess": "Change of cost\n(% of full model's)",
}
_PITCH = 0.19  # inches a setting


def draw(files: Sequence[Path]) -> Figure:
    """What matters to control and cost.

    One factor at a time, all else as in the study; the first setting of each is the reference, and dashed lines carry
    its value down. Control error is the distance of test accuracy from δ, over all δ in reach; accuracy falls short
    where it is below δ. Large markers are means over systems and seeds with 95 % bootstrap intervals over test samples
    and seeds, small dots the systems. The distances' intervals are corrected for what resampling adds to them. Policies
    were fitted on validation data; of fewer samples than all, several draws are averaged.

    Parameters
    ----------
    files : sequence of one path
        What `offramp sensitivity` wrote.
    """
    (table,) = read_tables(files, "sensitivity")
    table = table.astype({"setting": str})
    styles = policy_styles(table["policy"])
    factors = dict(list(table.groupby("factor", sort=False)))
    settings = {factor: list(rows["setting"].unique()) for factor, rows in factors.items()}
    sizes = [len(names) + 0.3 for names in settings.values()]
    height = _PITCH * sum(sizes) + 0.24 * len(factors) + 0.8
    grid = {"sharex": "col", "sharey": "row", "height_ratios": sizes}
    figure, axes = new_figure(TWO_COLUMNS, height, len(factors), len(_NUMBERS), **grid)
    for k, (factor, rows) in enumerate(factors.items()):
        across = axes[k * len(_NUMBERS) : (k + 1) * len(_NUMBERS)]
        for ax, number in zip(across, _NUMBERS):
            _panel(ax, rows, settings[factor], number, styles)
        names = settings[factor]
        across[0].set_yticks(range(len(names)), names)
        across[0].set_ylim(len(names) - 0.35, -0.65)
        across[0].set_title(factor[0].upper() + factor[1:], loc="left", x=0, fontweight="bold")
    for ax, title in zip(axes[-len(_NUMBERS) :], _NUMBERS.values()):
        ax.set_xlabel(title)
    handles = [Line2D([], [], color=s.color, marker=s.marker, label=s.name) for s in styles.values()]
    handles.append(Line2D([], [], color=BLACK, linewidth=0, marker=".", markersize=3, label="each system"))
    handles.append(Line2D([], [], color=BLACK, linewidth=0.7, linestyle=(0, (4, 2)), label="reference"))
    legend_below(figure, handles, len(handles))
    return figure


def _panel(ax: Axes, rows: pd.DataFrame, settings: list[str], number: str, styles: dict[str, PolicyStyle]) -> None:
    labels = [label for label in styles if label in set(rows["policy"])]
    for p, label in enumerate(labels):
        style = styles[label]
        of_policy = rows[rows["policy"] == label]
        mean, systems = of_policy[of_policy["system"] == ALL], of_policy[of_policy["system"] != ALL]
        offset = (p - (len(labels) - 1) / 2) * 0.8 / len(labels)

        def place(part: pd.DataFrame, offset: float = offset) -> pd.Series:
            return part["setting"].map(settings.index) + offset

        reference = 100 * mean.loc[mean["reference"], number].iloc[0]
        ax.axvline(reference, color=style.color, linewidth=0.7, linestyle=(0, (4, 2)), zorder=1)
        ax.plot(100 * systems[number], place(systems), ".", color=style.color, markersize=2.5, alpha=0.6, zorder=2)
        ax.hlines(
            place(mean), 100 * mean[f"{number}_low"], 100 * mean[f"{number}_high"], color=style.color, linewidth=1.2
        )
        ax.plot(100 * mean[number], place(mean), style.marker, color=style.color, markersize=3.4, zorder=3)
    ax.grid(axis="y", visible=False)
    ax.tick_params(axis="y", length=0)
