"""Streams whose corruption grows: accuracy, cost and alarms of a static policy and of online policies over time."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from offramp.comparison.runs import Run
from offramp.comparison.shift import Corrupted
from offramp.online import ConfidenceAlarm, Online, RiskAlarm, drift, run_stream
from offramp.policies import PCEE, Policy
from offramp.records import ExitRecord

BLOCKS = 6  # of each severity, over which results are averaged
WINDOW = {"size": 200}
# What is compared, by its label in files: the method, its options and what it learns from
VARIANTS: dict[str, tuple[str, dict[str, Any], str]] = {
    "static": ("static", {}, "labels"),
    "window": ("window", WINDOW, "labels"),
    "discount": ("discount", {"half_life": 100}, "labels"),
    "platt": ("platt", {}, "labels"),
    "aci": ("aci", {}, "labels"),
    "window-audited": ("window", WINDOW, "audited"),
    "window-last-exit": ("window", WINDOW, "last_exit"),
}


def under_drift(
    runs: Sequence[Run],
    corrupted: Corrupted,
    target: float,
    *,
    orders: int = 2,
    delay: int = 20,
    audit: float = 0.2,
    batch: int = 20,
    false_alarms: float = 0.05,
) -> pd.DataFrame:
    """Run a static policy and online ones over streams of test samples whose corruption grows.

    A stream goes through the clean test samples and then the corrupted ones by severity, with an equal share of the
    samples for each, in random order; each sample occurs once (see `online.drift`). The policy is the first PCEE of the
    runs that is fitted on all samples, with the target accuracy as its threshold. `VARIANTS` lists how it learns.

    There are two alarms: "confidence" tests, without labels, whether the confidences of the first exit are those of the
    validation samples (for the static policy only, because they are the same for all); "risk" tests, with the labels,
    whether the error of the answers is above 1 − target.

    Parameters
    ----------
    runs : sequence of Run
    corrupted : mapping of (str, int) to list of ExitRecord
        By kind and severity: the test record of each run, in the order of its samples (see `load_shifted_runs`).
    target : float
        Target accuracy.
    orders : int
        Number of random orders of the samples, which are the same for all runs.
    delay : int
        Number of samples that are answered between a sample and its label.
    audit : float
        Share of samples that run to the last exit in any case, for "audited" and "last_exit".
    batch : int
        Number of samples that are answered at once.
    false_alarms : float
        Highest probability of ever raising a false alarm, for each alarm.

    Returns
    -------
    DataFrame
        One row per system, seed, corruption, order, method (a key of `VARIANTS`) and block of samples, with the
        columns target, severity, sample (the last one of the block, from 1), samples (their number), accuracy,
        full_accuracy (of the last exit), cost (as a share of that of the full model), alarm_confidence and alarm_risk
        (the sample at which the alarm was raised in this stream, from 1; NaN if it was not).

    Raises
    ------
    ValueError
        If an option is out of range, if a run has no PCEE that is fitted on all samples, or if there are too few test
        samples.
    """
    if not 0 < target < 1:
        raise ValueError(f"drift: target is {target!r}; expected an accuracy between 0 and 1")
    rows = []
    for place, run in enumerate(runs):
        policy = _followed(run)
        for kind in dict.fromkeys(kind for kind, _ in corrupted):
            tests = {severity: its[place] for (other, severity), its in corrupted.items() if other == kind}
            for order in range(orders):
                stream = drift({0: run.test, **tests}, seed=order)
                for label, (method, options, source) in VARIANTS.items():
                    alarms = {"risk": RiskAlarm(1 - target, false_alarms)}
                    if label == "static":
                        its = ConfidenceAlarm(run.validation, false_alarms, score=policy.score, seed=order)
                        alarms["confidence"] = its
                    learns = {"source": source, "audit": 0.0 if source == "labels" else audit, **options}
                    online = Online(policy, target, run.fitting, method, alarms=alarms, seed=order, **learns)
                    table = run_stream(online, stream, delay=delay, batch=batch, seed=order)
                    about = {"system": run.system, "seed": run.seed, "corruption": kind, "order": order}
                    rows.append(_in_blocks(table, stream, {**about, "method": label, "target": target}))
    return pd.concat(rows, ignore_index=True)


def _followed(run: Run) -> PCEE:
    for policy in run.policies.values():
        if _follows(policy):
            return policy
    raise ValueError(
        f"{run.system} seed {run.seed}: no policy pcee with fit_on=all, which online policies update; fit one "
        "(offramp calibrate --policy pcee)"
    )


def _follows(policy: Policy) -> bool:
    return isinstance(policy, PCEE) and policy.fit_on == "all"


def _in_blocks(table: pd.DataFrame, stream: ExitRecord, about: Mapping[str, Any]) -> pd.DataFrame:
    """Average what `run_stream` returned over blocks of samples."""
    n = stream.n_samples
    lengths = [length for _, length in stream.metadata["drift"]]
    block = np.concatenate([k * BLOCKS + np.arange(each) * BLOCKS // each for k, each in enumerate(lengths)])  # (N,)
    full = stream.cost_of(np.full(n, stream.n_exits - 1))  # (N,)
    table = table.assign(full_accuracy=stream.correct[:, -1], full=full)
    groups = table.groupby(block)
    blocks = groups.agg(
        severity=("severity", "first"),
        sample=("sample", "last"),
        samples=("sample", "size"),
        accuracy=("correct", "mean"),
        full_accuracy=("full_accuracy", "mean"),
    )
    blocks["cost"] = groups["cost"].sum() / groups["full"].sum()
    for name in ("confidence", "risk"):
        raised = np.flatnonzero(table.get(f"raised_{name}", np.zeros(n, bool)))
        blocks[f"alarm_{name}"] = float(raised[0]) + 1 if len(raised) else np.nan
    for place, (name, value) in enumerate(about.items()):
        blocks.insert(place, name, value)
    return blocks
