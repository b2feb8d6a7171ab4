"""Streams: records whose distribution changes, and what an online policy does on a record in order."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from offramp.online.online import Online
from offramp.records import ExitRecord
from offramp.records.joining import concatenated, same_samples

if TYPE_CHECKING:
    import pandas as pd


def run_stream(
    online: Online,
    record: ExitRecord,
    *,
    delay: int | np.ndarray = 0,
    labelled: float = 1.0,
    batch: int = 1,
    seed: int = 0,
) -> "pd.DataFrame":
    """Let an online policy answer the samples of a record in order, and give it the labels of the record later.

    Parameters
    ----------
    online : Online
        It learns and remembers the samples.
    record : ExitRecord
        With labels, unless the policy learns from the last exit.
    delay : int or ndarray of shape (N,)
        Number of samples that are answered between a sample and its label, for all samples or for each.
    labelled : float
        Share of samples, chosen at random, whose labels come. With source="audited", share of the audited ones.
    batch : int
        Number of samples that are answered at once, before further labels are given.
    seed : int
        Seed of the choice of labelled samples.

    Returns
    -------
    DataFrame
        One row per sample, with the columns sample (from 1), index, severity (of records of `drift`), exit (from 1),
        prediction, correct (missing without labels), signal, cost, audited, threshold (if it is shared by all exits)
        and, for each alarm NAME, evidence_NAME (see `Alarm.evidence`) and raised_NAME.

    Raises
    ------
    ValueError
        As for `Online.decide`, or if an option is out of range.
    """
    import pandas as pd

    n = record.n_samples
    delays = np.asarray(delay)
    if delays.dtype.kind not in "iu" or delays.shape not in ((), (n,)) or (delays < 0).any():
        raise ValueError(f"run_stream: delay: expected a whole number from 0, or one for each of the {n} samples")
    if not 0 <= labelled <= 1:
        raise ValueError(f"run_stream: labelled is {labelled!r}; expected a share from 0 to 1")
    if not isinstance(batch, int) or batch < 1:
        raise ValueError(f"run_stream: batch is {batch!r}; expected a whole number from 1")
    gives = online.source != "last_exit" and labelled > 0
    labels = record.needed_labels("run_stream, which gives labels as feedback,") if gives else record.labels
    chosen = np.random.default_rng(seed).random(n) < labelled  # (N,)
    due = np.arange(n) + delays  # (N,): the sample after which the label comes
    order = np.argsort(due, kind="stable")  # (N,)
    starts = np.searchsorted(due[order], np.arange(0, n, batch))  # labels that are known when a batch begins
    parts, known, audited = [], 0, np.zeros(n, bool)
    for first, now in zip(range(0, n, batch), starts.tolist()):
        if gives and labels is not None and now > known:
            those = order[known:now]  # (k,)
            those = those[chosen[those]]
            if online.source == "audited":
                those = those[audited[those]]
            online.feedback(record.index[those], labels[those])
        known = now
        rows = np.arange(first, min(first + batch, n))
        parts.append(_decided(online, record, rows))
        audited[rows] = parts[-1]["audited"]
    table = {"sample": np.arange(1, n + 1), "index": record.index}
    severities, lengths = zip(*record.metadata.get("drift", [(0, 0)]))
    if sum(lengths) == n:  # not a part of such a record
        table["severity"] = np.repeat(severities, lengths)
    table |= {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    table["exit"] += 1
    if labels is not None:
        table["correct"] = table["prediction"] == labels
    return pd.DataFrame(table)


def _decided(online: Online, record: ExitRecord, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Decide on some samples. Return the columns of the table (n,)."""
    threshold = online.threshold
    answers = online.decide(record, rows=rows)
    names = ("exit", "prediction", "signal", "cost", "audited")
    columns = {name: getattr(answers, name) for name in names}
    if threshold.ndim == 0:
        columns["threshold"] = np.full(len(rows), threshold)
    for name, alarm in online.alarms.items():
        columns[f"evidence_{name}"] = np.full(len(rows), alarm.evidence)
        columns[f"raised_{name}"] = np.full(len(rows), alarm.raised)
    return columns


def shifted(
    record: ExitRecord,
    *,
    frequencies: Sequence[float] | None = None,
    severity: float | None = None,
    seed: int = 0,
) -> ExitRecord:
    """Draw samples of a record so that classes have other frequencies, in random order and without repetition.

    Parameters
    ----------
    record : ExitRecord
        With labels.
    frequencies : sequence of C floats, optional
        Frequency of each class, which are divided by their sum. A class of frequency 0 is left out.
    severity : float, optional
        Alternatively, the classes are put in a random order, and each frequency of the record is multiplied by a factor
        that falls geometrically along this order from 1 to 2 to the power of −severity. At 0, nothing changes; at 5,
        the odds between the first and the last class change by a factor of 32.
    seed : int
        Seed of the order of classes and of the samples.

    Returns
    -------
    ExitRecord
        As many samples as have these frequencies, rounded down for each class.

    Raises
    ------
    ValueError
        If the record has no labels, if both or none of the options are given, or if a frequency is negative, or that of
        a class without samples.
    """
    labels = record.needed_labels("a shift of class frequencies")  # (N,)
    if (frequencies is None) == (severity is None):
        raise ValueError("shifted: expected either frequencies or severity")
    count = np.bincount(labels, minlength=record.n_classes or 0)  # (C,)
    random = np.random.default_rng(seed)
    if severity is not None:
        if not 0 <= severity < np.inf:
            raise ValueError(f"shifted: severity is {severity!r}; expected a number from 0")
        place = random.permutation(len(count)) / max(len(count) - 1, 1)  # (C,): 0 to 1
        wanted = count * 0.5 ** (severity * place)
    else:
        wanted = np.asarray(frequencies, np.float64)
        if wanted.shape != count.shape or not (wanted >= 0).all() or not 0 < wanted.sum() < np.inf:
            raise ValueError(
                f"shifted: frequencies: expected {len(count)} numbers from 0, one for each class, not all 0; "
                f"got {np.asarray(frequencies).tolist()}"
            )
        if len(absent := np.flatnonzero((wanted > 0) & (count == 0))):
            raise ValueError(f"shifted: class {absent[0]} has no samples; expected a frequency of 0")
    wanted = wanted / wanted.sum()
    there = wanted > 0
    most = (count[there] / wanted[there]).min()  # the number of samples in all
    taken = np.floor(most * wanted + 1e-9).astype(np.int64)  # (C,)
    order = random.permutation(record.n_samples)
    rank = np.empty(record.n_samples, np.int64)  # of each sample among those of its class, in this order
    for label in range(len(count)):
        its = order[labels[order] == label]
        rank[its] = np.arange(len(its))
    rows = order[rank[order] < taken[labels[order]]]
    if not len(rows):
        raise ValueError(f"shifted: {record.n_samples} samples are too few for these frequencies")
    return record.take(rows)


def drift(records: Mapping[float, ExitRecord], *, shares: Sequence[float] | None = None, seed: int = 0) -> ExitRecord:
    """Make a stream of growing severity from records of the same samples, each sample being used once.

    Parameters
    ----------
    records : mapping of float to ExitRecord
        Records of the same samples by severity, for example {0: clean, 1: weak, 2: strong}. The stream goes through
        them in this order.
    shares : sequence of float, optional
        Share of the samples at each severity, which are divided by their sum. Default: equal shares.
    seed : int
        Seed of the random order of the samples.

    Returns
    -------
    ExitRecord
        `metadata["drift"]` lists each severity with its number of samples.

    Raises
    ------
    ValueError
        If the records have different samples, labels, exits, classes or confidence measures, or if there is no sample
        for a severity.
    """
    if not records:
        raise ValueError("drift: expected at least one record")
    names = [f"severity {severity:g}" for severity in records]
    joined = same_samples(list(records.values()), names, "drift")
    first = joined[0]
    for name, its in zip(names, joined):
        for what in ("n_exits", "n_classes", "measures", "has_logits"):
            if (value := getattr(its, what)) != (expected := getattr(first, what)):
                raise ValueError(f"drift: {name} has {what} {value}, {names[0]} has {expected}; expected the same")
    weight = np.ones(len(joined)) if shares is None else np.asarray(shares, np.float64)
    if weight.shape != (len(joined),) or not (weight > 0).all():
        raise ValueError(f"drift: shares: expected {len(joined)} numbers above 0, one for each severity")
    ends = np.round(np.cumsum(weight) / weight.sum() * len(first)).astype(np.int64)
    order = np.random.default_rng(seed).permutation(len(first))
    parts = np.split(order, ends[:-1])
    if not all(map(len, parts)):
        raise ValueError(f"drift: {len(first)} samples are too few for {len(parts)} severities with these shares")
    lengths = [[float(severity), len(rows)] for severity, rows in zip(records, parts)]
    stream = concatenated([its.take(rows) for its, rows in zip(joined, parts)])
    return stream.replace(metadata=first.metadata | {"drift": lengths})
