"""Error against average cost."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from offramp.reports.displays import FrontierDisplay, mark_full_models
from offramp.reports.figures import style
from offramp.reports.labels import cost_label, system_name
from offramp.reports.loading import chosen_policies, read_tables, unit_of

_SHOWN = ("confidence", "pcee", "pcee-ws", "oracle")


def draw(files: Sequence[Path], pairs: Sequence[tuple[str, str]], policies: Sequence[str] | None = None) -> Figure:
    """Error against average cost.

    Test error against average cost, for pairs of a smaller and a larger system. The larger system with early exits is
    compared with the full smaller system. Every dot is one seed at one threshold δ > 0. Lines are means over seeds at
    equal cost, over the range of costs that every seed reaches, and bands are ± one standard deviation over seeds. The
    larger marks only distinguish the lines. Hollow squares (small) and triangles (large) are the full models, one per
    seed, and thin lines mark their means. A point below and to the left of the lines of the squares is better than the
    full smaller model. The points of the oracle are the same for all δ, so their mean and standard deviations over
    seeds are shown. Policies were fitted on validation data. Costs are on a logarithmic scale. Errors above three times
    the error of the full models are cut off.

    Parameters
    ----------
    files : sequence of paths
        The curves and exit tables that `offramp evaluate` wrote, for all seeds.
    pairs : sequence of (small, large)
    policies : sequence of str
        Labels of the policies to show. By default those of max softmax, PCEE, PCEE-WS and the oracle that the files
        contain.
    """
    curves, exits = read_tables(files, "curve", "exits")
    labels = chosen_policies(policies, _SHOWN, curves["policy"].unique())
    curves = curves[(curves["threshold"] > 0) & curves["policy"].isin(labels)]
    full = exits[exits["exit"] == exits.groupby("system")["exit"].transform("max")]  # one row per system and seed
    for small, large in pairs:
        for name, table in ((small, full), (large, full), (large, curves)):
            if name not in set(table["system"]):
                raise ValueError(
                    f"pair {small}, {large}: no run of {name}; the files have {', '.join(full['system'].unique())}"
                )
    figure, axes, columns = style.grid_of_panels(len(pairs), 2.2)
    for ax, (small, large) in zip(axes, pairs):
        of_large = full["system"] == large
        handles = _panel(ax, curves[curves["system"] == large], full[of_large], full[full["system"] == small], labels)
        ax.set_title(f"{system_name(large)} with exits\nagainst {system_name(small)}, full")
    for ax in axes[::columns]:
        ax.set_ylabel("Test error (%)")
    style.legend_below(figure, handles, 3 if columns > 1 else 2)
    return figure


def _panel(
    ax: Axes, curves: pd.DataFrame, large: pd.DataFrame, small: pd.DataFrame, labels: Sequence[str]
) -> list[Line2D]:
    unit = unit_of(large)
    factor, _ = cost_label("", large["cost"], unit)
    dots = curves.assign(cost=curves["cost"] / factor, error=100 * (1 - curves["accuracy"]))
    looks = style.looks(style.policy_styles(labels), "policy")
    sns.scatterplot(dots, x="cost", y="error", s=5, alpha=0.25, linewidth=0, ax=ax, **looks)
    display = FrontierDisplay(curves, large, unit, labels).plot(ax, error=True, legend=False)
    of_small = mark_full_models(ax, small, "small model, full", "s", "--", factor, error=True)
    ax.axvline(small["cost"].mean() / factor, color=style.GREY, linewidth=0.8, linestyle="--", zorder=1)
    worst = 100 * (1 - min(small["accuracy"].mean(), large["accuracy"].mean()))
    lowest, highest = ax.get_ylim()
    ax.set(ylim=(max(0, lowest), min(highest, max(1, 3 * worst))), ylabel="")
    *policies, of_large = display.handles_
    of_large.set_label("large model, full")
    return [*policies, of_small, of_large]
