"""Metrics of GLUE for two classes, computed from means over samples.

They can therefore be evaluated at every threshold, and resampled by the bootstrap.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

    from offramp.records.record import ExitRecord

QUALITY_UNITS = 1 << 40


def terms(answer: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the terms whose means over samples determine the metrics.

    Parameters
    ----------
    answer, truth : ndarray of int
        Predicted classes and labels. Labels are broadcast to the shape of the predictions.

    Returns
    -------
    hit, answered, positive : ndarray of bool
        Whether class 1 is predicted correctly, whether it is predicted, and whether it is the label.
    """
    answered, positive = answer == 1, np.broadcast_to(truth == 1, answer.shape)
    return answered & positive, answered, positive


def f1(hit: np.ndarray, answered: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """Return the F1 score of class 1 from the means of `terms`; 0 if class 1 is neither predicted nor a label."""
    return _quotient(2 * hit, answered + positive)


def matthews(hit: np.ndarray, answered: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """Return the Matthews correlation from the means of `terms`; 0 if all predictions or all labels are equal."""
    return _quotient(hit - answered * positive, np.sqrt(answered * (1 - answered) * positive * (1 - positive)))


def whole(correct: np.ndarray) -> tuple[np.ndarray, int]:
    """Return correctness or quality as whole numbers, whose sums are exact and do not depend on their order.

    Parameters
    ----------
    correct : ndarray of bool, or of float64 from 0 to 1
        As `ExitRecord.correct`.

    Returns
    -------
    numbers : ndarray of int8 or int64, same shape
    one : int
        The number that stands for 1. It is 1 for bool. Qualities are rounded to multiples of 2⁻⁴⁰ (our choice).
    """
    if correct.dtype == bool:
        return correct.view(np.int8), 1
    return np.rint(correct * QUALITY_UNITS).astype(np.int64), QUALITY_UNITS


def quality_name(record: "ExitRecord") -> str | None:
    """Return the name of the mean quality, which is written in place of accuracy, or None if answers are classes."""
    return None if record.quality is None else record.metric


def with_metric(table: "pd.DataFrame", record: "ExitRecord") -> "pd.DataFrame":
    """Add the column `metric`, the name of the mean quality, to a table, unless answers are classes."""
    name = quality_name(record)
    return table if name is None else table.assign(metric=name)


def _quotient(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.zeros(np.shape(below)), where=below > 0)


METRICS: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]] = {"f1": f1, "matthews": matthews}
