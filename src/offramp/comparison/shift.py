"""What happens to the promises of policies under a shift of the data, while models and thresholds stay the same."""

import os
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from offramp import policies, records
from offramp._io.arrays import open_arrays
from offramp.calibration import bin_of
from offramp.certification import TooFewSamples, certify
from offramp.comparison.bootstrap import Bootstrap
from offramp.comparison.runs import Run, by_system, load_runs
from offramp.evaluation import frontier, outcomes, threshold_on
from offramp.online import shifted
from offramp.policies import Policy
from offramp.records import ExitRecord
from offramp.records.joining import same_samples
from offramp.records.origin import system_of

Corrupted = dict[tuple[str, int], list[ExitRecord]]  # by kind and severity: the test record of each run


def load_shifted_runs(
    paths: Iterable[str | os.PathLike], *, needs_corrupted: bool = True
) -> tuple[list[Run], Corrupted]:
    """Load the files of runs, as `load_runs`, and records of their test samples with corrupted inputs.

    Raises
    ------
    ValueError
        As for `load_runs`; or if records of corrupted samples are needed and there is none, or if there is not exactly
        one per run, kind and severity; or if it is not a test record, or has other samples.
    """
    clean, found = [], {}
    for path in paths:
        _, _, about = open_arrays(path, records.FORMAT, policies.FORMAT)
        if "corruption" not in about:
            clean.append(path)
            continue
        if about.get("split") != "test":
            raise ValueError(f"{path}: its samples are corrupted, and its split is {about.get('split')}; expected test")
        key = about["corruption"]["kind"], about["corruption"]["severity"]
        run = system_of(about, Path(path)), about.get("seed", 0)
        if run in (files := found.setdefault(key, {})):
            raise ValueError(f"{path}: {_name(key, run)}, as {files[run]}; expected one")
        files[run] = path
    if not found and needs_corrupted:
        raise ValueError("no record of corrupted samples among the files; make some (offramp record --corruption)")
    runs = load_runs(clean)
    known = {(run.system, run.seed) for run in runs}
    corrupted: Corrupted = {}
    for key, files in sorted(found.items()):
        if unknown := [run for run in files if run not in known]:
            raise ValueError(f"{files[unknown[0]]}: no other files of {unknown[0][0]} seed {unknown[0][1]}")
        for run in runs:
            name = run.system, run.seed
            if name not in files:
                raise ValueError(f"no record of {_name(key, name)}; expected the same corruptions of all runs")
            pair = [run.test, ExitRecord.load(files[name])]
            corrupted.setdefault(key, []).append(same_samples(pair, [run.name("test"), str(files[name])], "shift")[1])
    return runs, corrupted


def _name(key: tuple[str, int], run: tuple[str, int]) -> str:
    return f"{run[0]} seed {run[1]} with {key[0]} of severity {key[1]}"


def of_frequencies(runs: Sequence[Run], severities: Iterable[int]) -> Corrupted:
    """Draw some of the test samples of each run so that classes have other frequencies (see `online.shifted`).

    All runs that have the same labels keep the same samples.

    Raises
    ------
    ValueError
        As for `online.shifted`.
    """
    return {
        ("class-frequencies", severity): [shifted(run.test, severity=severity) for run in runs]
        for severity in severities
    }


def under_shift(
    runs: Sequence[Run],
    corrupted: Corrupted,
    targets: Sequence[float],
    bootstrap: Bootstrap,
    *,
    level: float = 0.02,
    confidence: float = 0.9,
    bins: int = 15,
) -> pd.DataFrame:
    """Measure what thresholds that were fixed on clean validation data do on corrupted test data.

    The column `choice` states the promise. "direct": the threshold is the target accuracy, for policies whose signal is
    an estimated accuracy. "validation": it is the cheapest threshold that reaches the target on validation data.
    "certified": the policy is fitted on one half of the validation samples, and the other half certifies that its gap
    (error minus that of the last exit) is at most `level` (see `certify`). Results are means over the targets.

    Parameters
    ----------
    runs : sequence of Run
    corrupted : mapping of (str, int) to list of ExitRecord
        By kind and severity: the test record of each run, in the order of its samples (see `load_shifted_runs`), or
        other samples of its, the same for all runs (`of_frequencies`). Then the interval of `rise` is not paired.
    targets : sequence of float
        Target accuracies.
    bootstrap : Bootstrap
    level, confidence : float
        Of the certified thresholds.
    bins : int
        Number of bins of the calibration error.

    Returns
    -------
    DataFrame
        One row per system, corruption, severity (0: clean), policy and choice, with full_accuracy and full_error (of
        the last exit), level (for "certified"), and with _sd, _low, _high: accuracy; error (mean |accuracy − target|,
        not for "certified"); rise (of this error, over that on clean samples); gap; cost (as a share of the cost of the
        full model); speedup (1 / cost); calibration (calibration error of the signal, mean over exits, for policies
        whose signal is an estimated accuracy).

    Warns
    -----
    UserWarning
        If no threshold of a policy is certified, with the reason (if there are too few samples, how many are needed).
        There are no rows for "certified" then.
    """
    kinds = dict.fromkeys(kind for kind, _ in corrupted)
    goals = np.array(targets)[:, None]  # (T, 1)

    @cache
    def of_size(n: int) -> Bootstrap:
        resamples, size = bootstrap.counts.shape
        return bootstrap if n == size else Bootstrap.draw(n, resamples, bootstrap.seed)

    rows = []
    for system, group in by_system(runs).items():
        places = [place for place, run in enumerate(runs) if run.system == system]
        of_severity = {key: [tests[place] for place in places] for key, tests in corrupted.items()}
        of_severity = {**{(kind, 0): [run.test for run in group] for kind in kinds}, **of_severity}
        for label, first in group[0].policies.items():
            promises = [_promises(run, label, targets, level, confidence) for run in group]  # S
            clean_error: dict[str, np.ndarray] = {}  # (S, 1 + B) by choice
            for (kind, severity), tests in of_severity.items():
                resampled = of_size(tests[0].n_samples)
                full = np.stack([resampled.with_means(test.correct[:, -1]) for test in tests])  # (S, 1 + B)
                about = {"system": system, "corruption": kind, "severity": severity, "policy": label}
                about |= {"full_accuracy": full[:, 0].mean(), "full_error": np.abs(full[:, 0] - goals).mean()}
                calibration = None
                if first.claims_accuracy:
                    each = [
                        _calibration_error(run.policies[label], test, bins, resampled)
                        for run, test in zip(group, tests)
                    ]
                    calibration = np.stack(each)  # (S, 1 + B)
                for choice in promises[0]:
                    if not all(choice in its for its in promises):
                        continue
                    right, share = _measure([its[choice] for its in promises], tests, resampled)
                    values = {"accuracy": right.mean(1)}  # (S, 1 + B) each
                    if choice != "certified":
                        error = np.abs(right - goals).mean(1)
                        values |= {"error": error, "rise": error - clean_error.setdefault(choice, error)}
                    values |= {"gap": full - right.mean(1), "cost": share, "speedup": 1 / share}
                    values |= {} if calibration is None else {"calibration": calibration}
                    row = {**about, "choice": choice, "level": level if choice == "certified" else np.nan}
                    for name, value in values.items():
                        distance = name in ("error", "calibration")
                        row |= resampled.summary(name, value[:, 0], value[:, 1:], distance=distance)
                    rows.append(row)
    order = ["system", "corruption", "severity", "policy", "choice"]
    table = pd.DataFrame(rows)
    return table[[*order, *table.columns.difference(order, sort=False)]]


def _promises(
    run: Run, label: str, targets: Sequence[float], level: float, confidence: float
) -> dict[str, tuple[Policy, list[float]]]:
    """Return the policy and its thresholds of each choice. "certified" is left out if there is none."""
    policy = run.policies[label]
    points = frontier(policy, run.choosing)
    promises = {"direct": (policy, list(targets))} if policy.claims_accuracy else {}
    promises["validation"] = policy, [threshold_on(points, accuracy=target) for target in targets]
    other, certifying = policy, run.choosing
    if run.holdout.fit_share == 1:  # a certificate needs samples on which nothing was fitted
        fitting, certifying = run.certified_holdout.parts(run.validation)
        other = replace(policy).fit(fitting)
    try:
        certificate = certify(other, certifying, "gap", level, confidence)
        threshold, why = certificate.threshold, certificate.reason
    except TooFewSamples as error:
        threshold, why = None, error
    if threshold is None:
        warnings.warn(f"{run.system}, {label}: {why}; the table has no certified thresholds of it", stacklevel=2)
        return promises
    return {**promises, "certified": (other, [threshold])}


def _measure(
    chosen: Sequence[tuple[Policy, list[float]]], tests: Sequence[ExitRecord], bootstrap: Bootstrap
) -> tuple[np.ndarray, np.ndarray]:
    """Return accuracies (S, T, 1 + B), and the mean over thresholds of the costs as shares (S, 1 + B)."""
    each = [outcomes(policy, test, thresholds) for (policy, thresholds), test in zip(chosen, tests, strict=True)]
    right = np.stack([bootstrap.with_means(right) for right, _ in each])
    return right, np.stack([bootstrap.shares(cost.mean(0), test) for (_, cost), test in zip(each, tests)])


def _calibration_error(policy: Policy, test: ExitRecord, bins: int, bootstrap: Bootstrap) -> np.ndarray:
    """Return the calibration error of the signal, mean over exits, on all samples and on the resampled ones, (1 + B).

    As `ReliabilityDiagram.ece`, since n_m · |accuracy_m − mean confidence_m| is the absolute sum of the differences in
    bin m.
    """
    from scipy.sparse import coo_array

    signal, correct = policy.signal(test), policy.correct(test)  # (N, L) each
    n, n_exits = signal.shape
    places = bin_of(signal, np.linspace(0, 1, bins + 1)) + bins * np.arange(n_exits)  # (N, L)
    rows = np.repeat(np.arange(n), n_exits)  # (N L,)
    differences = coo_array(((signal - correct).ravel(), (places.ravel(), rows)), shape=(bins * n_exits, n)).tocsr()
    sums = np.column_stack([differences.sum(axis=1), differences @ bootstrap.counts.T])  # (M L, 1 + B)
    return np.abs(sums).sum(0) / (n * n_exits)
