"""Reduction of cost by cascades, compared with single models, over bands of accuracies."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from offramp.reports.labels import FRONT_NAMES, band_name, variant_name
from offramp.reports.loading import of_bands, of_base, read_tables
from offramp.reports.tables.writing import Table, cells

# The order of the rows in the tables
_ORDER = {
    "kind": list(FRONT_NAMES),
    "front": ["step", "interpolated"],
    "mean": ["arithmetic", "geometric"],
    "scored_on": ["validation", "test"],
}
_BAND = ["low", "high"]


def of_kinds(files: Sequence[Path]) -> pd.DataFrame:
    """Reduction of cost by cascades at equal accuracy.

    The cost of single models divided by the cost of the cascades that were chosen on validation data, at equal
    accuracy, averaged over a band of accuracies. Arithmetic: arithmetic mean, as in the paper. Geometric: geometric
    mean, in which half the cost and twice the cost average to 1. Step: the cost of the cheapest single model that is at
    least as accurate. Interpolated: the cost of a model on the line between neighbours on the front, on which the
    logarithm of the cost is linear in accuracy. Pairs are chosen among single models and pairs, and triples among
    single models, pairs and triples. Random deferral is the best straight line between a small model and both models of
    a pair. It treats all samples alike, so its reduction against the step front is caused by the step front. The oracle
    defers in hindsight. Reductions on validation data are too optimistic, because the cascades were chosen on these
    data. Accuracies: the number of accuracies in the grid of the band for which both costs are known, on validation and
    on test data. The first variant is shown. Numbers are means over seeds [95 % bootstrap interval over samples and
    seeds] ± standard deviation over seeds.
    """
    (table,) = read_tables(files, "reductions")
    return _sort(of_bands(of_base(table)), [*_BAND, *_ORDER])


def of_variants(files: Sequence[Path]) -> pd.DataFrame:
    """Reduction of cost by pairs, for each variant.

    The cost of single models divided by the cost of pairs at equal accuracy on test data, averaged over a band of
    accuracies. Pairs were chosen on validation data, among single models and pairs. The first variant is the reference
    for the others. Step: the cost of the cheapest single model that is at least as accurate. Interpolated: the cost of
    a model on the line between neighbours on the front, on which the logarithm of the cost is linear in accuracy.
    Accuracies: the number of accuracies in the grid of the band for which both costs are known. Numbers are means over
    seeds [95 % bootstrap interval over test samples and seeds] ± standard deviation over seeds. All variants are
    measured on the same samples, so differences between variants are more certain than their separate intervals
    suggest.
    """
    (table,) = read_tables(files, "reductions")
    table = of_bands(table)
    table = table.assign(order=pd.factorize(table["variant"])[0])
    table = table[(table["kind"] == "pair") & (table["scored_on"] == "test")]
    return _sort(table, [*_BAND, "order", "front", "mean"]).drop(columns="order")


def _sort(table: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    places = {name: table[name].map(order.index) for name, order in _ORDER.items()}
    return table.loc[table.assign(**places).sort_values(list(by), kind="stable").index].reset_index(drop=True)


def _beside(numbers: pd.DataFrame, rows: list[str], columns: list[str]) -> pd.DataFrame:
    """Arrange the reductions with one row per combination of `rows` and one column per combination of `columns`.

    Both are in the order in which they appear. The first columns contain the band and the number of accuracies.
    """
    text = numbers.assign(text=cells(numbers, "reduction", digits=2)).pivot(index=rows, columns=columns, values="text")
    text = text.fillna("–").reindex(
        index=pd.MultiIndex.from_frame(numbers[rows].drop_duplicates()),
        columns=pd.MultiIndex.from_frame(numbers[columns].drop_duplicates()),
    )
    text.columns = [", ".join(names).capitalize() for names in text.columns]
    known = numbers.groupby(rows, sort=False)["accuracies"].unique()
    text.insert(0, "Accuracies", [" / ".join(f"{count:g}" for count in counts) for counts in known])
    text = text.reset_index()
    text.insert(0, "Band", [band_name(*band) for band in zip(text.pop("low"), text.pop("high"))])
    return text


def of_kinds_readable(numbers: pd.DataFrame) -> pd.DataFrame:
    text = _beside(numbers, [*_BAND, "kind", "front"], ["mean", "scored_on"])
    return text.assign(kind=text["kind"].map(FRONT_NAMES)).rename(columns=str.capitalize)


def of_variants_readable(numbers: pd.DataFrame) -> pd.DataFrame:
    text = _beside(numbers, [*_BAND, "variant"], ["front", "mean"])
    return text.assign(variant=text["variant"].map(variant_name)).rename(columns=str.capitalize)


REDUCTIONS = Table(of_kinds, of_kinds_readable)
CASCADE_VARIANTS = Table(of_variants, of_variants_readable)
