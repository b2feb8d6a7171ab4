"""How often the promise of an acceleration is kept, and what it saves, over many draws of samples.

Without torch: it reads records of models with an exit at every block, whose heads are trained.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from offramp._io.progress import progress_bar
from offramp.acceleration.splits import certifiable, choosing_sizes
from offramp.acceleration.structures import KINDS, Fitted, Structure, choose_structures, full_cost
from offramp.acceleration.subset import choose_exits, fit_families, lower_bound
from offramp.certification import certify
from offramp.certification.losses import loss_of
from offramp.policies import Policy
from offramp.policies.base import first_exit
from offramp.records import ExitRecord

BEST, JOINT = "best", "joint"  # kinds in addition to `KINDS`


def evaluate_records(
    records: Sequence[ExitRecord],
    levels: Sequence[float],
    *,
    risk: str = "disagreement",
    confidence: float = 0.95,
    draws: int = 10,
    progress: bool = False,
) -> pd.DataFrame:
    """Evaluate all models of a study at several levels.

    Parameters
    ----------
    records : sequence of ExitRecord
        Validation and test records, in any order: those of `record_exits`, which belong together if they have the same
        teacher and seed, and those of models whose exits were trained jointly, which have no teacher.
    levels : sequence of float
    risk, confidence, draws, progress
        As for `evaluate_draws`.

    Returns
    -------
    DataFrame
        The tables of `evaluate_draws` and `evaluate_joint`, with the columns system and seed.

    Raises
    ------
    ValueError
        If a record is missing, if a smaller model is not cheaper, or as for `evaluate_draws`.
    """
    if any(not 0 < each < 1 for each in (*levels, confidence)):
        given = ", ".join(f"{level:g}" for level in levels)
        raise ValueError(f"levels {given}, confidence {confidence:g}; expected numbers between 0 and 1")
    tables = []
    options: dict[str, Any] = {"risk": risk, "confidence": confidence, "draws": draws, "progress": progress}
    for (teacher, seed), (held, rest) in _groups(records).items():
        for level in levels:
            if "teacher" in rest[0].metadata:
                table = evaluate_draws(held, rest, level=level, **options)
            else:
                table = evaluate_joint(held[0], rest[0], level=level, **options)
            tables.append(table.assign(system=teacher, seed=seed))
    table = pd.concat(tables, ignore_index=True)
    return table[["system", "seed", *table.columns.drop(["system", "seed"])]]


def _groups(records: Sequence[ExitRecord]) -> dict[tuple[str, int], tuple[list[ExitRecord], list[ExitRecord]]]:
    """Return the validation and the test records of each model and seed, with smaller models first."""
    found: dict[tuple, dict[str, dict[str, ExitRecord]]] = {}
    for record in records:
        about = record.metadata
        if missing := {"system", "seed", "split"} - about.keys():
            raise ValueError(f"a record has no {min(missing)}; expected what `offramp record-exits` or `record` wrote")
        key = about.get("teacher", about["system"]), about["seed"]
        found.setdefault(key, {}).setdefault(about["system"], {})[about["split"]] = record
    groups = {}
    for (teacher, seed), systems in found.items():
        order = sorted(systems, key=lambda system: (system == teacher, full_cost([*systems[system].values()])))
        for system in order:
            if systems[system].keys() != {"validation", "test"}:
                raise ValueError(f"{system}, seed {seed}: expected a validation and a test record")
        if order[-1] != teacher:
            raise ValueError(f"{teacher}, seed {seed}: no record of the model itself")
        parts = [[systems[system][split] for system in order] for split in ("validation", "test")]
        costs = [full_cost([record]) for record in parts[1]]
        if len(costs) > 1 and max(costs[:-1]) >= costs[-1]:
            raise ValueError(f"{teacher}: {order[int(np.argmax(costs))]} is not cheaper; expected smaller models")
        groups[teacher, seed] = parts[0], parts[1]
    return groups


def evaluate_draws(
    held: Sequence[ExitRecord],
    rest: Sequence[ExitRecord],
    *,
    risk: str = "disagreement",
    level: float = 0.01,
    confidence: float = 0.95,
    draws: int = 10,
    most_exits: int = 3,
    progress: bool = False,
) -> pd.DataFrame:
    """Choose structures and certify thresholds many times, on samples that are drawn from a known population.

    Whether a promise is kept can only be told where the truth is known. So the samples of `rest` are the population,
    from which those that choose the structure and those that certify the threshold are drawn, independently and with
    replacement, in the numbers of `accelerate`. The truth is the risk on the whole population. A certificate assumes
    just this, so it is broken in at most 1 − `confidence` of the draws, up to the chance of counting. Heads are the
    same in all draws.

    Parameters
    ----------
    held, rest : sequence of ExitRecord
        Of each model with all its exits, in ascending order of cost; the last one is the model itself. `held` has the
        samples on which policies are fitted, with labels (the answers of the model, or the truth), and `rest` the
        population. Heads must have been trained on neither.
    risk, level, confidence, most_exits
        As for `accelerate`.
    draws : int
        How often samples are drawn.
    progress : bool
        Show a progress bar on stderr.

    Returns
    -------
    DataFrame
        One row per draw and kind: draw; kind (`exits`, `cascade`, `both`, and the `best` of them); models, exits and
        policy; certified (whether a threshold was certified; otherwise, the model runs as it is); risk (of the
        population), estimate (on the samples of the certificate), speedup (cost of the model divided by the average
        cost, of the population), bound (highest possible speed-up on the samples of the structure); risk_name, level,
        confidence, n_structure, n_certificate and n_population.

    Raises
    ------
    ValueError
        If there are too few samples.
    """
    rows = []
    population, whole, fitted = _population(rest), full_cost(rest), Fitted(held)
    for draw, (structure, certificate), aim in _drawn(population, risk, level, confidence, draws, progress):
        found = choose_structures(structure, fitted, risk, aim, most_exits)
        full = full_cost(structure)
        chosen = {kind: its[0] for kind in KINDS if (its := found.of_kind(kind)) and its[0].cost < full}
        best = min(chosen.values(), key=lambda each: each.cost, default=Structure.plain(structure))
        for kind, each in {**chosen, BEST: best}.items():
            about = {
                "draw": draw,
                "kind": kind,
                "models": " + ".join(str(rest[m].metadata.get("system", m)) for m in each.models),
                "exits": " + ".join(",".join(str(i + 1) for i in exits) for exits in each.exits),
                "policy": each.policy,
                "bound": full / found.bound,
            }
            own = fitted.policy_of(each), each.of(certificate), each.of(population), whole
            rows.append(about | _certified(*own, risk, level, confidence))
    return _table(rows, rest[-1], risk, level, confidence)


def evaluate_joint(
    held: ExitRecord,
    rest: ExitRecord,
    *,
    risk: str = "disagreement",
    level: float = 0.01,
    confidence: float = 0.95,
    draws: int = 10,
    progress: bool = False,
) -> pd.DataFrame:
    """As `evaluate_draws`, for a model whose exits were trained together with it. It has the kind `joint`.

    All its exits stay, the policy is chosen among the same ones, and its answers and its cost are compared with those
    of its own last exit.
    """
    if risk == "disagreement":
        held = held.replace(labels=held.needed_prediction("disagreement")[:, -1])
    policies, rows = fit_families(held), []
    kept, whole = range(held.n_exits - 1), float(rest.cost[-1])
    (population,) = _population([rest])
    for draw, (structure, certificate), aim in _drawn([population], risk, level, confidence, draws, progress):
        (choice,) = choose_exits(structure[0], policies, risk, aim, 0, kept).best
        about = {
            "draw": draw,
            "kind": JOINT,
            "models": str(rest.metadata.get("system", JOINT)),
            "exits": ",".join(str(i + 1) for i in choice.exits),
            "policy": choice.policy,
            "bound": whole / lower_bound(structure[0], risk, aim),
        }
        own = policies[choice.policy], certificate[0], population, whole
        rows.append(about | _certified(*own, risk, level, confidence))
    return _table(rows, rest, risk, level, confidence)


def _population(rest: Sequence[ExitRecord]) -> list[ExitRecord]:
    """Return the records as those of a population, whatever split of a study they were."""
    return [record.replace(metadata={**record.metadata, "split": "population"}) for record in rest]


def _drawn(
    population: Sequence[ExitRecord], risk: str, level: float, confidence: float, draws: int, progress: bool
) -> Iterator[tuple[int, list[list[ExitRecord]], float]]:
    """Yield the number of each draw, its two parts, and the highest risk at which the second one certifies."""
    n = len(population[-1])
    n_structure, n_certificate = choosing_sizes(n, risk, level, confidence)
    if n <= n_structure + n_certificate:
        raise ValueError(f"{n} samples are too few; expected more than {n_structure + n_certificate} for this level")
    aim = certifiable(risk, level, confidence, n_certificate)
    with progress_bar(draws, f"draws, {risk} at most {level:g}", shown=progress, unit="draw") as bar:
        for draw in range(draws):
            parts = np.split(np.random.default_rng(draw).integers(0, n, n_structure + n_certificate), [n_structure])
            yield draw, [[_taken(record, part) for record in population] for part in parts], aim
            bar.update()


def _taken(record: ExitRecord, rows: np.ndarray) -> ExitRecord:
    """Return samples, some of them repeatedly, as if all were different ones."""
    return record.replace(
        **{name: values[rows] for name, values in record.by_sample.items()} | {"index": np.arange(len(rows))},
        confidence={measure: record.measure(measure)[rows] for measure in record.measures},
        logits=(lambda: record.needed_logits("a draw")[rows]) if record.has_logits else None,
    )


def _certified(
    policy: Policy,
    certificate: ExitRecord,
    population: ExitRecord,
    full: float,
    risk: str,
    level: float,
    confidence: float,
) -> dict:
    """Certify a threshold, and return its true risk and its speed-up.

    If its cost on the samples of the certificate is not below that of the model, `full`, the model runs as it is.
    """
    threshold, estimate = np.inf, 0.0
    if certificate.n_exits > 1:
        result = certify(policy, certificate, risk, level, confidence)
        if result.cost is not None and result.cost < full:
            threshold, estimate = result.shared_threshold, float(result.estimate or 0)
    left = first_exit(policy.signal(population), threshold)  # (N,)
    losses = loss_of(risk, policy, population, None, None).values  # (N, K)
    return {
        "certified": threshold < np.inf,
        "risk": float(losses[np.arange(len(left)), left].mean()),
        "estimate": estimate,
        "speedup": full / float(population.cost_of(left).mean()) if threshold < np.inf else 1.0,  # the model as it is
    }


def _table(rows: list[dict], rest: ExitRecord, risk: str, level: float, confidence: float) -> pd.DataFrame:
    n_structure, n_certificate = choosing_sizes(len(rest), risk, level, confidence)
    return pd.DataFrame(rows).assign(
        risk_name=risk,
        level=level,
        confidence=confidence,
        n_structure=n_structure,
        n_certificate=n_certificate,
        n_population=len(rest),
    )
