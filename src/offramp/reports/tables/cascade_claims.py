"""The claims of the paper on cascades of pretrained models, and whether they hold here."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from offramp.reports.labels import FRONT_NAMES, band_name, variant_name
from offramp.reports.loading import of_bands, read_tables
from offramp.reports.tables.claims import how_often
from offramp.reports.tables.writing import Table, as_shown, cell

_CLAIMS = {
    1: "cascades of two models need less compute than single models at equal accuracy, those of three still less, and "
    "they beat most of the front",
    2: "the closer the accuracies of the two models, the more samples can leave at the small one",
    3: "max softmax gains most, and entropy least",
    4: "ensembling raises the highest accuracy and lowers the gain, and temperature scaling does not change this",
}
_PLAIN = "max-softmax"
_MEASURES = [(_PLAIN, "margin"), (_PLAIN, "entropy"), ("margin", "entropy")]  # the first should reduce cost more
_ENSEMBLES = ["mean-probability", "temperature-mean-probability"]
# Measured quantities and their format: scale, digits, sign, and the label of the number in the column `beside`
_NUMBERS = {
    "reduction": (1, 2, "", "random deferral"),
    "ratio of reductions": (1, 2, "", ""),
    "share": (100, 0, "", ""),
    "rank correlation": (1, 2, "+", "with the ratio of costs"),
    "difference": (100, 2, "+", ""),
}
_VALUE = as_shown("value")


def numbers(files: Sequence[Path]) -> pd.DataFrame:
    """The claims on cascades of pretrained models, and whether they hold here.

    Cascades are chosen on validation data. A claim holds if the 95 % interval of the measured number lies entirely on
    the stated side of the bound. It does not hold if the interval lies entirely on the other side, and is undecided
    otherwise. Claim 1, on test data: pairs reduce the cost at equal accuracy, compared with the step front and the
    log-interpolated front of single models (the arithmetic mean over a band of accuracies is above 1; the reduction by
    random deferral is shown next to it). Triples reduce it more than pairs (the ratio of the geometric means is above
    1). Most models on the front, not counting the cheapest one, cost more than cascades of the same accuracy (the share
    is above 50 %). Claim 2, on validation data: over all pairs, the rank correlation of the exit rate with the
    difference in accuracy is below 0 (the correlation with the ratio of costs is shown next to it). Claim 3, on test
    data: pairs that use max softmax reduce the cost more than pairs that use the margin or the entropy, and pairs that
    use the margin more than pairs that use the entropy (the ratio of the geometric means is above 1). Claim 4, on test
    data: if pairs answer with the mean of their probabilities, the highest accuracy of pairs is above that of pairs
    without an ensemble, but they reduce the cost less (the ratio of the reductions is below 1), both without and with
    temperature scaling of the logits of each model. Differences and ratios are measured on the same test samples, which
    are resampled together. Parts that were not measured are left out. ± is the standard deviation over seeds.

    Parameters
    ----------
    files : sequence of paths
        The tables of reductions and measures that `offramp search` wrote.
    """
    table = rows_of(*read_tables(files, "reductions", "measures"))
    table["verdict"] = [
        verdict(row.estimate_low, row.estimate_high, row.wanted, row.bound) for row in table.itertuples()
    ]
    return table


def rows_of(reductions: pd.DataFrame, measures: pd.DataFrame) -> pd.DataFrame:
    """Return one row per measured part of a claim, without its verdict.

    Columns: claim, part, low, high (of the band, or NaN), verdict (empty), number (what is measured), wanted and bound
    (where the number should lie), the estimate as in `as_shown`, and beside (another number to compare it with).
    """
    base = reductions["variant"].iloc[0]
    bands = of_bands(reductions)
    rows = [
        {**row, "low": low, "high": high}
        for (low, high), of_band in bands[bands["scored_on"] == "test"].groupby(["low", "high"])
        for row in _of_band(of_band, base)
    ]
    rows += [*_of_measures(measures, base), *_of_contrasts(measures)]
    columns = ["claim", "part", "low", "high", "verdict", "number", "wanted", "bound"]
    columns += [*as_shown("estimate"), "beside"]
    return pd.DataFrame(rows).reindex(columns=columns).sort_values("claim", kind="stable", ignore_index=True)


def verdict(low: float, high: float, wanted: str, bound: float) -> str:
    """Return the verdict for an interval that should lie above the bound, or below it."""
    above, below = low > bound, high < bound
    holds, fails = (above, below) if wanted == "above" else (below, above)
    return "holds" if holds else "does not hold" if fails else "undecided"


def _row(claim: int, part: str, number: str, estimate: Sequence[float], wanted: str, bound: float, **more) -> dict:
    ends = dict(zip(as_shown("estimate"), estimate))
    return {"claim": claim, "part": part, "number": number, "wanted": wanted, "bound": bound, **ends, **more}


def _of_band(of_band: pd.DataFrame, base: str) -> Iterator[dict]:
    pairs = of_band[(of_band["variant"] == base) & (of_band["mean"] == "arithmetic")].set_index(["kind", "front"])
    for front, name in (("step", "step"), ("interpolated", "log-interpolated")):
        if ("pair", front) in pairs.index:
            estimate = pairs.loc[("pair", front), as_shown("reduction")]
            by_chance = pairs["reduction"].get(("random", front), np.nan)
            yield _row(1, f"pairs, {name} front", "reduction", estimate, "above", 1.0, beside=by_chance)


def _of_measures(measures: pd.DataFrame, base: str) -> Iterator[dict]:
    of_base = measures[measures["variant"] == base].set_index(["quantity", "kind"])
    for (quantity, kind), row in of_base.iterrows():
        estimate = row[_VALUE]
        if np.isnan(row["value"]):
            continue
        if quantity == "dominated_share":
            yield _row(1, f"front that {FRONT_NAMES[kind]} beat", "share", estimate, "above", 0.5)
        if quantity == "spearman_accuracy_difference":
            with_size = of_base["value"].get(("spearman_size_ratio", kind), np.nan)
            part = "exit rate with accuracy difference"
            yield _row(2, part, "rank correlation", estimate, "below", 0.0, beside=with_size)


def _of_contrasts(measures: pd.DataFrame) -> Iterator[dict]:
    """Yield one row per comparison of two kinds or two variants, on the same samples."""
    for _, row in measures.dropna(subset=["to_variant"]).iterrows():
        sides = row["variant"], row["to_variant"]
        number, band = row["quantity"], {"low": row["low"], "high": row["high"]}
        if number == "reduction_ratio" and row["kind"] != row["to_kind"]:
            yield _row(1, "triples over pairs", "ratio of reductions", row[_VALUE], "above", 1.0, **band)
        elif number == "reduction_ratio" and sides in _MEASURES:
            part = f"{variant_name(sides[0])} over {variant_name(sides[1])}"
            yield _row(3, part, "ratio of reductions", row[_VALUE], "above", 1.0, **band)
        elif number == "reduction_ratio" and sides[0] in _ENSEMBLES and sides[1] == _PLAIN:
            part = f"{variant_name(sides[0])} over {variant_name(_PLAIN)}"
            yield _row(4, part, "ratio of reductions", row[_VALUE], "below", 1.0, **band)
        elif number == "top_accuracy_difference" and sides == (_ENSEMBLES[0], _PLAIN):
            part = f"highest accuracy, {variant_name(sides[0])} − {variant_name(_PLAIN)}"
            yield _row(4, part, "difference", row[_VALUE], "above", 0.0)


def readable(numbers: pd.DataFrame) -> pd.DataFrame:
    evidence = []
    for row in numbers.itertuples():
        scale, digits, sign, unit = number_format(row.number)
        label = _NUMBERS[row.number][-1]
        shown = [scale * getattr(row, column) for column in as_shown("estimate")]
        text = f"{row.number} {cell(*shown, digits=digits, sign=sign)}{unit}, {row.wanted} {scale * row.bound:g}{unit}?"
        if not np.isnan(row.beside):
            text += f" {label[0].upper()}{label[1:]}: {cell(row.beside, digits=digits, sign=sign)}"
        evidence.append(text)
    return pd.DataFrame(
        {
            "Claim": numbers["claim"].astype(str),
            "What": numbers["part"],
            "Accuracies": [over(row) for row in numbers.itertuples()],
            "Verdict": numbers["verdict"],
            "Evidence": evidence,
        }
    )


def number_format(number: str) -> tuple[int, int, str, str]:
    """Return how a kind of number is shown: factor, digits, sign as in `cell`, and unit."""
    scale, digits, sign, _ = _NUMBERS[number]
    return scale, digits, sign, {100: " points" if sign else " %"}.get(scale, "")


def over(row) -> str:
    """Return the range of accuracies of a row."""
    return "all" if np.isnan(row.low) else band_name(row.low, row.high)


def findings(numbers: pd.DataFrame) -> list[str]:
    """Return one sentence per claim: in how many cases it holds, and where it does not."""
    bands = [over(row) for row in numbers.itertuples()]
    return how_often(numbers.assign(policy=bands), _CLAIMS, lambda row: row.part)


TABLE = Table(numbers, readable, findings)
