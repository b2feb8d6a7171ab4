"""The claims of the paper on cascades of pretrained models, and whether they hold here."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from offramp.inputs import of_bands, of_base, read_tables
from offramp.naming import KINDS, band_name, variant_name
from offramp.tables.claims import how_often
from offramp.tables.writing import Table, cell

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
_ENDINGS = ("", "_low", "_high", "_sd")


def numbers(files: Sequence[Path]) -> pd.DataFrame:
    """The claims on cascades of pretrained models, and whether they hold here.

    Cascades are chosen on validation data. A claim holds where the 95 % interval of its number lies wholly on the side
    of the bound that is named here, does not hold where it lies wholly on the other one, and is undecided elsewhere.
    Claim 1, on test data: pairs reduce the cost at equal accuracy against the step and the log-interpolated front of
    single models (arithmetic mean over a band of accuracies above 1; beside it what random deferral reduces it by),
    triples more than pairs (ratio of the geometric means above 1), and what was chosen in their place is better than
    most models of the front but the cheapest: no dearer, no less accurate, and not equal (share above 50 %). Claim 2,
    on validation data: over all pairs the rank correlation of the exit rate with the difference in accuracy is below 0
    (beside it that with the ratio of costs). Claim 3, on test data: pairs by max softmax reduce the cost more than by
    margin and by entropy, and those by margin more than by entropy (ratio of the geometric means above 1). Claim 4, on
    test data: the highest accuracy of pairs that answer with the mean of their probabilities lies above that of pairs
    without an ensemble, and the ratio of the reductions below 1, with each model's logits scaled by a temperature too.
    Ratios are of the reductions against the step front. Two reductions have an interval each; that of their ratio is
    made as of independent ones: on the logarithms the distances to the ends add up as squares. So is that of the
    difference of two highest accuracies, each with the interval of the most accurate single model. As all are of the
    same samples, this is wider than need be, and leaves open what may be decided. What was not measured is left out. ±
    is the standard deviation over seeds.

    Parameters
    ----------
    files : sequence of paths
        The models, choices, reductions and measures of `offramp search`.
    """
    models, choices, reductions, measures = read_tables(files, "models", "choices", "reductions", "measures")
    base = reductions["variant"].iloc[0]
    bands = of_bands(reductions)
    rows = [
        {**row, "low": low, "high": high}
        for (low, high), of_band in bands[bands["scored_on"] == "test"].groupby(["low", "high"])
        for row in _of_band(of_band, base)
    ]
    rows += [*_of_measures(of_base(measures)), *_of_highest(models, choices)]
    columns = ["claim", "part", "low", "high", "verdict", "number", "wanted", "bound"]
    columns += [*(f"estimate{ending}" for ending in _ENDINGS), "beside"]
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


def ratio(of: tuple[float, float, float], to: tuple[float, float, float]) -> tuple[float, float, float]:
    """Of two numbers, each with its interval (value, low, high): their ratio and its interval, as if they were
    independent (Zou & Donner, Statistics in Medicine 2008, on the logarithms)."""
    value, low, high = _apart(np.log(of), np.log(to))
    return float(np.exp(value)), float(np.exp(low)), float(np.exp(high))


def _apart(of: Sequence[float], from_: Sequence[float]) -> tuple[float, float, float]:
    """The difference of two numbers and its interval, as if they were independent."""
    (a, a_low, a_high), (b, b_low, b_high) = of, from_
    return a - b, a - b - np.hypot(a - a_low, b_high - b), a - b + np.hypot(a_high - a, b - b_low)


def _row(claim: int, part: str, number: str, estimate: Sequence[float], wanted: str, bound: float, **more) -> dict:
    ends = dict(zip((f"estimate{ending}" for ending in _ENDINGS), estimate))
    return {"claim": claim, "part": part, "number": number, "wanted": wanted, "bound": bound, **ends, **more}


def _of_band(of_band: pd.DataFrame, base: str) -> Iterator[dict]:
    columns = [f"reduction{ending}" for ending in _ENDINGS]
    found: Mapping[tuple, np.ndarray] = {
        tuple(key): np.array(values)
        for *key, values in zip(
            *(of_band[name] for name in ("variant", "kind", "front", "mean")), of_band[columns].to_numpy()
        )
    }

    def compared(claim: int, part: str, of: tuple[str, str], to: tuple[str, str], wanted: str) -> Iterator[dict]:
        keys = [(*each, "step", "geometric") for each in (of, to)]
        if all(key in found for key in keys):
            yield _row(claim, part, "ratio of reductions", ratio(*(found[key][:3] for key in keys)), wanted, 1.0)

    for front, name in (("step", "step"), ("interpolated", "log-interpolated")):
        if (key := (base, "pair", front, "arithmetic")) in found:
            by_chance = found.get((base, "random", front, "arithmetic"), [np.nan])[0]
            yield _row(1, f"pairs, {name} front", "reduction", found[key], "above", 1.0, beside=by_chance)
    yield from compared(1, "triples over pairs", (base, "triple"), (base, "pair"), "above")
    for first, other in _MEASURES:
        part = f"{variant_name(first)} over {variant_name(other)}"
        yield from compared(3, part, (first, "pair"), (other, "pair"), "above")
    for label in _ENSEMBLES:
        part = f"{variant_name(label)} over {variant_name(_PLAIN)}"
        yield from compared(4, part, (label, "pair"), (_PLAIN, "pair"), "below")


def _of_measures(measures: pd.DataFrame) -> Iterator[dict]:
    values = measures.set_index(["quantity", "kind"])[[f"value{ending}" for ending in _ENDINGS]]
    for (quantity, kind), estimate in zip(values.index, values.to_numpy()):
        if np.isnan(estimate[0]):
            continue
        if quantity == "dominated_share":
            yield _row(1, f"front that {KINDS[kind]} beat", "share", estimate, "above", 0.5)
        if quantity == "spearman_accuracy_difference":
            with_size = values["value"].get(("spearman_size_ratio", kind), np.nan)
            part = "exit rate with accuracy difference"
            yield _row(2, part, "rank correlation", estimate, "below", 0.0, beside=with_size)


def _of_highest(models: pd.DataFrame, choices: pd.DataFrame) -> Iterator[dict]:
    """The highest test accuracy of pairs with an ensemble, against that of pairs without."""
    pairs = choices[choices["kind"] == "pair"]
    highest = pairs.pivot_table(index="seed", columns="variant", values="accuracy", aggfunc="max")  # (S, V)
    best = models.loc[models.groupby("seed")["accuracy"].idxmax()]
    accuracy, low, high = best[["accuracy", "accuracy_low", "accuracy_high"]].mean()
    label = _ENSEMBLES[0]
    if {label, _PLAIN} <= set(highest):
        tops = highest[label], highest[_PLAIN]  # (S,) each
        each = [(top.mean(), top.mean() - (accuracy - low), top.mean() + (high - accuracy)) for top in tops]
        part = f"highest accuracy, {variant_name(label)} − {variant_name(_PLAIN)}"
        yield _row(4, part, "difference", [*_apart(*each), (tops[0] - tops[1]).std()], "above", 0.0)


def readable(numbers: pd.DataFrame) -> pd.DataFrame:
    evidence = []
    for row in numbers.itertuples():
        scale, digits, sign, label = _NUMBERS[row.number]
        shown = [scale * getattr(row, f"estimate{ending}") for ending in _ENDINGS]
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


CASCADE_CLAIMS = Table(numbers, readable, findings)
