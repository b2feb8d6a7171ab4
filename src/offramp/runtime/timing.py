"""Measured time of models that stop, side by side with the full model."""

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from offramp._io.progress import progress_bar
from offramp.cascades.building import Combined
from offramp.datasets.base import Samples
from offramp.models.base import MultiExitModel
from offramp.policies import Policy
from offramp.policies.base import first_exit
from offramp.records import ExitRecord
from offramp.runtime.modules import EarlyExit

REPETITIONS, CALLS = 3, 30  # at least so many repetitions of all batches, and calls of each function


def stopping(
    models: Sequence[MultiExitModel],
    samples: Sequence[Samples],
    rows: np.ndarray,
    combined: Combined,
    policy: Policy,
    threshold,
    cost: np.ndarray,
) -> tuple[EarlyExit, Callable[[np.ndarray], Tensor]]:
    """Build a model that stops, or a cascade of several models, and read its inputs.

    Parameters
    ----------
    models : sequence of MultiExitModel
    samples : sequence of Samples
        The same samples as each of the models reads them.
    rows : ndarray of shape (n,)
        Positions of the samples that will be used.
    combined : Combined
        Ensemble and temperatures.
    policy, threshold, cost
        As for `EarlyExit`.

    Returns
    -------
    model : EarlyExit
    inputs : function
        From positions (B,) among the rows to a batch of inputs.
    """
    if len(models) == 1 and combined == Combined():
        (of_model,) = samples
        return EarlyExit(models[0], policy, threshold, cost=cost), lambda part: of_model[rows[part]][0]

    def preparation(of_model: Samples, device: torch.device) -> Callable[[Tensor], Tensor]:
        x = of_model[rows][0].to(device)  # (n, …): reading them is not measured
        lengths = None if of_model.lengths is None else torch.from_numpy(of_model.lengths[rows]).to(device)  # (n,)

        def prepare(part: Tensor) -> Tensor:
            return x[part] if lengths is None else x[part, : int(lengths[part].max())]

        return prepare

    devices = [next(model.parameters()).device for model in models]
    preparations = [preparation(*each) for each in zip(samples, devices)]
    options = {**vars(combined), "preparations": preparations, "cost": cost}
    return EarlyExit.cascade(models, policy, threshold, **options), torch.from_numpy


def side_by_side(
    variants: Mapping[str, Callable[[Any], object]],
    batches: Sequence,
    *,
    repetitions: int | None = None,
    synchronize: Callable[[], object] = lambda: None,
    progress: str | None = None,
) -> dict[str, np.ndarray]:
    """Measure the seconds that several functions take for the same batches.

    Each batch is given to all functions before the next one, in a random order, so that a machine that is slow for a
    while is slow for all of them.

    Parameters
    ----------
    variants : mapping of str to callable
    batches : sequence
    repetitions : int, optional
        R, the number of times that all batches are run. By default at least 3, and more for fewer than 10 batches. One
        call of each function before is not counted.
    synchronize : callable
        Waits for a device that computes on its own.
    progress : str, optional
        Title of a progress bar.

    Returns
    -------
    dict of str to ndarray of shape (R,)
        Seconds of all batches together.
    """
    repetitions = repetitions or max(REPETITIONS, -(-CALLS // len(batches)))
    times = {name: np.zeros(repetitions) for name in variants}
    order = np.random.default_rng(0)
    for function in variants.values():
        function(batches[0])
    with progress_bar(repetitions * len(batches), progress or "", shown=progress is not None) as bar:
        for r in range(repetitions):
            for x in batches:
                for name in order.permutation(list(variants)):
                    synchronize()
                    begin = time.perf_counter()
                    variants[name](x)
                    synchronize()
                    times[name][r] += time.perf_counter() - begin
                bar.update()
    return times


@torch.inference_mode()
def time_policies(
    model: EarlyExit,
    chosen: Mapping[str, tuple[Policy, float]],
    batches: Sequence[Tensor],
    record: ExitRecord,
    *,
    repetitions: int | None = None,
    progress: str | None = None,
) -> pd.DataFrame:
    """Measure how much faster a model is if it stops, compared with the same model with all its exits.

    Parameters
    ----------
    model : EarlyExit
        Its own policy and threshold are not used.
    chosen : mapping of str to tuple of Policy and float
        Fitted policies with their thresholds, by label.
    batches : sequence of Tensor of shape (B, …)
        Inputs. Each repetition runs all of them. The first one is also used to measure when removing samples from the
        batch saves time.
    record : ExitRecord
        Record of the same samples, with their costs.
    repetitions, progress
        As for `side_by_side`.

    Returns
    -------
    DataFrame
        One row per policy: policy, threshold; in_layers (exits divided by the mean number of exits passed), in_cost
        (cost of the full model divided by the mean cost) and in_seconds (time of the full model divided by that of the
        model that stops, median over the repetitions, with in_seconds_low and in_seconds_high, the lowest and highest);
        seconds and full_seconds (per sample, medians); other_exits (number of samples that left at another exit than in
        the record, because the signal was closer to the threshold than rounding).
    """
    model.profile(batches[0])
    early = {}
    for label, (policy, threshold) in chosen.items():
        early[label] = copy.copy(model)  # with the same measured times
        early[label].policy, early[label].threshold = policy, np.asarray(threshold, np.float64)
    times = side_by_side(
        {"": lambda x: model.model(x.to(model.device)).cpu(), **early},
        batches,
        repetitions=repetitions,
        synchronize=model.synchronize,
        progress=progress,
    )
    n, n_exits, rows = len(record), record.n_exits, []
    full = record.cost_of(np.full(n, n_exits - 1)).sum()
    for label, (policy, threshold) in chosen.items():
        exits = np.concatenate([early[label](x).exit for x in batches])  # (n,)
        ratios = times[""] / times[label]  # (R,)
        rows.append(
            {
                "policy": label,
                "threshold": threshold,
                "in_layers": n_exits / (exits + 1).mean(),
                "in_cost": full / record.cost_of(exits).sum(),
                "in_seconds": np.median(ratios),
                "in_seconds_low": ratios.min(),
                "in_seconds_high": ratios.max(),
                "seconds": np.median(times[label]) / n,
                "full_seconds": np.median(times[""]) / n,
                "other_exits": int((exits != first_exit(policy.signal(record), threshold)).sum()),
            }
        )
    return pd.DataFrame(rows)
