"""Each exit on its own."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from offramp.records.metrics import METRICS
from offramp.reports.labels import cost_label, metric_name, prefixed, system_name
from offramp.reports.loading import read_tables, unit_of
from offramp.reports.tables.writing import Table, cells, costs


def numbers(files: Sequence[Path]) -> pd.DataFrame:
    """Each exit on its own.

    Results if all test samples leave at this exit: accuracy; the metric of the dataset, if it is not the accuracy;
    cumulative cost (for text, the mean over all texts at their own lengths); parameters; overconfidence (mean max
    softmax minus accuracy). Agreement is the share of samples for which this exit and the previous one give the same
    answer. The .csv file also contains the expected calibration error of the signal of each policy. Numbers are means
    over seeds ± standard deviation over seeds.
    """
    (table,) = read_tables(files, "exits")
    others = [name for name in table if name in METRICS or name.startswith("ece_")]
    measured = ["accuracy", "overconfidence", "agreement", *others]
    groups = table.groupby(["system", "exit"], sort=False)
    constant = [name for name in ("cost", "unit", "parameters") if name in table]  # the same for all seeds
    same = groups[constant].first()
    mean, sd = groups[measured].mean(), groups[measured].std()
    joined = same.assign(seeds=groups["seed"].nunique()).join(mean).join(sd.add_suffix("_sd"))
    order = [name for measure in measured for name in (measure, f"{measure}_sd")]
    return joined[["seeds", *order[:2], *constant, *order[2:]]].reset_index()


def readable(numbers: pd.DataFrame) -> pd.DataFrame:
    factor, cost = cost_label("Cost", numbers["cost"], unit_of(numbers))
    parameters, parameters_prefix = prefixed(numbers["parameters"].astype(float))
    metrics = [name for name in METRICS if name in numbers]
    text = pd.DataFrame(
        {
            "System": numbers["system"].map(system_name),
            "Exit": numbers["exit"].astype(str),
            "Accuracy (%)": cells(numbers, "accuracy", scale=100, digits=1),
            **{f"{metric_name(name)} (× 100)": cells(numbers, name, scale=100, digits=1) for name in metrics},
            cost: costs(numbers, "cost", factor),
            f"Parameters ({parameters_prefix.strip() or '1'})": cells(
                numbers, "parameters", scale=1 / parameters, digits=2 if parameters > 1 else 0
            ),
            "Overconfidence (points)": cells(numbers, "overconfidence", scale=100, digits=1, sign="+"),
            "Agreement (%)": cells(numbers, "agreement", scale=100, digits=1),
        }
    )
    empty = [name for name in text if (text[name] == "–").all()]  # for example parameters, for stored outputs
    return text.drop(columns=empty)


TABLE = Table(numbers, readable)
