"""CIDEr against the speed-up of captions, for each policy."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from offramp.comparison.captions import FULL, RECOMPUTE
from offramp.reports.figures import style
from offramp.reports.loading import read_tables

LOWEST = 80  # % of the CIDEr of the full model


def draw(files: Sequence[Path]) -> Figure:
    """Quality of captions against speed-up.

    CIDEr of validation captions, which are written freely, in % of that of the full model, against the speed-up in
    layers of the decoder (left) and in MACs of whole captions, with the encoder and all exits (right). One line per
    policy and seed, over its thresholds. Dashed: the full model, and losses of 1 and 3 %. What loses more than 20 % is
    not shown.
    """
    (table,) = read_tables(files, "caption points")
    is_used = (table["split"] == "validation") & (table["text"] == "reference") & (table["fill"] == RECOMPUTE)
    table = table[is_used]
    full = table[table["policy"] == FULL].groupby(["system", "seed"])["CIDEr"].first()
    table = table[table["policy"] != FULL].join(full.rename("full"), on=["system", "seed"])
    table["share"] = 100 * table["CIDEr"] / table["full"]
    styles = style.policy_styles(table["policy"].unique())
    systems = list(table.groupby("system", sort=False))
    figure, axes = style.new_figure(style.TWO_COLUMNS, 2.9 * len(systems) + 0.6, len(systems), 2, sharey="row")
    for (_, its), row in zip(systems, zip(axes[::2], axes[1::2])):
        for ax, unit in zip(row, ("layer", "mac")):
            for (policy, _), points in its.groupby(["policy", "seed"]):
                points, look = points.sort_values("threshold"), styles[policy]
                ax.plot(
                    points[f"{unit}_speedup"],
                    points["share"],
                    color=look.color,
                    marker=look.marker,
                    linestyle=look.linestyle,
                    markersize=3,
                    linewidth=0.9,
                )
            for share in (100, 99, 97):
                ax.axhline(share, color=style.GREY, linewidth=0.6, linestyle=style.DASHED, zorder=1)
            if (shown := its["share"] >= LOWEST).any():
                ax.set_xlim(right=its.loc[shown, f"{unit}_speedup"].max() + 0.05 * np.ptp(ax.get_xlim()))
            ax.set_xlabel({"layer": "Speed-up in layers", "mac": "Speed-up in MACs"}[unit])
        row[0].set_ylabel("CIDEr (% of the full model)")
        row[0].set_ylim(bottom=max(LOWEST, row[0].get_ylim()[0]))
    style.legend_below(figure, style.entries(styles), 4)
    return figure
