"""Public models on the front, and what a cascade of two of them must do."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from offramp.cascades.fronts import needed_exit_rate
from offramp.cascades.public_models import front, read_zoo
from offramp.reports.tables.writing import Table, cells

REDUCTIONS = (1.0, 1.9, 3.1)  # of cost: as the larger model alone, and the paper's, for 80 to 86 % and above


def numbers(files: Sequence[Path]) -> pd.DataFrame:
    """The front of public models, and what pairs of neighbours need.

    Models that timm published, by top-1 accuracy on ImageNet's validation images, of which each is more accurate than
    all that cost no more multiply-accumulates (given to two digits, so the smallest are coarse). Image: its height in
    pixels; a model at two sizes counts as two. Milliseconds an image: on an RTX 3090 the inverse of the throughput of
    large batches, on a Core i7-12700H one image at a time; a dash where that was not measured. Exit rates are of a
    cascade with the neighbour, the model in the row above, as the small one: the share of images that must end there
    for the two to cost as much as the large model alone (1×; this is the ratio of their costs too), or so many times
    less; a dash where not even all images would be enough. How accurate the cascade is cannot be told from such tables.
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
    """Of each table: how many of the front are on those of measured time too, and what neighbours can reach at all."""
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
