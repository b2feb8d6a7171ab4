"""Records of the same samples: samples in one order, and the same numbers for the same classes."""

import warnings
from collections.abc import Sequence

import numpy as np

from offramp.records.record import ExitRecord

ENOUGH = 400  # samples from which on it can be seen whether models err on the same ones
UNRELATED = 2  # standard deviations above independence; models on the same samples reach tens of them


def same_samples(records: Sequence[ExitRecord], names: Sequence[str], who: str) -> list[ExitRecord]:
    """Bring the samples of all records into the order of the first one, by their index.

    If records have different names of classes (`metadata["names"]`), these are put together, and classes renumbered.

    Parameters
    ----------
    records : sequence of ExitRecord
    names : sequence of str
        Names of the records, for messages.
    who : str
        What needs the same samples, for messages.

    Returns
    -------
    list of ExitRecord

    Raises
    ------
    ValueError
        If the records have different samples or labels, if only some have labels or names of classes, or if the
        classes of logits would have to be renumbered.

    Warns
    -----
    UserWarning
        If records were imported without an index, so that the order of their samples cannot be verified; or if the
        order looks wrong, because models do not err on the same samples more often than at random.
    """
    joined = _same_classes(records, names, who)
    first, unverified = joined[0], []
    for k, name in enumerate(names):
        record = joined[k] = _in_order(joined[k], first, f"{who}: {name}", names[0])
        _check_labels(record, first, f"{who}: {name}", names[0])
        if k == 0 or (_has_index(record) and _has_index(first)):
            continue
        if _looks_unrelated(record, first):
            warnings.warn(
                f"{who}: {name} and {names[0]} err on different samples, as if their samples were not in the same "
                "order, and have no index to tell; make both with an index",
                stacklevel=4,
            )
        elif "source" in record.metadata:
            unverified.append(name)
    if unverified:
        warnings.warn(
            f"{who}: {', '.join(unverified)} and {names[0]} were imported without an index, so it is not verified that "
            "their samples are in the same order",
            stacklevel=4,
        )
    return joined


def concatenated(records: Sequence[ExitRecord]) -> ExitRecord:
    """Return the samples of records of one system, one after another, with the metadata of the first record.

    Costs are stored per sample where the records have different ones.
    """
    first = records[0]
    fields = {name: np.concatenate([its.by_sample[name] for its in records]) for name in first.by_sample}
    costs = [its.costs for its in records]  # (L,) or (N, L) each
    shared = all(np.array_equal(cost, first.cost) for cost in costs)
    rows = [np.broadcast_to(cost, (len(its), its.n_exits)) for cost, its in zip(costs, records)]
    return first.replace(
        **fields | {"cost": first.cost if shared else np.concatenate(rows)},
        confidence={name: np.concatenate([its.measure(name) for its in records]) for name in first.measures},  # (N, L)
        logits=(lambda: np.concatenate([its.logits for its in records]))
        if all(its.has_logits for its in records)
        else None,
    )


def _same_classes(records: Sequence[ExitRecord], names: Sequence[str], who: str) -> list[ExitRecord]:
    classes = [record.metadata.get("names") for record in records]
    if all(its == classes[0] for its in classes):
        return list(records)
    if None in classes:
        one, other = names[classes.index(None)], names[next(k for k, its in enumerate(classes) if its is not None)]
        raise ValueError(f"{who}: {one} has no names of classes, {other} has; expected them in all or in none")
    if any(record.n_classes is not None for record in records):
        raise ValueError(
            f"{who}: the records have different names of classes; import them with the same ones (--names)"
        )
    together = sorted({name for its in classes for name in its})
    return [_renumbered(record, together) for record in records]


def _renumbered(record: ExitRecord, names: list) -> ExitRecord:
    numbers = np.array([names.index(name) for name in record.metadata["names"]])  # of our classes among all
    classes = {name: numbers[record.by_sample[name]] for name in ("prediction", "labels") if name in record.by_sample}
    return record.replace(**classes, metadata={**record.metadata, "names": names})


def _in_order(record: ExitRecord, first: ExitRecord, name: str, other: str) -> ExitRecord:
    if np.array_equal(record.index, first.index):
        return record
    common = len(np.intersect1d(record.index, first.index))
    if not common == record.n_samples == first.n_samples:
        raise ValueError(
            f"{name} has {record.n_samples} samples, {other} has {first.n_samples}, of which {common} have the same "
            "index; expected the same samples"
        )
    return record.take(np.argsort(record.index)[np.argsort(np.argsort(first.index))])


def _check_labels(record: ExitRecord, first: ExitRecord, name: str, other: str) -> None:
    if (record.labels is None) != (first.labels is None):
        raise ValueError(
            f"{name} has {'no labels' if record.labels is None else 'labels'}, {other} has "
            f"{'none' if first.labels is None else 'some'}; expected labels in all records or in none"
        )
    if record.labels is None or first.labels is None or not len(wrong := np.flatnonzero(record.labels != first.labels)):
        return
    n = wrong[0]
    order = "" if _has_index(record) and _has_index(first) else " in the same order, or an index in both"
    raise ValueError(
        f"{name} has {record.labels[n]} as label of sample {first.index[n]}, {other} has {first.labels[n]} "
        f"({len(wrong)} of {len(record)} labels differ); expected the same samples{order}"
    )


def _has_index(record: ExitRecord) -> bool:
    """Whether the index identifies the samples. Without one, it is the position in the file."""
    if "source" in record.metadata:  # imported
        return "index" in record.metadata
    return not np.array_equal(record.index, np.arange(record.n_samples))


def _looks_unrelated(one: ExitRecord, other: ExitRecord) -> bool:
    """Whether the last exits are right about the same samples no more often than at random, given the labels."""
    if one.labels is None:
        return False
    a, b = one.correct[:, -1], other.correct[:, -1]  # (N,) each
    place = np.unique(one.labels, return_inverse=True)[1]  # (N,)
    n, n_a, n_b, n_both = (np.bincount(place, weights) for weights in (None, a, b, a & b))  # (classes,) each
    variance = n_a * n_b * (n - n_a) * (n - n_b) / (n**2 * np.maximum(n - 1, 1))  # hypergeometric distribution
    if n[variance > 0].sum() < ENOUGH:
        return False
    return bool((n_both - n_a * n_b / n).sum() < UNRELATED * np.sqrt(variance.sum()))
