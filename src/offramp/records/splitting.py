"""Parts of a record that have the classes in the same shares."""

import numpy as np

from offramp.records.record import ExitRecord


def split_record(record: ExitRecord, share: float, seed: int = 0) -> tuple[ExitRecord, ExitRecord]:
    """Two records of the samples of one, drawn at random, with the classes in about the same shares.

    Parameters
    ----------
    record : ExitRecord
        With labels.
    share : float
        Of the samples that go to the first part, between 0 and 1. Each part has at least one sample.
    seed : int
        Of the draw.

    Returns
    -------
    first, second : ExitRecord
        Samples keep their order.

    Raises
    ------
    ValueError
        If the share is not between 0 and 1, or the record has a single sample.
    """
    if not 0 < share < 1:
        raise ValueError(f"split_record: share is {share}; expected a number between 0 and 1")
    n = record.n_samples
    if n < 2:
        raise ValueError("split_record: the record has one sample; expected at least two")
    size = min(max(round(share * n), 1), n - 1)
    order = stratified_order(record.labels, np.random.default_rng(seed))  # (N,)
    return record.take(np.sort(order[:size])), record.take(np.sort(order[size:]))


def stratified_order(labels: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A random order (N,) of samples of which every beginning has the classes in about their shares."""
    order = random.permutation(len(labels))
    import pandas as pd

    of_class = pd.Series(order).groupby(labels[order])
    place = (of_class.cumcount() + random.random(len(labels))) / of_class.transform("size")  # 0 … 1, even in each class
    return order[np.argsort(place.to_numpy())]
