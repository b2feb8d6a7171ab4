"""How many times less cascades cost than single models, over bands of accuracies."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from offramp.reports.labels import FRONT_NAMES, band_name, variant_name
from offramp.reports.loading import of_bands, of_base, read_tables
from offramp.reports.tables.writing import Table, cells

# The order in print
_ORDER = {
    "kind": list(FRONT_NAMES),
    "front": ["step", "interpolated"],
    "mean": ["arithmetic", "geometric"],
    "scored_on": ["validation", "test"],
}
_BAND = ["low", "high"]


def of_kinds(files: Sequence[Path]) -> pd.DataFrame:
    """How many times less cascades cost, at equal accuracy.

    What single models cost over what the cascades cost that were chosen on validation data, mean over a band of
    accuracies: arithmetic (the paper's), and geometric, in which twice and half the cost make 1. Step: the cheapest
    single model that is so accurate; interpolated: what a model on the line between neighbours of the front would cost,
    the logarithm of the cost being linear in accuracy. Pairs are chosen among single models and pairs, triples among
    all three. Random deferral is the best straight line between a small model and both models of a pair, and decides
    nothing: what it gains against the step front is the step front's. The oracle defers in hindsight. On validation the
    cascades were chosen, so that what they gain there is too much. Accuracies: at how many of the band's grid both
    costs are known, on validation and test. The first variant is shown. Means over seeds [95 % bootstrap interval over
    samples and seeds] ± standard deviation over seeds.
    """
    (table,) = read_tables(files, "reductions")
    return _sort(of_bands(of_base(table)), [*_BAND, *_ORDER])


def of_variants(files: Sequence[Path]) -> pd.DataFrame:
    """How many times less pairs cost, variant by variant.

    What single models cost over what pairs cost at equal accuracy on test data, means over a band of accuracies; pairs
    were chosen on validation data, among single models and pairs. The first variant is what the others are to be
    compared with. Step: the cheapest single model that is so accurate; interpolated: what a model on the line between
    neighbours of the front would cost, the logarithm of the cost being linear in accuracy. Accuracies: at how many of
    the band's grid both costs are known. Means over seeds [95 % bootstrap interval over test samples and seeds] ±
    standard deviation over seeds; all variants have the same samples, so that differences are surer than the intervals
    of two variants show.
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
    """The reductions, a row for each of `rows` and a column for each of `columns`, in the order they come; in front
    the band and at how many accuracies."""
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
