"""The measured time of the models of cascades."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from offramp.reports.labels import system_name
from offramp.reports.loading import read_tables
from offramp.reports.tables.writing import Table, cells


def numbers(files: Sequence[Path]) -> pd.DataFrame:
    """Measured time of the models.

    Milliseconds per sample until the last exit of the model answers, measured on the machine that ran the study,
    possibly while other programs were running. Numbers are the median [quartiles] over batches of test samples, as
    means over seeds. Unlike all other numbers of a study, they differ from run to run.
    """
    (table,) = read_tables(files, "seconds")
    last = table[table["exit"] == table.groupby(["system", "seed"])["exit"].transform("max")]
    of_model = last.groupby("system", sort=False)
    means = of_model[["seconds", "seconds_low", "seconds_high"]].mean()
    return means.join(of_model[["batch_size", "batches", "threads", "device"]].first()).reset_index()


def readable(numbers: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "Model": numbers["system"].map(system_name),
            "ms per sample": cells(numbers, "seconds", scale=1000, digits=3),
            "Samples per batch": numbers["batch_size"].astype(str),
            "Batches": numbers["batches"].astype(str),
            "Threads": numbers["threads"].astype(str),
            "Device": numbers["device"],
        }
    )


TABLE = Table(numbers, readable)
