"""Exact search over all operating points of all cascades of two or three models of a zoo."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, combinations
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from offramp._io.progress import progress_bar
from offramp._kernels.search import BLOCK, Table, Triple, add_point, sketch_triple, walk_pairs, walk_triple
from offramp.cascades.building import check_stages
from offramp.records import ExitRecord
from offramp.records.confidence import available_threads
from offramp.records.metrics import whole

SORTED = 64  # number of models whose sorted samples are cached
LEVELS = 1 << 18  # least number of steps of mean quality that a front of qualities distinguishes
CASCADE_SIZES = ("single", "pair", "triple")
Answers = Callable[[int], np.ndarray]


@dataclass(frozen=True, eq=False)
class Zoo:
    """M single-exit models on the same N samples, in ascending order of mean cost.

    Attributes
    ----------
    names : tuple of M str
        Unique names.
    cost : ndarray of shape (M,), float64
        Mean cost per sample, above 0, ascending.
    sample_cost : ndarray of shape (M, N), float64, or None
        Cost of each sample, if costs differ between samples, as for texts.
    confidence : ndarray of shape (M, N), float32 or float64
        Finite confidences. Larger values mean more confident.
    correct : ndarray of shape (M, N), bool or float64
        Whether the models are correct, or the quality of their answers, from 0 to 1.

    Raises
    ------
    ValueError
        If a cost is not above 0, costs are not ascending, names are not unique, shapes differ, or a confidence is not
        finite.
    """

    names: tuple[str, ...]
    cost: np.ndarray
    sample_cost: np.ndarray | None
    confidence: np.ndarray
    correct: np.ndarray

    def __post_init__(self) -> None:
        shape = len(self.names), np.shape(self.confidence)[-1]
        for field in ("confidence", "correct", "sample_cost"):
            if (values := getattr(self, field)) is not None and values.shape != shape:
                raise ValueError(f"zoo: {field} has shape {values.shape}; expected {shape}, models and samples")
        if self.cost.shape != shape[:1] or not (self.cost > 0).all() or (np.diff(self.cost) < 0).any():
            raise ValueError(f"zoo: costs are {self.cost}; expected one a model, above 0, in ascending order")
        if len(set(self.names)) < len(self.names):
            again = next(name for name in self.names if self.names.count(name) > 1)
            raise ValueError(f"zoo: {again} is there twice; expected another name for each model")
        if not np.isfinite(self.confidence).all():
            raise ValueError("zoo: a confidence is not finite; expected finite numbers")

    @classmethod
    def of(cls, records: Sequence[ExitRecord], measure: str = "max_softmax") -> "Zoo":
        """Build the zoo from records, sorted by mean cost. Records of equal cost keep their order.

        Parameters
        ----------
        records : sequence of M ExitRecord
            Records with one exit each, on the same samples, which are joined by `index`, and in the same unit.
            `metadata["system"]` is the name.
        measure : str
            Confidence measure: max_softmax, margin, entropy (negated), or mean_token_margin.

        Raises
        ------
        ValueError
            If a record has several exits, no name or no such measure, if the records are not compatible, or as for the
            class.
        """
        records = check_stages(records, "zoo")
        records[0].needed_correct("zoo")
        for k, record in enumerate(records, start=1):
            if record.n_exits != 1:
                raise ValueError(f"zoo: record {k} has {record.n_exits} exits; expected one")
            if "system" not in record.metadata:
                raise ValueError(f"zoo: record {k} has no name; expected metadata with system")
        records = sorted(records, key=lambda record: record.cost[0])
        sample_cost = None
        if any(record.sample_cost is not None for record in records):
            first = np.zeros(records[0].n_samples, np.int64)  # (N,): all samples leave at the first exit
            sample_cost = np.stack([record.cost_of(first) for record in records])  # (M, N)
        return cls(
            names=tuple(str(record.metadata["system"]) for record in records),
            cost=np.array([record.cost[0] for record in records]),
            sample_cost=sample_cost,
            confidence=np.stack([record.confidence(measure)[:, 0] for record in records]),
            correct=np.stack([record.correct[:, 0] for record in records]),
        )

    @property
    def n_samples(self) -> int:
        return self.confidence.shape[1]

    @property
    def right(self) -> np.ndarray:
        """Correctness or quality as whole numbers, (M, N), in units of 1 / `one`."""
        return whole(self.correct)[0]

    @property
    def one(self) -> int:
        """The whole number that stands for a correct answer, or for a quality of 1."""
        return whole(self.correct[:0])[1]

    @property
    def total(self) -> np.ndarray:
        """Total cost over all samples, (M,)."""
        return self.cost * self.n_samples if self.sample_cost is None else self.sample_cost.sum(axis=1)


@dataclass(frozen=True, eq=False)
class SearchResult:
    """Result of a search.

    Attributes
    ----------
    front : DataFrame
        The Pareto front of all operating points of all single models and cascades, in ascending cost and accuracy.
        Columns: accuracy, cost (mean over samples), kind ("single", "pair" or "triple"), stage_1 … stage_3 (names),
        threshold_1 and threshold_2 (a sample leaves the stage if confidence ≥ threshold; the largest threshold that
        gives this point), exit_1 and exit_2 (share of all samples that leave at the stage). Values for stages that a
        cascade does not have are missing. If several points have the same accuracy and cost, the one with fewer stages
        is listed, then the one with cheaper stages, beginning with the first, then the one that defers fewer samples.
        If answers have qualities, accuracy is the mean quality, and the front distinguishes at least 2¹⁸ steps of it:
        for each step, it contains the cheapest point that reaches it, and of equal ones the best.
    pairs : DataFrame or None
        One row per ordered pair. Columns: small, large (names), accuracy_small, accuracy_large, cost_small, cost_large;
        exit_rate, the largest exit rate at which the pair is as accurate as the large model alone (NaN if there is
        none), cost, the cost at this exit rate, and reduction, cost_large / cost; best_accuracy, the highest accuracy
        of the pair, and best_exit_rate, the largest exit rate that gives it. None if no pairs were searched.
    """

    front: pd.DataFrame
    pairs: pd.DataFrame | None


def pair_frontier(zoo: Zoo, small: int, large: int, correct: Answers | None = None) -> pd.DataFrame:
    """Return all operating points of a pair. The small model answers if its confidence ≥ threshold.

    The result is the `frontier` of the policy "confidence" on the `cascade` of the two records, but is computed
    without building that record.

    Parameters
    ----------
    zoo : Zoo
    small, large : int
        Indices in the zoo of the first and the second stage.
    correct : callable, optional
        As for `search_pairs`.

    Returns
    -------
    DataFrame
        threshold (ascending; +∞ if all samples are deferred), accuracy, cost (mean over samples), exit_rate (share of
        samples that the small model answers).
    """
    n = zoo.n_samples
    ranked = _ranked(zoo.confidence[small])
    order = ranked.order
    answers = _answers(zoo, small, correct)[large, order]  # (N,)
    own = zoo.right[small, order]  # (N,)
    right = own.sum() + np.append(0, np.cumsum(answers.astype(np.int64) - own))  # (N + 1,)
    k = np.flatnonzero(ranked.ends)  # (U,)
    return pd.DataFrame(
        {
            "threshold": ranked.threshold[k],
            "accuracy": right[k] / (n * zoo.one),
            "cost": (zoo.total[small] + _cumulative_cost(zoo, large, order)[k]) / n,
            "exit_rate": (n - k) / n,
        }
    )


def search_pairs(zoo: Zoo, correct: Answers | None = None, progress: bool = False) -> SearchResult:
    """Compute the exact front of all single models and all pairs of a cheaper and a more expensive model.

    Models of equal cost do not form a pair. The search takes O(M N log N) time for one sort per model and O(M² N) for
    the pairs. In addition to the zoo, it needs O(threads · N) bytes and one row per pair. It uses all threads that are
    available to the process. The result does not depend on the number of threads.

    Parameters
    ----------
    zoo : Zoo
    correct : callable, optional
        For ensembles of the two models. Function from the index of a small model to the correctness (M, N) of its pair
        with each model if both models run, of the type of `Zoo.correct`. It is called once per small model, and only
        the rows of larger models are read. By default, the large model alone answers if it runs.
    progress : bool
        Show a progress bar over small models on stderr.

    Returns
    -------
    SearchResult
    """
    n_models, n = zoo.correct.shape
    found = np.zeros((n_models, n_models, 3), np.int64)
    found_cost = np.full((n_models, n_models), np.nan)
    whole_right, whole_all = zoo.right, n * zoo.one  # (M, N), and the number that stands for all samples
    right, total = whole_right.sum(axis=1, dtype=np.int64), zoo.total  # (M,) each
    cost = zoo.cost[:, None] if zoo.sample_cost is None else zoo.sample_cost  # (M, 1) or (M, N)
    dearer = np.searchsorted(zoo.cost, zoo.cost, side="right")  # (M,): index of the first large model of each pair
    threads = available_threads()
    tables = [_singles(zoo) for _ in range(threads)]  # one per thread
    smaller = np.flatnonzero(dearer < n_models).tolist()
    with ThreadPoolExecutor(threads) as pool, progress_bar(len(smaller), "pairs", shown=progress, unit="model") as bar:
        for s in smaller:
            ranked = _ranked(zoo.confidence[s])
            own = whole_right[s, ranked.order]  # (N,)
            answers = whole_right if correct is None else _answers(zoo, s, correct)  # (M, N)
            shared: tuple[Any, ...] = (ranked.order, ranked.ends, own, answers, right, total, cost)
            walks = [
                pool.submit(walk_pairs, s, dearer[s] + t, threads, *(*shared, table, found[s], found_cost[s]))
                for t, table in enumerate(tables)
            ]
            for walk in walks:
                walk.result()
            bar.update()
    small, large = np.nonzero(zoo.cost[:, None] < zoo.cost)  # (P,) each
    fewest, best, best_k = found[small, large].T  # (P,) each
    names = np.array(zoo.names, object)
    columns = {"small": names[small], "large": names[large]}
    for of, model in (("accuracy", right / whole_all), ("cost", zoo.cost)):
        columns |= {f"{of}_small": model[small], f"{of}_large": model[large]}
    columns["exit_rate"] = np.where(fewest < 0, np.nan, (n - fewest) / n)
    columns["cost"] = found_cost[small, large]
    columns["reduction"] = zoo.cost[large] / columns["cost"]
    columns |= {"best_accuracy": best / whole_all, "best_exit_rate": (n - best_k) / n}
    return SearchResult(_front(zoo, _merged(tables)), pd.DataFrame(columns))


def search_triples(zoo: Zoo, members: Sequence[int], found: SearchResult | None = None) -> SearchResult:
    """Compute the exact front with all triples of the given models added, at every pair of thresholds.

    With N samples, a triple has up to (N + 1)² operating points. Blocks of points that are dominated by the current
    front are skipped. With blocks of b × b points, N² / b steps are needed for the bounds, and b² steps for each block
    near the front. Models of equal cost are never in the same triple. The search needs O(members · N + threads · N)
    bytes.

    Parameters
    ----------
    zoo : Zoo
    members : sequence of int
        Indices in the zoo.
    found : SearchResult, optional
        Result of `search_pairs` on the same zoo. The search starts from its front, and its pairs are returned. By
        default, the front contains only single models and triples.

    Returns
    -------
    SearchResult

    Raises
    ------
    ValueError
        If a member or a model of the front is not in the zoo.
    """
    members = sorted(set(members))
    if members and not 0 <= members[0] <= members[-1] < len(zoo.names):
        raise ValueError(f"search_triples: members {members}; expected places in a zoo of {len(zoo.names)} models")
    triples = [t for t in combinations(members, 3) if zoo.cost[t[0]] < zoo.cost[t[1]] < zoo.cost[t[2]]]
    start = _singles(zoo) if found is None else _table(zoo, found.front)
    table = _with_triples(zoo, triples, start)
    return SearchResult(_front(zoo, table), None if found is None else found.pairs)


def triple_frontier(zoo: Zoo, small: int, middle: int, large: int) -> pd.DataFrame:
    """Return the exact Pareto front of the operating points of one triple, with the columns of `SearchResult.front`."""
    return _front(zoo, _with_triples(zoo, [(small, middle, large)], _empty(zoo)))


def _with_triples(zoo: Zoo, triples: Sequence[tuple[int, int, int]], table: Table) -> Table:
    """Add the points of triples to the front. All triples are sketched first, because a better front rules out more."""
    ranked = {model: _ranked(zoo.confidence[model]) for model in set(chain(*triples))}
    right = zoo.right  # (M, N)
    threads = available_threads()
    with ThreadPoolExecutor(threads) as pool:
        for walk in (sketch_triple, walk_triple):
            tables = [_copied(table) for _ in range(threads)]

            def run(t, walk=walk, tables=tables):
                for models in triples[t::threads]:
                    walk(_triple(zoo, right, models, ranked), BLOCK, tables[t])

            list(pool.map(run, range(threads)))
            table = _merged(tables)
    return table


class _SortedSamples(NamedTuple):
    """The samples of one model in ascending confidence."""

    order: np.ndarray  # (N,) int32
    rank: np.ndarray  # (N,) int32: rank of each sample in `order`
    threshold: np.ndarray  # (N + 1,) float64: largest threshold that defers this number of samples
    ends: np.ndarray  # (N + 1,) bool: whether a threshold defers exactly this number (ties are deferred together)


def _ranked(confidence: np.ndarray) -> _SortedSamples:
    order = np.argsort(confidence, kind="stable").astype(np.int32)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    threshold = np.append(confidence[order].astype(np.float64), np.inf)
    return _SortedSamples(order, rank, threshold, np.append(True, threshold[1:] > threshold[:-1]))


def _answers(zoo: Zoo, small: int, correct: Answers | None) -> np.ndarray:
    """Return the correctness of pairs with each model if both models run, as whole numbers (M, N)."""
    if correct is None:
        return zoo.right
    answers = np.ascontiguousarray(correct(small), zoo.correct.dtype)
    if answers.shape != zoo.correct.shape:
        raise ValueError(f"correct({small}): shape {answers.shape}; expected {zoo.correct.shape}, models and samples")
    return whole(answers)[0]


def _cumulative_cost(zoo: Zoo, model: int, order: np.ndarray) -> np.ndarray:
    """Return the cost of the model for the first 0 … N samples of an order, (N + 1,)."""
    if zoo.sample_cost is None:
        return np.arange(len(order) + 1) * zoo.cost[model]
    return np.append(0, np.cumsum(zoo.sample_cost[model, order]))


def _encode_stages(zoo: Zoo, stages: Sequence[int]) -> int:
    """Encode a cascade: its stages, counted from 1, are digits in base M + 1. Fewer stages give smaller numbers."""
    number = 0
    for stage in stages:
        number = number * (len(zoo.names) + 1) + stage + 1
    return number


def _stages(zoo: Zoo, number: int) -> list[int]:
    stages = []
    while number:
        number, digit = divmod(number, len(zoo.names) + 1)
        stages.append(digit - 1)
    return stages[::-1]


def _empty(zoo: Zoo) -> Table:
    """Return a table without points. Its rows are numbers of correct samples, or finer steps of quality."""
    whole_all, shift = zoo.n_samples * zoo.one, 0
    while zoo.one >> shift > 1 and whole_all >> (shift + 1) >= LEVELS:
        shift += 1
    rows = (whole_all >> shift) + 1
    point = np.zeros(rows, np.int64), np.zeros(rows, np.int64), np.zeros((rows, 2), np.int32)
    return Table(np.full(rows, np.inf), *point, shift)


def _copied(table: Table) -> Table:
    return Table(table.cost.copy(), table.right.copy(), table.who.copy(), table.deferred.copy(), table.shift)


def _singles(zoo: Zoo) -> Table:
    table = _empty(zoo)
    for m, (right, total) in enumerate(zip(zoo.right.sum(axis=1, dtype=np.int64), zoo.total)):
        add_point(table, right, total / zoo.n_samples, _encode_stages(zoo, [m]), 0, 0)
    return table


def _members(table: Table) -> np.ndarray:
    """Return the rows that are on the Pareto front: those after which more correct samples cost more."""
    return np.flatnonzero(table.cost < np.append(table.cost[1:], np.inf))


def _merged(tables: Sequence[Table]) -> Table:
    first, *others = tables
    for table in others:
        for row in _members(table):
            add_point(first, table.right[row], table.cost[row], table.who[row], *map(int, table.deferred[row]))
    return first


def _table(zoo: Zoo, front: pd.DataFrame) -> Table:
    """Return the table that represents this front."""
    table = _empty(zoo)
    ranked = lru_cache(SORTED)(lambda model: _ranked(zoo.confidence[model]))
    for row in front.itertuples():
        names = [name for name in (row.stage_1, row.stage_2, row.stage_3) if not pd.isna(name)]
        if unknown := set(names) - set(zoo.names):
            raise ValueError(f"front: {min(unknown)} is not in the zoo; expected a front of the same zoo")
        stages = [zoo.names.index(name) for name in names]
        thresholds = (row.threshold_1, row.threshold_2)[: len(stages) - 1]
        deferred = [int(ranked(s).threshold.searchsorted(threshold)) for s, threshold in zip(stages, thresholds)]
        i, j = [*deferred, 0, 0][:2]
        right = round(row.accuracy * zoo.n_samples * zoo.one)
        add_point(table, right, row.cost, _encode_stages(zoo, stages), i, j)
    return table


def _front(zoo: Zoo, table: Table) -> pd.DataFrame:
    n, whole_all = zoo.n_samples, zoo.n_samples * zoo.one
    ranked = lru_cache(SORTED)(lambda model: _ranked(zoo.confidence[model]))
    rows, members = [], _members(table)
    for cost, right, who, (i, j) in zip(*(column[members].tolist() for column in table[:-1])):
        stages = _stages(zoo, who)
        thresholds, leave = [], []  # for all stages except the last
        if len(stages) > 1:
            thresholds.append(ranked(stages[0]).threshold[i])
            leave.append(n - i)
        if len(stages) > 2:
            ranks = ranked(stages[1]).rank[ranked(stages[0]).order[:i]]  # (i,)
            stay = ranks[ranks >= j]
            thresholds.append(ranked(stages[1]).threshold[stay.min(initial=n)])
            leave.append(len(stay))
        names = [zoo.names[stage] for stage in stages]
        shares = [left / n for left in (*leave, n - sum(leave))]
        row = [right / whole_all, cost, CASCADE_SIZES[len(stages) - 1], *[*names, None, None][:3]]
        rows.append([*row, *[*thresholds, np.nan, np.nan][:2], *[*shares, np.nan][:2]])
    columns = ["accuracy", "cost", "kind", "stage_1", "stage_2", "stage_3"]
    return pd.DataFrame(rows, columns=[*columns, "threshold_1", "threshold_2", "exit_1", "exit_2"])


def _triple(zoo: Zoo, right: np.ndarray, models: Sequence[int], ranked: dict[int, _SortedSamples]) -> Triple:
    """Return three models for the walks. `right` (M, N) is `Zoo.right`."""
    s, m, l = models
    order = ranked[s].order
    right_s, right_m, right_l = (right[model, order] for model in models)  # (N,) each
    return Triple(
        who=_encode_stages(zoo, models),
        right=int(right_s.sum()),
        rank=np.pad(ranked[m].rank[order], (0, 1)),
        place=np.pad(ranked[s].rank[ranked[m].order], (0, 1)),
        ends_s=ranked[s].ends,
        ends_m=ranked[m].ends,
        gain_m=np.pad(right_m - right_s, (0, 1)),
        gain_l=np.pad(right_l - right_m, (0, 1)),
        paid=zoo.total[s] + _cumulative_cost(zoo, m, order),
        weight=np.pad(np.ones(len(order)) if zoo.sample_cost is None else zoo.sample_cost[l, order], (0, 1)),
        unit=float(zoo.cost[l]) if zoo.sample_cost is None else 1.0,
    )
