"""Public models on the front of accuracy and cost, and the exit rate that a cascade of two of them needs."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from offramp.cascades.fronts import needed_exit_rate
from offramp.cascades.public_models import front, read_zoo
from offramp.reports.tables.writing import Table, cells

REDUCTIONS = (1.0, 1.9, 3.1)  # of cost: none, and those of the paper for accuracies of 80 to 86 % and above 86 %


def numbers(files: Sequence[Path]) -> pd.DataFrame:
    """The front of public models, and exit rates for pairs of neighbours.

    Models that timm published, by top-1 accuracy on the validation images of ImageNet. The table lists the models that
    are more accurate than all models with the same or fewer multiply-accumulates (MACs). MACs are given with two
    decimals, so the values of the smallest models are coarse. Image: height in pixels. A model at two image sizes
    counts as two models. Milliseconds per image: on an RTX 3090, the inverse of the throughput with large batches; on a
    Core i7-12700H, one image at a time; a dash means that the time was not measured. The exit rates are for a cascade
    whose small model is the neighbour, that is, the model in the row above. An exit rate is the share of images that
    must leave at the small model so that the cascade costs as much as the large model alone (1×; this is also the ratio
    of their costs), or 1.9 or 3.1 times less. A dash means that an exit rate of 100 % would not suffice. These tables
    do not contain the accuracy of cascades.
    """
    return pd.concat([_members(read_zoo(path)) for path in files], ignore_index=True)


def _members(zoo: pd.DataFrame) -> pd.DataFrame:
    members = front(zoo, "gmacs")
    cost = members["gmacs"].to_numpy()  # (F,)
    needed = {
        f"exit_rate_{reduction:g}": np.append(np.nan, needed_exit_rate(cost[:-1], cost[1:], reduction))
        for reduction in REDUCTIONS
    }
    return members.assign(
        neighbour=members["model"].shift(),
        cost_ratio=members["gmacs"].shift() / members["gmacs"],
        **needed,
        models=len(zoo),
        **{f"on_{cost}_front": members.index.isin(front(zoo, cost).index) for cost in ("gpu_ms", "cpu_ms")},
    )


def readable(numbers: pd.DataFrame) -> pd.DataFrame:
    rates = {f"exit_rate_{reduction:g}": f"Exit rate for {reduction:g}× (%)" for reduction in REDUCTIONS}
    within = numbers[list(rates)].where(numbers[list(rates)] <= 1)
    return pd.DataFrame(
        {
            "Table": numbers["zoo"],
            "Model": numbers["model"],
            "Image": numbers["img_size"].map("{:.0f}".format),
            "Top-1 (%)": cells(numbers, "top1", digits=2),
            "GMACs": cells(numbers, "gmacs", digits=2),
            "ms, RTX 3090": cells(numbers, "gpu_ms", digits=3),
            "ms, i7-12700H": cells(numbers, "cpu_ms", digits=1),
            **{title: cells(within, rate, scale=100, digits=0) for rate, title in rates.items()},
        }
    )


def findings(numbers: pd.DataFrame) -> list[str]:
    """Return one sentence per table.

    It states how many models on the front of MACs are also on the fronts of measured time, and for how many pairs of
    neighbours an exit rate of at most 100 % suffices for each reduction.
    """
    sentences = []
    for name, members in numbers.groupby("zoo", sort=False):
        also = [
            f"{members[f'on_{cost}_front'].sum()} on that of the {machine}"
            for cost, machine in {"gpu_ms": "RTX 3090", "cpu_ms": "Core i7-12700H"}.items()
            if members[cost].notna().any()
        ]
        pairs = len(members) - 1
        enough = [f"{r:g}× in {(members[f'exit_rate_{r:g}'] <= 1).sum()}" for r in REDUCTIONS[1:]]
        sentences.append(
            f"{name}: of {members['models'].iloc[0]:,} models {len(members)} are on the front of MACs, of these "
            f"{' and '.join(also)}. Of {pairs} pairs of neighbours an exit rate could be enough for "
            f"{' and for '.join(enough)}."
        )
    return sentences


TABLE = Table(numbers, readable, findings)
