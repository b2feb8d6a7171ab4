"""What several runs say together: seeds averaged, systems set side by side, an interval with every number.

Intervals are 95 % percentile bootstraps over test samples and seeds. All runs of a study share their test samples, so
one resampling serves all of them and differences are paired. Few seeds say little of how other seeds would do, so the
standard deviation over seeds stands beside the interval.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from offramp import policies, records
from offramp.evaluation import choose_threshold, outcomes
from offramp.files import open_arrays
from offramp.policies import Policy, load_policies
from offramp.records import ExitRecord


@dataclass(frozen=True)
class Run:
    """One trained system: its records and the policies fitted on the first."""

    system: str
    seed: int
    validation: ExitRecord
    test: ExitRecord
    policies: dict[str, Policy]


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

    def means(self, values: np.ndarray) -> np.ndarray:
        """Resampled means (..., B) of values (..., N)."""
        return values @ self.counts.T / self.counts.shape[1]

    def over_seeds(self, replicates: np.ndarray) -> np.ndarray:
        """Replicates (B,) of the mean over seeds, from those of each seed (S, B)."""
        n_seeds, resamples = replicates.shape
        drawn = np.random.default_rng([self.seed, 1]).integers(n_seeds, size=(n_seeds, resamples))  # (S, B)
        return np.take_along_axis(replicates, drawn, axis=0).mean(0)

    def summary(self, name: str, per_seed: np.ndarray, replicates: np.ndarray) -> dict[str, float]:
        """Columns for one number: its mean over seeds (S,), their standard deviation, and the interval of (S, B)."""
        low, high = self.interval(self.over_seeds(replicates))
        return _spread(name, per_seed) | {f"{name}_low": low, f"{name}_high": high}

    @staticmethod
    def interval(replicates: np.ndarray) -> tuple[float, float]:
        """The middle 95 % of replicates (B,)."""
        low, high = np.quantile(replicates, [0.025, 0.975])
        return float(low), float(high)


def load_runs(paths: Iterable[str | os.PathLike]) -> list[Run]:
    """The runs that record files and fitted-policy files make up, put together by the metadata in each.

    Raises
    ------
    ValueError
        If a file is neither, a run lacks a part, or the runs' test samples differ.
    """
    parts: dict[tuple[str, int], dict[str, Any]] = {}
    for path in paths:
        kind, _, about = open_arrays(path, records.FORMAT, policies.FORMAT)
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
        if missing := [part for part in _PARTS if part not in run]:
            raise ValueError(f"{name}: no {missing[0]} among the files; expected {', '.join(_PARTS)}")
        runs.append(Run(system, seed, **run))
        first = runs[0]
        for field in ("index", "labels"):
            if not np.array_equal(getattr(runs[-1].test, field), getattr(first.test, field)):
                raise ValueError(f"{name}: another {field} in its test record than {first.system} seed {first.seed}")
        if runs[-1].policies.keys() != first.policies.keys():
            raise ValueError(f"{name}: other policies than {first.system} seed {first.seed}; fit the same for all")
    return runs


_PARTS = ("validation", "test", "policies")


def _by_system(runs: Sequence[Run]) -> dict[str, list[Run]]:
    systems: dict[str, list[Run]] = {}
    for run in runs:
        systems.setdefault(run.system, []).append(run)
    return systems


def _spread(name: str, per_seed: np.ndarray) -> dict[str, float]:
    deviation = float(per_seed.std(ddof=1)) if len(per_seed) > 1 else np.nan
    return {name: float(per_seed.mean()), f"{name}_sd": deviation}


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
    for system, group in _by_system(runs).items():
        for label, policy in group[0].policies.items():
            for choice in ("direct", "validation") if policy.claims_accuracy else ("validation",):
                for target in targets:
                    thresholds = [
                        target
                        if choice == "direct"
                        else choose_threshold(run.policies[label], run.validation, accuracy=target)
                        for run in group
                    ]
                    right, cost = _outcomes(group, label, thresholds)  # (S, N) each
                    full = group[0].test.cost[-1]
                    rows.append(
                        {"system": system, "policy": label, "choice": choice, "target": target}
                        | bootstrap.summary("accuracy", right.mean(1), bootstrap.means(right))
                        | bootstrap.summary("cost", cost.mean(1), bootstrap.means(cost))
                        | bootstrap.summary("saving", 1 - cost.mean(1) / full, 1 - bootstrap.means(cost) / full)
                        | {"full_accuracy": float(np.mean([run.test.correct[:, -1].mean() for run in group]))}
                    )
    return pd.DataFrame(rows)


def _outcomes(group: Sequence[Run], label: str, thresholds: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Right or wrong, and cost, of each seed's test samples at its own threshold: (S, N) each."""
    each = [outcomes(run.policies[label], run.test, [delta]) for run, delta in zip(group, thresholds, strict=True)]
    return np.concatenate([right for right, _ in each]).astype(np.float64), np.concatenate([cost for _, cost in each])


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
    systems = _by_system(runs)
    rows = []
    for small, large in pairs:
        for name in (small, large):
            if name not in systems:
                raise ValueError(f"pair {small}, {large}: no run of {name}; the files have {', '.join(systems)}")
        reference = {run.seed: run for run in systems[small]}
        if unmatched := [run.seed for run in systems[large] if run.seed not in reference]:
            raise ValueError(f"pair {small}, {large}: no run of {small} with seed {unmatched[0]}")
        base = np.stack([reference[run.seed].test.correct[:, -1] for run in systems[large]])  # (S, N)
        base_cost = systems[small][0].test.cost[-1]
        for label in systems[large][0].policies:
            for match, goal in _GOALS.items():
                thresholds = [
                    choose_threshold(run.policies[label], run.validation, **goal(reference[run.seed].validation))
                    for run in systems[large]
                ]
                right, cost = _outcomes(systems[large], label, thresholds)  # (S, N) each
                gain, ratio = right - base, cost / base_cost
                rows.append(
                    {"small": small, "large": large, "policy": label, "match": match}
                    | {"small_accuracy": float(base.mean()), "small_cost": base_cost}
                    | {"large_accuracy": float(right.mean()), "large_cost": float(cost.mean())}
                    | bootstrap.summary("gain", gain.mean(1), bootstrap.means(gain))
                    | bootstrap.summary("cost_ratio", ratio.mean(1), bootstrap.means(ratio))
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
    """The paper's second claim: how closely accuracy follows δ when δ itself is the threshold.

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
        system, policy, baseline, deltas (how many δ counted, mean over seeds); error (mean |accuracy − δ|), worst
        (largest), short (share of δ with accuracy < δ), each with _sd: resampling only adds to such distances, so an
        interval of them would mislead; excess (error − the baseline's, paired) with _sd, _low, _high.
    """
    if len(grid) == 0:
        raise ValueError("control: expected a grid of at least one δ")
    rows = []
    for system, group in _by_system(runs).items():
        labels = [label for label, policy in group[0].policies.items() if policy.claims_accuracy]
        if baseline not in labels:
            raise ValueError(f"baseline {baseline!r}: expected one of {', '.join(labels)}")
        reachable = [_reachable(run.test, grid) for run in group]
        replicates = {
            label: [_misses(run, label, delta, bootstrap) for run, delta in zip(group, reachable, strict=True)]
            for label in labels
        }
        for label in labels:
            row = {"system": system, "policy": label, "baseline": baseline}
            row |= {"deltas": float(np.mean([len(deltas) for deltas in reachable]))}
            for name, statistic in _MISSES.items():
                row |= _spread(name, np.array([statistic(misses[:, 0]) for misses in replicates[label]]))
            excess = np.stack(  # (S, 1 + B)
                [
                    _MISSES["error"](own) - _MISSES["error"](other)
                    for own, other in zip(replicates[label], replicates[baseline], strict=True)
                ]
            )
            rows.append(row | bootstrap.summary("excess", excess[:, 0], excess[:, 1:]))
    return pd.DataFrame(rows)


def _reachable(record: ExitRecord, grid: np.ndarray) -> np.ndarray:
    ends = record.correct[:, [0, -1]].mean(0)
    between = grid[(grid >= ends.min()) & (grid <= ends.max())]
    return between if len(between) else grid[[np.abs(grid - ends[-1]).argmin()]]


def _misses(run: Run, label: str, deltas: np.ndarray, bootstrap: Bootstrap) -> np.ndarray:
    """accuracy − δ on the test samples and on every resampling of them, (T, 1 + B)."""
    right, _ = outcomes(run.policies[label], run.test, deltas)  # (T, N)
    accuracy = np.column_stack([right.mean(1), bootstrap.means(right.astype(np.float64))])
    return accuracy - deltas[:, None]


_MISSES = {
    "error": lambda miss: np.abs(miss).mean(0),
    "worst": lambda miss: np.abs(miss).max(0),
    "short": lambda miss: (miss < 0).mean(0),
}
