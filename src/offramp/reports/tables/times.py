"""Speed-up of models that really stop: in layers, in costs, and in measured seconds."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from offramp.reports.labels import policy_name, system_name
from offramp.reports.loading import read_tables, sort
from offramp.reports.tables.writing import Table, cells


def numbers(files: Sequence[Path]) -> pd.DataFrame:
    """Speed-up in layers, in MACs and in measured seconds.

    Each policy ran with the model, which stopped for each sample at its exit, on test samples in batches, next to the
    full model with all its exits. The threshold is the cheapest shared one that loses no accuracy on validation data.
    In layers: number of exits divided by the mean number of exits that a sample passes. In MACs: cost of the full model
    divided by the mean cost. In seconds: time of the full model divided by that of the model that stops, in plain
    torch, as median [lowest, highest] over repetitions, measured on the machine that ran the study, possibly while
    other programs were running. All three are of the same samples, of the first seed. Seconds differ from run to run,
    unlike the other numbers of a study.
    """
    (table,) = read_tables(files, "times")
    return sort(table, ["system", "batch_size"])


def readable(numbers: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "System": numbers["system"].map(system_name),
            "Samples per batch": numbers["batch_size"].astype(str),
            "Policy": numbers["policy"].map(policy_name),
            "In layers": cells(numbers, "in_layers", digits=2),
            "In MACs": cells(numbers, "in_cost", digits=2),
            "In seconds": cells(numbers, "in_seconds", digits=2),
            "ms per sample": cells(numbers, "seconds", scale=1000, digits=2),
            "Full model (ms)": cells(numbers, "full_seconds", scale=1000, digits=2),
            "Device": numbers["device"],
        }
    )


TABLE = Table(numbers, readable)
