"""Sensitivity of control and cost to choices that the paper leaves open, varying one factor at a time."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from offramp._io.progress import progress_bar
from offramp.comparison.bootstrap import Bootstrap
from offramp.comparison.claims import CONTROL_NUMBERS, control_columns, measure_control, reachable
from offramp.comparison.runs import Run, by_system
from offramp.comparison.samples import orders
from offramp.evaluation import evaluate, frontier, outcomes, threshold_on
from offramp.policies import Policy, spec
from offramp.records import ExitRecord
from offramp.records.splitting import Holdout

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
        Number of validation samples. None uses all.
    fit_share : float or None
        Choose thresholds for target accuracies, in place of δ as the threshold: fit on this share of the validation
        samples and choose on the others, or fit and choose on all of them (1).
    folds : int or None
        Choose thresholds on all validation samples, with signals from policies that were fitted on the other folds. The
        policy that is measured is fitted on all of them.
    """

    factor: str
    setting: str
    label: str
    policy: Policy
    validation: int | None = None
    fit_share: float | None = None
    folds: int | None = None

    @property
    def chooses(self) -> bool:
        """Whether thresholds are chosen on validation samples."""
        return self.fit_share is not None or self.folds is not None

    @property
    def is_drawn(self) -> bool:
        """Whether the result depends on a random draw or split of the validation samples."""
        if not self.policy.learns and not self.chooses:
            return False
        return self.validation is not None or self.folds is not None or self.fit_share not in (None, 1)

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
    again for each δ. If a variant uses only a part of the validation samples, or splits them, several stratified random
    draws are made, and results are averaged over the draws in each run. All variants use the same draws.

    If a variant chooses thresholds, δ is the target accuracy: the threshold is the cheapest that reaches δ on the
    samples that choose, and control says how close the test accuracy is to the target.

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
        fit_share and folds (of variants that choose thresholds), reference (whether it is the reference of its factor),
        the columns of `comparison.claims.control_columns`, and accuracy_excess (accuracy minus that of the reference,
        paired) with _sd, _low, _high.

    Raises
    ------
    ValueError
        If a variant uses δ as the threshold and its signal is not an estimated accuracy, if a variant is given twice or
        needs more samples than there are, if it both splits the samples and has folds, or chooses thresholds for maps
        that depend on δ, or if the systems have different seeds.
    """
    _check(runs, variants)
    measured = {system: [] for system in by_system(runs)}
    with progress_bar(len(runs), "sensitivity", shown=True, unit="run") as bar:
        for run in sorted(runs, key=lambda run: run.seed):
            measured[run.system].append(_measure(run, variants, grid, draws, bootstrap))
            bar.update()
    systems = {system: np.stack(seeds) for system, seeds in measured.items()}  # (S, V, M, 1 + B) each
    systems[ALL] = np.mean(list(systems.values()), axis=0)
    first: dict[tuple[str, str], int] = {}
    for v, variant in enumerate(variants):
        first.setdefault((variant.factor, variant.label), v)
    rows = []
    for system, values in systems.items():
        for v, variant in enumerate(variants):
            reference = first[variant.factor, variant.label]
            gain = (values[:, v] - values[:, reference])[:, CONTROL_NUMBERS.index("accuracy")]  # (S, 1 + B)
            rows.append(
                {"system": system, "factor": variant.factor, "setting": variant.setting, "policy": variant.label}
                | {"spec": variant.spec, "validation": variant.validation or runs[0].validation.n_samples}
                | {"fit_share": variant.fit_share, "folds": variant.folds}
                | {"reference": v == reference}
                | control_columns(values[:, v], values[:, reference], bootstrap)
                | bootstrap.summary("accuracy_excess", gain[:, 0], gain[:, 1:])
            )
    return pd.DataFrame(rows).astype({"fit_share": float, "folds": float})  # NaN: no threshold is chosen


def _check(runs: Sequence[Run], variants: Sequence[Setting]) -> None:
    places = set()
    for variant in variants:
        name = f"variant {variant.factor}/{variant.setting} of {variant.label}"
        if not variant.policy.claims_accuracy and not variant.chooses:
            raise ValueError(f"{name}: the signal of {variant.spec} claims no accuracy; expected one that can meet δ")
        if variant.fit_share is not None and variant.folds is not None:
            raise ValueError(f"{name} has fit_share and folds; expected one of them")
        if variant.chooses and _depends_on_threshold(variant.policy):
            raise ValueError(f"{name}: fit_on=reached needs δ before a threshold is chosen; expected fit_on=all")
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
    drawn = orders(run, draws, bootstrap.seed)
    measured: dict[tuple, np.ndarray] = {}  # many variants are the reference of several factors
    places = [(variant.spec, variant.validation, variant.fit_share, variant.folds) for variant in variants]
    for variant, place in zip(variants, places):
        if place in measured:
            continue
        parts = [run.validation]
        if variant.is_drawn:
            parts = [run.validation.take(order[: variant.validation]) for order in drawn]
        each = [_outcomes(variant, part, run.test, deltas) for part in parts]
        right, cost = (np.stack(values) for values in zip(*each))  # (parts, T, N) each
        measured[place] = measure_control(right, cost, run.test, deltas, bootstrap).mean(0)
    return np.stack([measured[place] for place in places])


def _depends_on_threshold(policy: Policy) -> bool:
    """Whether the map is fitted on the samples that reach an exit at a threshold."""
    return getattr(policy, "fit_on", "all") != "all"


def _outcomes(
    variant: Setting, validation: ExitRecord, test: ExitRecord, deltas: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Fit the policy, for each δ if its map requires it. Return correctness and cost of test samples, (T, N) each.

    If the variant chooses thresholds, δ are target accuracies, and the validation samples are in random order, of which
    every part is stratified.
    """
    policy = variant.policy
    if variant.chooses:
        if variant.folds is None:
            fit, choose = Holdout(variant.fit_share).sizes(validation.n_samples)
            fitted = replace(policy).fit(validation[:fit])
            points = frontier(fitted, validation[-choose:])
        else:
            fitted, points = replace(policy).fit(validation), cross_fitted(policy, validation, variant.folds)
        return outcomes(fitted, test, [threshold_on(points, accuracy=delta) for delta in deltas])
    if not _depends_on_threshold(policy):
        return outcomes(replace(policy).fit(validation), test, deltas)
    each = [outcomes(replace(policy, reach_threshold=delta).fit(validation), test, [delta]) for delta in deltas]
    return np.concatenate([right for right, _ in each]), np.concatenate([cost for _, cost in each])


def cross_fitted(policy: Policy, record: ExitRecord, folds: int) -> pd.DataFrame:
    """Return the operating points of a record whose every sample is decided by a policy that was fitted without it.

    Parameters
    ----------
    policy : Policy
        Not fitted.
    record : ExitRecord
        Samples in random order.
    folds : int
        Number of folds. Every sample of a fold is decided by the policy that was fitted on the other folds.

    Returns
    -------
    DataFrame
        Columns threshold, accuracy and cost, as `offramp.evaluation.frontier`, for all thresholds that change a fold.
    """
    parts = [np.arange(record.n_samples) % folds == fold for fold in range(folds)]  # (N,) each
    fitted = [(replace(policy).fit(record[~part]), record[part]) for part in parts]
    thresholds = np.unique(np.concatenate([frontier(*each)["threshold"] for each in fitted]))  # (T,)
    points = [evaluate(*each, thresholds)[["threshold", "accuracy", "cost"]] for each in fitted]
    weights = [part.mean() for part in parts]
    pooled = sum(table * weight for table, weight in zip(points, weights)).round(12)  # sums of counts, divided by N
    return pooled.assign(threshold=thresholds)
