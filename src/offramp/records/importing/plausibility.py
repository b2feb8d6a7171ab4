"""Checks of confidences that no probabilities can have: against their bounds, and against each other."""

import warnings
from collections.abc import Callable

import numpy as np

from offramp.records.record import ExitRecord

ROUNDING = 1e-6
SLACK = 0.02  # between two measures of a sample, which may be rounded to two digits


def check_measures(record: ExitRecord, at: Callable[..., str]) -> None:
    """Check the confidence measures of a record.

    Parameters
    ----------
    record : ExitRecord
    at : callable
        Function from the name of a measure, the sample and the exit to the description of this place.

    Raises
    ------
    ValueError
        If a measure is out of its bounds, for example a negated entropy, or if no probabilities have these measures.

    Warns
    -----
    UserWarning
        If the number of classes is unknown, and max softmax would be too small for the classes that occur.
    """
    most = np.log(record.n_classes) if record.n_classes else np.inf
    bounds = {"similarity": (-1, 1), "entropy": (0, most)}
    for measure in record.measures:
        values = record.measure(measure)  # (N, L)
        low, high = bounds.get(measure, (0, 1))
        if len(
            wrong := np.argwhere((values < low - ROUNDING) | (values > high + (SLACK if high == most else ROUNDING)))
        ):
            value = values[tuple(wrong[0])]
            hint = ", in nats and not negated" if measure == "entropy" else ""
            hint = "; percentages are imported with --percent" if high == 1 and 1 < value <= 100 else hint
            raise ValueError(f"{at(measure, *wrong[0])} is {value}: expected {low} to {high:.6g}{hint}")
    if not record.has_logits:
        _check_largest(record, at)
        _check_against_others(record, at)


def _check_largest(record: ExitRecord, at: Callable[..., str]) -> None:
    """Check that max softmax is at least 1/C. Answers that are not classes have no such bound."""
    if "max_softmax" not in record.measures or record.quality is not None:
        return
    values = record.measure("max_softmax")  # (N, L)
    occur = 1 + max(record.needed_prediction("max softmax").max(), 0 if record.labels is None else record.labels.max())
    n_classes = record.n_classes or occur
    wrong = np.argwhere(values < 0.95 / n_classes)  # 0.33 is a third
    if not len(wrong) or n_classes == 1:
        return
    place, value = at("max_softmax", *wrong[0]), values[tuple(wrong[0])]
    message = (
        f"{place} is {value}: expected at least 1/{n_classes}, because it is the largest of {n_classes} probabilities"
    )
    if n_classes == 2:
        message += "; if it is the probability of class 1, import it with --probabilities"
    if record.n_classes:
        raise ValueError(message)
    warnings.warn(f"{message}; if there are more classes than {n_classes}, give their number (--classes)", stacklevel=5)


def _check_against_others(record: ExitRecord, at: Callable[..., str]) -> None:
    """Check that there are probabilities with these measures, for each sample and exit."""
    measures = {name: record.measure(name).astype(np.float64) for name in record.measures}  # (N, L) each
    others = (record.n_classes or np.inf) - 1  # classes that share the rest, 1 − p, of the largest probability p
    margin = measures.get("margin")
    if "max_softmax" in measures:
        low = high = measures["max_softmax"]
        if margin is not None:  # the second largest probability is (1 − p)/(C − 1) to 1 − p
            second = 1 - low
            _between(at, "margin", margin, low - second, low - second / max(others, 1), "max softmax")
    elif margin is not None:
        low, high = margin, (1 + margin) / 2
    else:
        return
    if "entropy" in measures:
        least = -np.log(np.minimum(high + SLACK, 1))
        most = np.full_like(least, np.inf)
        if np.isfinite(others):
            p = np.clip(low - SLACK, 1 / (others + 1), 1)  # the more equal the others are, the higher is the entropy
            rest = np.maximum(1 - p, np.finfo(float).tiny)
            most = -p * np.log(p) - rest * np.log(rest / max(others, 1))
        _between(
            at, "entropy", measures["entropy"], least, most, "max softmax" if "max_softmax" in measures else "margin"
        )


def _between(at: Callable[..., str], measure: str, values, low, high, other: str) -> None:
    if len(wrong := np.argwhere((values < low - SLACK) | (values > high + SLACK))):
        place = tuple(wrong[0])
        raise ValueError(
            f"{at(measure, *place)} is {values[place]:.6g}, which does not fit its {other}: expected {low[place]:.6g} "
            f"to {high[place]:.6g}; check which column is which"
        )
