"""Random records, signals and thresholds with difficult cases: ties, single samples and exits, extreme values."""

import math
from dataclasses import dataclass

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from offramp import ExitRecord, Policy

quick = settings(deadline=None)
# For properties that are tried on each of the many policies, most of whose code is shared
each_policy = settings(quick, max_examples=quick.max_examples // 5)

TINY, MAX = np.finfo(np.float64).smallest_subnormal, np.finfo(np.float64).max
EDGES = [0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0, float(np.nextafter(np.float32(0.5), np.float32(1)))]
EXTREMES = [-np.inf, np.inf, 0.0, -0.0, TINY, -TINY, MAX, -MAX, 1.0, 0.5]


@dataclass
class Given(Policy):
    """A policy whose signal, fallback and answers are given by the test."""

    name = "given"
    rule = "as given"
    paper = "none"

    @property
    def answers_together(self):
        return self.own is not None

    def _begin(self, stream):
        given = {"values": self.values, "own": self.own}
        rows = slice(stream.first, stream.first + stream.n)
        stream.past |= {name: array[rows] for name, array in given.items() if array is not None}

    def _step(self, outputs, stream):
        if self.answers_together:
            stream.prediction = stream.past["own"][:, stream.exit]
        return stream.past["values"][:, stream.exit]

    def fallback(self, record, signal):
        return self.answers


def given_signal(values, answers=None, own=None) -> Given:
    policy = Given()
    policy.values, policy.answers, policy.own = np.asarray(values, np.float64), answers, own
    return policy


def few(values, size: int = 4):
    """A small pool of values, so that most samples are tied."""
    return st.lists(values, min_size=1, max_size=size)


@st.composite
def records(
    draw,
    samples=(1, 8),
    exits=(1, 4),
    classes=(2, 4),
    measures=("max_softmax", "margin", "entropy"),
    sample_costs=False,
    metrics=("accuracy",),
    unlabelled=False,
):
    """Draw a record.

    With `sample_costs`, each sample may have its own costs. `metrics` are used for records with two classes. With
    `unlabelled`, labels may be missing.
    """
    n, l, c = (draw(st.integers(*bounds)) for bounds in (samples, exits, classes))
    pool = draw(few(st.sampled_from(EDGES) | st.floats(0, 1, width=32)))
    values = arrays(np.float32, (n, l), elements=st.sampled_from(pool))
    confidence = {m: draw(values) * np.float32(np.log(2) if m == "entropy" else 1) for m in measures}
    each = sample_costs and draw(st.booleans())
    steps = draw(arrays(np.float64, (n, l) if each else l, elements=st.integers(1, 9)))
    metric = draw(st.sampled_from(metrics)) if c == 2 else "accuracy"
    labels = None if unlabelled and draw(st.booleans()) else draw(arrays(np.int64, n, elements=st.integers(0, c - 1)))
    return ExitRecord.from_outputs(
        prediction=draw(arrays(np.int64, (n, l), elements=st.integers(0, c - 1))),
        confidence=confidence,
        labels=labels,
        cost=np.cumsum(steps, axis=-1),
        metadata={"classes": c} | ({} if metric == "accuracy" else {"metric": metric}),
    )


def without_labels(record: ExitRecord) -> ExitRecord:
    return ExitRecord.from_outputs(
        record.prediction,
        {measure: record.measure(measure) for measure in record.measures},
        None,
        record.cost if record.sample_cost is None else record.sample_cost,
        record.index,
        record.metadata,
        logits=(lambda: record.logits) if record.has_logits else None,
    )


@st.composite
def signals(draw, shape):
    pool = draw(few(st.sampled_from(EXTREMES + EDGES) | st.floats(allow_nan=False)))
    return draw(arrays(np.float64, shape, elements=st.sampled_from(pool)))


def thresholds(values):
    """Draw one threshold: any number, a signal value or its neighbours, or ±∞."""
    near = [t for v in np.unique(values) for t in (v, math.nextafter(v, -np.inf), math.nextafter(v, np.inf))]
    return st.sampled_from([*near, -np.inf, np.inf]) | st.floats(allow_nan=False)
