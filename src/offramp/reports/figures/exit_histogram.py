"""Share of samples that leave at each exit."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from offramp.reports.figures import style
from offramp.reports.labels import in_order, policy_name, system_name
from offramp.reports.loading import chosen_policies, read_tables

# Lighter colours are earlier exits. The exits can be distinguished by lightness alone.
_SHADES = LinearSegmentedColormap.from_list("exits", ["#E6F0F7", "#56A0D3", "#0072B2", "#00233D"])
_PITCH = 0.19  # inches per policy
_CHARACTER = 0.062  # width of a character in a bar, in inches


def draw(files: Sequence[Path], policies: Sequence[str] | None = None) -> Figure:
    """Where samples leave.

    Share of test samples that leave at each exit, as means over seeds. The number of the exit is shown in the bar if
    there is room. The number next to the bar is the speed-up in layers: the number of exits divided by the mean number
    of exits that a sample passes. There is one threshold for all exits, the cheapest with which the policy is at least
    as accurate as the last exit on validation data.

    Parameters
    ----------
    files : sequence of one path
        The speed-up table that `offramp compare` wrote.
    policies : sequence of str
        Labels of the policies to show. By default all policies in the table.
    """
    (table,) = read_tables(files, "speedup")
    table = table[(table["choice"] == "shared") & (table["drop"] == 0)]
    labels = in_order(chosen_policies(policies, table["policy"].unique(), table["policy"].unique()))
    systems = table["system"].unique()
    figure, axes, columns = style.grid_of_panels(len(systems), _PITCH * len(labels) + 0.55, sharey=True)
    character = 100 * _CHARACTER / (0.7 * figure.get_figwidth() / columns)  # in % of samples; bars take 0.7 of a panel
    for system, ax in zip(systems, axes):
        _panel(ax, table[table["system"] == system].set_index("policy").reindex(labels), character)
        ax.set_title(system_name(system))
    for ax in axes[-columns:]:
        ax.set_xlabel("Test samples (%)")
    ends = {"leaves at the first exit": 0.0, "at the last": 1.0}
    style.legend_below(figure, [Patch(facecolor=_SHADES(shade), label=label) for label, shade in ends.items()], 2)
    return figure


def _panel(ax: Axes, rows: pd.DataFrame, character: float) -> None:
    exits = range(1, int(rows["exits"].max()) + 1)
    shades = {i: (i - 1) / max(1, len(exits) - 1) for i in exits}
    shares = rows[[f"exit_{i}" for i in exits]].set_axis(exits, axis=1).fillna(0) * 100
    long = shares.reset_index().melt("policy", var_name="exit", value_name="share")
    colors = {i: _SHADES(shade) for i, shade in shades.items()}
    bars = {"hue": "exit", "hue_order": exits[::-1], "palette": colors, "shrink": 0.8, "alpha": 1, "linewidth": 0.4}
    bars |= {"multiple": "stack", "edgecolor": "white", "legend": False}  # stacks start with the last exit
    sns.histplot(long, y="policy", weights="share", ax=ax, **bars)
    for i, its in zip(exits, ax.containers):
        numbers = [str(i) if bar.get_width() >= character * (1 + len(str(i))) else "" for bar in its]
        color = "white" if shades[i] > 0.45 else style.BLACK
        ax.bar_label(its, numbers, label_type="center", color=color, fontsize=7)
    for y, speedup in enumerate(rows["speedup"]):
        if pd.notna(speedup):
            ax.text(101.5, y, f"{speedup:.2f}×", va="center", fontsize=7)
    ax.set(xlim=(0, 100), xlabel="", ylabel="")
    style.name_rows(ax, list(map(policy_name, rows.index)))
    ax.grid(visible=False)
    ax.spines["left"].set_visible(False)
