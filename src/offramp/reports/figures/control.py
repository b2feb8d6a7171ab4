"""How accuracy follows δ."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from offramp.reports.figures.style import BLACK, PALE, TWO_COLUMNS, PolicyStyle, legend_below, new_figure, policy_styles
from offramp.reports.labels import system_name
from offramp.reports.loading import chosen_policies, read_tables

_SHOWN = ("confidence", "temperature", "pcee", "pcee-ws")


def draw(files: Sequence[Path], policies: Sequence[str] | None = None) -> Figure:
    """How accuracy follows δ.

    Test accuracy (above) and control error, its distance from δ (below), when δ itself is the threshold. Lines are
    means over seeds, bands ± one standard deviation over seeds; the dashed diagonal is perfect control. Shaded: δ out
    of reach, below the accuracy of the first exit or above that of the last (means over seeds). Policies were fitted on
    validation data.

    Parameters
    ----------
    files : sequence of paths
        Curves and exits that `offramp evaluate` wrote, of all seeds.
    policies : sequence of str
        Labels to show; max softmax, also with temperature scaling, PCEE and PCEE-WS, where the files have them, if not
        given.
    """
    curves, exits = read_tables(files, "curve", "exits")
    labels = chosen_policies(policies, _SHOWN, curves["policy"].unique())
    systems = list(curves["system"].unique())
    if missing := [system for system in systems if system not in set(exits["system"])]:
        raise ValueError(f"control: no exits of {missing[0]}; expected what `offramp evaluate --exits` writes for it")
    styles = policy_styles(labels)
    figure, axes = new_figure(TWO_COLUMNS * min(1, max(0.5, len(systems) / 4)), 3.6, 2, len(systems), sharex="col")
    for system, ax, below in zip(systems, axes, axes[len(systems) :]):
        ends = exits[exits["system"] == system].groupby("exit")["accuracy"].mean().iloc[[0, -1]]
        _panel(ax, below, curves[curves["system"] == system], (ends.min(), ends.max()), styles)
        ax.set_title(system_name(system))
    axes[0].set_ylabel("Test accuracy (%)")
    axes[len(systems)].set_ylabel("Control error (points)")
    handles = [
        Line2D([], [], color=s.color, linestyle=s.linestyle, marker=s.marker, label=s.name) for s in styles.values()
    ]
    handles += [
        Line2D([], [], color=BLACK, linewidth=0.8, linestyle="--", label="accuracy = δ"),
        Patch(color=PALE, label="δ out of reach"),
    ]
    legend_below(figure, handles, 3 if len(systems) < 3 else 6)
    return figure


def _panel(
    ax: Axes, below: Axes, curves: pd.DataFrame, ends: tuple[float, float], styles: dict[str, PolicyStyle]
) -> None:
    low, high = 100 * ends[0], 100 * ends[1]
    margin = max(1.0, 0.15 * (high - low))
    shown = (low - margin, min(100.0, high + margin))
    curves = curves[(100 * curves["threshold"]).between(*shown)]
    for label, style in styles.items():
        of_policy = curves[curves["policy"] == label]
        delta = 100 * of_policy["threshold"]
        accuracy = 100 * of_policy["accuracy"]
        for axis, values in ((ax, accuracy), (below, (accuracy - delta).abs())):
            seeds = values.groupby(delta)
            mean, sd = seeds.mean(), seeds.std().fillna(0)
            axis.fill_between(mean.index, mean - sd, mean + sd, color=style.color, alpha=0.18, linewidth=0)
            axis.plot(
                mean.index,
                mean,
                color=style.color,
                linestyle=style.linestyle,
                marker=style.marker,
                markevery=0.2,
                markersize=3,
            )
    ax.plot(shown, shown, color=BLACK, linewidth=0.8, linestyle="--")
    for axis in (ax, below):
        axis.axvspan(0, low, color=PALE, zorder=0, linewidth=0)
        axis.axvspan(high, 100, color=PALE, zorder=0, linewidth=0)
    ax.set(xlim=shown, ylim=(shown[0], min(100.5, ax.get_ylim()[1])))
    below.set(ylim=(0, None), xlabel="δ (%)")
