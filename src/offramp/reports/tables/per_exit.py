"""One threshold for all exits, or one threshold per exit."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from offramp.comparison.bootstrap import with_interval
from offramp.reports.labels import policy_name, system_name
from offramp.reports.loading import read_tables, sort
from offramp.reports.tables.writing import Table, cell, cells

_CHOICES = {"shared": "shared", "overall": "per exit, overall", "same_samples": "per exit, same samples"}
_MEASURED = with_interval("speedup", "loss")


def numbers(files: Sequence[Path]) -> pd.DataFrame:
    """One threshold for all exits, or one per exit.

    Shared: one threshold for all exits, the cheapest with which the policy is at least as accurate as the last exit on
    validation data. Per exit: the rule of BEEM, applied exit by exit on validation data. It selects the lowest
    threshold with which the samples that leave at the exit are wrong no more often than the last exit is, either on all
    samples (overall) or on the same samples, if at least 10 samples leave (our choice). With the same samples as
    reference, the accuracy cannot be below that of the last answer of the policy on the validation samples that were
    used for the choice. The column for validation data shows this as the minimum over seeds. It is never below 0,
    except for ZTW, whose last answer is that of an ensemble. All other numbers are measured on test data. Speed-up in
    layers: number of exits divided by the mean number of exits that a sample passes. Change: accuracy minus accuracy of
    the last exit on the same samples, in points. Worse: in how many % of the seeds the change is below 0 (for shared,
    overall, same samples). Numbers are means over seeds [95 % bootstrap interval over test samples and seeds] ±
    standard deviation over seeds.
    """
    (table,) = read_tables(files, "speedup")
    places = ["system", "policy"]
    table = table[(table["choice"] != "shared") | (table["drop"] == 0)]
    parts = []
    for name, choice in _CHOICES.items():
        of_choice = table[table["choice"] == choice].set_index(places)
        parts.append(of_choice[[*_MEASURED, "worse", "validation_loss"]].add_prefix(f"{name}_"))
    shared, *per_exit = parts
    return sort(pd.concat(per_exit, axis=1).join(shared, how="left").reset_index(), ["system"])


def readable(numbers: pd.DataFrame) -> pd.DataFrame:
    columns = {"System": numbers["system"].map(system_name), "Policy": numbers["policy"].map(policy_name)}
    for name, choice in _CHOICES.items():
        columns[f"Speed-up, {choice}"] = cells(numbers, f"{name}_speedup", digits=2)
    for name, choice in _CHOICES.items():
        columns[f"Change, {choice}"] = cells(numbers, f"{name}_loss", scale=100, digits=2, sign="+")
    columns["On validation, same samples"] = cells(
        numbers, "same_samples_validation_loss", scale=100, digits=2, sign="+"
    )
    worse = 100 * numbers[[f"{name}_worse" for name in _CHOICES]].to_numpy()  # (rows, 3)
    columns["Worse (% of seeds)"] = [", ".join(cell(share, digits=0) for share in row) for row in worse]
    return pd.DataFrame(columns)


TABLE = Table(numbers, readable)
