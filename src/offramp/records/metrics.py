"""GLUE's metrics of two classes, from means over samples: so they can be had at every threshold, and resampled."""

from collections.abc import Callable

import numpy as np


def terms(answer: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What a metric needs the means of: class 1 is answered rightly, is answered, is the label; bool each.

    Parameters
    ----------
    answer, truth : ndarray of int
        Classes; the truth is broadcast over the answers.
    """
    answered, positive = answer == 1, np.broadcast_to(truth == 1, answer.shape)
    return answered & positive, answered, positive


def f1(hit: np.ndarray, answered: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """F1 of class 1 from the means of `terms`; 0 where class 1 is neither answered nor a label."""
    return _quotient(2 * hit, answered + positive)


def matthews(hit: np.ndarray, answered: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """Matthews' correlation from the means of `terms`; 0 where answers or labels are all alike."""
    return _quotient(hit - answered * positive, np.sqrt(answered * (1 - answered) * positive * (1 - positive)))


def _quotient(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.zeros(np.shape(below)), where=below > 0)


METRICS: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]] = {"f1": f1, "matthews": matthews}
