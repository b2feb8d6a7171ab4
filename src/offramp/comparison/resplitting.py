"""The search for cascades repeated on other random splits of the same samples, which measures the luck of the split."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from offramp._io.progress import progress_bar
from offramp.comparison.cascades import Variant, reduction_tables
from offramp.comparison.runs import Run
from offramp.records import ExitRecord
from offramp.records.joining import concatenated
from offramp.records.splitting import strata, stratified_order


def resplit_table(
    runs: Sequence[Run],
    variants: Mapping[str, Variant],
    bands: Sequence[tuple[float, float]],
    step: float,
    splits: int,
    seconds: Mapping[str, Mapping[str, float]] | None = None,
    seed: int = 0,
    progress: bool = False,
) -> pd.DataFrame:
    """Repeat the search of `reduction_tables` on random splits of the validation and test samples.

    Parameters
    ----------
    runs : sequence of Run
        Runs of single-exit models. Their validation and test samples must be from one pool, which was split at random.
    variants, bands, step
        As for `reduction_tables`.
    splits : int
        Number of random splits. They are stratified by class, and their parts are as large as those of the runs.
    seconds : mapping of str to mapping of str to float, optional
        Seconds per sample of each model, by device. The search is repeated with each of them as the cost.
    seed : int
        Seed of the random splits.
    progress : bool
        Show a progress bar over splits on stderr.

    Returns
    -------
    DataFrame
        One row per cost, split and quantity: dataset, cost (the unit of the records, or a device), split (from 1), the
        columns of the tables of measures and of reductions on test data over bands (for which the quantity is
        "reduction"), and value.

    Raises
    ------
    ValueError
        As for `reduction_tables`, if the samples are not from one pool, or if a model has no time on a device.
    """
    pools = [joined(run) for run in runs]
    size = runs[0].validation.n_samples
    costs = {str(pools[0].metadata.get("unit", "cost")): None} | dict(seconds or {})
    tables = []
    with progress_bar(len(costs) * splits, "splits", shown=progress, unit="split") as bar:
        for cost, of_model in costs.items():
            priced = [pool if of_model is None else with_seconds(pool, of_model, cost) for pool in pools]
            for split in range(1, splits + 1):
                order = stratified_order(strata(pools[0]), np.random.default_rng([seed, split]))  # (N,)
                validation, test = np.sort(order[:size]), np.sort(order[size:])
                drawn = [
                    Run(run.system, run.seed, pool[validation], pool[test], holdout=run.holdout)
                    for run, pool in zip(runs, priced)
                ]
                made = reduction_tables(drawn, dict(variants), bands, step, resamples=0)
                reductions = made["reductions"].query("scored_on == 'test' and low < high")
                both = [
                    made["measures"],
                    reductions.rename(columns={"reduction": "value"}).assign(quantity="reduction"),
                ]
                tables.append(pd.concat(both).assign(cost=cost, split=split))
                bar.update()
    columns = ["dataset", "cost", "split", "quantity", "variant", "kind", "front", "low", "high", "mean"]
    return pd.concat(tables, ignore_index=True).reindex(columns=[*columns, "to_variant", "to_kind", "value"])


def joined(run: Run) -> ExitRecord:
    """Return one record of the validation samples, followed by the test samples.

    Raises
    ------
    ValueError
        If a position is in both parts: then they are from different pools, and not a random split of one.
    """
    parts = run.validation, run.test
    if len(both := np.intersect1d(*(part.index for part in parts))):
        raise ValueError(
            f"{run.system}: position {both[0]} is a validation and a test sample, so they are from different pools; "
            "expected one pool that was split at random"
        )
    return concatenated(parts)


def with_seconds(record: ExitRecord, seconds: Mapping[str, float], device: str) -> ExitRecord:
    """Return the record of a single-exit model with its seconds per sample on a device as the cost."""
    system = record.metadata["system"]
    if system not in seconds:
        raise ValueError(f"{system}: no seconds on {device}; expected them for all models")
    return record.replace(cost=[seconds[system]], metadata={**record.metadata, "unit": "s"})
