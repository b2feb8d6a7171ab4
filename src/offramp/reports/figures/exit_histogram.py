"""Where samples leave."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from offramp.reports.figures.style import BLACK, grid_of_panels, legend_below
from offramp.reports.labels import in_order, policy_name, system_name
from offramp.reports.loading import chosen_policies, read_tables

# Lighter is earlier; lightness alone tells the exits apart
_SHADES = LinearSegmentedColormap.from_list("exits", ["#E6F0F7", "#56A0D3", "#0072B2", "#00233D"])
_PITCH = 0.19  # inches a policy
_CHARACTER = 0.062  # inches, in a bar


def draw(files: Sequence[Path], policies: Sequence[str] | None = None) -> Figure:
    """Where samples leave.

    Shares of test samples that leave at each exit (its number is in the bar where it fits), means over seeds. Beside
    the bar the speed-up in layers: the number of exits over the mean number that a sample passes. One threshold for all
    exits: the cheapest that on validation data is no less accurate than the last exit.

    Parameters
    ----------
    files : sequence of one path
        The speed-up table of `offramp compare`.
    policies : sequence of str
        Labels to show; all in the table if not given.
    """
    (table,) = read_tables(files, "speedup")
    table = table[(table["choice"] == "shared") & (table["drop"] == 0)]
    labels = in_order(chosen_policies(policies, table["policy"].unique(), table["policy"].unique()))
    systems = table["system"].unique()
    figure, axes, columns = grid_of_panels(len(systems), _PITCH * len(labels) + 0.55, sharey=True)
    character = 100 * _CHARACTER / (0.7 * figure.get_figwidth() / columns)  # % of samples as wide: bars have about 0.7
    for system, ax in zip(systems, axes):
        _panel(ax, table[table["system"] == system].set_index("policy").reindex(labels), character)
        ax.set_title(system_name(system))
    axes[0].set_yticks(range(len(labels)), [policy_name(label) for label in labels])
    axes[0].set_ylim(len(labels) - 0.4, -0.6)
    for ax in axes[-columns:]:
        ax.set_xlabel("Test samples (%)")
    ends = {"leaves at the first exit": 0.0, "at the last": 1.0}
    legend_below(figure, [Patch(facecolor=_SHADES(shade), label=label) for label, shade in ends.items()], 2)
    return figure


def _panel(ax: Axes, rows: pd.DataFrame, character: float) -> None:
    n_exits = int(rows["exits"].max())
    place, left = np.arange(len(rows)), np.zeros(len(rows))  # (P,)
    for i in range(n_exits):
        share = 100 * rows[f"exit_{i + 1}"].fillna(0).to_numpy()  # (P,)
        shade = i / max(1, n_exits - 1)
        ax.barh(place, share, 0.8, left, color=_SHADES(shade), edgecolor="white", linewidth=0.4)
        for y in place[share >= character * (1 + len(str(i + 1)))]:
            color = "white" if shade > 0.45 else BLACK
            ax.text(left[y] + share[y] / 2, y, str(i + 1), ha="center", va="center", color=color, fontsize=7)
        left += share
    for y in place[rows["speedup"].notna()]:
        ax.text(101.5, y, f"{rows['speedup'].iloc[y]:.2f}×", va="center", fontsize=7)
    ax.set(xlim=(0, 100))
    ax.grid(visible=False)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
