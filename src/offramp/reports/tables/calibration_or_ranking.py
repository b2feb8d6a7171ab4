"""Whether calibration or ranking predicts which exit rule is efficient."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from offramp.comparison.ranking import correlations
from offramp.reports.loading import read_tables
from offramp.reports.tables.writing import Table, cells

_NAMES = {"ece": "ECE", "auroc": "AUROC", "aurc": "AURC"}
VERDICTS = ("predicts", "predicts the opposite", "undecided")
_OF_DIFFERENCES = ("more than ECE", "less than ECE", "undecided")


def numbers(files: Sequence[Path]) -> pd.DataFrame:
    """Calibration or ranking.

    Spearman's rank correlation between the efficiency of exit rules and a measure of their signals, as in the table of
    efficiency. ECE and AURC are negated, so a correlation above 0 always says that the better signal is more efficient.
    Each correlation is over the exit rules of one system and seed: over those whose signal estimates an accuracy, which
    have an ECE, or over all. The oracle and random exits do not count, and neither do systems and seeds with fewer than
    three rules or with rules that are all equal. Numbers are means over systems and seeds [95 % bootstrap interval over
    systems and seeds]. Rules: the number of exit rules in all of them together. "AUROC − ECE" and "AURC − ECE" are the
    differences of two correlations over the same rules. The verdict is that the measure predicts efficiency if the
    interval lies above 0, that it predicts the opposite if the interval lies below 0, and undecided otherwise or with
    one system and seed only. It is about these systems, whose rules share samples: the interval does not say what is
    true of other systems.
    """
    (table,) = read_tables(files, "efficiency")
    found = correlations(table)
    is_difference = found["measure"].str.contains("−")
    sides = [found["correlation_low"] > 0, found["correlation_high"] < 0]
    own, others = (np.select(sides, names[:2], names[2]) for names in (VERDICTS, _OF_DIFFERENCES))
    return found.assign(verdict=np.where(is_difference, others, own))


def _name(measure: str) -> str:
    return " − ".join(_NAMES[part] for part in measure.split(" − "))


def readable(numbers: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "Measure": numbers["measure"].map(_name),
            "Exit rules": numbers["rules"],
            "Rank correlation with efficiency": cells(numbers, "correlation", digits=2, sign="+"),
            "Systems and seeds": numbers["runs"].astype(str),
            "Rules": numbers["dots"].astype(str),
            "Verdict": numbers["verdict"],
        }
    )


_SAYS = {
    "predicts": "{0} predicts the efficiency of an exit rule: rank correlation {2}",
    "predicts the opposite": "A better {0} goes with a lower efficiency of an exit rule: rank correlation {2}",
    "undecided": "Whether {0} predicts the efficiency of an exit rule is undecided: rank correlation {2}",
    "more than ECE": "{0} predicts efficiency better than {1}: difference of the rank correlations {2}",
    "less than ECE": "{0} predicts efficiency less well than {1}: difference of the rank correlations {2}",
    "neither": "Whether {0} or {1} predicts efficiency better is undecided: difference of the rank correlations {2}",
}


def findings(numbers: pd.DataFrame) -> list[str]:
    """Return one sentence per row: the verdict with its number, and what it is based on."""
    sentences = []
    for row, correlation in zip(numbers.itertuples(), cells(numbers, "correlation", digits=2, sign="+")):
        measure, _, other = _name(row.measure).partition(" − ")
        says = _SAYS["neither" if other and row.verdict == "undecided" else row.verdict]
        rules = "exit rules" if row.rules == "all" else "exit rules that estimate an accuracy"
        about = f"{row.dots} {rules}, in {row.runs} systems and seeds"
        sentences.append(f"{says.format(measure, other, correlation)} ({about}).")
    return sentences


TABLE = Table(numbers, readable, findings)
