"""How efficient each policy is, and how well its signal is calibrated and ranks the answers."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from offramp.comparison.ranking import SIGNS
from offramp.reports.labels import policy_name, system_name
from offramp.reports.loading import read_tables, sort
from offramp.reports.tables.writing import Table, cells


def numbers(files: Sequence[Path]) -> pd.DataFrame:
    """Efficiency, calibration and ranking.

    Accuracy at equal cost: mean over nine average costs between the cost of the first exit and the cost of the full
    model, each spent exactly on validation data, as in the table of duels. Gap closed: the share of the gap between max
    softmax (0) and the oracle (100) that the policy closes. Efficiency: the same for the gap between random exits and
    the oracle, which is the normalised area under accuracy over cost. This oracle is the best that is possible: it
    knows the labels, and spends the average cost on the samples whose answers get better for the least. Only an
    ensemble of exits, which can be right where no exit is, could beat it. (The policy "oracle" leaves at the first exit
    that agrees with the last one.) Cost at equal accuracy: mean cost in % of the cost of the full model, at the
    cheapest shared threshold with which the policy is at least as accurate as the last exit on validation data. ECE:
    expected calibration error with 15 bins, in points, if the signal estimates an accuracy. AUROC: how often a right
    answer has a higher signal than a wrong one, in %, where equal signals count half. AURC: area under the curve of
    error against coverage if the answers with the lowest signal are rejected, in points. These three are means over all
    exits but the last, on the test samples at each exit, before any sample leaves; the CSV file has those of each exit,
    too. Numbers are means over seeds [95 %
    bootstrap interval over test samples and seeds] ± standard deviation over seeds.
    """
    (table,) = read_tables(files, "efficiency")
    groups = table.groupby(["system", "policy"], sort=False)
    of_seeds = [name for name in table.columns if name.split("_")[0] in SIGNS]
    means, deviations = groups[of_seeds].mean(), groups[of_seeds].std()
    rest = groups.first().drop(columns=["seed", "of_seed", *of_seeds])
    return sort(pd.concat([rest, means, deviations.add_suffix("_sd")], axis=1).reset_index(), ["system"])


def readable(numbers: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "System": numbers["system"].map(system_name),
            "Policy": numbers["policy"].map(policy_name),
            "Accuracy at equal cost (%)": cells(numbers, "accuracy", scale=100, digits=2),
            "Gap closed (%)": cells(numbers, "gap_closed", scale=100, digits=1),
            "Efficiency (%)": cells(numbers, "efficiency", scale=100, digits=1),
            "Cost at equal accuracy (%)": cells(numbers, "cost", scale=100, digits=1),
            "ECE (points)": cells(numbers, "ece", scale=100, digits=2),
            "AUROC (%)": cells(numbers, "auroc", scale=100, digits=2),
            "AURC (points)": cells(numbers, "aurc", scale=100, digits=2),
        }
    )


TABLE = Table(numbers, readable)
