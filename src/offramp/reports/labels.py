"""Names of policies and systems, units and captions, as shown in tables, figures and reports."""

import inspect
import re
from collections.abc import Callable, Iterable

import numpy as np

# Names of policies, in the order in which they are listed
_POLICIES = {
    "confidence": "max softmax",
    "margin": "margin",
    "entropy": "entropy",
    "mean-token-margin": "mean token margin",
    "temperature": "temperature-scaled",
    "isotonic": "isotonic",
    "pcee": "PCEE",
    "pcee-ws": "PCEE-WS",
    "budget": "MSDNet budget",
    "normalized-entropy": "normalised entropy",
    "patience": "patience",
    "patient-confident": "patient and confident",
    "f-pabee": "F-PABEE",
    "ztw": "ZTW",
    "stopping": "optimal stopping",
    "hidden-similarity": "hidden similarity",
    "beem-c": "BEEM-C",
    "beem-a": "BEEM-A",
    "calm": "CALM",
    "agreement": "agreement of models",
    "learned-deferral": "learnt deferral",
    "router": "router",
    "oracle": "oracle",
    "random": "random",
    "full": "full model",
}
_METHODS = {
    "window": "sliding window",
    "discount": "discounting",
    "platt": "online Platt scaling",
    "aci": "adaptive threshold",
    "window-audited": "sliding window, audited labels",
    "window-last-exit": "sliding window, last exit as label",
}
_MODELS = {"msdnet": "MSDNet", "vit": "ViT", "bert": "BERT", "albert": "ALBERT", "minilm": "MiniLM"}
# Kinds of fronts of a search, in the order in which they are listed
FRONT_NAMES = {
    "single": "single models",
    "pair": "pairs",
    "triple": "triples",
    "random": "random deferral",
    "oracle": "oracle",
}
# Kinds of accelerated models, in the order in which they are listed
ACCELERATIONS = {
    "exits": "exits",
    "cascade": "cascade",
    "both": "cascade with exits",
    "best": "best of these",
    "joint": "exits trained jointly",
}
_VARIANTS = {"temperature-mean-probability": "temperature, mean probability"}
_UNITS = {"MAC": "MACs", "FLOP": "FLOPs", "token": "tokens"}
_METRICS = {"accuracy": "accuracy", "f1": "F1", "matthews": "Matthews"}


def metric_name(metric: str) -> str:
    """Return the displayed name of a metric."""
    return _METRICS[metric]


def about_quality(text: str, quality: str | None) -> str:
    """Return a text about accuracy as one about the mean quality of answers that are not classes.

    `quality` is the name of the mean quality. If it is None, the answers are classes, and the text is unchanged.
    """
    if quality is None:
        return text

    def name(found: re.Match) -> str:
        article = "" if found[1] is None else "an " if quality[0] in "aeiouAEIOU" else "a "
        return article + (quality[:1].upper() + quality[1:] if found[2] == "A" else quality)

    return re.sub(r"\b(an )?\b([aA])ccurac(y|ies)\b(?![-_])", name, text)


def policy_name(label: str) -> str:
    """Return the displayed name of a policy. Unknown labels are returned unchanged."""
    return _POLICIES.get(label, label)


def method_name(label: str) -> str:
    """Return the displayed name of an online method. Unknown labels are returned unchanged."""
    return _METHODS.get(label, label)


def system_name(label: str) -> str:
    """Return the displayed name of a system. For example, msdnet-small becomes MSDNet small."""
    model, *rest = label.split("-")
    return " ".join([_MODELS.get(model, model), *rest])


def variant_name(label: str) -> str:
    """Return the displayed name of a variant of a search. For example, max-softmax becomes max softmax."""
    return _VARIANTS.get(label, label.replace("-", " "))


def band_name(low: float, high: float) -> str:
    """Return a range of accuracies in percent. The arguments are fractions."""
    return f"{100 * low:g}–{100 * high:g} %"


def in_order(labels: Iterable[str]) -> list[str]:
    """Return the distinct labels of policies in the order in which they are listed. Unknown labels are last."""
    known = list(_POLICIES)
    return sorted(set(labels), key=lambda label: (known.index(label) if label in known else len(known), label))


def unit_name(unit: str) -> str:
    """Return the displayed name of a unit of costs, in the plural. Unknown units are returned unchanged."""
    return _UNITS.get(unit, unit)


def cost_label(text: str, values: Iterable[float], unit: str | None) -> tuple[float, str]:
    """Return the factor by which costs are divided when they are shown, and their label: "Cost (M MACs)".

    If the unit is not known, costs are shown unchanged, and the label is the text alone.
    """
    if unit is None:
        return 1.0, text
    factor, prefix = prefixed(values)
    return factor, f"{text} ({prefix}{unit_name(unit)})"


def prefixed(values: Iterable[float]) -> tuple[float, str]:
    """Return the factor (1, 1e3, … 1e15) and its prefix (k, M, G, T, P) that suit the largest of some values."""
    largest = max((value for value in values if np.isfinite(value)), default=0.0)
    for factor, prefix in ((1e15, "P "), (1e12, "T "), (1e9, "G "), (1e6, "M "), (1e3, "k ")):
        if largest >= factor:
            return factor, prefix
    return 1.0, ""


def title_and_caption(function: Callable) -> tuple[str, str]:
    """Return title and caption of a figure or table, from the docstring of the function that makes it.

    The title is the first line without the full stop. The caption is the text up to the first section (Parameters).
    """
    title, *rest = re.split(r"\n\w+\n-{3,}", inspect.getdoc(function))[0].split("\n\n")
    return title.rstrip("."), " ".join(" ".join(rest).split())
