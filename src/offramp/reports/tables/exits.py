"""Each exit by itself."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from offramp.records.metrics import METRICS
from offramp.reports.labels import metric_name, system_name, unit
from offramp.reports.loading import read_tables
from offramp.reports.tables.writing import Table, cells


def numbers(files: Sequence[Path]) -> pd.DataFrame:
    """Each exit by itself.

    What it would give if all test samples left there: accuracy, the dataset's own metric where it has another,
    cumulative cost (of texts the mean of all at their own lengths), parameters, overconfidence (mean max softmax −
    accuracy); agreement is the share of samples answered as by the exit before. The .csv also has the expected
    calibration error of each policy's signal. Means over seeds ± standard deviation over seeds.
    """
    (table,) = read_tables(files, "exits")
    others = [name for name in table if name in METRICS or name.startswith("ece_")]
    measured = ["accuracy", "overconfidence", "agreement", *others]
    groups = table.groupby(["system", "exit"], sort=False)
    same = groups[["cost", "parameters"]].first()  # no matter of the seed
    mean, sd = groups[measured].mean(), groups[measured].std()
    joined = same.assign(seeds=groups["seed"].nunique()).join(mean).join(sd.add_suffix("_sd"))
    order = [name for measure in measured for name in (measure, f"{measure}_sd")]
    return joined[["seeds", *order[:2], "cost", "parameters", *order[2:]]].reset_index()


def readable(numbers: pd.DataFrame) -> pd.DataFrame:
    factor, prefix = unit(numbers["cost"])
    parameters, parameters_prefix = unit(numbers["parameters"].astype(float))
    metrics = [name for name in METRICS if name in numbers]
    return pd.DataFrame(
        {
            "System": numbers["system"].map(system_name),
            "Exit": numbers["exit"].astype(str),
            "Accuracy (%)": cells(numbers, "accuracy", scale=100, digits=1),
            **{f"{metric_name(name)} (× 100)": cells(numbers, name, scale=100, digits=1) for name in metrics},
            f"Cost ({prefix}MACs)": cells(numbers, "cost", scale=1 / factor, digits=2),
            f"Parameters ({parameters_prefix.strip() or '1'})": cells(
                numbers, "parameters", scale=1 / parameters, digits=2 if parameters > 1 else 0
            ),
            "Overconfidence (points)": cells(numbers, "overconfidence", scale=100, digits=1, sign="+"),
            "Agreement (%)": cells(numbers, "agreement", scale=100, digits=1),
        }
    )


TABLE = Table(numbers, readable)
