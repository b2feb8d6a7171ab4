"""What several runs say together: seeds averaged, systems set side by side, an interval with every number.

Intervals are 95 % bootstraps over test samples and seeds: percentile ones, but for distances (see `Bootstrap.summary`).
All runs of a study share their test samples, so one resampling serves all of them and differences are paired. Few
seeds say little of how other seeds would do, so the standard deviation over seeds stands beside the interval.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from offramp import policies, records
from offramp.evaluation import frontier, outcomes, threshold_on
from offramp.files import open_arrays
from offramp.policies import Policy, load_policies
from offramp.records import ExitRecord


@dataclass(frozen=True)
class Run:
    """One trained system: its records and, if there are any, the policies fitted on the first."""

    system: str
    seed: int
    validation: ExitRecord
    test: ExitRecord
    policies: dict[str, Policy] = field(default_factory=dict)


@dataclass(frozen=True)
class Bootstrap:
    """Resamplings of N test samples, and of the seeds.

    Attributes
    ----------
    counts : ndarray of shape (B, N)
        How often each sample is drawn: whole numbers, each row sums to N.
    seed : int
        Of the draws.
    """

    counts: np.ndarray
    seed: int

    @classmethod
    def draw(cls, n_samples: int, resamples: int, seed: int) -> "Bootstrap":
        counts = np.random.default_rng(seed).multinomial(n_samples, np.full(n_samples, 1 / n_samples), resamples)
        return cls(counts.astype(np.float64), seed)

    @cached_property
    def _counts32(self) -> np.ndarray:
        return self.counts.astype(np.float32)

    def means(self, values: np.ndarray) -> np.ndarray:
        """Resampled means (..., B) of values (..., N)."""
        resamples, n_samples = self.counts.shape
        rows = values.reshape(-1, n_samples)  # one large product takes half as long as several
        if values.dtype == bool:  # float32 counts exactly too, up to 2²⁴, in half the time
            totals = (rows.astype(np.float32) @ self._counts32.T).astype(np.float64)
        else:
            totals = rows @ self.counts.T
        return totals.reshape(*values.shape[:-1], resamples) / n_samples

    def with_means(self, values: np.ndarray) -> np.ndarray:
        """The mean of values (..., N) as they are, then the resampled ones: (..., 1 + B)."""
        return np.concatenate([values.mean(-1, keepdims=True), self.means(values)], axis=-1)

    def shares(self, cost: np.ndarray, full: ExitRecord) -> np.ndarray:
        """Mean cost (..., N) as a share of the full model's on the same samples, as they are, then resampled:
        (..., 1 + B)."""
        if full.sample_cost is None:
            return self.with_means(cost) / full.cost[-1]
        return self.with_means(cost) / self.with_means(full.sample_cost[:, -1])

    def over_seeds(self, replicates: np.ndarray) -> np.ndarray:
        """Replicates (B,) of the mean over seeds, from those of each seed (S, B)."""
        n_seeds, resamples = replicates.shape
        drawn = np.random.default_rng([self.seed, 1]).integers(n_seeds, size=(n_seeds, resamples))  # (S, B)
        return np.take_along_axis(replicates, drawn, axis=0).mean(0)

    def summary(
        self, name: str, per_seed: np.ndarray, replicates: np.ndarray, *, distance: bool = False
    ) -> dict[str, float]:
        """Columns for one number: its mean over seeds (S,), their standard deviation, and the interval of (S, B).

        The noise of a resampling only adds to a distance, so that its replicates lie too high. There the interval is
        the basic one: what they lie above the estimate, the estimate is taken to lie above the truth; none is below 0.
        """
        mean = float(per_seed.mean())
        deviation = float(per_seed.std(ddof=1)) if len(per_seed) > 1 else np.nan
        low, high = self.interval(self.over_seeds(replicates))
        if distance:
            low, high = max(0.0, 2 * mean - high), max(0.0, 2 * mean - low)
        return {name: mean, f"{name}_sd": deviation, f"{name}_low": low, f"{name}_high": high}

    @staticmethod
    def interval(replicates: np.ndarray) -> tuple[float, float]:
        """The middle 95 % of replicates (B,)."""
        low, high = np.quantile(replicates, [0.025, 0.975])
        return float(low), float(high)


def load_runs(paths: Iterable[str | os.PathLike], *, fitted: bool = True) -> list[Run]:
    """The runs that record files and fitted-policy files make up, put together by the metadata in each.

    Parameters
    ----------
    fitted : bool
        Are there policies among the files? Otherwise records are all that is expected.

    Raises
    ------
    ValueError
        If a file is neither, a run lacks a part, the runs' test samples differ, or a system's seeds have different
        policies.
    """
    expected = ("validation", "test", "policies") if fitted else ("validation", "test")
    kinds = (records.FORMAT, policies.FORMAT) if fitted else (records.FORMAT,)
    parts: dict[tuple[str, int], dict[str, Any]] = {}
    for path in paths:
        kind, _, about = open_arrays(path, *kinds)
        if kind == policies.FORMAT:
            value, about = load_policies(path)
            part = "policies"
        else:
            value = ExitRecord.load(path)
            part = about.get("split")
            if part not in ("validation", "test"):
                raise ValueError(f"{path}: its metadata say split: {part}; expected validation or test")
        if not {"system", "seed"} <= about.keys():
            raise ValueError(f"{path}: its metadata do not name the system and seed; expected both")
        run = parts.setdefault((about["system"], about["seed"]), {})
        if part in run:
            raise ValueError(f"{path}: a second {part} of {about['system']} seed {about['seed']}; expected one")
        run[part] = value
    runs: list[Run] = []
    for (system, seed), run in parts.items():
        name = f"{system} seed {seed}"
        if missing := [part for part in expected if part not in run]:
            raise ValueError(f"{name}: no {missing[0]} among the files; expected {', '.join(expected)}")
        runs.append(Run(system, seed, **run))
        first = runs[0]
        for what in ("index", "labels"):
            if not np.array_equal(getattr(runs[-1].test, what), getattr(first.test, what)):
                raise ValueError(f"{name}: another {what} in its test record than {first.system} seed {first.seed}")
        like = next(run for run in runs if run.system == system)
        if runs[-1].policies.keys() != like.policies.keys():
            raise ValueError(f"{name}: other policies than {system} seed {like.seed}; fit the same for all seeds")
    return runs


def by_system(runs: Sequence[Run]) -> dict[str, list[Run]]:
    systems: dict[str, list[Run]] = {}
    for run in runs:
        systems.setdefault(run.system, []).append(run)
    return systems


def at_targets(runs: Sequence[Run], targets: Sequence[float], bootstrap: Bootstrap) -> pd.DataFrame:
    """Accuracy and cost of every policy for each accuracy that a user may ask for.

    `choice` says how the threshold came about: "validation" is the cheapest one that reaches the target on
    validation data; "direct" is the target itself, for policies whose signal claims to be an accuracy.

    Returns
    -------
    DataFrame
        system, policy, choice, target, and accuracy, cost, saving (1 − cost / cost of the full model), each with
        _sd, _low, _high; full_accuracy.
    """
    rows = []
    for system, group in by_system(runs).items():
        full_accuracy = float(np.mean([run.test.correct[:, -1].mean() for run in group]))
        for label, policy in group[0].policies.items():
            chosen = {"direct": [list(targets)] * len(group)} if policy.claims_accuracy else {}
            points = [frontier(run.policies[label], run.validation) for run in group]
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
    return pd.DataFrame(rows)


def _outcomes(group: Sequence[Run], label: str, thresholds: Sequence[Sequence[float]]) -> tuple[np.ndarray, np.ndarray]:
    """Right or wrong, and cost, of each seed's test samples at its own thresholds (S, T): (T, S, N) each."""
    each = [outcomes(run.policies[label], run.test, deltas) for run, deltas in zip(group, thresholds, strict=True)]
    return np.stack([right for right, _ in each], axis=1), np.stack([cost for _, cost in each], axis=1)


# What the larger net is to match of the small full one, given that one's validation record
_GOALS = {
    "equal cost": lambda small: {"cost": small.cost[-1]},
    "equal accuracy": lambda small: {"accuracy": small.correct[:, -1].mean()},
}


def pairs(runs: Sequence[Run], pairs: Iterable[tuple[str, str]], bootstrap: Bootstrap) -> pd.DataFrame:
    """The paper's first claim, pair by pair: a larger net with early exits against a smaller full one.

    The threshold of the larger one is chosen on validation data: either to spend as much as the small full model
    costs, or as near to it as the policy can without spending more ("equal cost"), or as the cheapest that is no less
    accurate there than the small full model ("equal accuracy"). Test data then say what came of it.

    Returns
    -------
    DataFrame
        small, large, policy, match; accuracy and cost of the small full model; accuracy and cost of the large
        one with exits; gain (accuracy difference, large − small) and cost_ratio (large / small), each with _sd,
        _low, _high.
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
                points = frontier(run.policies[label], run.validation)
                small_one = reference[run.seed].validation
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
    return pd.DataFrame(rows, columns=None if rows else _PAIR_COLUMNS)


_PAIR_COLUMNS = [
    "small",
    "large",
    "policy",
    "match",
    "small_accuracy",
    "small_cost",
    "large_accuracy",
    "large_cost",
] + [f"{number}{ending}" for number in ("gain", "cost_ratio") for ending in ("", "_sd", "_low", "_high")]


def control(runs: Sequence[Run], grid: np.ndarray, baseline: str, bootstrap: Bootstrap) -> pd.DataFrame:
    """The paper's second claim: how closely accuracy follows δ when δ itself is the threshold, and at what cost.

    Only policies whose signal claims to be an accuracy take part, and only the δ of the grid that a threshold can
    reach at all: between the accuracy of the first exit and that of the last.

    Parameters
    ----------
    grid : ndarray of shape (T,)
    baseline : str
        The policy that the others are compared with.

    Returns
    -------
    DataFrame
        system, policy, baseline, deltas (how many δ counted, mean over seeds), and what `control_columns` gives, in
        excess of the baseline.
    """
    if len(grid) == 0:
        raise ValueError("control: expected a grid of at least one δ")
    rows = []
    for system, group in by_system(runs).items():
        labels = [label for label, policy in group[0].policies.items() if policy.claims_accuracy]
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
    return pd.DataFrame(rows)


def reachable(record: ExitRecord, grid: np.ndarray) -> np.ndarray:
    """The δ between the accuracies of the first and the last exit; if there are none, the one nearest to the latter."""
    ends = record.correct[:, [0, -1]].mean(0)
    between = grid[(grid >= ends.min()) & (grid <= ends.max())]
    return between if len(between) else grid[[np.abs(grid - ends[-1]).argmin()]]


MEASURES = ("error", "worst", "short", "cost", "accuracy")


def measure_control(
    right: np.ndarray, cost: np.ndarray, test: ExitRecord, deltas: np.ndarray, bootstrap: Bootstrap
) -> np.ndarray:
    """The control of one run, on its test samples and on every resampling of them.

    Parameters
    ----------
    right, cost : ndarray of shape (..., T, N)
        The test samples' outcomes at each δ.
    deltas : ndarray of shape (T,)

    Returns
    -------
    ndarray of shape (..., M, 1 + B)
        Of the samples as they are, then of the resamplings, in the order of `MEASURES`: error (mean |accuracy − δ|),
        worst (largest), short (share of δ with accuracy < δ), cost (mean over δ, of the full model's), accuracy
        (mean over δ).
    """

    accuracy = bootstrap.with_means(right)  # (..., T, 1 + B)
    miss = accuracy - deltas[:, None]
    distance = np.abs(miss)
    spent = bootstrap.shares(cost.mean(-2), test)  # (..., 1 + B)
    return np.stack([distance.mean(-2), distance.max(-2), (miss < 0).mean(-2), spent, accuracy.mean(-2)], axis=-2)


def control_columns(own: np.ndarray, reference: np.ndarray, bootstrap: Bootstrap) -> dict[str, float]:
    """Columns of several seeds' control and of what it differs from a reference's, each with _sd, _low, _high.

    Parameters
    ----------
    own, reference : ndarray of shape (S, M, 1 + B)
        What `measure_control` gave for each seed.

    Returns
    -------
    dict
        error, worst, short, cost, accuracy; excess (error − the reference's, paired) and cost_excess (cost likewise).
    """
    columns = {}
    for m, name in enumerate(MEASURES):
        columns |= bootstrap.summary(name, own[:, m, 0], own[:, m, 1:], distance=name in ("error", "worst"))
    for name, measure in (("excess", "error"), ("cost_excess", "cost")):
        excess = (own - reference)[:, MEASURES.index(measure)]  # (S, 1 + B)
        columns |= bootstrap.summary(name, excess[:, 0], excess[:, 1:])
    return columns
