"""What static and online policies do before and after the corruption of a stream begins."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from offramp.comparison.bootstrap import Bootstrap
from offramp.reports.labels import method_name, system_name
from offramp.reports.loading import read_tables
from offramp.reports.tables.writing import Table, cell

_RESAMPLES = 2000
_PHASES = ("before", "after")


def numbers(files: Sequence[Path]) -> pd.DataFrame:
    """Streams with drift.

    PCEE with the target accuracy as its threshold, on streams of test samples: clean ones first, and then corrupted
    ones, whose severity grows. The static policy keeps the maps of the validation data; the others learn from labels
    that come late, from labels of audited samples only (these run to the last exit, and pay for it), or from the last
    exit in place of labels. Accuracy, cost (in % of that of the full model) and control error (distance between
    accuracy and target) are shown as before → after the corruption begins, and of all severities together. Alarms: the
    number of corrupted samples until the alarm is raised, as the median [lowest, highest] over the streams in which it
    is, and their number; "before" counts those that are raised before the corruption begins. The alarm by confidences
    needs no labels, and is the same for all methods. The alarm by risk tests whether the error is above 1 − target, or
    with the last exit as label, the disagreement with it. Other numbers are means over seeds and random orders of the
    samples [95 % bootstrap interval over both].
    """
    (table,) = read_tables(files, "drift")
    rows = []
    for keys, its in table.groupby(["system", "corruption", "method"], sort=False):
        row = dict(zip(("system", "corruption", "method"), keys)) | {"target": its["target"].iloc[0]}
        streams = its.groupby(["seed", "order"])
        bootstrap = Bootstrap.draw(its["order"].nunique(), _RESAMPLES, 0)
        for phase, part in zip(_PHASES, (its["severity"] == 0, its["severity"] > 0)):
            means = {name: _means(its[part], name) for name in ("accuracy", "full_accuracy", "cost")}  # (S, R) each
            for name, values in means.items():
                replicates = bootstrap.with_means(values)  # (S, 1 + B)
                row |= bootstrap.summary(f"{name}_{phase}", replicates[:, 0], replicates[:, 1:])
            error = np.abs(bootstrap.with_means(means["accuracy"]) - row["target"])  # (S, 1 + B)
            row |= bootstrap.summary(f"error_{phase}", error[:, 0], error[:, 1:], distance=True)
        start = its.loc[its["severity"] == 0, "sample"].max()
        row["streams"] = len(streams)
        for name in ("confidence", "risk"):
            delay = streams[f"alarm_{name}"].first().to_numpy(np.float64) - start  # (streams,)
            later = delay[delay > 0]
            low, median, high = np.quantile(later, [0, 0.5, 1]) if len(later) else (np.nan,) * 3
            row |= {f"{name}_delay": median, f"{name}_delay_low": low, f"{name}_delay_high": high}
            row |= {f"{name}_raised": len(later), f"{name}_early": int((delay <= 0).sum())}
        rows.append(row)
    return pd.DataFrame(rows)


def _means(table: pd.DataFrame, name: str) -> np.ndarray:
    """Return the mean over the samples of each stream, (S, R): seeds × orders."""
    sums = (table[name] * table["samples"]).groupby([table["seed"], table["order"]]).sum()
    return (sums / table.groupby(["seed", "order"])["samples"].sum()).unstack().to_numpy()


def readable(numbers: pd.DataFrame) -> pd.DataFrame:
    def moved(name: str, digits: int = 1) -> list[str]:
        ends = [f"{name}_after", f"{name}_after_low", f"{name}_after_high"]
        return [
            f"{cell(before, digits=digits)} → {cell(*after, digits=digits)}"
            for before, after in zip(100 * numbers[f"{name}_before"], 100 * numbers[ends].to_numpy())
        ]

    def alarm(name: str, row) -> str:
        delay, low, high, raised, early = (
            getattr(row, f"{name}_{each}") for each in ("delay", "delay_low", "delay_high", "raised", "early")
        )
        text = f"{cell(delay, low, high, digits=0)} in {raised} of {row.streams}" if raised else f"0 of {row.streams}"
        return text + (f", {early} before" if early else "")

    return pd.DataFrame(
        {
            "System": numbers["system"].map(system_name),
            "Corruption": numbers["corruption"].str.replace("-", " "),
            "Method": numbers["method"].map(method_name),
            "Accuracy (%)": moved("accuracy"),
            "Full model (%)": moved("full_accuracy"),
            "Cost (%)": moved("cost"),
            "Control error (points)": moved("error"),
            "Alarm by confidences": [
                alarm("confidence", row) if row.method == "static" else "–" for row in numbers.itertuples()
            ],
            "Alarm by risk": [alarm("risk", row) for row in numbers.itertuples()],
        }
    )


TABLE = Table(numbers, readable)
