"""Stratified splits of records, and the split of a validation record into a part for fitting and one for choosing."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from offramp.records.record import ExitRecord


def split_record(record: ExitRecord, share: float, seed: int = 0) -> tuple[ExitRecord, ExitRecord]:
    """Split a record at random into two parts with about the same proportions of classes.

    Parameters
    ----------
    record : ExitRecord
        Record with labels, or with qualities, which are not stratified.
    share : float
        Fraction of the samples in the first part, between 0 and 1. Each part has at least one sample.
    seed : int
        Seed of the random split.

    Returns
    -------
    first, second : ExitRecord
        Samples are in their original order. Which part a sample is in depends on its index, not on its place in the
        record, so that records of the same samples have the same parts.

    Raises
    ------
    ValueError
        If the share is not between 0 and 1, or if the record has a single sample.
    """
    if not 0 < share < 1:
        raise ValueError(f"split_record: share is {share}; expected a number between 0 and 1")
    n = record.n_samples
    if n < 2:
        raise ValueError("split_record: the record has one sample; expected at least two")
    size = min(max(round(share * n), 1), n - 1)
    by_index = np.argsort(record.index)  # (N,)
    order = by_index[stratified_order(strata(record)[by_index], np.random.default_rng(seed))]  # (N,)
    return record.take(np.sort(order[:size])), record.take(np.sort(order[size:]))


LEAST = 10  # samples in each part of a validation record; our choice


@dataclass(frozen=True)
class Holdout:
    """Which validation samples policies are fitted on, and which are held out to choose thresholds.

    Attributes
    ----------
    fit_share : float
        Share of the samples on which policies are fitted, above 0. Thresholds are chosen on the others. With 1, all
        samples are used for both.
    seed : int
        Seed of the random split, which is stratified by class.
    """

    fit_share: float = 1.0
    seed: int = 0

    @classmethod
    def of_run(cls, fit_share: float, metadata: Mapping[str, Any]) -> "Holdout":
        """Return the split of a run with the metadata of its record. Its seed is that of the run, or 0."""
        return cls(fit_share, metadata.get("seed", 0))

    @classmethod
    def of_policies(cls, metadata: Mapping[str, Any]) -> "Holdout":
        """Return the split that was used for a fit, from the metadata of the file of policies."""
        return cls(**metadata.get("holdout", {}))

    @property
    def metadata(self) -> dict[str, Any]:
        """What the metadata of a file of policies say of this split: nothing if no samples are held out."""
        return {} if self.fit_share == 1 else {"holdout": asdict(self)}

    def sizes(self, n_samples: int) -> tuple[int, int]:
        """Return the number of samples for fitting and for choosing.

        Raises
        ------
        ValueError
            If the share is not above 0 and at most 1, or if a part has fewer than `LEAST` samples.
        """
        if not 0 < self.fit_share <= 1:
            raise ValueError(f"fit_share is {self.fit_share:g}; expected a number above 0 and at most 1")
        if self.fit_share == 1:
            return n_samples, n_samples
        fit = round(self.fit_share * n_samples)
        if min(fit, n_samples - fit) < LEAST:
            raise ValueError(
                f"fit_share is {self.fit_share:g}, so that {fit} of {n_samples} validation samples are for fitting and "
                f"{n_samples - fit} for choosing thresholds; expected at least {LEAST} each, or fit_share 1 to use all "
                "for both"
            )
        return fit, n_samples - fit

    def parts(self, record: ExitRecord) -> tuple[ExitRecord, ExitRecord]:
        """Return the part of a validation record on which policies are fitted, and that on which thresholds are chosen.

        Raises ValueError as `sizes` does.
        """
        self.sizes(record.n_samples)
        return (record, record) if self.fit_share == 1 else split_record(record, self.fit_share, self.seed)


def strata(record: ExitRecord) -> np.ndarray:
    """Return the labels (N,), or zeros if answers have qualities, which are not classes."""
    record.needed_correct("a stratified split")
    return np.zeros(record.n_samples, np.int64) if record.labels is None else record.labels


def stratified_order(labels: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return a random order of samples, in which every prefix has about the same proportions of classes.

    Parameters
    ----------
    labels : ndarray of shape (N,)
    random : Generator

    Returns
    -------
    ndarray of shape (N,), int64
        Positions of the samples.
    """
    order = random.permutation(len(labels))
    import pandas as pd

    of_class = pd.Series(order).groupby(labels[order])
    place = (of_class.cumcount() + random.random(len(labels))) / of_class.transform("size")  # 0 to 1, even per class
    return order[np.argsort(place.to_numpy())]
