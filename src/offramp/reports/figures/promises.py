"""Which thresholds keep the promise of an accuracy, and at what cost."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from offramp.reports.figures import style
from offramp.reports.labels import policy_name, system_name
from offramp.reports.loading import chosen_policies, read_tables

# Kinds of thresholds: name, colour, marker
_CHOICES = {
    "direct": ("δ = accuracy", style.VERMILLION, "o"),
    "validation": ("chosen on validation samples", style.ORANGE, "s"),
    "certified": ("certified", style.BLUE, "D"),
}
_LINES = ("-", style.DASHED, ":")


def draw(files: Sequence[Path], policies: Sequence[str] | None = None) -> Figure:
    """Promises of accuracy: broken or kept, and at what cost.

    Share of the promises that are broken (top; dashed: what a confidence of 0.9 allows), and mean cost (bottom),
    against the promised accuracy. The threshold is δ, the wanted accuracy itself; or the cheapest one that reaches it
    on samples for choosing; or the cheapest one that these samples certify. Validation and test samples are put
    together and divided at random: a part fits the policy, and the rest is the population, from which the samples for
    choosing are drawn and whose accuracy is the truth. Where no threshold reaches the accuracy on these samples or can
    be certified (share in the middle), nothing is promised, and the full model runs. Lowest cost: of the cheapest
    threshold that truly reaches the accuracy, or of the full model. Bars are 95 % intervals of Clopper and Pearson.

    Parameters
    ----------
    files : sequence of one path
        The table of promises that `offramp compare` wrote.
    policies : sequence of str
        Labels of the policies to show. By default pcee and pcee-ws.
    """
    (table,) = read_tables(files, "promises")
    labels = chosen_policies(policies, ("pcee", "pcee-ws"), table["policy"].unique())
    table = table[table["policy"].isin(labels)].sort_values("target")
    systems = list(table["system"].unique())
    width = style.TWO_COLUMNS * min(1, max(0.5, len(systems) / 4))
    figure, axes = style.new_figure(width, 4.8, 3, len(systems), sharex="col", sharey="row")
    above, middle, below = (axes[k * len(systems) : (k + 1) * len(systems)] for k in range(3))
    for k, system in enumerate(systems):
        for policy, line in zip(labels, _LINES * len(labels)):
            rows = table[(table["system"] == system) & (table["policy"] == policy)]
            for choice, (_, color, marker) in _CHOICES.items():
                its = rows[rows["choice"] == choice]
                x, look = 100 * its["target"], {"color": color, "marker": marker, "linestyle": line, "linewidth": 1.0}
                ends = 100 * abs(its[["broken_low", "broken_high"]].sub(its["broken"], axis=0).to_numpy().T)  # (2, T)
                above[k].errorbar(x, 100 * its["broken"], ends, elinewidth=0.7, **look)
                if choice != "direct":
                    middle[k].plot(x, 100 - 100 * its["promised"], **look)
                below[k].plot(x, 100 * its["cost"], **look)
            below[k].plot(x, 100 * its["oracle_cost"], color=style.BLACK, marker="*", linestyle=line, linewidth=1.0)
        above[k].axhline(100 * (1 - table["confidence"].iloc[0]), **_ALLOWED)
        above[k].set(title=system_name(system), ylim=(-4, 104))
        middle[k].set_ylim(-4, 104)
        below[k].set(xlabel="Wanted accuracy (%)", ylim=(0, 104), xticks=sorted({*x}))
    for across, label in ((above, "Broken (%)"), (middle, "No promise (%)"), (below, "Mean cost (%)")):
        across[0].set_ylabel(label)
    handles = [style.entry(name, color, marker=marker) for name, color, marker in _CHOICES.values()]
    handles += [style.entry("lowest cost", marker="*"), style.entry("allowed", **_ALLOWED)]
    if len(labels) > 1:
        handles += [
            style.entry(policy_name(policy), style.GREY, linestyle=line)
            for policy, line in zip(labels, _LINES * len(labels))
        ]
    style.legend_below(figure, handles, {1: 2, 2: 2, 3: 3}.get(len(systems), 4))
    return figure


_ALLOWED = {"color": style.BLACK, "linewidth": 0.7, "linestyle": style.DASHED}
