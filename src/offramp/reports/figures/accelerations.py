"""What accelerated models save at each level of agreement, and how often promises are kept."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from offramp.reports.figures import style
from offramp.reports.labels import ACCELERATIONS, system_name
from offramp.reports.tables.accelerations import numbers

_LOOKS = {
    "exits": (style.BLUE, "o"),
    "cascade": (style.VERMILLION, "s"),
    "both": (style.GREEN, "D"),
    "joint": (style.GREY, "^"),
}
_APART = 0.12  # between the kinds at one level


def draw(files: Sequence[Path]) -> Figure:
    """Speed-up of accelerated models, and their promises.

    Top: MACs of the model divided by the mean MACs (mean over random draws of the samples that choose and certify; bars
    are the middle 95 % of them), against the certified agreement with the model. Bottom: the true risk as a share of
    the level that was promised (mean over draws); a promise is broken above the dashed line.

    Parameters
    ----------
    files : sequence of one path
        The table that `offramp accelerations` wrote.
    """
    table = numbers(files)
    systems, levels = list(table["system"].unique()), sorted(table["level"].unique(), reverse=True)
    width = style.TWO_COLUMNS * min(1, max(0.5, len(systems) / 3))
    figure, axes = style.new_figure(width, 3.8, 2, len(systems), sharex=True, sharey="row")
    kinds = [kind for kind in _LOOKS if kind in set(table["kind"])]
    for system, above, below in zip(systems, axes, axes[len(systems) :]):
        for place, kind in enumerate(kinds):
            its = table[(table["system"] == system) & (table["kind"] == kind)]
            color, marker = _LOOKS[kind]
            x = [levels.index(level) + _APART * (place - (len(kinds) - 1) / 2) for level in its["level"]]
            ends = abs(its[["speedup_low", "speedup_high"]].sub(its["speedup"], axis=0).to_numpy().T)  # (2, levels)
            above.errorbar(x, its["speedup"], ends, color=color, marker=marker, linestyle="", elinewidth=0.8)
            below.plot(x, its["measured"] / its["level"], color=color, marker=marker, linestyle="")
        above.set_title(system_name(system))
        above.axhline(1, color=style.BLACK, linewidth=0.7)
        below.axhline(1, color=style.BLACK, linewidth=0.7, linestyle=style.DASHED)
        below.set(xlabel="Agreement (%)", xlim=(-0.5, len(levels) - 0.5), ylim=(0, None))
        below.set_xticks(np.arange(len(levels)), [f"{100 * (1 - level):g}" for level in levels])
    axes[0].set_ylabel("Speed-up (MACs)")
    axes[len(systems)].set_ylabel("Risk / level")
    entries = [style.entry(ACCELERATIONS[kind], _LOOKS[kind][0], marker=_LOOKS[kind][1]) for kind in kinds]
    style.legend_below(figure, entries, min(len(kinds), 2 if len(systems) < 2 else 4))
    return figure
