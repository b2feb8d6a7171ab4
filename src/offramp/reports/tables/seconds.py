"""The time of the models of cascades, measured or published."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from offramp.reports.labels import system_name
from offramp.reports.loading import read_tables
from offramp.reports.tables.writing import Table, cells


def numbers(files: Sequence[Path]) -> pd.DataFrame:
    """Time of the models.

    Milliseconds per sample until the last exit of the model answers. If batches are given, they were measured on the
    machine that ran the study, possibly while other programs were running: numbers are the median [quartiles] over
    batches of test samples, as means over seeds, and unlike all other numbers of a study, they differ from run to run.
    Otherwise, they are the published times of the model at its image size, on the named device.
    """
    (table,) = read_tables(files, "seconds")
    last = table[table["exit"] == table.groupby(["system", "seed"])["exit"].transform("max")]
    measured = ["seconds_low", "seconds_high", "batch_size", "batches", "threads"]
    of_model = last.reindex(columns=[*table, *(name for name in measured if name not in table)]).groupby(
        ["system", "device"], sort=False
    )
    means = of_model[["seconds", "seconds_low", "seconds_high"]].mean()
    return means.join(of_model[["batch_size", "batches", "threads"]].first()).reset_index()


def readable(numbers: pd.DataFrame) -> pd.DataFrame:
    text = {
        "Model": numbers["system"].map(system_name),
        "ms per sample": cells(numbers, "seconds", scale=1000, digits=3),
    }
    if numbers["batches"].notna().any():
        for name, column in (("Samples per batch", "batch_size"), ("Batches", "batches"), ("Threads", "threads")):
            text[name] = numbers[column].astype(str)
    return pd.DataFrame({**text, "Device": numbers["device"]})


TABLE = Table(numbers, readable)
