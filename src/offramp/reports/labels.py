"""How policies, systems, numbers and captions read, in tables, figures and the report alike."""

import inspect
import re
from collections.abc import Callable, Iterable

import numpy as np

# The order in which policies are listed, too.
_POLICIES = {
    "confidence": "max softmax",
    "margin": "margin",
    "entropy": "entropy",
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
    "hidden-similarity": "hidden similarity",
    "beem-c": "BEEM-C",
    "beem-a": "BEEM-A",
    "agreement": "agreement of models",
    "learned-deferral": "learnt deferral",
    "oracle": "oracle",
    "random": "random",
}
_MODELS = {"msdnet": "MSDNet", "vit": "ViT", "bert": "BERT", "albert": "ALBERT", "minilm": "MiniLM"}
# Of a search: what fronts are made of, in the order of print, too, and the variants that read otherwise
FRONT_NAMES = {
    "single": "single models",
    "pair": "pairs",
    "triple": "triples",
    "random": "random deferral",
    "oracle": "oracle",
}
_VARIANTS = {"temperature-mean-probability": "temperature, mean probability"}
_METRICS = {"accuracy": "accuracy", "f1": "F1", "matthews": "Matthews"}


def metric_name(metric: str) -> str:
    """What a dataset's metric is called in print."""
    return _METRICS[metric]


def policy_name(label: str) -> str:
    """What a policy is called in print; a label nobody knows stays as it is."""
    return _POLICIES.get(label, label)


def system_name(label: str) -> str:
    """msdnet-small becomes MSDNet small."""
    model, *rest = label.split("-")
    return " ".join([_MODELS.get(model, model), *rest])


def variant_name(label: str) -> str:
    """max-softmax becomes max softmax."""
    return _VARIANTS.get(label, label.replace("-", " "))


def band_name(low: float, high: float) -> str:
    """A band of accuracies, given as fractions, in %."""
    return f"{100 * low:g}–{100 * high:g} %"


def in_order(labels: Iterable[str]) -> list[str]:
    """Distinct policy labels in the order of print, those nobody knows last."""
    known = list(_POLICIES)
    return sorted(set(labels), key=lambda label: (known.index(label) if label in known else len(known), label))


def unit(values: Iterable[float]) -> tuple[float, str]:
    """A factor and its prefix (k, M, G) that make the largest of some costs or counts readable."""
    largest = max((value for value in values if np.isfinite(value)), default=0.0)
    for factor, prefix in ((1e9, "G "), (1e6, "M "), (1e3, "k ")):
        if largest >= factor:
            return factor, prefix
    return 1.0, ""


def title_and_caption(function: Callable) -> tuple[str, str]:
    """The docstring of what makes a figure or table: its first line, without the full stop, is the title, what follows
    up to the parameters the caption."""
    title, *rest = re.split(r"\n\w+\n-{3,}", inspect.getdoc(function))[0].split("\n\n")
    return title.rstrip("."), " ".join(" ".join(rest).split())
