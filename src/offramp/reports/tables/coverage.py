"""Accuracy of the accepted answers at given coverages."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from offramp.reports.labels import policy_name, system_name
from offramp.reports.loading import read_tables, sort
from offramp.reports.tables.writing import Table, cells

_SHOWN = (1.0, 0.95, 0.9, 0.8)


def numbers(files: Sequence[Path]) -> pd.DataFrame:
    """Accuracy of the accepted answers.

    Test accuracy of the accepted answers if the answers with the lowest estimates are rejected. Coverage: share of test
    answers that are accepted; of answers with equal estimates, a random part. The estimate is the accuracy that the
    policy estimates, and max softmax for policies that estimate none (column "Rejects by"). Samples leave at the
    cheapest shared threshold with which the policy is at least as accurate as the last exit on validation data. Cost:
    mean cost in % of the cost of the full model, which rejection does not change. AURC: area under the curve of error
    against coverage, in points; E-AURC: its excess over that of the best possible order of the answers (arXiv
    1805.08206), where answers with equal estimates are accepted together. Gain: AURC of rejecting by max softmax at the
    same exits minus AURC of rejecting by the estimate (above 0: the estimate is the better reason). The verdict is
    about the estimate: it is better if the interval of the gain lies above 0, worse if it lies below 0, and undecided
    otherwise. Numbers are means over seeds [95 % bootstrap interval over test samples and seeds] ± standard deviation
    over seeds; E-AURC has no interval.
    """
    (table,) = read_tables(files, "rejection")
    table = sort(table[table["coverage"].isin(_SHOWN)], ["system"])
    sides = [table["aurc_gain_low"] > 0, table["aurc_gain_high"] < 0, table["aurc_gain"].isna()]
    return table.assign(verdict=np.select(sides, ["better", "worse", ""], "undecided"))


def readable(numbers: pd.DataFrame) -> pd.DataFrame:
    rows = numbers[numbers["coverage"] == 1].reset_index(drop=True)
    columns = {
        "System": rows["system"].map(system_name),
        "Policy": rows["policy"].map(policy_name),
        "Rejects by": rows["by"],
        "Cost (%)": cells(rows, "cost", scale=100, digits=1),
    }
    for coverage in _SHOWN:
        at = numbers[numbers["coverage"] == coverage]
        columns[f"Accuracy at {100 * coverage:g} % (%)"] = cells(at, "accuracy", scale=100, digits=1)
    columns |= {
        "AURC (points)": cells(rows, "aurc", scale=100, digits=2),
        "E-AURC (points)": cells(rows, "e_aurc", scale=100, digits=2),
        "Gain over max softmax (points)": cells(rows, "aurc_gain", scale=100, digits=2, sign="+"),
        "Verdict": rows["verdict"],
    }
    return pd.DataFrame(columns)


def findings(numbers: pd.DataFrame) -> list[str]:
    """Return one sentence per policy that estimates accuracy: how often this is a better reason than max softmax."""
    sentences = []
    rows = numbers[(numbers["coverage"] == 1) & (numbers["verdict"] != "")]
    for policy, its in rows.groupby("policy", sort=False):
        better, worse, undecided = (int((its["verdict"] == each).sum()) for each in ("better", "worse", "undecided"))
        sentences.append(
            f"The estimate of {policy_name(policy)} is a better reason to reject than max softmax in {better} of "
            f"{len(its)} systems, worse in {worse}, undecided in {undecided}."
        )
    return sentences


TABLE = Table(numbers, readable, findings)
