"""What the choices that are ours do to control and cost: one factor at a time, all else as it is."""

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
from offramp.records.splitting import stratified_order

ALL = "all"  # stands for the mean over systems where a system's name stands


@dataclass(frozen=True)
class Setting:
    """A policy with one setting of one factor.

    Attributes
    ----------
    factor, setting : str
        What tables call them.
    label : str
        What tables call the policy. Of one factor's variants of it the first is what the others are compared with.
    policy : Policy
        It is fitted here.
    validation : int or None
        How many validation samples it is fitted on; None: all.
    """

    factor: str
    setting: str
    label: str
    policy: Policy
    validation: int | None = None

    @property
    def spec(self) -> str:
        """The policy and its options as the command line takes them, without the δ that a map belongs to."""
        options = {name: value for name, value in self.policy.options.items() if name != "reach_threshold"}
        return spec(self.policy.name, options)


def sensitivity(
    runs: Sequence[Run], variants: Sequence[Setting], grid: np.ndarray, draws: int, bootstrap: Bootstrap
) -> pd.DataFrame:
    """Control and cost of every variant, and what they differ from the reference's.

    Each variant is fitted on each run's validation record and measured on its test record as `comparison.control`
    does. Maps that are fitted on the samples which reach an exit belong to one δ, and are fitted anew for each.
    Fewer validation samples than there are are drawn several times, at random and with the classes in their shares;
    what the draws give is averaged in each run. All variants see the same draws.

    Parameters
    ----------
    grid : ndarray of shape (T,)
        The δ, of which those count that a run can reach.
    draws : int
        How often a part of the validation samples is drawn.

    Returns
    -------
    DataFrame
        A row a system and variant, then one a variant for the mean over systems (system `ALL`): system, factor,
        setting, policy (the label), spec (the policy and its options), validation (samples), reference (is it what
        the factor's others are compared with?), and what `comparison.control_columns` gives.

    Raises
    ------
    ValueError
        If a variant's signal claims no accuracy, it is there twice or asks for more samples than there are, or the
        systems have other seeds.
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
    """What `measure_control` gives for each variant, (V, M, 1 + B)."""
    deltas = reachable(run.test, grid)
    orders = [
        stratified_order(run.validation.labels, np.random.default_rng([bootstrap.seed, 2, run.seed, draw]))
        for draw in range(draws)
    ]
    measured: dict[tuple[str, int | None], np.ndarray] = {}  # many variants are some factor's reference
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
    """The test samples' outcomes, (T, N) each, when a new such policy is fitted: for each δ, if its map needs that."""
    if getattr(policy, "fit_on", "all") == "all":
        return outcomes(replace(policy).fit(validation), test, deltas)
    each = [outcomes(replace(policy, reach_threshold=delta).fit(validation), test, [delta]) for delta in deltas]
    return np.concatenate([right for right, _ in each]), np.concatenate([cost for _, cost in each])
