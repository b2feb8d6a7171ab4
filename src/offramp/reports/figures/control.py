"""How the accuracy follows δ."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from offramp.reports.displays import ControlDisplay
from offramp.reports.figures import style
from offramp.reports.labels import system_name
from offramp.reports.loading import chosen_policies, read_tables

_SHOWN = ("confidence", "temperature", "pcee", "pcee-ws")


def draw(files: Sequence[Path], policies: Sequence[str] | None = None) -> Figure:
    """How accuracy follows δ.

    Test accuracy (top) and control error (bottom), which is the distance between accuracy and δ, if δ itself is the
    threshold. Lines are means over seeds, and bands are ± one standard deviation over seeds. The dashed diagonal is
    perfect control. The shaded values of δ are out of reach: below the accuracy of the first exit or above that of the
    last exit (means over seeds). Policies were fitted on validation data.

    Parameters
    ----------
    files : sequence of paths
        The curves and exit tables that `offramp evaluate` wrote, for all seeds.
    policies : sequence of str
        Labels of the policies to show. By default those of max softmax, max softmax with temperature scaling, PCEE and
        PCEE-WS that the files contain.
    """
    curves, exits = read_tables(files, "curve", "exits")
    labels = chosen_policies(policies, _SHOWN, curves["policy"].unique())
    curves = curves[curves["policy"].isin(labels)]
    systems = list(curves["system"].unique())
    if missing := [system for system in systems if system not in set(exits["system"])]:
        raise ValueError(f"control: no exits of {missing[0]}; expected what `offramp evaluate --exits` writes for it")
    width = style.TWO_COLUMNS * min(1, max(0.5, len(systems) / 4))
    figure, axes = style.new_figure(width, 3.6, 2, len(systems), sharex="col")
    for system, above, below in zip(systems, axes, axes[len(systems) :]):
        ends = exits[exits["system"] == system].groupby("exit")["accuracy"].mean().iloc[[0, -1]]
        display = ControlDisplay(curves[curves["system"] == system], tuple(ends), labels)
        display.plot(below, error=True, legend=False).plot(above, legend=False)
        above.set(title=system_name(system), xlabel="", ylabel="")
        below.set_ylabel("")
    axes[0].set_ylabel("Test accuracy (%)")
    axes[len(systems)].set_ylabel("Control error (points)")
    style.legend_below(figure, display.handles_, {1: 2, 2: 2, 3: 3}.get(len(systems), 6))
    return figure
