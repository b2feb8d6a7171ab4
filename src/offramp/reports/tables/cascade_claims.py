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
    2: "the nearer the two models' accuracies, the more samples may end at the small one",
    3: "max softmax gains most, and entropy least",
    4: "ensembling raises the highest accuracy and lowers the gain, and temperatures do not cure that",
}
_PLAIN = "max-softmax"
_MEASURES = [(_PLAIN, "margin"), (_PLAIN, "entropy"), ("margin", "entropy")]  # the first should gain more
_ENSEMBLES = ["mean-probability", "temperature-mean-probability"]
# What is measured, and how it reads: scale, digits, sign; what the number beside it is
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

    Cascades are chosen on validation data. A claim holds where the 95 % interval of its number lies wholly on the side
    of the bound that is named here, does not hold where it lies wholly on the other one, and is undecided elsewhere.
    Claim 1, on test data: pairs reduce the cost at equal accuracy against the step and the log-interpolated front of
    single models (arithmetic mean over a band of accuracies above 1; beside it what random deferral reduces it by),
    triples more than pairs (ratio of the geometric means above 1), and most models of the front but the cheapest are
    dearer than cascades of their accuracy (share above 50 %). Claim 2, on validation data: over all pairs the rank
    correlation of the exit rate with the difference in accuracy is below 0 (beside it that with the ratio of costs).
    Claim 3, on test data: pairs by max softmax reduce the cost more than by margin and by entropy, and those by margin
    more than by entropy (ratio of the geometric means above 1). Claim 4, on test data: the highest accuracy of pairs
    that answer with the mean of their probabilities lies above that of pairs without an ensemble, and the ratio of the
    reductions below 1, with each model's logits scaled by a temperature too. Differences and ratios are of the same
    test samples, resampled together. What was not measured is left out. ± is the standard deviation over seeds.

    Parameters
    ----------
    files : sequence of paths
        The reductions and measures of `offramp search`.
    """
    reductions, measures = read_tables(files, "reductions", "measures")
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
    table = pd.DataFrame(rows).reindex(columns=columns).sort_values("claim", kind="stable", ignore_index=True)
    table["verdict"] = [
        verdict(row.estimate_low, row.estimate_high, row.wanted, row.bound) for row in table.itertuples()
    ]
    return table


def verdict(low: float, high: float, wanted: str, bound: float) -> str:
    """Of an interval that should lie above the bound, or below it."""
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
    """One kind or variant against another, on the same samples."""
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
        scale, digits, sign, label = _NUMBERS[row.number]
        shown = [scale * getattr(row, column) for column in as_shown("estimate")]
        unit = {100: " points" if sign else " %"}.get(scale, "")
        text = f"{row.number} {cell(*shown, digits=digits, sign=sign)}{unit}, {row.wanted} {scale * row.bound:g}{unit}?"
        if not np.isnan(row.beside):
            text += f" {label[0].upper()}{label[1:]}: {cell(row.beside, digits=digits, sign=sign)}"
        evidence.append(text)
    return pd.DataFrame(
        {
            "Claim": numbers["claim"].astype(str),
            "What": numbers["part"],
            "Accuracies": [_over(row) for row in numbers.itertuples()],
            "Verdict": numbers["verdict"],
            "Evidence": evidence,
        }
    )


def _over(row) -> str:
    return "all" if np.isnan(row.low) else band_name(row.low, row.high)


def findings(numbers: pd.DataFrame) -> list[str]:
    """A sentence a claim: in how many cases it holds, and where it does not."""
    over = [_over(row) for row in numbers.itertuples()]
    return how_often(numbers.assign(policy=over), _CLAIMS, lambda row: row.part)


TABLE = Table(numbers, readable, findings)
