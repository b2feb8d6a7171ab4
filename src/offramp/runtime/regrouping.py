"""When to remove the samples that have left from a batch: always, never, or by a table of measured times."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Regroup = Callable[[int, int, int], bool]  # exit from 0, samples in the batch, samples that have not left
CHOICES = ("measured", "always", "never")


@dataclass(frozen=True, eq=False)
class Times:
    """Measured times of the stages of a model on one machine.

    Removing samples costs a copy and makes the later operations smaller; not removing them costs the computation of
    samples that have left. At exit i, samples are removed if

        time to remove + time of all later stages with the survivors < time of all later stages with the whole batch.

    Times between measured sizes are interpolated linearly.

    Attributes
    ----------
    sizes : ndarray of shape (S,)
        Numbers of samples, ascending.
    stages : ndarray of shape (L, S)
        Seconds of each stage, including its exit.
    removal : ndarray of shape (L, S)
        Seconds to select this number of samples from a batch of the largest size, after each exit.
    """

    sizes: np.ndarray
    stages: np.ndarray
    removal: np.ndarray

    def later(self, i: int, n: int) -> float:
        """Return the seconds of all stages after exit i, counted from 0, for n samples."""
        return float(np.interp(n, self.sizes, self.stages[i + 1 :].sum(axis=0)))

    def pays(self, i: int, batch: int, left: int) -> bool:
        """Return whether to remove the samples that have left, so that `left` of `batch` samples stay."""
        removal = float(np.interp(left, self.sizes, self.removal[i]))
        return removal + self.later(i, left) < self.later(i, batch)


def regrouping(choice: str | int, times: Times | None) -> Regroup:
    """Return the function that decides whether to remove the samples that have left.

    Parameters
    ----------
    choice : {"measured", "always", "never"} or int
        A number: remove them once at most this many samples are left.
    times : Times or None
        For "measured". Without them, the samples are always removed.

    Raises
    ------
    ValueError
        If the choice is unknown.
    """
    if isinstance(choice, int | np.integer) and not isinstance(choice, bool) and choice >= 1:
        return lambda i, batch, left: left <= choice
    if choice not in CHOICES:
        raise ValueError(
            f"regroup is {choice!r}; expected {', '.join(map(repr, CHOICES))} or a number of samples from 1"
        )
    if choice == "measured" and times is not None:
        return times.pays
    return lambda i, batch, left: choice != "never"


def measured_sizes(largest: int) -> np.ndarray:
    """Return the numbers of samples at which times are measured: powers of 2 and 1.5 times these, up to `largest`."""
    powers = 2 ** np.arange(int(largest).bit_length())
    return np.unique(np.minimum([*powers, *(powers + powers // 2), largest], largest))
