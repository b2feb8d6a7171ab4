"""Layers of the tokens of captions by position."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from offramp.comparison.captions import RECOMPUTE
from offramp.reports.figures import style
from offramp.reports.labels import policy_name
from offramp.reports.loading import chosen_policies, read_tables

_SHOWN = ("confidence", "pcee", "beem-a", "calm")
_KINDS = {"function": (style.SKY, "o", "-"), "content": (style.VERMILLION, "D", "--"), "end": (style.BLACK, "s", ":")}
_NAMES = {"function": "function words", "content": "content words", "end": "end of the caption"}
_LEAST = 0.005  # smallest share of the captions of which a point is drawn


def draw(files: Sequence[Path], policies: Sequence[str] | None = None) -> Figure:
    """Layers by position.

    Mean number of layers of the tokens of test captions by their position, for function words (articles, prepositions,
    conjunctions, pronouns, auxiliary verbs), content words (all others), and the token that ends a caption. Thresholds
    are the cheapest ones that lose at most the largest acceptable share of CIDEr on validation captions. Lines are
    means over all tokens and seeds; positions with very few tokens are left out.

    Parameters
    ----------
    files : sequence of paths
        What `offramp compare-captions --words` wrote.
    policies : sequence of str
        Labels of the policies to show. By default confidence, pcee, beem-a and calm.
    """
    (table,) = read_tables(files, "words")
    table = table[(table["text"] == "reference") & (table["fill"] == RECOMPUTE)]
    table = table[table["at_most"] == table["at_most"].max()]
    labels = chosen_policies(policies, _SHOWN, list(table["policy"].unique()))
    figure, axes, columns = style.grid_of_panels(len(labels), 2.2, sharex=True, sharey=True)
    for label, ax in zip(labels, axes):
        its = table[table["policy"] == label]
        sums = (
            its.assign(layers=its["layers"] * its["tokens"]).groupby(["kind", "position"])[["layers", "tokens"]].sum()
        )
        sums = sums[sums["tokens"] >= _LEAST * sums["tokens"].groupby("position").sum().max()]
        for kind, (color, marker, line) in _KINDS.items():
            if kind in sums.index.get_level_values("kind"):
                means = sums.loc[kind, "layers"] / sums.loc[kind, "tokens"]  # (positions,)
                ax.plot(means.index, means, color=color, marker=marker, linestyle=line, markersize=3)
        ax.axhline(its["depth"].max(), color=style.GREY, linewidth=0.6, linestyle=style.DASHED, zorder=1)
        ax.set(title=policy_name(label), ylim=(0, None))
    for ax in axes[::columns]:
        ax.set_ylabel("Layers")
    for ax in axes[-columns:]:
        ax.set_xlabel("Position")
    handles = [
        style.entry(_NAMES[kind], color, marker=marker, linestyle=line)
        for kind, (color, marker, line) in _KINDS.items()
    ]
    style.legend_below(figure, handles, 3)
    return figure
