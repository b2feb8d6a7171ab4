"""The claims on cascades on many random splits, in multiply-accumulates and in published time."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from offramp.reports.loading import read_tables
from offramp.reports.tables import cascade_claims
from offramp.reports.tables.writing import Table, as_shown, cell

_KEY = ["claim", "part", "low", "high", "number", "wanted", "bound"]


def numbers(files: Sequence[Path]) -> pd.DataFrame:
    """The claims on cascades, on many random splits.

    The search is repeated on random splits of all samples into validation and test data, which shows how much the
    numbers depend on the split. Parts of the claims are those of the table of claims on cascades; claim 2 is measured
    on validation data, and the others on test data. Numbers are means over the splits [lowest, highest] ± standard
    deviation, followed by the mean reduction by random deferral, and by the number of splits in which the number lies
    on the side of the bound that the claim states.
    The splits share their samples, so the standard deviation is not that of new data. If the time of the models is
    published, the last columns show the same search with the time per sample as the cost.

    Parameters
    ----------
    files : sequence of one path
        The table that `offramp resplit` wrote.
    """
    (table,) = read_tables(files, "resplits")
    rows = []
    for (cost, split), its in table.groupby(["cost", "split"], sort=False):
        reductions = its[its["quantity"] == "reduction"].rename(columns={"value": "reduction"})
        measures = its[its["quantity"] != "reduction"]
        empty = pd.DataFrame(np.nan, its.index, [*as_shown("reduction")[1:], *as_shown("value")[1:]])
        made = cascade_claims.rows_of(
            reductions.assign(scored_on="test").join(empty), measures.drop(columns="front").join(empty)
        )
        rows.append(made.assign(cost=cost, split=split))
    each = pd.concat(rows, ignore_index=True)
    each["agrees"] = np.where(
        each["wanted"] == "above", each["estimate"] > each["bound"], each["estimate"] < each["bound"]
    )
    groups = each.groupby(["cost", *_KEY], sort=False, dropna=False)
    made = groups.agg(
        estimate=("estimate", "mean"),
        estimate_sd=("estimate", "std"),
        estimate_low=("estimate", "min"),
        estimate_high=("estimate", "max"),
        beside=("beside", "mean"),
        agrees=("agrees", "sum"),
        splits=("split", "nunique"),
    )
    return made.reset_index()


def readable(numbers: pd.DataFrame) -> pd.DataFrame:
    text = numbers.assign(
        text=[_cell(row) for row in numbers.itertuples()],
        what=[_what(row) for row in numbers.itertuples()],
        over=[cascade_claims.over(row) for row in numbers.itertuples()],
    )
    rows = ["claim", "part", "what", "over"]
    beside = text.pivot(index=rows, columns="cost", values="text").reindex(
        index=pd.MultiIndex.from_frame(text[rows].drop_duplicates()), columns=list(text["cost"].unique())
    )
    beside = beside.fillna("–").reset_index()
    beside["claim"] = beside["claim"].astype(str)
    names = {"claim": "Claim", "part": "What", "what": "Number", "over": "Accuracies", "MAC": "MACs"}
    return beside.rename(columns=names).rename_axis(columns=None)


def _what(row) -> str:
    scale, _, _, unit = cascade_claims.number_format(row.number)
    return f"{row.number}, {row.wanted} {scale * row.bound:g}{unit}?"


def _cell(row) -> str:
    scale, digits, sign, _ = cascade_claims.number_format(row.number)
    shown = [scale * getattr(row, column) for column in as_shown("estimate")]
    chance = f" (random {cell(row.beside, digits=digits)})" if row.number == "reduction" else ""
    return f"{cell(*shown, digits=digits, sign=sign)}{chance}; {row.agrees} of {row.splits}"


TABLE = Table(numbers, readable)
