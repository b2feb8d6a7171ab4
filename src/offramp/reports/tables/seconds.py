"""What the models of cascades take in seconds."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from offramp.reports.labels import system_name
from offramp.reports.loading import read_tables
from offramp.reports.tables.writing import Table, cells


def numbers(files: Sequence[Path]) -> pd.DataFrame:
    """What the models take, measured.

    Milliseconds a sample until the model's last exit answers, on the machine that ran the study and beside whatever
    else ran there: the median [quartiles] over batches of test samples, mean over seeds. Unlike all other numbers of a
    study these are others each time.
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
            "ms a sample": cells(numbers, "seconds", scale=1000, digits=3),
            "Samples a batch": numbers["batch_size"].astype(str),
            "Batches": numbers["batches"].astype(str),
            "Threads": numbers["threads"].astype(str),
            "Device": numbers["device"],
        }
    )


TABLE = Table(numbers, readable)
