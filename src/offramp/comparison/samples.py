"""What policies gain over others at equal cost if there are fewer validation samples."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain

import numpy as np
import pandas as pd

from offramp.comparison.bootstrap import Bootstrap, with_interval
from offramp.comparison.matched import over_budgets
from offramp.comparison.runs import Run, by_system
from offramp.records import ExitRecord
from offramp.records.splitting import strata, stratified_order


def orders(run: Run, draws: int, seed: int) -> list[np.ndarray]:
    """Return random orders of the validation samples, (N,) each, of which every first part is stratified."""
    return [
        stratified_order(strata(run.validation), np.random.default_rng([seed, 2, run.seed, draw]))
        for draw in range(draws)
    ]


def learning_curve(
    runs: Sequence[Run], pairs: Sequence[tuple[str, str]], sizes: Sequence[int], draws: int, bootstrap: Bootstrap
) -> pd.DataFrame:
    """Compare pairs of policies at equal cost, with parts of the validation samples and with all of them.

    Policies are fitted again, and thresholds chosen, on stratified random draws of each size. All policies use the same
    draws. A run that holds out samples for choosing does so in each draw.

    Parameters
    ----------
    runs : sequence of Run
        With fitted policies.
    pairs : sequence of (policy, rival)
        Labels of policies. Systems without one of them are skipped.
    sizes : sequence of int
        Numbers of validation samples.
    draws : int
        Number of random draws of each size.

    Returns
    -------
    DataFrame
        One row per system, pair and size, the last of which is the number of all samples: system, policy, rival,
        samples, and gain and cost_difference as of `comparison.matched.duels` for the match "budgets", averaged over
        the draws, with _sd, _low, _high. The intervals are over test samples and seeds, and not over draws.

    Raises
    ------
    ValueError
        If a size is not smaller than the number of validation samples of a run.
    """
    rows = []
    for system, group in by_system(runs).items():
        all_samples = min(run.validation.n_samples for run in group)
        if too_large := [size for size in sizes if size >= all_samples]:
            raise ValueError(
                f"{max(too_large)} validation samples are asked for, but {system} has {all_samples}; expected fewer"
            )
        there = [pair for pair in pairs if set(pair) <= group[0].policies.keys()]
        labels = list(dict.fromkeys(chain.from_iterable(there)))
        drawn = {run.seed: orders(run, draws, bootstrap.seed) for run in group}
        for size in [*sorted(sizes), all_samples]:
            parts = _drawn(group, drawn, labels, size) if size < all_samples else [group]
            measured = [
                [[over_budgets(run.policies[label], run) for run in part] for label in labels] for part in parts
            ]
            means = dict(zip(labels, np.mean(measured, axis=0).swapaxes(1, 2)))  # (2, S, N) each
            for policy, rival in there:
                gain, paid = means[policy] - means[rival]  # (S, N) each
                less = np.stack([bootstrap.shares(its, run.test) for its, run in zip(paid, group)])  # (S, 1 + B)
                rows.append(
                    {"system": system, "policy": policy, "rival": rival, "samples": size}
                    | bootstrap.summary("gain", gain.mean(1), bootstrap.means(gain))
                    | bootstrap.summary("cost_difference", less[:, 0], less[:, 1:])
                )
    return pd.DataFrame(rows, columns=None if rows else _COLUMNS)


_COLUMNS = ["system", "policy", "rival", "samples", *with_interval("gain", "cost_difference")]


def _drawn(
    group: Sequence[Run], drawn: dict[int, list[np.ndarray]], labels: Sequence[str], size: int
) -> Iterator[list[Run]]:
    """Yield the runs with each draw of their validation samples, and the policies fitted on it."""
    for order_of_seeds in zip(*drawn.values()):
        yield [_with(run, run.validation.take(order[:size]), labels) for run, order in zip(group, order_of_seeds)]


def _with(run: Run, validation: ExitRecord, labels: Sequence[str]) -> Run:
    smaller = replace(run, validation=validation)
    fitted = {label: replace(run.policies[label]).fit(smaller.fitting) for label in labels}
    return replace(smaller, policies=fitted)
