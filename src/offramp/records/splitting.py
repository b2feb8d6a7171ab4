"""Stratified splits of records."""

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
        Samples are in their original order.

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
    order = stratified_order(strata(record), np.random.default_rng(seed))  # (N,)
    return record.take(np.sort(order[:size])), record.take(np.sort(order[size:]))


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
