"""Cascades of separate models, as one exit record."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from offramp.confidence import MEASURES
from offramp.records import ExitRecord

Ensemble = Literal["mean_probability", "mean_logit", "geometric"]


def cascade(records: Sequence[ExitRecord], ensemble: Ensemble | None = None) -> ExitRecord:
    """The cascade that runs the systems one after another until one is sure enough.

    Every system that ran is paid for, so costs add up: after the last exit of one stage the first of the next
    costs the sum of both. Confidences stay those of the running system.

    Parameters
    ----------
    records : sequence of ExitRecord
        The stages in order, on the same samples (equal `index` and `labels`); each may have several exits.
    ensemble : None, "mean_probability", "mean_logit" or "geometric"
        None: the running system's own answer. Else the answer of an exit is that of all systems so far, each by
        its latest exit: the mean of their probabilities, of their logits, or of their log-probabilities (the
        geometric mean; the last two differ by a constant a sample, so their answers agree). Needs logits.

    Raises
    ------
    ValueError
        If the stages have other samples, labels or classes, or lack what the ensemble needs.
    """
    if not records:
        raise ValueError("cascade: expected at least one record")
    first = records[0]
    for k, record in enumerate(records[1:], start=2):
        units = record.metadata.get("unit"), first.metadata.get("unit")
        if None not in units and units[0] != units[1]:
            raise ValueError(f"cascade: stage {k} costs {units[0]}, stage 1 {units[1]}; expected one unit")
        for field in ("index", "labels"):
            if not np.array_equal(getattr(record, field), getattr(first, field)):
                raise ValueError(
                    f"cascade: stage {k} has another {field} than stage 1; expected the same samples in order"
                )
        if None not in (record.n_classes, first.n_classes) and record.n_classes != first.n_classes:
            raise ValueError(f"cascade: stage {k} has {record.n_classes} classes, stage 1 has {first.n_classes}")
    paid, costs = 0.0, []
    for record in records:
        own = record.cost if record.sample_cost is None else record.sample_cost  # (L,) or (N, L)
        costs.append(paid + own)
        paid = costs[-1][..., -1:]
    if any(cost.ndim == 2 for cost in costs):
        costs = [np.broadcast_to(cost, (first.n_samples, cost.shape[-1])) for cost in costs]
    measures = [m for m in MEASURES if all(m in record.measures for record in records)]
    if not measures:
        raise ValueError("cascade: the stages have no confidence measure in common")
    return ExitRecord.from_outputs(
        prediction=_predictions(records, ensemble),
        confidence={m: np.hstack([record.measure(m) for record in records]) for m in measures},
        labels=first.labels,
        cost=np.concatenate(costs, axis=-1),
        index=first.index,
        metadata={
            **{
                key: first.metadata[key]
                for key in ("dataset", "split", "classes", "unit", "metric")
                if key in first.metadata
            },
            "system": " + ".join(
                str(record.metadata.get("system", f"stage {k + 1}")) for k, record in enumerate(records)
            ),
            "ensemble": ensemble,
        },
    )


def _predictions(records: Sequence[ExitRecord], ensemble: Ensemble | None) -> np.ndarray:  # (N, L)
    if ensemble is None:
        return np.hstack([record.prediction for record in records])
    if ensemble not in _SCORES:
        raise ValueError(f"cascade: ensemble is {ensemble!r}; expected None or one of {', '.join(_SCORES)}")
    total, columns = 0.0, []
    for k, record in enumerate(records, start=1):
        if record.logits is None:
            raise ValueError(f"cascade: ensemble={ensemble!r} needs logits, but stage {k} has none")
        for i in range(record.n_exits):
            score = _SCORES[ensemble](record.logits[:, i].astype(np.float64))  # (N, C)
            columns.append((total + score).argmax(axis=1))
        total = total + score
    return np.stack(columns, axis=1)


def _log_softmax(logits: np.ndarray) -> np.ndarray:  # (N, C)
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


_SCORES = {
    "mean_probability": lambda logits: np.exp(_log_softmax(logits)),
    "mean_logit": lambda logits: logits,
    "geometric": _log_softmax,
}
