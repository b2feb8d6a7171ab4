"""Comparison of policies at equal accuracy, as in the tables of BEEM, and at equal cost.

All thresholds are chosen on validation data, and results are measured on test data, with bootstrap intervals.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from offramp.comparison.bootstrap import Bootstrap, with_interval
from offramp.comparison.runs import Run, by_system
from offramp.evaluation import accuracy_without_loss, frontier, threshold_on
from offramp.policies import Policy
from offramp.policies.base import answering_exits, at_exits
from offramp.records import ExitRecord
from offramp.records.metrics import METRICS, terms

DROPS = (0.0, 0.005, 0.01)  # allowed loss of accuracy compared with the final exit
BUDGETS = np.linspace(0.1, 0.9, 9)  # from the cost of the first exit to that of the full model; our choice
REFERENCES = {"per exit, overall": "overall", "per exit, same samples": "same_samples"}
CHOICES = ["shared"] * len(DROPS) + list(REFERENCES)


@dataclass(frozen=True)
class Matched:
    """Results of one policy on the test samples of all seeds, for K choices of thresholds.

    The choices are one for each drop, then one for each rule for thresholds per exit, then the two neighbouring
    thresholds of each budget.

    Attributes
    ----------
    exits : ndarray of shape (K, S, N)
    right : ndarray of shape (K, S, N), bool or float64
        Whether the answers are correct, or their qualities.
    answers : ndarray of shape (K, S, N), or None
        Predicted classes, from which F1 and Matthews are computed. None if there are no predictions.
    validation_loss : ndarray of shape (K, S)
        Accuracy minus that of the final exit, on the samples that were used to choose the thresholds.
    weights : ndarray of shape (2 * budgets, S)
        Weights of the two neighbouring thresholds, with which their average cost on validation data is the budget.
    """

    group: Sequence[Run]
    exits: np.ndarray
    right: np.ndarray
    answers: np.ndarray | None
    validation_loss: np.ndarray
    weights: np.ndarray

    @property
    def paid(self) -> np.ndarray:
        """Cost of each sample, (K, S, N)."""
        return np.stack([run.test.cost_of(self.exits[:, s]) for s, run in enumerate(self.group)], axis=1)

    @property
    def layers(self) -> np.ndarray:
        """Number of exits that each sample passes, (K, S, N). NaN for a router, which runs one of them only."""
        return self.exits + np.array([np.nan if run.test.is_router else 1.0 for run in self.group])[:, None]

    def over_budgets(self, values: np.ndarray) -> np.ndarray:
        """Reduce values (K, S, N) to their mean over the budgets, float64 (S, N)."""
        return np.einsum("ks,ksn->sn", self.weights, values[len(CHOICES) :]) / len(BUDGETS)


def matched(group: Sequence[Run], label: str) -> Matched:
    """Apply one policy to all seeds of a system, with thresholds chosen on the validation data of each seed."""
    exits, right, answers, losses, weights = [], [], [], [], []
    for run in group:
        policy, validation = run.policies[label], run.choosing
        points = frontier(policy, validation)
        full = validation.correct[:, -1].mean()
        neighbours, shares = at_budgets(points, validation.cost)
        thresholds = [
            *(threshold_on(points, accuracy=accuracy_without_loss(validation, drop)) for drop in DROPS),
            *(policy.choose_thresholds(validation, reference=reference) for reference in REFERENCES.values()),
            *neighbours,
        ]
        there = at_exits(policy.correct(validation), answering_exits(policy, validation, thresholds)[1])  # (K, n)
        leave, answering = answering_exits(policy, run.test, thresholds)  # (K, N) each
        exits.append(leave.astype(np.int16))  # small type, because the exits of all policies are kept
        right.append(at_exits(policy.correct(run.test), answering))
        if run.test.prediction is not None:
            answers.append(at_exits(policy.prediction(run.test), answering).astype(np.int32))
        losses.append(there.mean(1) - full)
        weights.append(shares)
    kept = (np.stack(each, axis=1) if each else None for each in (exits, right, answers, losses, weights))
    return Matched(group, *kept)


def at_budgets(points: pd.DataFrame, cost: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the two neighbouring thresholds of a frontier for each budget, and weights that spend exactly the budget.

    Otherwise, a policy with few operating points (patience has one per count) could not spend its whole budget.

    Parameters
    ----------
    points : DataFrame
        From `frontier`, with ascending thresholds and therefore ascending cost, up to the full model. If the last point
        is cheaper than a budget, the rest of the budget is not spent.
    cost : ndarray of shape (L,)

    Returns
    -------
    thresholds, weights : ndarray of shape (2 * budgets,)
        Values for all lower neighbours, followed by those for all upper neighbours.
    """
    spent = np.append(cost[0], points["cost"])  # (U + 1,): at −∞, all samples leave at the first exit
    thresholds = np.append(-np.inf, points["threshold"])
    budgets = cost[0] + BUDGETS * (cost[-1] - cost[0])
    upper = np.minimum(np.searchsorted(spent, budgets, side="right"), len(spent) - 1)
    gap = spent[upper] - spent[upper - 1]
    share = np.minimum((budgets - spent[upper - 1]) / np.where(gap > 0, gap, 1), 1)  # weight of the upper one
    return np.concatenate([thresholds[upper - 1], thresholds[upper]]), np.concatenate([1 - share, share])


def over_budgets(policy: Policy, run: Run) -> np.ndarray:
    """Return how right each test sample is and its cost, means over the budgets, (2, N).

    They are those of `Matched.over_budgets`, for one policy of one run, without the other choices of thresholds.
    """
    thresholds, weights = at_budgets(frontier(policy, run.choosing), run.choosing.cost)
    exits, answering = answering_exits(policy, run.test, thresholds)  # (2 * budgets, N) each
    right = at_exits(policy.correct(run.test), answering)  # (2 * budgets, N)
    return np.stack([weights @ right, weights @ run.test.cost_of(exits)]) / len(BUDGETS)


def match(runs: Sequence[Run]) -> dict[tuple[str, str], Matched]:
    """Apply every policy to every system. Return the results by system and label of the policy."""
    return {
        (system, label): matched(group, label)
        for system, group in by_system(runs).items()
        for label in group[0].policies
    }


def speedup(everything: dict[tuple[str, str], Matched], bootstrap: Bootstrap) -> pd.DataFrame:
    """Return the speed-up of each policy at equal accuracy.

    Parameters
    ----------
    everything : dict
        From `match`.

    Returns
    -------
    DataFrame
        One row per system, policy and choice of thresholds. choice: "shared" is the cheapest shared threshold that
        loses no more than `drop` of the accuracy of the final exit on validation data; "per exit, …" is the rule of
        BEEM with either reference. Further columns: speedup (L · N / Σ i · n_i, in layers, as in BEEM), cost (share of
        the cost of the full model), accuracy, loss (accuracy minus that of the final exit) and metric_loss (the same
        for the metric of the dataset), each with _sd, _low, _high; full_accuracy; worse (share of seeds with an
        accuracy below that of the final exit); validation_loss (the loss on the samples used to choose thresholds,
        minimum over seeds); metric; exits; exit_1 … exit_L (shares of the samples).
    """
    rows = []
    for (system, label), each in everything.items():
        tests = [run.test for run in each.group]
        n_exits, full = tests[0].n_exits, np.stack([test.correct[:, -1] for test in tests])  # (S, N)
        right, paid, layers = each.right, each.paid, each.layers  # (K, S, N) each
        no_classes = each.answers is None
        last = None if no_classes else np.stack([test.prediction[:, -1] for test in tests])  # (S, N)
        final = _metric(tests, full, last, bootstrap)  # (S, 1 + B)
        for k, choice in enumerate(CHOICES):
            loss = right[k] - full.astype(np.float64)  # (S, N)
            spent = np.stack([bootstrap.shares(*each) for each in zip(paid[k], tests)])  # (S, 1 + B)
            answers = None if no_classes else each.answers[k]  # (S, N)
            own = _metric(tests, right[k], answers, bootstrap) - final  # (S, 1 + B)
            drop = DROPS[k] if k < len(DROPS) else 0.0
            shares = {f"exit_{i + 1}": (each.exits[k] == i).mean() for i in range(n_exits)}
            rows.append(
                {"system": system, "policy": label, "choice": choice, "drop": drop}
                | bootstrap.summary("speedup", n_exits / layers[k].mean(1), n_exits / bootstrap.means(layers[k]))
                | bootstrap.summary("cost", spent[:, 0], spent[:, 1:])
                | bootstrap.summary("accuracy", right[k].mean(1), bootstrap.means(right[k]))
                | bootstrap.summary("loss", loss.mean(1), bootstrap.means(loss))
                | {"metric": tests[0].metric}
                | bootstrap.summary("metric_loss", own[:, 0], own[:, 1:])
                | {"full_accuracy": float(full.mean()), "worse": float((loss.mean(1) < 0).mean())}
                | {"validation_loss": float(each.validation_loss[k].min()), "exits": n_exits}
                | shares
            )
    return pd.DataFrame(rows)


def against_last_exit(curves: pd.DataFrame, exits: pd.DataFrame) -> pd.DataFrame:
    """Speed-up and change of accuracy at every threshold, not only at the chosen ones.

    Parameters
    ----------
    curves : DataFrame
        Operating points that `offramp evaluate` wrote: system, seed, accuracy, exit_1 … exit_L.
    exits : DataFrame
        Its table of each exit by itself, of the same runs.

    Returns
    -------
    DataFrame
        The curves with exits (L), layers (mean number of exits that a sample passes), speedup (exits / layers, as in
        `speedup`) and loss (accuracy minus the last exit's of the same run).

    Raises
    ------
    ValueError
        If a run of the curves has no exits.
    """
    run = ["system", "seed"]
    last = exits.sort_values("exit").groupby(run)[["exit", "accuracy"]].last()
    points = curves.join(last.set_axis(["exits", "of_last"], axis=1), on=run)
    if (unknown := points["exits"].isna()).any():
        system, seed = points.loc[unknown, run].iloc[0]
        raise ValueError(f"speedup: no exits of {system} seed {seed}; expected what `offramp evaluate --exits` writes")
    passed = np.arange(1, int(points["exits"].max()) + 1)  # (L,)
    layers = points[[f"exit_{i}" for i in passed]].fillna(0).to_numpy() @ passed  # (points,)
    return points.assign(layers=layers, speedup=points["exits"] / layers, loss=points["accuracy"] - points["of_last"])


def at_equal(points: pd.DataFrame, x: str, y: str, places: int = 100) -> pd.DataFrame:
    """Return the curve of a policy for each seed, at values of x that every seed reaches.

    Parameters
    ----------
    points : DataFrame
        Operating points: seed, and the columns x and y.
    x, y : str
    places : int
        Number of equally spaced values of x.

    Returns
    -------
    DataFrame
        Columns seed, x and y, with one row per seed and value of x. y is interpolated linearly between neighbouring
        operating points of a seed. If the seeds have no x in common, or if one of them has a single operating point,
        there is one row per seed, at the mean x. The points of a single seed are returned unchanged.
    """
    curves = {seed: one.groupby(x)[y].mean() for seed, one in points.groupby("seed")}  # ascending in x
    low, high = max(curve.index.min() for curve in curves.values()), min(curve.index.max() for curve in curves.values())
    if len(curves) == 1:
        rows = [(seed, *point) for seed, curve in curves.items() for point in curve.items()]
    elif low >= high or min(map(len, curves.values())) == 1:
        common = np.mean([curve.index.to_numpy().mean() for curve in curves.values()])
        rows = [(seed, common, curve.mean()) for seed, curve in curves.items()]
    else:
        common = np.linspace(low, high, places)
        rows = [
            (seed, *point)
            for seed, curve in curves.items()
            for point in zip(common, np.interp(common, curve.index, curve))
        ]
    return pd.DataFrame(rows, columns=["seed", x, y])


def duels(
    everything: dict[tuple[str, str], Matched], pairs: Sequence[tuple[str, str]], bootstrap: Bootstrap
) -> pd.DataFrame:
    """Compare pairs of policies on the same samples.

    Parameters
    ----------
    pairs : sequence of (policy, rival)
        Labels of policies. Systems without one of them are skipped.

    Returns
    -------
    DataFrame
        One row per system, pair and match. "drop 0", "drop 0.5" and "drop 1" (points) compare at the same accuracy.
        "budgets" compares at the same cost: it is the mean over nine budgets between the cost of the first exit and
        that of the full model, each spent exactly on validation data by choosing randomly between two neighbouring
        thresholds. Further columns: gain (accuracy, policy − rival) and cost_difference (policy − rival, as a share of
        the cost of the full model), each with _sd, _low, _high; speedup and rival_speedup.

    Raises
    ------
    ValueError
        If a policy was not fitted.
    """
    names = [f"drop {100 * drop:g}" for drop in DROPS] + ["budgets"]
    rows = []
    for policy, rival in pairs:
        if unknown := {policy, rival} - {label for _, label in everything}:
            known = ", ".join(sorted({label for _, label in everything}))
            raise ValueError(f"duel {policy}, {rival}: no policy {min(unknown)}; the files have {known}")
    for system in dict.fromkeys(system for system, _ in everything):
        for policy, rival in pairs:
            if (system, policy) not in everything or (system, rival) not in everything:
                continue
            both = [everything[system, label] for label in (policy, rival)]
            (right, paid), (rights, paids) = ([_means(each, each.right), _means(each, each.paid)] for each in both)
            tests = [run.test for run in both[0].group]
            speeds = [each.group[0].test.n_exits / _means(each, each.layers).mean(2) for each in both]  # (M, S) each
            for m, name in enumerate(names):
                gain = right[m] - rights[m]  # (S, N)
                less = np.stack([bootstrap.shares(*each) for each in zip(paid[m] - paids[m], tests)])  # (S, 1 + B)
                rows.append(
                    {"system": system, "policy": policy, "rival": rival, "match": name}
                    | bootstrap.summary("gain", gain.mean(1), bootstrap.means(gain))
                    | bootstrap.summary("cost_difference", less[:, 0], less[:, 1:])
                    | {"speedup": float(speeds[0][m].mean()), "rival_speedup": float(speeds[1][m].mean())}
                )
    return pd.DataFrame(rows, columns=None if rows else _DUEL_COLUMNS)


_DUEL_COLUMNS = ["system", "policy", "rival", "match", *with_interval("gain", "cost_difference")]
_DUEL_COLUMNS += ["speedup", "rival_speedup"]


def _means(each: Matched, values: np.ndarray) -> np.ndarray:
    """Reduce values (K, S, N) to those of the drops and the mean over budgets, float64 (drops + 1, S, N)."""
    return np.concatenate([values[: len(DROPS)], each.over_budgets(values)[None]])


def _metric(
    tests: Sequence[ExitRecord], right: np.ndarray, answers: np.ndarray | None, bootstrap: Bootstrap
) -> np.ndarray:
    """Return the metric of the dataset for the answers (S, N), on all samples and resampled: (S, 1 + B)."""
    if tests[0].metric not in METRICS:
        return bootstrap.with_means(right)
    return METRICS[tests[0].metric](*(bootstrap.with_means(part) for part in terms(answers, tests[0].labels)))
