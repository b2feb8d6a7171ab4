"""Which models should run, and with which exits: the structures that cost least at a level of the risk. Without torch.

A structure is a model with exits, a cascade of smaller models with it, or a cascade whose stages have exits.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, combinations

import numpy as np

from offramp.acceleration.subset import Choice, choose_exits, fit_families, lower_bound
from offramp.cascades.building import cascade
from offramp.policies import Policy
from offramp.records import ExitRecord

MOST_MODELS = 3  # in a cascade; our choice
KINDS = ("exits", "cascade", "both")


@dataclass(frozen=True)
class Structure:
    """Some of the models with some of their exits, and a policy, chosen on records.

    Attributes
    ----------
    models : tuple of int
        Places of the models that run, among all models in ascending order of cost. The last one is the model itself.
    exits : tuple of tuple of int
        Exits of each of them, counted from 0, with its end.
    policy : str
        Label of the policy.
    threshold : float
    cost : float
        Average cost on the records.
    risk : float
        On the records.
    """

    models: tuple[int, ...]
    exits: tuple[tuple[int, ...], ...]
    policy: str
    threshold: float
    cost: float
    risk: float

    @property
    def n_exits(self) -> int:
        return sum(map(len, self.exits))

    @property
    def kind(self) -> str:
        """One of `KINDS`, or plain: the model without exits."""
        if len(self.models) == 1:
            return "exits" if self.n_exits > 1 else "plain"
        return "both" if self.n_exits > len(self.models) else "cascade"

    def of(self, records: Sequence[ExitRecord]) -> ExitRecord:
        """Return the record of this structure, made of the records of all models with all their exits."""
        return _joined([records[m].exits(exits) for m, exits in zip(self.models, self.exits)])

    @classmethod
    def plain(cls, records: Sequence[ExitRecord]) -> "Structure":
        """Return the structure that is the model without exits."""
        last = len(records) - 1
        return cls((last,), ((records[last].n_exits - 1,),), "confidence", np.inf, full_cost(records), 0.0)


class Fitted:
    """The policies of all combinations of models and of structures, each fitted when it is needed and kept.

    Parameters
    ----------
    held : sequence of ExitRecord
        Of each model with all its exits, with labels, in ascending order of cost.
    """

    def __init__(self, held: Sequence[ExitRecord]) -> None:
        self._held = held
        self._found: dict[tuple[int, ...], dict[str, Policy]] = {}
        self._chosen: dict[tuple, Policy] = {}

    def of(self, models: tuple[int, ...]) -> dict[str, Policy]:
        """Return the policies of some models, which are given by their places."""
        if models not in self._found:
            self._found[models] = fit_families(_joined([self._held[m] for m in models]))
        return self._found[models]

    def policy_of(self, structure: Structure) -> Policy:
        """Return the policy of a structure, for its own exits."""
        label = structure.policy
        key = structure.models, structure.exits, label
        if key not in self._chosen:
            self._chosen[key] = fit_families(structure.of(self._held), [label])[label]
        return self._chosen[key]


@dataclass(frozen=True)
class Structures:
    """What `choose_structures` found.

    Attributes
    ----------
    best : tuple of Structure
        The best one of each kind and number of exits, in ascending order of cost.
    exact : bool
        Whether every subset of the exits was tried.
    bound : float
        Lower bound of the average cost of all structures on the records, as in `Choices`.
    """

    best: tuple[Structure, ...]
    exact: bool
    bound: float

    def of_kind(self, kind: str) -> list[Structure]:
        """Return the structures of one kind, in ascending order of cost."""
        return [each for each in self.best if each.kind == kind]


def choose_structures(
    structure: Sequence[ExitRecord], fitted: Fitted, risk: str, level: float, most_exits: int
) -> Structures:
    """Find the structures with the lowest cost whose risk is at most the level, on records.

    All cascades of at most `MOST_MODELS` models that end with the model itself are tried, and for each of them the
    exits of its models (`choose_exits`) with every shared threshold, which is what will be certified.

    Parameters
    ----------
    structure : sequence of ExitRecord
        Of each model with all its exits, in ascending order of cost. The last one is the model itself.
    fitted : Fitted
        Policies that are fitted on other samples of the same models.
    risk : {"disagreement", "gap", "error"}
    level : float
    most_exits : int
        Largest number of exits in addition to the ends of the models.
    """
    last = len(structure) - 1
    best: dict[tuple[str, int], Structure] = {}
    exact, bounds = True, []
    for size in range(min(MOST_MODELS, last + 1)):
        for smaller in combinations(range(last), size):
            models = (*smaller, last)
            record = _joined([structure[m] for m in models])
            bounds.append(lower_bound(record, risk, level))
            if bounds[-1] >= full_cost(structure):
                continue
            ends = list(accumulate(structure[m].n_exits for m in models))  # one past the end of each model
            choices = choose_exits(record, fitted.of(models), risk, level, most_exits, [end - 1 for end in ends[:-1]])
            exact &= choices.exact
            for choice in choices.best:
                made = _structure(models, choice, ends)
                key = made.kind, made.n_exits
                if key not in best or made.cost < best[key].cost:
                    best[key] = made
    return Structures(tuple(sorted(best.values(), key=lambda each: each.cost)), exact, min(bounds))


def full_cost(records: Sequence[ExitRecord]) -> float:
    """Return the average cost of the model itself, the last one, without any head."""
    return float(records[-1].exits([records[-1].n_exits - 1]).cost[-1])


def _structure(models: tuple[int, ...], choice: Choice, ends: Sequence[int]) -> Structure:
    begins = [0, *ends[:-1]]
    exits = tuple(
        tuple(i - begin for i in choice.exits if begin <= i < end) for begin, end in zip(begins, ends, strict=True)
    )
    return Structure(models, exits, choice.policy, choice.threshold, choice.cost, choice.risk)


def _joined(records: Sequence[ExitRecord]) -> ExitRecord:
    if len(records) == 1:
        return records[0]
    with warnings.catch_warnings():  # with all its heads, a model may cost more than the next one
        warnings.filterwarnings("ignore", "cascade: stage .* costs")
        return cascade(records)
