"""Calibration or ranking: how efficient each policy is, and which measure of its signal tells this.

A monotone map of a signal changes its calibration error, but neither the order of the samples nor, therefore, what a
shared threshold can reach. "Failure Prediction Is a Better Performance Proxy for Early-Exit Networks Than Calibration"
(arXiv 2508.21495) concludes that not calibration predicts efficiency, but how well right answers are ranked above wrong
ones.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from offramp.calibration import reliability_diagram
from offramp.comparison.bootstrap import Bootstrap, with_interval
from offramp.comparison.matched import BUDGETS, Matched, over_budgets
from offramp.comparison.runs import Run
from offramp.evaluation.rejection import Ranking
from offramp.policies import Policy, make_policy
from offramp.records import ExitRecord

BINS = 15  # of the calibration error
REFERENCES = ("oracle", "random")  # registered names of policies that are not exit rules
FEWEST = 3  # exit rules of a correlation
RESAMPLES = 10_000  # of the clusters
# Measures of a signal by column, with the sign that makes higher better
SIGNS = {"ece": -1, "auroc": 1, "aurc": -1}


def efficiency(everything: dict[tuple[str, str], Matched], bootstrap: Bootstrap) -> pd.DataFrame:
    """Return how efficient each policy is, and how well its signal is calibrated and ranks the answers.

    Accuracy is the mean over the nine budgets of `matched`, so it is the area under accuracy over cost. The oracle is
    the best that is possible at each budget (`best_possible`). Systems with one exit are left out.

    Parameters
    ----------
    everything : dict
        From `matched.match`.

    Returns
    -------
    DataFrame
        One row per system, policy and seed. rule (registered name of the policy); seed. Of this seed: of_seed (its
        efficiency), ece (calibration error with 15 bins, NaN if the policy estimates no accuracy), auroc and aurc of
        the signal as an estimate of being right, which are means over all exits but the last, whose signal decides
        nothing; and ece_1, auroc_1, aurc_1, ece_2 and so on, those of each of these exits. Repeated in all rows of a
        policy, as means over seeds with _sd, _low, _high: accuracy; gap_closed (the share of the gap between max
        softmax and the oracle that the policy closes; NaN without max softmax); efficiency (the same for the gap
        between random exits and the oracle); cost (share of the cost of the full model, at the cheapest threshold that
        loses no accuracy on validation data).
    """
    rows, references = [], {}
    for (system, label), each in everything.items():
        tests = [run.test for run in each.group]
        if tests[0].n_exits < 2:
            continue
        if system not in references:
            references[system] = _references(each.group, bootstrap)
        softmax, chance, best = references[system]
        accuracy = bootstrap.with_means(each.over_budgets(each.right))  # (S, 1 + B)
        closed, efficient = _share(accuracy, softmax, best), _share(accuracy, chance, best)  # (S, 1 + B) each
        cost = np.stack([bootstrap.shares(*pair) for pair in zip(each.paid[0], tests)])  # (S, 1 + B)
        shared = {"rule": each.group[0].policies[label].name}
        for name, values in zip(_WITH_INTERVAL, (accuracy, closed, efficient, cost)):
            shared |= bootstrap.summary(name, values[:, 0], values[:, 1:])
        for s, run in enumerate(each.group):
            of_exits = measures(run.policies[label], run.test)  # L − 1 rows
            row = {"system": system, "policy": label, "seed": run.seed, "of_seed": float(efficient[s, 0])}
            row |= of_exits.mean().to_dict() | shared  # the mean leaves out NaN
            for exit, values in of_exits.iterrows():
                row |= values.add_suffix(f"_{exit}").to_dict()
            rows.append(row)
    return pd.DataFrame(rows, columns=None if rows else [*_FIRST, *with_interval(*_WITH_INTERVAL)])


_WITH_INTERVAL = ("accuracy", "gap_closed", "efficiency", "cost")
_FIRST = ("system", "policy", "seed", "of_seed", *SIGNS, "rule")


def measures(policy: Policy, record: ExitRecord) -> pd.DataFrame:
    """Return ece, auroc and aurc of a signal as an estimate of being right: one row per exit but the last, from 1.

    ece is NaN if the policy estimates no accuracy, and auroc where all answers are right, or all are wrong.
    """
    signal, right = policy.signal(record)[:, :-1].T, policy.correct(record)[:, :-1].T  # (L − 1, N) each
    curves = [Ranking(values, 1.0 - its).curve(np.nan) for values, its in zip(signal, right)]
    errors = [reliability_diagram(*pair, BINS).ece if policy.claims_accuracy else np.nan for pair in zip(signal, right)]
    values = (errors, [curve.auroc for curve in curves], [curve.aurc for curve in curves])
    return pd.DataFrame(dict(zip(SIGNS, values)), index=np.arange(1, record.n_exits))


def _share(accuracy: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Return where accuracies are between two others, all (S, 1 + B): 0 at `low`, 1 at `high`. NaN without a gap."""
    gap = high - low
    return np.divide(accuracy - low, gap, out=np.full(gap.shape, np.nan), where=gap > 0)


def _references(group: Sequence[Run], bootstrap: Bootstrap) -> list[np.ndarray]:
    """Return the accuracies of max softmax (NaN if records have none), random exits and the oracle, (S, 1 + B) each."""
    test = group[0].test
    softmax = np.full((len(group), test.n_samples), np.nan)  # (S, N)
    if "max_softmax" in test.measures and not test.is_router:
        softmax = np.stack([over_budgets(make_policy("confidence"), run)[0] for run in group])
    chance = np.stack([over_budgets(make_policy("random"), run)[0] for run in group])
    best = np.stack([best_possible(run.test) for run in group])
    return [bootstrap.with_means(right) for right in (softmax, chance, best)]


def best_possible(record: ExitRecord) -> np.ndarray:
    """Return how right each sample is, on average over the budgets, if the labels decide where it leaves.

    No rule by which one of the exits answers is more accurate at the same average cost. Each sample starts at the first
    exit and moves on where its answer gets better, and those moves are made first that gain most for their cost, until
    the budget is spent. (A knapsack with shares: the last samples leave at random at one of two exits.) An ensemble of
    exits can be right where none of them is, which this does not include.

    Parameters
    ----------
    record : ExitRecord

    Returns
    -------
    ndarray of shape (N,)
    """
    right, rows = record.correct.astype(np.float64), np.arange(record.n_samples)  # (N, L), (N,)
    costs = np.broadcast_to(record.costs, right.shape)  # (N, L)
    at = np.zeros(record.n_samples, np.int64)  # exit of each sample
    moves = []
    for _ in range(record.n_exits - 1):
        gain, price = (values - values[rows, at][:, None] for values in (right, costs))  # (N, L) each
        worth = np.divide(gain, price, out=np.full(gain.shape, -np.inf), where=price > 0)
        to = worth.argmax(axis=1)  # (N,): first the best, so that the worth of a sample's moves decreases
        better = np.flatnonzero(worth[rows, to] > 0)
        moves.append(np.stack([better, *(values[better, to[better]] for values in (gain, price, worth))]))
        at[better] = to[better]
    sample, gain, price, worth = np.concatenate(moves, axis=1)  # (M,) each
    order = np.argsort(-worth, kind="stable")
    sample, gain, price = sample[order].astype(np.int64), gain[order], price[order]
    budgets = BUDGETS * (record.cost[-1] - record.cost[0]) * record.n_samples  # of all samples, beyond the first exit
    spent = price.cumsum() - price  # (M,): before each move
    made = np.clip((budgets[:, None] - spent) / price, 0, 1).mean(axis=0)  # (M,): share of the budgets
    return right[:, 0] + np.bincount(sample, made * gain, record.n_samples)


def correlations(table: pd.DataFrame) -> pd.DataFrame:
    """Return Spearman's rank correlations between the efficiency of exit rules and the measures of their signals.

    Each correlation is over the exit rules of one system and seed. The oracle and random exits do not count.

    Parameters
    ----------
    table : DataFrame
        From `efficiency`.

    Returns
    -------
    DataFrame
        One row per measure and set of rules. measure: "ece" and "aurc" (both negated, so that higher is better),
        "auroc", and "auroc − ece" and "aurc − ece", the differences of two correlations over the same rules. rules:
        "with an accuracy", those whose signal estimates an accuracy, or "all". correlation: mean over the runs (system
        and seed), with _low and _high, the 95 % bootstrap interval over runs, NaN if there is one run only. runs: their
        number; those with fewer than 3 rules, or with equal efficiencies or measures, do not count. dots: number of
        rules in them.
    """
    table = table[~table["rule"].isin(REFERENCES) & table["of_seed"].notna()]
    rows = []
    for rules, its in (("with an accuracy", table[table["ece"].notna()]), ("all", table)):
        names = [name for name in SIGNS if name != "ece" or rules != "all"]
        of_runs, dots = [], []
        for _, run in its.groupby(["system", "seed"], sort=False):
            of_runs.append([_spearman(run["of_seed"], SIGNS[name] * run[name]) for name in names])
            dots.append(len(run))
        found = pd.DataFrame(of_runs, columns=names, dtype=np.float64).assign(dots=np.array(dots, dtype=np.int64))
        if rules != "all":
            found = found.assign(**{f"{name} − ece": found[name] - found["ece"] for name in ("auroc", "aurc")})
        for measure in found.columns.drop("dots"):
            there = found[found[measure].notna()]
            low, high = _interval(there[measure].to_numpy())
            row = {"measure": measure, "rules": rules, "correlation": there[measure].mean()}
            row |= {"correlation_low": low, "correlation_high": high}
            rows.append(row | {"runs": len(there), "dots": int(there["dots"].sum())})
    return pd.DataFrame(rows)


def _spearman(x: pd.Series, y: pd.Series) -> float:
    both = pd.DataFrame({"x": x, "y": y}).dropna().rank()
    if len(both) < FEWEST or (both.nunique() < 2).any():
        return np.nan
    return float(np.corrcoef(both["x"], both["y"])[0, 1])


def _interval(values: np.ndarray) -> tuple[float, float]:
    """Return the bootstrap interval of the mean of the values of runs (R,)."""
    if len(values) < 2:
        return np.nan, np.nan
    drawn = np.random.default_rng(0).integers(len(values), size=(RESAMPLES, len(values)))  # (B, R)
    return Bootstrap.interval(values[drawn].mean(1))
