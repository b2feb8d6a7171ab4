"""Accuracy of the accepted answers at given coverages."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from offramp.reports.labels import policy_name, system_name
from offramp.reports.loading import read_tables, sort
from offramp.reports.tables.writing import Table, cells

_SHOWN = (1.0, 0.95, 0.9, 0.8)
_VERDICTS = ("better", "worse", "undecided")


def numbers(files: Sequence[Path]) -> pd.DataFrame:
    """Accuracy of the accepted answers.

    Test accuracy of the accepted answers if the answers with the lowest estimates are rejected. Coverage: share of test
    answers that are accepted; of answers with equal estimates, a random part. The estimate is the accuracy that the
    policy estimates, and max softmax for policies that estimate none (column "Rejects by"). Samples leave at the
    cheapest shared threshold with which the policy is at least as accurate as the last exit on validation data. Cost:
    mean cost in % of the cost of the full model, which rejection does not change. AURC: area under the curve of error
    against coverage, in points, where answers with equal estimates are accepted together, as by a threshold; E-AURC:
    its excess over that of the best possible order of the answers (arXiv 1805.08206). Gains compare the estimate with
    max softmax at the same exits: accuracy at 90 % coverage, and how much lower the AURC is (above 0: the estimate is
    the better reason to reject). The verdicts are about the estimate: better if the interval of a gain lies above 0,
    worse if it lies below 0, and undecided otherwise. Numbers are means over seeds [95 % bootstrap interval over test
    samples and seeds] ± standard deviation over seeds; E-AURC has no interval.
    """
    (table,) = read_tables(files, "rejection")
    table = sort(table[table["coverage"].isin(_SHOWN)], ["system"])
    return table.assign(verdict=_verdicts(table, "gain"), aurc_verdict=_verdicts(table, "aurc_gain"))


def _verdicts(table: pd.DataFrame, gain: str) -> np.ndarray:
    sides = [table[f"{gain}_low"] > 0, table[f"{gain}_high"] < 0, table[gain].isna()]
    return np.select(sides, ["better", "worse", "–"], "undecided")  # "" would be missing in the .csv


def readable(numbers: pd.DataFrame) -> pd.DataFrame:
    at = {coverage: numbers[numbers["coverage"] == coverage].reset_index(drop=True) for coverage in _SHOWN}
    rows = at[0.9]
    columns = {
        "System": rows["system"].map(system_name),
        "Policy": rows["policy"].map(policy_name),
        "Rejects by": rows["by"],
        "Cost (%)": cells(rows, "cost", scale=100, digits=1),
    }
    for coverage, its in at.items():
        columns[f"Accuracy at {100 * coverage:g} % (%)"] = cells(its, "accuracy", scale=100, digits=1)
    columns |= {
        "Gain at 90 % (points)": cells(rows, "gain", scale=100, digits=2, sign="+"),
        "Verdict at 90 %": rows["verdict"],
        "AURC (points)": cells(rows, "aurc", scale=100, digits=2),
        "E-AURC (points)": cells(rows, "e_aurc", scale=100, digits=2),
        "Gain in AURC (points)": cells(rows, "aurc_gain", scale=100, digits=2, sign="+"),
        "Verdict by AURC": rows["aurc_verdict"],
    }
    return pd.DataFrame(columns)


def findings(numbers: pd.DataFrame) -> list[str]:
    """Return one sentence per policy that estimates accuracy: how often this is a better reason than max softmax."""
    sentences = []
    compared = numbers[(numbers["coverage"] < 1) & numbers["gain"].notna()]
    for policy, rows in compared.groupby("policy", sort=False):
        accuracy, area = (_counted(its) for its in (rows["verdict"], rows.groupby("system")["aurc_verdict"].first()))
        sentences.append(
            f"Rejecting by the estimate of {policy_name(policy)} against rejecting by max softmax: at equal coverage "
            f"{accuracy} cases (systems × coverages); by AURC {area} systems."
        )
    return sentences


def _counted(verdicts: pd.Series) -> str:
    better, worse, undecided = (int((verdicts == each).sum()) for each in _VERDICTS)
    return f"better in {better}, worse in {worse}, undecided in {undecided} of {len(verdicts)}"


TABLE = Table(numbers, readable, findings)
