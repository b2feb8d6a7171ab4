"""Comparison of all policies on two records, with a report and a recommendation (`offramp judge`)."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from offramp._io.progress import progress_bar
from offramp._io.tables import write_table
from offramp._io.writing import write_text
from offramp.certification import certify
from offramp.comparison import matched
from offramp.comparison.bootstrap import Bootstrap
from offramp.comparison.claims import at_targets, control
from offramp.comparison.points import points
from offramp.comparison.rejection import rejection
from offramp.comparison.runs import Run, with_unit
from offramp.evaluation import (
    accuracy_without_loss,
    default_thresholds,
    evaluate,
    frontier,
    outcomes,
    threshold_on,
)
from offramp.evaluation.exits import exit_table, reliability_table
from offramp.policies import POLICIES, Policy, make_policy, save_policies
from offramp.records import ExitRecord
from offramp.records.confidence import SCORES
from offramp.records.metrics import quality_name, with_metric
from offramp.records.origin import shared_unit
from offramp.records.splitting import Holdout
from offramp.reports.catalogue import FIGURES, TABLES, shown
from offramp.reports.environment import environment
from offramp.reports.explorer import REFERENCES
from offramp.reports.labels import about_quality, policy_name, unit_name
from offramp.reports.page import write_report

# Policies that are fitted in addition to every registered policy with its default options
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "margin": ("confidence", {"score": "margin"}),
    "entropy": ("confidence", {"score": "entropy"}),
    "temperature": ("confidence", {"temperature": "per_exit"}),
}
CERTIFIED_RISKS = ("error", "gap", "disagreement", "error_among_exited")
GRID = np.round(np.linspace(0, 1, 201), 12)  # thresholds at which the control error is measured
TARGETS = (0.0, 0.005, 0.01, 0.02)  # decrease in accuracy relative to the last exit, for the table of targets
BINS = 15


@dataclass(frozen=True)
class Recommendation:
    """The recommended policy, chosen on validation data, and its results on test data.

    Attributes
    ----------
    policy : str
        Label of the fitted policy.
    threshold : float
    accuracy, accuracy_low, accuracy_high : float
        Accuracy on test data, with its 95 % bootstrap interval over samples.
    cost, cost_low, cost_high : float
        Average cost on test data as a fraction of the cost of the full model, with its interval.
    full_accuracy : float
        Accuracy of the last exit on test data.
    chosen_on : int
        Number of validation samples on which the policy was chosen.
    accuracy_there : float
        Accuracy on these samples. If it is much higher than on test data, there were too few of them to choose among so
        many policies.
    goal : str
        Description of the target.
    quality : str or None
        Name of the mean quality, which is meant by accuracy if answers are not classes.
    """

    policy: str
    threshold: float
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    cost: float
    cost_low: float
    cost_high: float
    full_accuracy: float
    chosen_on: int
    accuracy_there: float
    goal: str
    quality: str | None = None

    def __str__(self) -> str:
        text = (
            f"Recommended for {self.goal}: {policy_name(self.policy)} (`{self.policy}`) with threshold "
            f"{self.threshold:.6g}. On test data its accuracy is {self.accuracy:.2%} [{self.accuracy_low:.2%}, "
            f"{self.accuracy_high:.2%}] at {self.cost:.1%} [{self.cost_low:.1%}, {self.cost_high:.1%}] of the full "
            f"model's cost; the full model's accuracy is {self.full_accuracy:.2%}. On the {self.chosen_on} validation "
            f"samples that chose it, its accuracy is {self.accuracy_there:.2%}."
        )
        return about_quality(text, self.quality)


def judge(
    validation: ExitRecord,
    test: ExitRecord,
    out: Path,
    *,
    system: str = "system",
    accuracy: float | None = None,
    cost: float | None = None,
    level: float | None = None,
    risk: str = "error",
    confidence: float = 0.9,
    resamples: int = 2000,
    files: Mapping[str, str] | None = None,
    command: str = "",
    progress: bool = False,
) -> Recommendation:
    """Fit all policies that the records allow, compare them on test data, write a report, and recommend a policy.

    Policies are fitted on one half of the validation samples. Thresholds and the recommended policy are chosen on the
    other half, because results of thresholds that are chosen on the samples of the fit are too optimistic. All results
    in the report are measured on test data.

    Parameters
    ----------
    validation, test : ExitRecord
        Records of one system with at least two exits, with labels.
    out : Path
        Folder for `index.html`, `figures/`, `tables/`, the tables from which these are made (`data/`), the fitted
        policies (`policies.safetensors`) and the recommendation (`recommendation.json`).
    system : str
        Name of the system, if the metadata of `test` contain none.
    accuracy : float, optional
        Recommend the policy with the lowest cost among those that reach this accuracy on validation data.
    cost : float, optional
        Alternatively, recommend the policy with the highest accuracy at this average cost on validation data, in the
        unit of the record. By default, recommend the cheapest policy that is at least as accurate on validation data
        as the last exit.
    level : float, optional
        Alternatively, recommend the policy with the lowest cost among those with a certified threshold: with a
        probability of at least `confidence`, its `risk` is at most this level. So that this holds although the policy
        is chosen on the samples that certify, each of K policies is certified with confidence 1 − (1 − `confidence`) /
        K.
    risk : {"error", "gap", "disagreement", "error_among_exited"}
        What is at most `level`, as for `certify`.
    confidence : float
        Used with `level`.
    resamples : int
        Number of bootstrap resamples.
    files : mapping of str to str, optional
        Paths of the records (validation, test), for the commands in the report.
    command : str
        Command that creates the report, which is shown in it.
    progress : bool
        Show a progress bar on stderr.

    Returns
    -------
    Recommendation

    Raises
    ------
    ValueError
        If the records are not compatible, have a single exit or no labels, if more than one of `accuracy`, `cost` and
        `level` is given, or if no policy is certified.
    """
    _check(validation, test, accuracy, cost, level, risk)
    system, seed = str(test.metadata.get("system", system)), int(test.metadata.get("seed", 0))
    holdout = Holdout(0.5, seed)
    fitting, choosing = holdout.parts(validation)
    with progress_bar(3, "fitting policies", shown=progress, unit="step") as bar:
        policies, left_out = fit_all(fitting)
        paths = {**(files or {}), "policies": str(out / "policies.safetensors")}
        run = Run(system, seed, validation, test, policies, paths, holdout)
        bootstrap = Bootstrap.draw(test.n_samples, resamples, seed=0)
        recommendation = recommend(run, bootstrap, accuracy, cost, level, risk, confidence)
        bar.update()
        bar.set_description("comparing policies")
        tables = _write_tables(run, bootstrap, recommendation, out / "data")
        if "max_softmax" in test.measures and test.labels is not None:  # for the figures that show single samples
            test.save(out / "data" / "test.safetensors")
            tables["record"] = [out / "data" / "test.safetensors"]
        bar.update()
        bar.set_description("drawing figures")
        its = {
            "baseline": _claiming(policies),
            "quality": test.quality is not None,
            "prediction": test.prediction is not None,
            "max_softmax": "max_softmax" in test.measures,
            "layers": not test.is_router,
        }
        pages = [*_write_entries(tables, its, policies, out), *tables["points"]]
        bar.update()
    save_policies(
        policies,
        out / "policies.safetensors",
        {**validation.metadata, "system": system, "seed": seed, **holdout.metadata},
    )
    write_text(out / "recommendation.json", json.dumps(asdict(recommendation), indent=2) + "\n")
    left = "; ".join(f"{label} ({reason})" for label, reason in left_out.items())
    notes = [f"Left out: {left}."] if left_out else []
    about = {key: test.metadata[key] for key in ("dataset", "classes", "unit", "metric") if key in test.metadata}
    parameters = {
        "notes": notes,
        "system": system,
        **about,
        "samples": {"fit": fitting.n_samples, "choose": choosing.n_samples, "test": test.n_samples},
        "policies": {label: {"policy": policy.name, **policy.options} for label, policy in policies.items()},
        "resamples": resamples,
    }
    title, start = f"Offramp: policies for {system}", (recommendation.policy, recommendation.threshold)
    page = out / "index.html"
    write_report(pages, title, parameters, environment(), command, page, use=str(recommendation), start=start)
    return recommendation


def _check(
    validation: ExitRecord,
    test: ExitRecord,
    accuracy: float | None,
    cost: float | None,
    level: float | None,
    risk: str,
) -> None:
    if sum(target is not None for target in (accuracy, cost, level)) > 1:
        raise ValueError("judge: expected a target accuracy, a target cost or a level, and not several of them")
    if risk not in CERTIFIED_RISKS:
        raise ValueError(f"judge: risk is {risk!r}; expected one of {', '.join(CERTIFIED_RISKS)}")
    for split, record in (("validation", validation), ("test", test)):
        if record.n_exits < 2:
            raise ValueError(f"judge: the {split} record has one exit; expected at least two")
    units = {"the validation record": validation.metadata.get("unit"), "the test record": test.metadata.get("unit")}
    shared_unit(units, "judge")
    for what in ("n_exits", "n_classes"):
        one, other = (getattr(record, what) for record in (validation, test))
        if None not in (one, other) and one != other:
            name = what.removeprefix("n_")
            raise ValueError(f"judge: the validation record has {one} {name}, the test record {other}")


def fit_all(validation: ExitRecord) -> tuple[dict[str, Policy], dict[str, str]]:
    """Fit all policies that the record allows. Without max softmax, they use the next measure that it has.

    Returns
    -------
    fitted : dict of str to Policy
        Fitted policies by label.
    left_out : dict of str to str
        Reasons why the other policies cannot be used, by label.
    """
    fitted, left_out = {}, {}
    measure = next((score for score in SCORES if score in validation.measures), "max_softmax")
    scored = [name for name, policy in POLICIES.items() if hasattr(policy, "score") and name != "confidence"]
    candidates = {name: (name, {"score": measure} if name in scored else {}) for name in POLICIES} | VARIANTS
    if "mean_token_margin" in validation.measures:
        candidates["mean-token-margin"] = ("confidence", {"score": "mean_token_margin"})
    if validation.quality is not None:  # the best answer, which may be better than that of the last exit
        candidates["oracle"] = ("oracle", {"target": "label"})
    for label, (name, options) in candidates.items():
        try:
            policy = make_policy(name, **options).fit(validation)
            policy.signal(validation)
        except ValueError as error:
            left_out[label] = str(error).removeprefix(f"{name}: ")
        else:
            fitted[label] = policy
    return fitted, left_out


def recommend(
    run: Run,
    bootstrap: Bootstrap,
    accuracy: float | None = None,
    cost: float | None = None,
    level: float | None = None,
    risk: str = "error",
    confidence: float = 0.9,
) -> Recommendation:
    """Choose the best policy for the target on the samples of a run that choose, and measure it on the test record."""
    goal = (
        f"an accuracy of {accuracy:.2%}"
        if accuracy is not None
        else f"a mean cost of {cost:g}{_unit(run.test)}"
        if cost is not None
        else f"{risk} of at most {level:g}, certified with confidence {confidence:g}"
        if level is not None
        else "the accuracy of the last exit"
    )
    if not run.policies.keys() - set(REFERENCES):
        raise ValueError("judge: the records have too little for any policy; expected confidences or predictions")
    if level is None:
        label, threshold, accuracy_there = _best(run, accuracy, cost)
    else:
        label, threshold, accuracy_there = _best_certified(run, level, risk, confidence)
    (right,), (paid,) = outcomes(run.policies[label], run.test, [threshold])  # (N,) each
    shares = bootstrap.shares(paid, run.test)  # (1 + B,)
    accuracy_low, accuracy_high = bootstrap.interval(bootstrap.means(right))
    cost_low, cost_high = bootstrap.interval(shares[1:])
    return Recommendation(
        policy=label,
        threshold=float(threshold),
        accuracy=float(right.mean()),
        accuracy_low=accuracy_low,
        accuracy_high=accuracy_high,
        cost=float(shares[0]),
        cost_low=cost_low,
        cost_high=cost_high,
        full_accuracy=float(run.test.correct[:, -1].mean()),
        chosen_on=run.choosing.n_samples,
        accuracy_there=float(accuracy_there),
        goal=goal,
        quality=quality_name(run.test),
    )


def _best(run: Run, accuracy: float | None, cost: float | None) -> tuple[str, float, float]:
    """Return the best policy for a target, its threshold, and its accuracy on the samples that choose."""
    if cost is not None:
        target = {"cost": cost}
    else:
        target = {"accuracy": accuracy_without_loss(run.choosing) if accuracy is None else accuracy}
    best: tuple[float, ...] = (-np.inf,)
    chosen = (next(label for label in run.policies if label not in REFERENCES), np.inf, np.nan)
    for label, policy in run.policies.items():
        if label in REFERENCES:
            continue
        points = frontier(policy, run.choosing)
        threshold = threshold_on(points, **target)
        point = points[points.threshold >= threshold].iloc[0]
        score = (point.accuracy, -point.cost) if cost is not None else (-point.cost, point.accuracy)
        if cost is not None and point.cost > cost:
            score = (-np.inf, -point.cost)  # even the first exit is too expensive
        if score > best:
            best, chosen = score, (label, threshold, point.accuracy)
    return chosen


def _best_certified(run: Run, level: float, risk: str, confidence: float) -> tuple[str, float, float]:
    """Return the cheapest policy with a certified threshold, as `_best`, corrected for the number of policies."""
    candidates = {label: policy for label, policy in run.policies.items() if label not in REFERENCES}
    each = 1 - (1 - confidence) / len(candidates)
    found = {label: certify(policy, run.choosing, risk, level, each) for label, policy in candidates.items()}
    kept = {label: its for label, its in found.items() if its.threshold is not None}
    if not kept:
        label, its = next(iter(found.items()))
        raise ValueError(f"judge: no policy keeps {risk} at most {level:g}; {policy_name(label)}: {its.reason}")
    label = min(kept, key=lambda label: kept[label].cost)
    threshold = kept[label].shared_threshold
    (right,), _ = outcomes(candidates[label], run.choosing, [threshold])  # (N,)
    return label, threshold, float(right.mean())


def _unit(record: ExitRecord) -> str:
    unit = record.metadata.get("unit")
    return "" if unit is None else f" {unit_name(unit)}"


def _write_tables(
    run: Run, bootstrap: Bootstrap, recommendation: Recommendation, folder: Path
) -> dict[str, list[Path]]:
    """Write the tables from which figures and tables are made, and return their paths by kind.

    They are the same as those of `offramp calibrate`, `evaluate`, `compare` and `points`.
    """
    about = {"dataset": run.test.metadata.get("dataset"), "system": run.system, "seed": run.seed}

    def said_of(table: pd.DataFrame) -> pd.DataFrame:
        table = with_metric(table.assign(**about)[[*about, *table.columns]], run.test)
        return with_unit(table, [run]) if "cost" in table else table

    curves = [
        evaluate(policy, run.test, default_thresholds(policy, run.choosing)).assign(policy=label)
        for label, policy in run.policies.items()
    ]
    frontiers = [frontier(policy, run.test).assign(policy=label) for label, policy in run.policies.items()]
    everything = matched.match([run])
    full = run.choosing.correct[:, -1].mean()
    baseline = next(iter(_claiming(run.policies)), None)  # max softmax is the first, if it is there
    tables = {
        "curve": said_of(pd.concat(curves, ignore_index=True)),
        "frontier": said_of(pd.concat(frontiers, ignore_index=True)),
        "exits": said_of(exit_table(run.test, run.policies, BINS)),
        "targets": with_metric(
            at_targets([run], [round(float(full - drop), 4) for drop in TARGETS], bootstrap), run.test
        ),
        "speedup": matched.speedup(everything, bootstrap),
        "rejection": with_metric(rejection([run], bootstrap), run.test),
        "points": with_metric(
            points([run], bootstrap, also={recommendation.policy: [recommendation.threshold]}), run.test
        ),
    }
    if "max_softmax" in run.choosing.measures:
        tables["reliability"] = said_of(reliability_table(run.choosing, BINS))
    if baseline is not None:
        tables["control"] = with_metric(control([run], GRID, baseline, bootstrap), run.test)
    for kind, table in tables.items():
        write_table(table, folder / f"{kind}.parquet")
    return {kind: [folder / f"{kind}.parquet"] for kind in tables}


def _claiming(policies: Mapping[str, Policy]) -> list[str]:
    return [label for label, policy in policies.items() if policy.claims_accuracy]


def _write_entries(
    files: Mapping[str, Sequence[Path]], settings: Mapping[str, Any], policies: Mapping[str, Policy], out: Path
) -> list[Path]:
    """Write all figures and tables of the catalogue that can be made, and return the files that the page shows."""
    pages = []
    for entries, folder, ending in ((FIGURES, "figures", "png"), (TABLES, "tables", "csv")):
        for entry in shown(entries, files, settings, [policy.name for policy in policies.values()]):
            inputs = [file for kind in entry.reads for file in files[kind]]
            entry.write(inputs, out / folder / entry.name)
            pages.append(out / folder / f"{entry.name}.{ending}")
    return pages
