"""Sensitivity of control and cost to choices that the paper leaves open, varying one factor at a time."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from tqdm import tqdm

from offramp.comparison.bootstrap import Bootstrap
from offramp.comparison.claims import control_columns, measure_control, reachable
from offramp.comparison.runs import Run, by_system
from offramp.evaluation import outcomes
from offramp.policies import Policy, spec
from offramp.records import ExitRecord
from offramp.records.splitting import strata, stratified_order

ALL = "all"  # used as the name of the system for the mean over systems


@dataclass(frozen=True)
class Setting:
    """A policy with one setting of one factor.

    Attributes
    ----------
    factor, setting : str
        Names of the factor and of its setting in tables.
    label : str
        Name of the policy in tables. The first variant of a policy for each factor is the reference for the others.
    policy : Policy
        The policy, which is fitted in this module.
    validation : int or None
        Number of validation samples used for fitting. None uses all.
    """

    factor: str
    setting: str
    label: str
    policy: Policy
    validation: int | None = None

    @property
    def spec(self) -> str:
        """The policy and its options in the format of the command line, without the δ that a map depends on."""
        options = {name: value for name, value in self.policy.options.items() if name != "reach_threshold"}
        return spec(self.policy.name, options)


def sensitivity(
    runs: Sequence[Run], variants: Sequence[Setting], grid: np.ndarray, draws: int, bootstrap: Bootstrap
) -> pd.DataFrame:
    """Return control and cost of every variant, and their differences from the reference.

    Each variant is fitted on the validation record of each run and measured on its test record, as in
    `comparison.claims.control`. Maps that are fitted on the samples that reach an exit depend on δ, and are fitted
    again for each δ. If a variant uses only a part of the validation samples, several stratified random draws are made,
    and results are averaged over the draws in each run. All variants use the same draws.

    Parameters
    ----------
    grid : ndarray of shape (T,)
        Values of δ. Only those that a run can reach are used.
    draws : int
        Number of random draws of each smaller validation set.

    Returns
    -------
    DataFrame
        One row per system and variant, followed by one row per variant for the mean over systems (system `ALL`):
        system, factor, setting, policy (the label), spec (the policy and its options), validation (number of samples),
        reference (whether it is the reference of its factor), and the columns of
        `comparison.claims.control_columns`.

    Raises
    ------
    ValueError
        If the signal of a variant is not an estimated accuracy, if a variant is given twice or needs more samples than
        there are, or if the systems have different seeds.
    """
    _check(runs, variants)
    measured = {system: [] for system in by_system(runs)}
    for run in tqdm(sorted(runs, key=lambda run: run.seed), desc="sensitivity", unit="run"):
        measured[run.system].append(_measure(run, variants, grid, draws, bootstrap))
    systems = {system: np.stack(seeds) for system, seeds in measured.items()}  # (S, V, M, 1 + B) each
    systems[ALL] = np.mean(list(systems.values()), axis=0)
    first: dict[tuple[str, str], int] = {}
    for v, variant in enumerate(variants):
        first.setdefault((variant.factor, variant.label), v)
    rows = []
    for system, values in systems.items():
        for v, variant in enumerate(variants):
            reference = first[variant.factor, variant.label]
            rows.append(
                {"system": system, "factor": variant.factor, "setting": variant.setting, "policy": variant.label}
                | {"spec": variant.spec, "validation": variant.validation or runs[0].validation.n_samples}
                | {"reference": v == reference}
                | control_columns(values[:, v], values[:, reference], bootstrap)
            )
    return pd.DataFrame(rows)


def _check(runs: Sequence[Run], variants: Sequence[Setting]) -> None:
    places = set()
    for variant in variants:
        name = f"variant {variant.factor}/{variant.setting} of {variant.label}"
        if not variant.policy.claims_accuracy:
            raise ValueError(f"{name}: the signal of {variant.spec} claims no accuracy; expected one that can meet δ")
        if (place := (variant.factor, variant.setting, variant.label)) in places:
            raise ValueError(f"{name} is there twice; expected another setting or label for each")
        places.add(place)
        for run in runs:
            if (variant.validation or 0) > run.validation.n_samples:
                raise ValueError(
                    f"{name} asks for {variant.validation} validation samples, but {run.system} seed {run.seed} has "
                    f"{run.validation.n_samples}; expected no more"
                )
    seeds = {system: sorted(run.seed for run in group) for system, group in by_system(runs).items()}
    for system, its in seeds.items():
        if its != (others := seeds[runs[0].system]):
            raise ValueError(f"{system} has the seeds {its}, {runs[0].system} {others}; expected the same for all")


def _measure(run: Run, variants: Sequence[Setting], grid: np.ndarray, draws: int, bootstrap: Bootstrap) -> np.ndarray:
    """Return the result of `measure_control` for each variant, (V, M, 1 + B)."""
    deltas = reachable(run.test, grid)
    orders = [
        stratified_order(strata(run.validation), np.random.default_rng([bootstrap.seed, 2, run.seed, draw]))
        for draw in range(draws)
    ]
    measured: dict[tuple[str, int | None], np.ndarray] = {}  # many variants are the reference of several factors
    for variant in variants:
        if (variant.spec, variant.validation) in measured:
            continue
        parts = [run.validation]
        if variant.validation is not None and variant.policy.learns:
            parts = [run.validation.take(order[: variant.validation]) for order in orders]
        each = [_outcomes(variant.policy, part, run.test, deltas) for part in parts]
        right, cost = (np.stack(values) for values in zip(*each))  # (parts, T, N) each
        measured[variant.spec, variant.validation] = measure_control(right, cost, run.test, deltas, bootstrap).mean(0)
    return np.stack([measured[variant.spec, variant.validation] for variant in variants])


def _outcomes(
    policy: Policy, validation: ExitRecord, test: ExitRecord, deltas: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Fit the policy, for each δ if its map requires it. Return correctness and cost of test samples, (T, N) each."""
    if getattr(policy, "fit_on", "all") == "all":
        return outcomes(replace(policy).fit(validation), test, deltas)
    each = [outcomes(replace(policy, reach_threshold=delta).fit(validation), test, [delta]) for delta in deltas]
    return np.concatenate([right for right, _ in each]), np.concatenate([cost for _, cost in each])
