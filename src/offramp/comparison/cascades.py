"""Reduction of cost by cascades at equal accuracy. Cascades are chosen on validation data and evaluated on test data.

For every accuracy of a grid, the cheapest single model, pair and triple that reach it on validation data are chosen,
and two references: random deferral and the oracle. Their test results form curves, which are compared at equal test
accuracy. Because of noise, test accuracies along a curve are not monotonic. They are made non-decreasing by isotonic
regression first, for all curves. Selecting the cheapest choice with sufficient test accuracy instead would be a choice
on test data. Except for the definition of the reduction, this procedure is our choice.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from offramp._io.progress import progress_bar
from offramp.calibration import fit_temperatures, with_temperatures
from offramp.cascades.building import Combined, Ensemble, cascade, check_stages
from offramp.cascades.fronts import ascending, interpolated_cost, mean_reduction, pareto, step_cost
from offramp.cascades.search import Zoo, search_pairs, search_triples
from offramp.cascades.settings import CascadeSettings, origin_of_cascade
from offramp.comparison.bootstrap import Bootstrap
from offramp.comparison.runs import SPLITS, Run, with_unit
from offramp.policies.confidence import Score
from offramp.records import ExitRecord
from offramp.records.splitting import Holdout

COMPARED = ("pair", "triple", "random", "oracle")
STAGES, THRESHOLDS = ["stage_1", "stage_2", "stage_3"], ["threshold_1", "threshold_2"]
RELATION_RESAMPLES = 200  # resamplings of validation samples; each one requires a separate search


@dataclass(frozen=True)
class Variant:
    """How the cascades of a search defer samples and make predictions.

    Parameters
    ----------
    measure : {"max_softmax", "margin", "entropy", "mean_token_margin"}
        Confidence measure to which thresholds are applied.
    temperature : bool
        Scale the logits of each model first, by a temperature fitted on validation data.
    ensemble : None or an ensemble of `cascade`
        How predictions are combined if both models run.
    """

    measure: Score = "max_softmax"
    temperature: bool = False
    ensemble: Ensemble | None = None

    @property
    def learns(self) -> bool:
        """Whether something is fitted on validation samples, beside the choice of models and thresholds."""
        return self.temperature or self.ensemble == "accuracy_weighted"


# The variants of the paper: confidence measures, temperature scaling, and ensembles of the two models
VARIANTS = {
    "max-softmax": Variant(),
    "margin": Variant("margin"),
    "entropy": Variant("entropy"),
    "temperature": Variant(temperature=True),
    "mean-probability": Variant(ensemble="mean_probability"),
    "mean-logit": Variant(ensemble="mean_logit"),
    "accuracy-weighted": Variant(ensemble="accuracy_weighted"),
    "geometric": Variant(ensemble="geometric"),
    "temperature-mean-probability": Variant(temperature=True, ensemble="mean_probability"),
}
OF_TOKENS = Variant("mean_token_margin")  # for answers of language models


def default_variants(runs: Sequence[Run]) -> dict[str, Variant]:
    """Return the variants of the paper that all records allow, and warn of those that are left out.

    If all records have the mean token margin, it is one more variant.

    Raises
    ------
    ValueError
        If the records allow none of them, or are not those of single models.
    """
    _check_models(runs)
    possible = VARIANTS if _lacks(runs, OF_TOKENS) else VARIANTS | {"mean-token-margin": OF_TOKENS}
    left_out = {label: reason for label, variant in possible.items() if (reason := _lacks(runs, variant))}
    if len(left_out) == len(possible):
        raise ValueError(f"search: {left_out['max-softmax']}; expected a measure that all records have")
    if left_out:
        warnings.warn(
            f"search: left out {', '.join(left_out)}: {'; '.join(dict.fromkeys(left_out.values()))}", stacklevel=2
        )
    return {label: variant for label, variant in possible.items() if label not in left_out}


def _check_models(runs: Sequence[Run]) -> None:
    """Raise ValueError unless all records are those of single models."""
    for run in runs:
        for split in SPLITS:
            if (exits := getattr(run, split).n_exits) > 1:
                raise ValueError(
                    f"search: {run.name(split)} has {exits} exits; expected records of single models, of which the "
                    "search makes cascades (a cascade or a router is judged by `offramp judge`)"
                )


def _lacks(runs: Sequence[Run], variant: Variant) -> str | None:
    """Return what a variant needs and the first record that does not have it, or None if all have it."""
    for run in runs:
        for split in SPLITS:
            record = getattr(run, split)
            if (variant.temperature or variant.ensemble) and not record.has_logits:
                return f"{run.name(split)} has no logits"
            if not variant.temperature and variant.measure not in record.measures:
                others = f", only {', '.join(record.measures)}" if record.measures else " and no other confidence"
                return f"{run.name(split)} has no {variant.measure}{others}"
    return None


@dataclass(frozen=True, eq=False)
class Split:
    """The models on validation or test samples, and the predictions of pairs of models.

    Attributes
    ----------
    zoo : Zoo
    answers : callable or None
        Argument `correct` of `search_pairs`; None if the last model answers.
    """

    zoo: Zoo
    answers: Callable[[int], np.ndarray] | None

    @classmethod
    def of(cls, records: Sequence[ExitRecord], variant: Variant, accuracy: dict[str, float]) -> "Split":
        """Build from the records of the models. `accuracy` on validation data weights accuracy-weighted ensembles."""
        records = check_stages(records, "zoo")  # in one order, for the pairs below, too
        zoo = Zoo.of(records, variant.measure)
        by_name = {record.metadata["system"]: record for record in records}

        @cache
        def answers(small: int) -> np.ndarray:  # (M, N)
            right = np.zeros_like(zoo.correct)
            for large in np.flatnonzero(zoo.cost > zoo.cost[small]):
                pair = [zoo.names[small], zoo.names[large]]
                weights = [accuracy[name] for name in pair] if variant.ensemble == "accuracy_weighted" else None
                made = cascade([by_name[name] for name in pair], variant.ensemble, weights=weights)
                right[large] = made.correct[:, 1]
            return right

        return cls(zoo, answers if variant.ensemble else None)

    def cost_of(self, model: int) -> np.ndarray:
        """Cost of each sample, (N,)."""
        zoo = self.zoo
        return np.full(zoo.n_samples, zoo.cost[model]) if zoo.sample_cost is None else zoo.sample_cost[model]

    def play(self, choice: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray, list[float]]:
        """Apply a choice to each sample. Return correctness (N,), cost (N,), and the share that leaves at each stage.

        For the references random and oracle, correctness is a probability.
        """
        names = [choice[stage] for stage in STAGES if isinstance(choice[stage], str)]
        models = [self.zoo.names.index(name) for name in names]
        if choice["kind"] in ("random", "oracle"):
            small, large = models
            own, other = self.zoo.correct[[small, large]].astype(np.float64)  # (N,) each
            on = choice["share"] * (np.ones(len(own)) if choice["kind"] == "random" else other > own)
            return (
                own + on * (other - own),
                self.cost_of(small) + on * self.cost_of(large),
                [1 - on.mean()],
            )
        here = np.ones(self.zoo.n_samples, bool)
        right, paid, left = np.zeros(len(here)), np.zeros(len(here)), []
        for k, model in enumerate(models):
            paid += here * self.cost_of(model)
            ends = here
            if k < len(models) - 1:
                ends = here & (self.zoo.confidence[model].astype(np.float64) >= choice[THRESHOLDS[k]])
                left.append(ends.mean())
            answers = self.zoo.correct if k == 0 or self.answers is None else self.answers(models[0])
            right[ends] = answers[model, ends]
            here = here & ~ends
        return right, paid, left


@dataclass(frozen=True, eq=False)
class Curve:
    """Mean accuracy and cost of the choices of one kind, on a split and on its resamplings, (T, 1 + B) each."""

    accuracy: np.ndarray
    cost: np.ndarray

    @classmethod
    def of(cls, split: Split, choices: pd.DataFrame, bootstrap: Bootstrap) -> "Curve":
        right, cost, _ = zip(*(split.play(choice) for choice in choices.to_dict("records")))
        return cls(*(bootstrap.with_means(np.stack(values)) for values in (right, cost)))

    def costs_at(self, accuracies: np.ndarray, front=step_cost) -> np.ndarray:
        """Return the cost at the given accuracies (A,) after the curve is made non-decreasing: (1 + B, A)."""
        return np.stack(
            [front(*ascending(cost, accuracy), accuracies) for accuracy, cost in zip(self.accuracy.T, self.cost.T)]
        )


def reduction_tables(
    runs: Sequence[Run],
    variants: dict[str, Variant],
    bands: Sequence[tuple[float, float]],
    step: float,
    resamples: int,
    seed: int = 0,
    progress: bool = False,
) -> dict[str, pd.DataFrame]:
    """Search all cascades of the models on validation data, and evaluate the chosen ones on test data.

    Parameters
    ----------
    runs : sequence of Run
        Runs of single-exit models, with the same models for each seed. Cascades are chosen on the samples
        `Run.choosing`, with temperatures and weights that are fitted on `Run.fitting`. If no variant needs these, they
        are chosen on all validation samples.
    variants : dict of str to Variant
        The first variant includes triples and the references. The others are compared with it.
    bands : sequence of (float, float)
        Ranges of accuracy over which the reduction is averaged.
    step : float
        Step of the grid of accuracies, for choices and for averages.
    resamples, seed : int
        Number of resamples and seed of the bootstrap over test samples (and over validation samples, for quantities
        that are measured there).
    progress : bool
        Show a progress bar over seeds and variants on stderr.

    Returns
    -------
    dict of str to DataFrame
        `models`, `relations`, `choices`, `reductions`, `replacements` and `measures`. The functions below describe
        their columns, and docs/results.md shows the results.

    Raises
    ------
    ValueError
        If the seeds have different models, if there are fewer than two models, or if a variant needs logits that are
        missing.
    """
    return tables_of(search_zoo(runs, variants, bands, step, resamples, seed, progress))


@dataclass(frozen=True, eq=False)
class ZooSearch:
    """The search over all cascades of the models of each seed, for each variant.

    Attributes
    ----------
    by_seed : dict of int to list of Run
    variants : dict of str to Variant
    bands : sequence of (float, float)
    grid : ndarray of shape (A,)
        Accuracies at which costs are compared.
    on : dict of str to Bootstrap
        Resamplings of the validation and of the test samples.
    searched : dict of str to list of VariantSearch
        One search per seed for each variant.
    """

    by_seed: dict[int, list[Run]]
    variants: dict[str, Variant]
    bands: Sequence[tuple[float, float]]
    grid: np.ndarray
    on: dict[str, Bootstrap]
    searched: "Searches"


def search_zoo(
    runs: Sequence[Run],
    variants: dict[str, Variant],
    bands: Sequence[tuple[float, float]],
    step: float,
    resamples: int,
    seed: int = 0,
    progress: bool = False,
) -> ZooSearch:
    """Search all cascades of the models. Parameters and errors are those of `reduction_tables`."""
    _check_models(runs)
    for label, variant in variants.items():
        if reason := _lacks(runs, variant):
            raise ValueError(f"search: variant {label}: {reason}; leave the variant out, or make records with logits")
    if not any(variant.learns for variant in variants.values()):
        runs = [replace(run, holdout=Holdout()) for run in runs]
    by_seed: dict[int, list[Run]] = {}
    for run in runs:
        by_seed.setdefault(run.seed, []).append(run)
    systems = {number: {run.system for run in group} for number, group in by_seed.items()}
    first, *others = systems
    for other in others:
        if different := systems[first] ^ systems[other]:
            raise ValueError(
                f"seed {other}: {min(different)} is there for seed {first} or {other} alone; expected both"
            )
    if len(systems[first]) < 2:
        raise ValueError(f"search: {len(systems[first])} model of one exit; expected two at least")
    sizes = {"validation": runs[0].choosing.n_samples, "test": runs[0].test.n_samples}
    on = {part: Bootstrap.draw(size, resamples, seed) for part, size in sizes.items()}
    grid = _multiples(step, min(low for low, _ in bands), max(high for _, high in bands))  # (A,)
    searched: dict[str, list[VariantSearch]] = {label: [] for label in variants}
    with progress_bar(len(by_seed) * len(variants), "search", shown=progress, unit="variant") as bar:
        for group in by_seed.values():
            for label, variant in variants.items():
                searched[label].append(VariantSearch.of(group, variant, label == next(iter(variants)), step, grid, on))
                bar.update()
    return ZooSearch(by_seed, variants, bands, grid, on, searched)


def tables_of(found: ZooSearch) -> dict[str, pd.DataFrame]:
    """Evaluate the chosen cascades on test data. The tables are those of `reduction_tables`."""
    by_seed, searched, bands, grid, on = found.by_seed, found.searched, found.bands, found.grid, found.on
    runs = [run for group in by_seed.values() for run in group]
    base = next(iter(searched.values()))
    made = {
        "models": _of_seeds(by_seed, [_models(group, it, on["test"]) for group, it in zip(by_seed.values(), base)]),
        "relations": _of_seeds(by_seed, [it.relations for it in base]),
        "choices": pd.concat(
            [_of_seeds(by_seed, [_scored(it) for it in its]).assign(variant=label) for label, its in searched.items()],
            ignore_index=True,
        ),
        "replacements": _of_seeds(by_seed, [_replacements(it, on["test"]) for it in base]),
        "reductions": pd.DataFrame(_reductions(searched, bands, grid, on["test"])),
        "measures": pd.DataFrame([*_measures(searched, on), *_contrasts(searched, bands, grid, on["test"])]),
    }
    for table in made.values():
        table.insert(0, "dataset", runs[0].test.metadata.get("dataset"))
    with_costs = ("models", "relations", "choices", "replacements")
    return made | {name: with_unit(made[name], runs) for name in with_costs}


def cheapest(found: ZooSearch, accuracy: float | None = None) -> CascadeSettings:
    """Return the settings of the cheapest cascade of all variants that is accurate enough on validation data.

    Parameters
    ----------
    found : ZooSearch
    accuracy : float, optional
        Accuracy on validation data. Default: that of the most accurate single model.

    Returns
    -------
    CascadeSettings
        A cascade of one stage if no cascade is cheaper than a single model.

    Raises
    ------
    ValueError
        If there are several seeds, or if no cascade is accurate enough.
    """
    if len(found.by_seed) > 1:
        raise ValueError(
            f"search: the models have {len(found.by_seed)} seeds; expected the records of one seed for the settings "
            "of a cascade"
        )
    (group,) = found.by_seed.values()
    points = [
        (variant, point)
        for variant, (its,) in zip(found.variants.values(), found.searched.values())
        for _, point in list(its.fronts.values())[-1].iterrows()  # the front with all kinds of cascades
    ]
    if accuracy is None:
        accuracy = max(run.choosing.correct.mean() for run in group)
    enough = [(variant, point) for variant, point in points if point["accuracy"] >= accuracy - 1e-12]
    if not enough:
        best = max(point["accuracy"] for _, point in points)
        raise ValueError(f"search: no cascade has accuracy {accuracy:g} on validation data; the best has {best:g}")
    return _settings(*min(enough, key=lambda each: each[1]["cost"]), {run.system: run.fitting for run in group})


def _settings(variant: Variant, point: pd.Series, records: dict[str, ExitRecord]) -> CascadeSettings:
    """Return the settings of the cascade at a point of a front, from the samples on which its parts are fitted."""
    stages = tuple(name for name in point[STAGES] if isinstance(name, str))
    chosen, combined = [records[name] for name in stages], Combined()
    if len(stages) > 1:
        weighted = variant.ensemble == "accuracy_weighted"
        combined = Combined(
            ensemble=variant.ensemble,
            weights=tuple(float(record.correct.mean()) for record in chosen) if weighted else None,
            temperatures=tuple(tuple(fit_temperatures(record).tolist()) for record in chosen)
            if variant.temperature
            else None,
        )
    return CascadeSettings(
        stages=stages,
        combined=combined,
        measure=variant.measure,
        thresholds=tuple(float(threshold) for threshold in point[THRESHOLDS][: len(stages) - 1]),
        origin=origin_of_cascade(chosen[0].metadata),
        validation={"accuracy": float(point["accuracy"]), "cost": float(point["cost"])},
    )


@dataclass(frozen=True, eq=False)
class VariantSearch:
    """Results of the search over the models of one seed.

    Attributes
    ----------
    splits : dict of str to Split
        "validation" and "test".
    relations : DataFrame
        `SearchResult.pairs` on validation data.
    fronts : dict of str to DataFrame
        Fronts on validation data of "single" models, with "pair"s, and with "triple"s if they were searched. Columns as
        in `SearchResult.front`.
    chosen : dict of str to DataFrame
        The cheapest point at each target, for each front and for the references "random" and "oracle".
    curves : dict of (str, str) to Curve
        Curves by kind and split. For single models, all models on the front.
    costs : dict of (str, str) to ndarray of shape (1 + B, A)
        Cost at each accuracy of the grid, by kind and split. For single models, the kinds are the fronts "step" and
        "interpolated".
    """

    splits: dict[str, Split]
    relations: pd.DataFrame
    fronts: dict[str, pd.DataFrame]
    chosen: dict[str, pd.DataFrame]
    curves: dict[tuple[str, str], Curve]
    costs: dict[tuple[str, str], np.ndarray]

    @classmethod
    def of(
        cls,
        group: Sequence[Run],
        variant: Variant,
        first: bool,
        step: float,
        grid: np.ndarray,
        on: dict[str, Bootstrap],
    ) -> "VariantSearch":
        """Search the runs of one seed. The first variant includes triples, unless it uses an ensemble."""
        splits = _splits(group, variant)
        zoo, answers = splits["validation"].zoo, splits["validation"].answers
        accuracy = zoo.correct.mean(axis=1)  # (M,)
        members = pareto(zoo.cost, accuracy)
        pairs = search_pairs(zoo, answers)
        fronts = {"single": _singles(zoo, members), "pair": pairs.front}
        if first and answers is None:
            fronts["triple"] = search_triples(zoo, members, pairs).front
        targets = _multiples(step, accuracy.min(), 1)
        chosen = {kind: _first_reaching(front, targets) for kind, front in fronts.items()}
        if first:
            chosen |= {kind: _reference(splits["validation"], kind, targets) for kind in ("random", "oracle")}
        points = chosen | {"single": fronts["single"]}
        curves = {
            (kind, part): Curve.of(split, its, on[part])
            for part, split in splits.items()
            for kind, its in points.items()
        }
        costs = {}
        for (kind, part), curve in curves.items():
            if kind == "single":
                costs["step", part] = curve.costs_at(grid)
                costs["interpolated", part] = curve.costs_at(grid, interpolated_cost)
            else:
                costs[kind, part] = curve.costs_at(grid)
        return cls(splits, pairs.pairs, fronts, chosen, curves, costs)


def _of_seeds(seeds: Iterable[int], tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Concatenate the tables of all seeds, with the seed as the first column."""
    for seed, table in zip(seeds, tables):
        table.insert(0, "seed", seed)
    return pd.concat(tables, ignore_index=True)


def _multiples(step: float, low: float, high: float) -> np.ndarray:
    """Return the multiples of a step between two numbers, both included."""
    return np.round(step * np.arange(np.ceil(low / step - 1e-9), np.floor(high / step + 1e-9) + 1), 12)


def _splits(group: Sequence[Run], variant: Variant) -> dict[str, Split]:
    records = {"validation": [run.choosing for run in group], "test": [run.test for run in group]}
    if variant.temperature:
        fitted = [fit_temperatures(run.fitting) for run in group]
        records = {part: [with_temperatures(*each) for each in zip(its, fitted)] for part, its in records.items()}
    accuracy = {run.system: float(run.fitting.correct.mean()) for run in group}
    return {part: Split.of(its, variant, accuracy) for part, its in records.items()}


def _singles(zoo: Zoo, members: np.ndarray) -> pd.DataFrame:
    """Return the front of single models, in the format of `SearchResult.front`."""
    front = pd.DataFrame({"accuracy": zoo.correct[members].mean(axis=1), "cost": zoo.cost[members], "kind": "single"})
    front[STAGES] = None
    front["stage_1"] = [zoo.names[member] for member in members]
    return front.assign(threshold_1=np.nan, threshold_2=np.nan)


def _first_reaching(front: pd.DataFrame, targets: np.ndarray) -> pd.DataFrame:
    """Return the cheapest point of a front at each target that it reaches."""
    place = np.searchsorted(front["accuracy"].to_numpy() + 1e-12, targets)  # (T,)
    reached = place < len(front)
    return front.iloc[place[reached]].assign(target=targets[reached]).reset_index(drop=True)


def _reference(split: Split, kind: Literal["random", "oracle"], targets: np.ndarray) -> pd.DataFrame:
    """Return the lowest cost of random or oracle deferral at each target, over all models and pairs.

    With random deferral, a pair reaches all points on the straight line between the small model and both models. The
    oracle defers only samples on which the large model is correct and the small one is wrong (or on which its answer is
    better), at random, and only as many as the target requires.
    """
    zoo = split.zoo
    accuracy = zoo.correct.mean(axis=1)  # (M,)
    rows = []
    for small, large in np.argwhere(zoo.cost[:, None] < zoo.cost):
        helped = zoo.correct[large] > zoo.correct[small]  # (N,)
        gained = helped * (zoo.correct[large].astype(np.float64) - zoo.correct[small])  # (N,)
        gain = accuracy[large] - accuracy[small] if kind == "random" else gained.mean()
        paid = split.cost_of(large) * (1 if kind == "random" else helped)  # (N,)
        rows.append([small, large, accuracy[small], max(gain, 0), zoo.cost[small], paid.mean()])
    rows += [[model, model, accuracy[model], 0, zoo.cost[model], 0] for model in range(len(accuracy))]  # single models
    small, large, start, gain, least, more = np.array(rows).T[:, :, None]  # (P, 1) each
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(targets <= start + 1e-12, 0, (targets - start) / gain)  # (P, T)
    cost = np.where(share <= 1 + 1e-9, least + np.where(share <= 1 + 1e-9, share, 0) * more, np.inf)
    best = cost.argmin(axis=0)  # (T,)
    at = np.arange(len(targets))
    table = pd.DataFrame(
        {
            "accuracy": targets,
            "cost": cost[best, at],
            "kind": kind,
            "stage_1": [zoo.names[int(model)] for model in small[best, 0]],
            "stage_2": [zoo.names[int(model)] for model in large[best, 0]],
            "stage_3": None,
            "threshold_1": np.nan,
            "threshold_2": np.nan,
            "share": np.minimum(share[best, at], 1),
            "target": targets,
        }
    )
    return table[np.isfinite(table["cost"])].reset_index(drop=True)


Searches = dict[str, list[VariantSearch]]  # of each variant, one search per seed


def _scored(searched: VariantSearch) -> pd.DataFrame:
    """Return the table of choices.

    Columns: target, stages and thresholds, accuracy_validation and cost_validation, accuracy and cost on test data,
    exit_1 and exit_2 (shares of test samples that leave at the stage; missing if the stage does not defer), kind.
    """
    tables = []
    for kind, choices in searched.chosen.items():
        played = (searched.splits["test"].play(choice) for choice in choices.to_dict("records"))
        rows = [[right.mean(), paid.mean(), *[*left, np.nan, np.nan][:2]] for right, paid, left in played]
        table = choices.rename(columns={"accuracy": "accuracy_validation", "cost": "cost_validation"})
        table = table.reindex(columns=["target", *STAGES, *THRESHOLDS, "accuracy_validation", "cost_validation"])
        table[["accuracy", "cost", "exit_1", "exit_2"]] = np.reshape(rows, (len(choices), 4))
        tables.append(table.assign(kind=kind))
    return pd.concat(tables, ignore_index=True)


def _models(group: Sequence[Run], searched: VariantSearch, bootstrap: Bootstrap) -> pd.DataFrame:
    """Return the table of models.

    Columns include cost, accuracy on validation data and on test data (with its interval), whether the model is on the
    front of single models, and parameters.
    """
    front = set(searched.fronts["single"]["stage_1"])
    rows = []
    for run in sorted(group, key=lambda run: run.choosing.cost[0]):
        right = run.test.correct[:, 0]
        low, high = bootstrap.interval(bootstrap.means(right))
        rows.append(
            {
                "model": run.system,
                "cost": run.test.cost[0],
                "accuracy_validation": run.choosing.correct.mean(),
                "accuracy": right.mean(),
                "accuracy_low": low,
                "accuracy_high": high,
                "front": run.system in front,
                "parameters": (run.test.metadata.get("exit_parameters") or [np.nan])[-1],
            }
        )
    return pd.DataFrame(rows)


def _replacements(searched: VariantSearch, bootstrap: Bootstrap) -> pd.DataFrame:
    """Return the replacements of each single model on the front.

    They are chosen on validation data: the cheapest choice with at least the accuracy of the model (goal "accuracy"),
    and the most accurate one with at most its cost (goal "cost"). cost_ratio and accuracy_change are measured on test
    data, with intervals.
    """
    test, rows = searched.splits["test"], []
    front = list(searched.fronts.values())[-1]  # the front with all kinds of cascades that were searched
    for _, member in searched.fronts["single"].iterrows():
        own = _first_reaching(front, np.array([member["accuracy"]])).iloc[0]
        affordable = front[front["cost"] <= member["cost"]].iloc[-1]
        right_0, paid_0, _ = test.play(member)
        for goal, choice in (("accuracy", own), ("cost", affordable)):
            right, paid, _ = test.play(choice)
            ratio = bootstrap.with_means(paid) / bootstrap.with_means(paid_0)  # (1 + B,)
            change = bootstrap.with_means(right - right_0)
            row = {"model": member["stage_1"], "goal": goal, "kind": choice["kind"]}
            row |= {key: choice[key] for key in [*STAGES, *THRESHOLDS]}
            row |= {"model_cost": paid_0.mean(), "model_accuracy": right_0.mean()}
            row |= {"cost": paid.mean(), "accuracy": right.mean()}
            for name, values in (("cost_ratio", ratio), ("accuracy_change", change)):
                low, high = bootstrap.interval(values[1:])
                row |= {name: values[0], f"{name}_low": low, f"{name}_high": high}
            rows.append(row)
    return pd.DataFrame(rows)


def _dominated(singles: Curve, cascades: Curve) -> np.ndarray:
    """Return the share of single models, except the cheapest, for which the cascades are cheaper at equal accuracy.

    The result (1 + B,) contains the value on all samples, followed by the resampled ones.
    """
    beaten = [
        step_cost(*ascending(cost, accuracy), wanted) < paid
        for accuracy, cost, wanted, paid in zip(
            cascades.accuracy.T, cascades.cost.T, singles.accuracy[1:].T, singles.cost[1:].T
        )
    ]  # (1 + B) of (F − 1,)
    return np.mean(beaten, axis=1) if len(singles.cost) > 1 else np.full(len(beaten), np.nan)


def _relations(split: Split, pairs: pd.DataFrame, bootstrap: Bootstrap) -> dict[str, np.ndarray]:
    """Return statistics over all pairs of models on validation data.

    They are the rank correlations of the exit rate at the accuracy of the large model with the difference in accuracy
    and with the ratio of costs, and the share of pairs that cost less than the large model at this exit rate. Each
    result (1 + B,) contains the value on all samples, followed by the resampled ones.
    """
    zoo = split.zoo
    values = [_of_pairs(pairs)]
    for counts in bootstrap.counts[:RELATION_RESAMPLES]:
        drawn = np.repeat(np.arange(zoo.n_samples), counts.astype(int))  # (N,)
        again = Zoo(
            zoo.names,
            zoo.cost,
            None,  # mean costs suffice, because exit rates at equal accuracy do not depend on sample costs
            zoo.confidence[:, drawn],
            zoo.correct[:, drawn],
        )
        answers = None if split.answers is None else lambda small, drawn=drawn: split.answers(small)[:, drawn]
        values.append(_of_pairs(search_pairs(again, answers).pairs))
    return {quantity: np.array([each[quantity] for each in values]) for quantity in values[0]}


def _of_pairs(pairs: pd.DataFrame) -> dict[str, float]:
    rate = pairs["exit_rate"].fillna(0)  # the accuracy is never reached: no sample may leave
    measured = {"beaten_share": float((pairs["reduction"] > 1).mean())}
    for name, of in (
        ("accuracy_difference", pairs["accuracy_large"] - pairs["accuracy_small"]),
        ("size_ratio", pairs["cost_large"] / pairs["cost_small"]),
    ):
        varied = of.nunique() > 1 and rate.nunique() > 1
        measured[f"spearman_{name}"] = float(spearmanr(of, rate).statistic) if varied else np.nan
    return measured


def _reductions(
    searched: Searches,
    bands: Sequence[tuple[float, float]],
    grid: np.ndarray,
    bootstrap: Bootstrap,
) -> Iterator[dict]:
    """Yield the reductions R(a) = C_single(a) / C_cascade(a) at equal accuracy.

    There is one row per accuracy a of the grid (low == high), and one per band for the mean. `front` is the front that
    gives the cost of the single model. `accuracies` is the number of accuracies in the band for which both costs are
    known.
    """
    for label, its in searched.items():
        for kind, part in its[0].costs:
            for front in ("step", "interpolated") if kind in COMPARED else ():
                ratio = np.stack([it.costs[front, part] / it.costs[kind, part] for it in its])  # (S, 1 + B, A)
                about = {"variant": label, "kind": kind, "front": front}
                for low, high in [*bands, *((a, a) for a in grid if part == "test")]:
                    known = _known(ratio, grid, low, high)  # (S, 1 + B, a)
                    for mean in ("arithmetic", "geometric") if low < high else ("arithmetic",):
                        if known.size:
                            means = mean_reduction(known, mean)  # (S, 1 + B)
                            yield {
                                **about,
                                **{"low": low, "high": high, "mean": mean, "scored_on": part},
                                "accuracies": known.shape[-1],
                                **bootstrap.summary("reduction", means[:, 0], means[:, 1:]),
                            }


def _known(ratio: np.ndarray, grid: np.ndarray, low: float, high: float) -> np.ndarray:
    """Select the ratios (S, 1 + B, A) of a band for accuracies at which both costs are known, except in resamplings."""
    inside = (grid >= low - 1e-9) & (grid <= high + 1e-9)  # (A,)
    return ratio[:, :, inside & ~np.isnan(ratio[:, 0]).any(axis=0)]


def _measures(searched: Searches, on: dict[str, Bootstrap]) -> Iterator[dict]:
    """Yield measures of the zoo: `dominated_share` per variant and kind, and `_relations` of the first variant."""
    for label, its in searched.items():
        for kind in its[0].fronts:
            if kind != "single":
                shares = [_dominated(it.curves["single", "test"], it.curves[kind, "test"]) for it in its]
                about = {"quantity": "dominated_share", "variant": label, "kind": kind}
                yield about | _summary(on["test"], np.stack(shares))
        if label == next(iter(searched)):
            each = [_relations(it.splits["validation"], it.relations, on["validation"]) for it in its]
            for quantity in each[0]:
                about = {"quantity": quantity, "variant": label, "kind": "pair"}
                yield about | _summary(on["test"], np.stack([values[quantity] for values in each]))


def _contrasts(
    searched: Searches,
    bands: Sequence[tuple[float, float]],
    grid: np.ndarray,
    bootstrap: Bootstrap,
) -> Iterator[dict]:
    """Yield rows of `measures` that compare two kinds or variants on the same test samples.

    `reduction_ratio` is the ratio of their reductions, as the geometric mean over a band (the cost of single models
    cancels). `top_accuracy_difference` is the difference in accuracy of their most accurate pairs.
    """
    base = next(iter(searched))
    tops = {
        label: np.stack([it.splits["test"].play(it.fronts["pair"].iloc[-1])[0] for it in its])  # (S, N)
        for label, its in searched.items()
    }
    sides = [((base, "triple"), (base, "pair"))] if "triple" in searched[base][0].fronts else []
    sides += [((of, "pair"), (to, "pair")) for of in searched for to in searched if of != to]
    for (of, kind), (to, other) in sides:
        row = {"variant": of, "kind": kind, "to_variant": to, "to_kind": other}
        ratio = np.stack(
            [that.costs[other, "test"] / this.costs[kind, "test"] for this, that in zip(searched[of], searched[to])]
        )  # (S, 1 + B, A)
        for low, high in bands:
            known = _known(ratio, grid, low, high)  # (S, 1 + B, a)
            if known.size:
                means = _summary(bootstrap, mean_reduction(known, "geometric"))
                yield {"quantity": "reduction_ratio", **row, "low": low, "high": high, **means}
        if kind == other:
            apart = bootstrap.with_means(tops[of] - tops[to])  # (S, 1 + B)
            yield {"quantity": "top_accuracy_difference", **row, **_summary(bootstrap, apart)}


def _summary(bootstrap: Bootstrap, values: np.ndarray) -> dict[str, float]:
    """Return the columns of one quantity from its values per seed, followed by the resampled ones (S, 1 + B)."""
    return bootstrap.summary("value", values[:, 0], values[:, 1:])
