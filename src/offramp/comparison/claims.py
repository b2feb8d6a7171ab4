"""The claims of the PCEE paper, measured over several runs with intervals."""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from offramp.comparison.bootstrap import Bootstrap, with_interval
from offramp.comparison.runs import Run, by_system, with_unit
from offramp.evaluation import frontier, outcomes, threshold_on
from offramp.records import ExitRecord


def at_targets(runs: Sequence[Run], targets: Sequence[float], bootstrap: Bootstrap) -> pd.DataFrame:
    """Return accuracy and cost of every policy for each target accuracy.

    The column `choice` states how the threshold was chosen. "validation" is the cheapest threshold that reaches the
    target on the samples `Run.choosing`. "direct" is the target itself, for policies whose signal is an estimated
    accuracy.

    Returns
    -------
    DataFrame
        system, policy, choice, target, and accuracy, cost, saving (1 − cost / cost of the full model), each with
        _sd, _low, _high; full_accuracy; unit of the costs, if it is known.
    """
    rows = []
    for system, group in by_system(runs).items():
        full_accuracy = float(np.mean([run.test.correct[:, -1].mean() for run in group]))
        for label, policy in group[0].policies.items():
            chosen = {"direct": [list(targets)] * len(group)} if policy.claims_accuracy else {}
            points = [frontier(run.policies[label], run.choosing) for run in group]
            chosen["validation"] = [[threshold_on(each, accuracy=target) for target in targets] for each in points]
            for choice, thresholds in chosen.items():
                right, cost = _outcomes(group, label, thresholds)  # (T, S, N) each
                for target, hit, paid in zip(targets, right, cost):  # (S, N) each
                    share = np.stack([bootstrap.shares(cost, run.test) for cost, run in zip(paid, group)])  # (S, 1 + B)
                    rows.append(
                        {"system": system, "policy": label, "choice": choice, "target": target}
                        | bootstrap.summary("accuracy", hit.mean(1), bootstrap.means(hit))
                        | bootstrap.summary("cost", paid.mean(1), bootstrap.means(paid))
                        | bootstrap.summary("saving", 1 - share[:, 0], 1 - share[:, 1:])
                        | {"full_accuracy": full_accuracy}
                    )
    return with_unit(pd.DataFrame(rows), runs)


def _outcomes(group: Sequence[Run], label: str, thresholds: Sequence[Sequence[float]]) -> tuple[np.ndarray, np.ndarray]:
    """Return correctness and cost of the test samples of each seed at its thresholds (S, T): (T, S, N) each."""
    each = [outcomes(run.policies[label], run.test, deltas) for run, deltas in zip(group, thresholds, strict=True)]
    return np.stack([right for right, _ in each], axis=1), np.stack([cost for _, cost in each], axis=1)


# The target for the larger network, from the validation record of the full small one
_GOALS = {
    "equal cost": lambda small: {"cost": small.cost[-1]},
    "equal accuracy": lambda small: {"accuracy": small.correct[:, -1].mean()},
}


def pairs(runs: Sequence[Run], pairs: Iterable[tuple[str, str]], bootstrap: Bootstrap) -> pd.DataFrame:
    """Test the first claim of the paper for each pair: a larger network with early exits against a smaller full one.

    The threshold of the larger network is chosen on validation data. For "equal cost", its cost is as close as possible
    to that of the full small model without exceeding it. For "equal accuracy", it is the cheapest threshold with at
    least the accuracy of the full small model. The results are measured on test data.

    Returns
    -------
    DataFrame
        small, large, policy, match; accuracy and cost of the full small model; accuracy and cost of the large
        one with exits; gain (accuracy difference, large − small) and cost_ratio (large / small), each with _sd,
        _low, _high; unit of the costs, if it is known.
    """
    systems = by_system(runs)
    rows = []
    for small, large in pairs:
        for name in (small, large):
            if name not in systems:
                raise ValueError(f"pair {small}, {large}: no run of {name}; the files have {', '.join(systems)}")
        reference = {run.seed: run for run in systems[small]}
        if unmatched := [run.seed for run in systems[large] if run.seed not in reference]:
            raise ValueError(f"pair {small}, {large}: no run of {small} with seed {unmatched[0]}")
        base = np.stack([reference[run.seed].test.correct[:, -1] for run in systems[large]])  # (S, N)
        smalls = [reference[run.seed].test for run in systems[large]]
        base_cost = float(np.mean([test.cost[-1] for test in smalls]))
        for label in systems[large][0].policies:
            thresholds = []  # (S, goals)
            for run in systems[large]:
                points = frontier(run.policies[label], run.choosing)
                small_one = reference[run.seed].choosing
                thresholds.append([threshold_on(points, **goal(small_one)) for goal in _GOALS.values()])
            right, cost = _outcomes(systems[large], label, thresholds)  # (goals, S, N) each
            for match, hit, paid in zip(_GOALS, right, cost):  # (S, N) each
                gain = hit.astype(np.float64) - base
                ratio = np.stack([bootstrap.shares(cost, test) for cost, test in zip(paid, smalls)])  # (S, 1 + B)
                rows.append(
                    {"small": small, "large": large, "policy": label, "match": match}
                    | {"small_accuracy": float(base.mean()), "small_cost": base_cost}
                    | {"large_accuracy": float(hit.mean()), "large_cost": float(paid.mean())}
                    | bootstrap.summary("gain", gain.mean(1), bootstrap.means(gain))
                    | bootstrap.summary("cost_ratio", ratio[:, 0], ratio[:, 1:])
                )
    return with_unit(pd.DataFrame(rows, columns=None if rows else _PAIR_COLUMNS), runs)


_PAIR_COLUMNS = ["small", "large", "policy", "match", "small_accuracy", "small_cost", "large_accuracy", "large_cost"]
_PAIR_COLUMNS += with_interval("gain", "cost_ratio")


def control(runs: Sequence[Run], grid: np.ndarray, baseline: str, bootstrap: Bootstrap) -> pd.DataFrame:
    """Test the second claim of the paper: how closely accuracy follows δ if δ is the threshold, and at which cost.

    Only policies whose signal is an estimated accuracy are included (without them, the table is empty), and only values
    of δ between the accuracies of the first and of the last exit, because other accuracies cannot be reached.

    Parameters
    ----------
    grid : ndarray of shape (T,)
    baseline : str
        The policy with which the others are compared.

    Returns
    -------
    DataFrame
        system, policy, baseline, deltas (number of δ, mean over seeds), and the columns of `control_columns`, with
        the baseline as the reference.
    """
    if len(grid) == 0:
        raise ValueError("control: expected a grid of at least one δ")
    rows = []
    for system, group in by_system(runs).items():
        labels = [label for label, policy in group[0].policies.items() if policy.claims_accuracy]
        if not labels:
            continue
        if baseline not in labels:
            raise ValueError(f"baseline {baseline!r}: expected one of {', '.join(labels)}")
        deltas = [reachable(run.test, grid) for run in group]
        measured = {
            label: np.stack(
                [
                    measure_control(*outcomes(run.policies[label], run.test, each), run.test, each, bootstrap)
                    for run, each in zip(group, deltas, strict=True)
                ]
            )
            for label in labels
        }
        rows += [
            {"system": system, "policy": label, "baseline": baseline}
            | {"deltas": float(np.mean([len(each) for each in deltas]))}
            | control_columns(measured[label], measured[baseline], bootstrap)
            for label in labels
        ]
    columns = ["system", "policy", "baseline", "deltas", *with_interval(*CONTROL_NUMBERS, "excess", "cost_excess")]
    return pd.DataFrame(rows, columns=None if rows else columns)


def reachable(record: ExitRecord, grid: np.ndarray) -> np.ndarray:
    """Return the δ between the accuracies of the first and the last exit, or if none, the δ nearest to the last."""
    ends = record.correct[:, [0, -1]].mean(0)
    between = grid[(grid >= ends.min()) & (grid <= ends.max())]
    return between if len(between) else grid[[np.abs(grid - ends[-1]).argmin()]]


CONTROL_NUMBERS = ("error", "worst", "short", "cost", "accuracy")


def measure_control(
    right: np.ndarray, cost: np.ndarray, test: ExitRecord, deltas: np.ndarray, bootstrap: Bootstrap
) -> np.ndarray:
    """Measure the control of one run, on its test samples and on every resampling of them.

    Parameters
    ----------
    right, cost : ndarray of shape (..., T, N)
        Correctness and cost of the test samples at each δ.
    deltas : ndarray of shape (T,)

    Returns
    -------
    ndarray of shape (..., M, 1 + B)
        Values on all samples, followed by those of the resamplings, in the order of `CONTROL_NUMBERS`: error (mean
        |accuracy − δ|), worst (largest |accuracy − δ|), short (share of δ with accuracy < δ), cost (mean over δ, as a
        share of the cost of the full model), accuracy (mean over δ).
    """

    accuracy = bootstrap.with_means(right)  # (..., T, 1 + B)
    miss = accuracy - deltas[:, None]
    distance = np.abs(miss)
    spent = bootstrap.shares(cost.mean(-2), test)  # (..., 1 + B)
    return np.stack([distance.mean(-2), distance.max(-2), (miss < 0).mean(-2), spent, accuracy.mean(-2)], axis=-2)


def control_columns(own: np.ndarray, reference: np.ndarray, bootstrap: Bootstrap) -> dict[str, float]:
    """Return the columns of control over seeds, and of its difference from a reference, each with _sd, _low, _high.

    Parameters
    ----------
    own, reference : ndarray of shape (S, M, 1 + B)
        Results of `measure_control` for each seed.

    Returns
    -------
    dict
        error, worst, short, cost, accuracy; excess (error minus that of the reference, paired) and cost_excess (the
        same for cost).
    """
    columns = {}
    for m, name in enumerate(CONTROL_NUMBERS):
        columns |= bootstrap.summary(name, own[:, m, 0], own[:, m, 1:], distance=name in ("error", "worst"))
    for name, measure in (("excess", "error"), ("cost_excess", "cost")):
        excess = (own - reference)[:, CONTROL_NUMBERS.index(measure)]  # (S, 1 + B)
        columns |= bootstrap.summary(name, excess[:, 0], excess[:, 1:])
    return columns
