"""Captions that are written with early exits: their quality, what they save, and at which layers words leave."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from offramp.comparison.captions import RECOMPUTE
from offramp.evaluation.captions import DROPS, METRICS
from offramp.reports.labels import policy_name, system_name
from offramp.reports.loading import chosen_policies, read_tables, sort
from offramp.reports.tables.beem_claims import FASTER
from offramp.reports.tables.writing import Table, cell, cells

COMPARABLE = max(DROPS)  # an interval of the lost CIDEr below this share counts as comparable; our choice
_KINDS = ("function", "content", "end")


def _usual(table: pd.DataFrame) -> pd.DataFrame:
    """Select the policies that were fitted on given captions, and recompute what earlier tokens have not."""
    return table[(table["text"] == "reference") & (table["fill"] == RECOMPUTE)]


def _percent(values: pd.Series) -> list[str]:
    return [f"{100 * value:g} %" for value in values]


def _start(numbers: pd.DataFrame) -> dict[str, object]:
    """The first columns of a table."""
    return {"System": numbers["system"].map(system_name), "Policy": numbers["policy"].map(policy_name)}


def claim(files: Sequence[Path], policies: Sequence[str] | None = None) -> pd.DataFrame:
    """BEEM's claim on captions, and whether it holds here.

    The paper claims captions comparable to those of the final layer at 1.5 to 2.1 times its speed, in layers. Here, the
    threshold is the cheapest one that loses at most the largest share of the CIDEr of the full model that the study
    accepts (3 % by default) on validation captions, and the verdict is about test captions: the claim holds if the
    interval of the speed-up lies above 1.5 and the interval of the lost CIDEr below 3 % (our reading of comparable). It
    does not hold if the interval of the speed-up lies below 1.5, or that of the lost CIDEr above 3 %. All other cases
    are undecided. Intervals are 95 % bootstrap intervals over images and seeds, and ± is the standard deviation over
    seeds.

    Parameters
    ----------
    files : sequence of paths
        What `offramp compare-captions --matched` wrote.
    policies : sequence of str
        Labels of the policies that are judged. By default beem-c and beem-a.
    """
    (table,) = read_tables(files, "matched captions")
    table = _usual(table)
    labels = chosen_policies(policies, ("beem-c", "beem-a"), list(table["policy"].unique()))
    its = sort(table[table["policy"].isin(labels) & (table["at_most"] == table["at_most"].max())], ["system"])
    fails = (its["layer_speedup_high"] < FASTER) | (its["drop_low"] > COMPARABLE)
    holds = (its["layer_speedup_low"] > FASTER) & (its["drop_high"] < COMPARABLE)
    return its.assign(verdict=np.select([fails, holds], ["does not hold", "holds"], "undecided"))


def _readable_claim(numbers: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            **_start(numbers),
            "Verdict": numbers["verdict"],
            "Speed-up in layers": cells(numbers, "layer_speedup", digits=2),
            "CIDEr lost (%)": cells(numbers, "drop", scale=100, digits=1),
        }
    )


def _findings(numbers: pd.DataFrame) -> list[str]:
    speedup, drop = cells(numbers, "layer_speedup", digits=2), cells(numbers, "drop", scale=100, digits=1)
    return [
        f"BEEM's claim on captions {row.verdict.replace('undecided', 'is undecided')} for {policy_name(row.policy)} "
        f"({system_name(row.system)}): {fast} times as fast in layers, {lost} % of CIDEr lost."
        for row, fast, lost in zip(numbers.itertuples(), speedup, drop)
    ]


def matched(files: Sequence[Path]) -> pd.DataFrame:
    """Captions at matched quality.

    For each policy, the cheapest threshold that loses at most 0, 1 or 3 % of the CIDEr of the full model on validation
    captions, and what it does on test captions. All captions are written freely. Speed-ups are those of the tokens that
    were written, in layers of the decoder, and of whole captions, in MACs: with the encoder, with all exits that tokens
    pass, and with what is filled in for earlier tokens. A negative loss is a gain. Policies were fitted on words of
    given captions. Numbers are means over seeds [95 % bootstrap interval over images and seeds] ± standard deviation
    over seeds.
    """
    (table,) = read_tables(files, "matched captions")
    return sort(_usual(table), ["system", "at_most"])


def _readable_matched(numbers: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            **_start(numbers),
            "At most": _percent(numbers["at_most"]),
            "CIDEr": cells(numbers, "CIDEr", digits=3),
            "CIDEr lost (%)": cells(numbers, "drop", scale=100, digits=1),
            "ROUGE-L": cells(numbers, "ROUGE-L", digits=3),
            "Speed-up in layers": cells(numbers, "layer_speedup", digits=2),
            "In MACs": cells(numbers, "mac_speedup", digits=2),
        }
    )


def full_model(files: Sequence[Path]) -> pd.DataFrame:
    """Captions of the full model, word by word and by a beam search.

    All tokens run through all layers. The most likely next word is taken (one beam, which is what all policies are
    compared with), or the likeliest of the captions that a beam search follows, for reference. BLEU is that of all test
    captions together, and the other metrics are means over images. Words: mean number in a caption, with its end.
    Numbers are means over seeds ± standard deviation over seeds.
    """
    (table,) = read_tables(files, "caption quality")
    table = table.sort_values("beams", kind="stable")
    numbers = table.groupby(["system", "beams"], sort=False)[["tokens", *METRICS]].agg(["mean", "std"])
    numbers.columns = [name if kind == "mean" else f"{name}_sd" for name, kind in numbers.columns]
    return numbers.reset_index()


def _readable_full_model(numbers: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "System": numbers["system"].map(system_name),
            "Beams": numbers["beams"].astype(str),
            **{name: cells(numbers, name, digits=3) for name in METRICS},
            "Words": cells(numbers, "tokens", digits=2),
        }
    )


def curve(files: Sequence[Path]) -> pd.DataFrame:
    """Captions at each threshold.

    All thresholds of each policy on validation captions, which are written freely, from the cheapest to the full model.
    BLEU is that of all captions together, and the other metrics are means over images. Numbers are means over seeds,
    whose thresholds differ: they are numbered by their cost.
    """
    (table,) = read_tables(files, "caption points")
    table = _usual(table[table["split"] == "validation"]).drop_duplicates(["system", "seed", "policy", "threshold"])
    place = table.groupby(["system", "seed", "policy"])["macs"].rank(method="first")
    grouped = table.assign(number=place.astype(int)).groupby(["system", "policy", "number"], sort=False)
    shown = [name for name in table if name.startswith(("BLEU", "ROUGE", "CIDEr", "layer", "mac"))]
    return sort(grouped[["threshold", *shown]].mean().reset_index(), ["system"])


def _readable_curve(numbers: pd.DataFrame) -> pd.DataFrame:
    speedups = {"Speed-up in layers": "layer_speedup", "In MACs": "mac_speedup"}
    return pd.DataFrame(
        {
            **_start(numbers),
            "δ": ["∞" if np.isinf(value) else cell(value, digits=3) for value in numbers["threshold"]],
            **{name: cells(numbers, name, digits=3) for name in METRICS},
            "Layers": cells(numbers, "layers", digits=2),
            **{label: cells(numbers, name, digits=2) for label, name in speedups.items()},
        }
    )


def _paired(files: Sequence[Path], varied: str) -> pd.DataFrame:
    (table,) = read_tables(files, "caption pairs")
    return sort(table[table["varied"] == varied], ["system", "at_most"])


def fills(files: Sequence[Path]) -> pd.DataFrame:
    """Copied and recomputed keys and values.

    A token that left at a layer has no keys and values in the layers above. If a later token needs them, they are
    projected from its last state (copied), or these layers run for it (recomputed). Test captions are written in both
    ways, with the same thresholds: change of CIDEr by copying, in % of that of the full model, and speed-ups with
    copying, divided by those with recomputing. Numbers are means over seeds [95 % bootstrap interval over images and
    seeds] ± standard deviation over seeds.
    """
    return _paired(files, "fill")


def texts(files: Sequence[Path]) -> pd.DataFrame:
    """Policies that were fitted on given and on written captions.

    Policies that learn are fitted on words of validation captions: on those of a given caption, which the model reads
    (teacher forcing), or on those that the full model writes. Their thresholds are chosen on validation captions that
    are written freely, each for itself. On test captions: change of CIDEr by fitting on written captions, in % of that
    of the full model, and speed-ups divided by those of policies that were fitted on given captions. Numbers are means
    over seeds [95 % bootstrap interval over images and seeds] ± standard deviation over seeds.
    """
    return _paired(files, "text")


def _readable_pairs(numbers: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            **_start(numbers),
            "At most": _percent(numbers["at_most"]),
            "Change of CIDEr (%)": cells(numbers, "difference", scale=100, digits=1, sign="+"),
            "Speed-up in layers, ratio": cells(numbers, "layer_ratio", digits=3),
            "In MACs, ratio": cells(numbers, "mac_ratio", digits=3),
        }
    )


def words(files: Sequence[Path]) -> pd.DataFrame:
    """Layers by kind of word.

    Mean number of layers of the tokens of test captions: of function words (articles, prepositions, conjunctions,
    pronouns, auxiliary verbs), of content words (all others), and of the token that ends a caption. Thresholds are
    those of captions at matched quality. Numbers are means over seeds ± standard deviation over seeds.
    """
    (table,) = read_tables(files, "words")
    table = _usual(table)
    keys = ["system", "policy", "at_most", "kind", "seed"]
    sums = table.assign(layers=table["layers"] * table["tokens"]).groupby(keys, sort=False)[["layers", "tokens"]].sum()
    means = (sums["layers"] / sums["tokens"]).groupby(keys[:-1], sort=False).agg(["mean", "std"]).unstack("kind")
    columns = {}
    for kind in _KINDS:
        for name, ending in (("mean", ""), ("std", "_sd")):
            columns[f"{kind}{ending}"] = means.get((name, kind), np.nan)
    depth = table.groupby(keys[:3], sort=False)["depth"].first()
    return sort(pd.DataFrame(columns).assign(depth=depth).reset_index(), ["system", "at_most"])


def _readable_words(numbers: pd.DataFrame) -> pd.DataFrame:
    names = {"Function words": "function", "Content words": "content", "End of the caption": "end"}
    return pd.DataFrame(
        {
            **_start(numbers),
            "At most": _percent(numbers["at_most"]),
            **{label: cells(numbers, name, digits=2) for label, name in names.items()},
            "Of": numbers["depth"].astype(str),
        }
    )


def seconds(files: Sequence[Path]) -> pd.DataFrame:
    """Measured seconds against layers.

    All sweeps of validation and test captions, by the mean layers of a token: time per image, and speed-up over the
    full model in layers, in MACs and in seconds, as medians [lowest, highest]. The full model was timed in the same
    process, on the machine that ran the study, possibly while other programs were running. Seconds differ from run to
    run, unlike the other numbers of a study.
    """
    (table,) = read_tables(files, "caption seconds")
    steps = (2 * table["layers"]).round() / 2
    rows = []
    for (system, fill, layers, device), its in table.groupby(["system", "fill", steps, "device"]):
        row = {"system": system, "fill": fill, "layers": layers, "device": device, "sweeps": len(its)}
        for name in ("layer_speedup", "mac_speedup", "second_speedup", "seconds"):
            low, median, high = np.quantile(its[name], [0, 0.5, 1])
            row |= {name: median, f"{name}_low": low, f"{name}_high": high}
        rows.append(row)
    return pd.DataFrame(rows)


def _readable_seconds(numbers: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "System": numbers["system"].map(system_name),
            "Fill": numbers["fill"],
            "Layers": [f"{value:g}" for value in numbers["layers"]],
            "Sweeps": numbers["sweeps"].astype(str),
            "Speed-up in layers": cells(numbers, "layer_speedup", digits=2),
            "In MACs": cells(numbers, "mac_speedup", digits=2),
            "In seconds": cells(numbers, "second_speedup", digits=2),
            "ms per image": cells(numbers, "seconds", scale=1000, digits=2),
            "Device": numbers["device"],
        }
    )


def certified(files: Sequence[Path]) -> pd.DataFrame:
    """Thresholds of CALM that are certified over captions.

    The threshold decays with the position (CALM, equation 5), and is the lowest of a fixed list for which Learn then
    Test certifies, on validation captions, that a risk is at most the level. Risks are means over captions: by how much
    ROUGE-L is below that of the full model, and how many captions differ from it. Test risk: the same on test captions,
    which may be above the level by chance. Broken: seeds in which it is. Numbers are means over seeds ± standard
    deviation over seeds.
    """
    (table,) = read_tables(files, "certified captions")
    keys = ["system", "policy", "risk", "level", "confidence"]
    rows = []
    for values, its in table.groupby(keys, sort=False):
        row = dict(zip(keys, values)) | {"seeds": len(its), "broken": int((its["test_risk"] > its["level"]).sum())}
        row["full"] = int(np.isinf(its["threshold"]).sum())
        for name in ("estimate", "test_risk", "layer_speedup", "mac_speedup"):
            row |= {name: its[name].mean(), f"{name}_sd": its[name].std()}
        rows.append(row)
    return pd.DataFrame(rows)


def _readable_certified(numbers: pd.DataFrame) -> pd.DataFrame:
    risks = {"rouge_drop": "drop of ROUGE-L", "changed": "captions that differ"}
    return pd.DataFrame(
        {
            **_start(numbers),
            "Risk": numbers["risk"].map(risks),
            "Level": [f"{value:g}" for value in numbers["level"]],
            "Validation risk": cells(numbers, "estimate", digits=4),
            "Test risk": cells(numbers, "test_risk", digits=4),
            "Broken": [f"{row.broken} of {row.seeds}" for row in numbers.itertuples()],
            "Only the full model": [f"{row.full} of {row.seeds}" for row in numbers.itertuples()],
            "Speed-up in layers": cells(numbers, "layer_speedup", digits=2),
            "In MACs": cells(numbers, "mac_speedup", digits=2),
        }
    )


CLAIM = Table(claim, _readable_claim, _findings)
MATCHED = Table(matched, _readable_matched)
FULL_MODEL = Table(full_model, _readable_full_model)
CURVE = Table(curve, _readable_curve)
FILLS = Table(fills, _readable_pairs)
TEXTS = Table(texts, _readable_pairs)
WORDS = Table(words, _readable_words)
SECONDS = Table(seconds, _readable_seconds)
CERTIFIED = Table(certified, _readable_certified)
