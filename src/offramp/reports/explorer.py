"""What the report page shows of operating points: the data of its charts, and three sentences."""

import base64
import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from offramp.comparison.points import BINS, COVERAGES
from offramp.reports.labels import about_quality, policy_name, system_name
from offramp.reports.loading import quality_in, unit_of
from offramp.reports.tables.writing import cell

REFERENCES = ("oracle", "random")  # kinds of policies that are baselines, and are not recommended
FILES = ("validation", "test", "policies", "weights")
_FIRST = ("confidence", "pcee", "ztw", "beem-a", "stopping", "oracle")  # shown before anything is chosen
_EXACT = {"accuracy": 6, "accuracy_low": 6, "accuracy_high": 6, "validation_accuracy": 6}
_COSTS = ("cost", "cost_low", "cost_high", "validation_cost")


@dataclass(frozen=True)
class Explorer:
    """The interactive part of the page.

    Attributes
    ----------
    sentences : list of str
        What was compared, what came out, and what to use.
    data : str
        JSON of the points, compressed with gzip, in base64.
    specifications : str
        JSON of the charts.
    bundle : str
        Code of Vega.
    policies : list of dict
        label, name, color and dashes of each policy, for the legend.
    systems, seeds : dict
        Displayed names of the values of each column.
    quality, heading : str
        What is meant by accuracy, also with a capital letter.
    """

    sentences: list[str]
    data: str
    specifications: str
    bundle: str
    policies: list[dict[str, Any]]
    systems: dict[str, str]
    seeds: dict[int, str]
    quality: str
    heading: str


def explorer(points: pd.DataFrame, use: str | None = None, start: tuple[str, float] | None = None) -> Explorer:
    """Prepare the interactive part of the page.

    Parameters
    ----------
    points : DataFrame
        As of `comparison.points.points`.
    use : str, optional
        What to use, in place of the third sentence.
    start : (str, float), optional
        Label and threshold of the policy that is chosen first. By default, it is that of the third sentence.
    """
    from offramp.reports import charts
    from offramp.reports.figures.style import policy_styles

    looks = policy_styles(points["policy"])
    quality, unit = quality_in(points) or "accuracy", unit_of(points)
    best = recommended(points)
    sentences = [compared(points), found(points) if use is None else spread(points), use or to_use(points)]
    data = {
        **_of_points(points, list(looks)),
        "coverages": COVERAGES.tolist(),
        "unit": unit,
        "quality": quality,
        "start": _start(points, best) if start is None else (points["system"].iloc[0], start[0], _finite(start[1])),
    }
    data["shown"] = [label for label in looks if label in {*_FIRST, data["start"][1]}] or list(looks)[:6]
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return Explorer(
        sentences=[about_quality(sentence, quality_in(points)) for sentence in sentences],
        data=base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode(),
        specifications=json.dumps(
            charts.specifications(looks, quality, unit, (points["cost"].min(), points["cost"].max()))
        ).replace("</", "<\\/"),
        bundle=charts.bundle(),
        policies=[
            {"label": label, "name": look.name, "color": charts.color(look), "dashes": charts.dashes(look)}
            for label, look in looks.items()
        ],
        systems={system: system_name(system) for system in points["system"].unique()},
        seeds={seed: str(seed) for seed in sorted(points["seed"].unique().tolist())},
        quality=quality,
        heading=charts.heading(quality),
    )


def _start(points: pd.DataFrame, best: pd.DataFrame) -> tuple:
    """Return the system, label and threshold of the recommended policy, for the first seed."""
    if best.empty:
        return (*points[["system", "policy"]].iloc[0], "inf")
    system, policy = best["full_validation_accuracy"].idxmax()
    chosen = without_loss(points)
    its = chosen[(chosen["system"] == system) & (chosen["policy"] == policy)].iloc[0]
    return system, policy, _finite(its["threshold"])


def _finite(value: float) -> float | str | None:
    """Return a number as a JSON value: infinity is text, and NaN is None."""
    return value if np.isfinite(value) else None if np.isnan(value) else str(value)


def without_loss(points: pd.DataFrame) -> pd.DataFrame:
    """Return the cheapest point of each policy that is as accurate as the last exit on validation data."""
    keys = ["system", "seed", "policy"]
    there = points[~points["kind"].isin(REFERENCES)]
    enough = there[there["validation_accuracy"] >= there["full_validation_accuracy"] - 1e-12]
    return enough.sort_values("validation_cost", kind="stable").groupby(keys, sort=False).head(1).sort_values(keys)


def recommended(points: pd.DataFrame) -> pd.DataFrame:
    """Return the policy of each system that is the cheapest on validation data without losing accuracy there.

    Policies that were fitted on the samples that choose are left out, because their accuracy there is too good. Test
    data choose nothing.

    Returns
    -------
    DataFrame
        Indexed by system and policy: means over seeds of the test results, with _sd, and, for a single seed, _low and
        _high. `share` is the cost as a share of that of the full model.
    """
    chosen = without_loss(points[points["held_out"]])
    for name in ("cost", "cost_low", "cost_high", "validation_cost"):
        chosen = chosen.assign(**{name.replace("cost", "share"): chosen[name] / chosen["full_cost"]})
    groups = chosen.groupby(["system", "policy"], sort=False)
    means = groups[[*chosen.select_dtypes("number").columns]].mean()
    means = means.join(groups[["share", "accuracy"]].std().add_suffix("_sd")).assign(seeds=groups.size())
    ends = [f"{name}_{end}" for name in ("share", "accuracy") for end in ("low", "high")]
    means.loc[means["seeds"] > 1, ends] = np.nan  # the intervals are those of single seeds
    means = means[means["seeds"] == points["seed"].nunique()]
    return means.loc[means.groupby("system", sort=False)["validation_share"].idxmin()]


def compared(points: pd.DataFrame) -> str:
    systems = [system_name(system) for system in points["system"].unique()]
    shown = ", ".join(systems) if len(systems) <= 4 else f"{len(systems)} systems"
    seeds = points["seed"].nunique()
    return (
        f"{points['policy'].nunique()} policies were compared on {shown}{f' with {seeds} seeds each' * (seeds > 1)}, "
        f"on {points['n_test'].iloc[0]:,} test samples; their thresholds were chosen on "
        f"{points['n_choosing'].iloc[0]:,} validation samples."
    )


def found(points: pd.DataFrame) -> str:
    best = recommended(points).sort_values("validation_share")
    if best.empty:
        return "No policy keeps the accuracy of the full model on validation data."
    parts = [
        f"{system_name(system)} needs {_shown(row, 'share')} % of its cost with {policy_name(policy)}, at an accuracy "
        f"of {_shown(row, 'accuracy')} % instead of {100 * row.full_accuracy:.1f} %"
        for (system, policy), row in best.head(2).iterrows()
    ]
    spread = "± is the standard deviation over seeds" if best["seeds"].max() > 1 else "brackets are 95 % intervals"
    return f"With thresholds that lose no accuracy on validation data, {'; '.join(parts)} ({spread})."


def spread(points: pd.DataFrame) -> str:
    chosen = without_loss(points)
    if chosen.empty:
        return "No policy keeps the accuracy of the full model on validation data."
    chosen = chosen.assign(share=chosen["cost"] / chosen["full_cost"]).sort_values("share", kind="stable")
    low, high = (
        f"{100 * row.share:.1f} % (accuracy {100 * row.accuracy:.1f} %, {policy_name(row.policy)})"
        for row in (chosen.iloc[0], chosen.iloc[-1])
    )
    return (
        f"With thresholds that lose no accuracy on validation data, the policies need from {low} to {high} of the cost "
        f"of the full model on test data (accuracy {100 * chosen['full_accuracy'].iloc[0]:.1f} %)."
    )


def to_use(points: pd.DataFrame) -> str:
    best = recommended(points)
    if best.empty:
        return "Use the full model."
    system, policy = best["full_validation_accuracy"].idxmax()
    if best.loc[(system, policy), "validation_share"] > 0.99:
        return f"For the accuracy of {system_name(system)}, use the full model: no policy saves cost."
    chosen = without_loss(points)
    its = chosen[(chosen["system"] == system) & (chosen["policy"] == policy)]
    thresholds = ", ".join(f"{threshold:.6g}" for threshold in its["threshold"])
    of = f" (seeds {', '.join(map(str, its['seed']))})" if len(its) > 1 else ""
    fitted = "" if points["held_out"].all() else " of the policies that were not fitted on these samples"
    row = best.loc[(system, policy)]
    change = cell(100 * float(row["accuracy"] - row["full_accuracy"]), digits=1, sign="+")
    return (
        f"For the accuracy of {system_name(system)}, use {policy_name(policy)} with δ = {thresholds}{of}: without "
        f"losing accuracy on validation data, it is the cheapest there{fitted}. On test data, it changes the accuracy "
        f"by {change} points."
    )


def _shown(row: pd.Series, name: str) -> str:
    values = [row.get(f"{name}{end}", np.nan) for end in ("", "_low", "_high", "_sd")]
    return cell(*(100 * float(value) for value in values), digits=1)


def _of_points(points: pd.DataFrame, order: Sequence[str]) -> dict[str, Any]:
    """Return the runs, the labels and the curves as JSON values. Curves refer to runs and labels by their places."""
    runs, curves = [], []
    for (system, seed), of_run in points.groupby(["system", "seed"], sort=False):
        first = of_run.iloc[0]
        files = {name: first[name] for name in FILES if name in of_run and not pd.isna(first[name])}
        full = {"accuracy": float(first["full_accuracy"]), "cost": float(first["full_cost"])}
        name = f"{system_name(system)}, seed {seed}" if points["seed"].nunique() > 1 else system_name(system)
        runs.append({"system": system, "seed": int(seed), "name": name, "full": full, "files": files})
        exits = sum(first.filter(regex=r"^exit_\d+$").notna())
        for label, its in of_run.groupby("policy", sort=False):
            curves.append({"run": len(runs) - 1, "policy": order.index(label)} | _curve(its, exits))
    return {
        "runs": runs,
        "policies": [{"label": label, "name": policy_name(label)} for label in order],
        "curves": curves,
    }


def _curve(its: pd.DataFrame, exits: int) -> dict[str, list]:
    columns: dict[str, np.ndarray] = {"threshold": its["threshold"].to_numpy()}
    columns |= {name: its[name].to_numpy().round(decimals) for name, decimals in _EXACT.items()}
    columns |= {name: np.array([float(f"{value:.7g}") for value in its[name]]) for name in _COSTS}
    groups = {"exit": exits, "exit_accuracy": exits, "exit_estimate": exits}
    groups |= {"bin_share": BINS, "bin_accuracy": BINS, "bin_estimate": BINS}
    for name, n in groups.items():
        columns[name] = its[[f"{name}_{i + 1}" for i in range(n)]].to_numpy().round(4)  # (T, n)
    columns["coverage"] = its[[f"coverage_{100 * share:.0f}" for share in COVERAGES]].to_numpy().round(4)
    return {name: _json(values.tolist()) for name, values in columns.items()}


def _json(values: list) -> list:
    return [_json(value) if isinstance(value, list) else _finite(value) for value in values]
