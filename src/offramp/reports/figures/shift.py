"""What becomes of promises if the inputs are corrupted."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.patches import Patch

from offramp.reports.figures import style
from offramp.reports.labels import system_name
from offramp.reports.loading import chosen_policies, read_tables

_SHOWN = ("confidence", "temperature", "pcee", "pcee-ws")
# Rows of panels: which thresholds, and which number of theirs
_ROWS = {
    "Control error\n(points)": ("direct", "error", 100),
    "Certified gap\n(points)": ("certified", "gap", 100),
    "Calibration error\n(points)": ("validation", "calibration", 100),
    "Speed-up": ("validation", "speedup", 1),
}


def draw(files: Sequence[Path], policies: Sequence[str] | None = None) -> Figure:
    """Promises on corrupted test data.

    All thresholds were fixed on clean validation data, and severity 0 is the clean test data. From top to bottom: the
    control error (distance between accuracy and target) if the threshold is the target accuracy, and shaded, the
    distance between the accuracy of the full model and the target; the gap (error minus that of the last exit) at
    certified thresholds, with the certified level (dashed); the calibration error of the signal, mean over exits; and
    the speed-up (cost of the full model divided by the mean cost) at the cheapest thresholds that reach the targets on
    validation data. All are means over the target accuracies and seeds. Bands are 95 % bootstrap intervals over test
    samples and seeds.

    Parameters
    ----------
    files : sequence of one path
        The table that `offramp shift` wrote.
    policies : sequence of str
        Labels of the policies to show. By default those of max softmax, max softmax with temperature scaling, PCEE and
        PCEE-WS that the file contains.
    """
    (table,) = read_tables(files, "shift")
    labels = chosen_policies(policies, _SHOWN, table["policy"].unique())
    table = table[table["policy"].isin(labels)]
    styles = style.policy_styles(labels)
    columns = list(table.groupby(["system", "corruption"], sort=False))
    width = style.TWO_COLUMNS * min(1, max(0.5, len(columns) / 4))
    figure, axes = style.new_figure(width, 6.2, len(_ROWS), len(columns), sharex=True, sharey="row")
    for k, (label, (choice, number, scale)) in enumerate(_ROWS.items()):
        across = axes[k * len(columns) : (k + 1) * len(columns)]
        across[0].set_ylabel(label)
        for ax, ((system, corruption), rows) in zip(across, columns):
            ends = [f"{number}_low", f"{number}_high"]
            its = rows[rows["choice"] == choice].sort_values("severity")
            its = its.assign(**{name: scale * its[name] for name in (number, *ends)})
            style.draw_lines(ax, its, "severity", number, styles)
            for policy, line in its.groupby("policy"):
                ax.fill_between(line["severity"], *(line[end] for end in ends), color=styles[policy].color, alpha=0.12)
            if k == 0:
                ax.set_title("\n".join([system_name(system), *corruption.split("-")]))
                full = its.drop_duplicates("severity")
                ax.fill_between(full["severity"], 100 * full["full_error"], color=style.PALE, linewidth=0, zorder=0)
            for level in its["level"].dropna().unique():
                ax.axhline(100 * level, color=style.BLACK, linewidth=0.7, linestyle=style.DASHED, zorder=1)
            if number == "speedup":
                style.log_scale(ax.yaxis)
            ax.set(xlabel="Severity" if k == len(_ROWS) - 1 else "", ylabel=ax.get_ylabel())
            ax.set_xticks(sorted(table["severity"].unique()))
    handles = [*style.entries(styles), Patch(color=style.PALE, label="full model")]
    handles.append(style.entry("certified level", linewidth=0.7, linestyle=style.DASHED))
    style.legend_below(figure, handles, {1: 2, 2: 2, 3: 3}.get(len(columns), 6))
    return figure
