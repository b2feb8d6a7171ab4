"""Efficiency of exit rules against the calibration and the ranking of their signals."""

from collections.abc import Sequence
from pathlib import Path

import seaborn as sns
from matplotlib.figure import Figure

from offramp.comparison.ranking import REFERENCES, correlations
from offramp.reports.figures import style
from offramp.reports.loading import read_tables
from offramp.reports.tables.writing import cells

_PANELS = {"ece": ("Calibration error (points)", "with an accuracy"), "auroc": ("AUROC (%)", "all")}


def draw(files: Sequence[Path]) -> Figure:
    """Calibration or ranking.

    Efficiency of exit rules, against the calibration error (left) and the AUROC (right) of their signals as estimates
    of being right, on test samples. One mark per system, seed and exit rule. Efficiency: area under accuracy over cost,
    where 0 % is that of random exits and 100 % the best that is possible with known labels. Calibration error and AUROC
    are means over all exits but the last. The left panel shows the rules whose signal estimates an accuracy, and the
    right panel all rules. ρ: Spearman's rank correlation over the rules of one system and seed, mean over systems and
    seeds [95 % bootstrap interval over systems and seeds], where a low calibration error counts as good. Marks of
    different systems differ for other reasons than the rule.
    """
    (table,) = read_tables(files, "efficiency")
    table = table[~table["rule"].isin(REFERENCES)]
    found = correlations(table)
    found = found.assign(text=cells(found, "correlation", digits=2, sign="+")).set_index(["measure", "rules"])["text"]
    points = table.assign(**{name: 100 * table[name] for name in ("of_seed", *_PANELS)})
    styles = style.policy_styles(points["policy"])
    figure, axes = style.new_figure(style.TWO_COLUMNS, 3.6, 1, 2, sharey=True)
    for ax, (measure, (label, rules)) in zip(axes, _PANELS.items()):
        there = points[points[measure].notna() & points["of_seed"].notna()]
        sns.scatterplot(
            there, x=measure, y="of_seed", ax=ax, s=16, linewidth=0.3, alpha=0.85, **style.looks(styles, "policy")
        )
        ax.set(xlabel=label, ylabel="Efficiency (%)", title=f"ρ = {found[measure, rules]}")
    style.legend_below(figure, style.entries(styles, linestyle="none"), 4)
    return figure
