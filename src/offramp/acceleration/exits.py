"""A network with a trained head at every place at which it can be cut, and what all of them answer."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from offramp.acceleration.blocks import EncoderNetwork, First, Network, UncutNetwork, check_encoder, find_blocks
from offramp.acceleration.data import Inputs
from offramp.acceleration.features import compute_features, fingerprint
from offramp.acceleration.heads import Head, pool_of, train_heads
from offramp.acceleration.loading import Loaded
from offramp.acceleration.splits import Parts
from offramp.models.base import MultiExitModel
from offramp.models.huggingface import HuggingFace
from offramp.records import ExitRecord
from offramp.runtime.exporting import cost_coefficients

HELD = 0.25  # share of the part of the heads on which they are not trained, but chosen, and maps are fitted


@dataclass(frozen=True, eq=False)
class Member:
    """A network that can be cut into stages, with its inputs: the model itself, or a smaller one.

    Attributes
    ----------
    loaded : Loaded
    network : Network
    inputs : Inputs
    """

    loaded: Loaded
    network: Network
    inputs: Inputs

    @classmethod
    def of(
        cls, loaded: Loaded, inputs: Inputs, exits_at: Sequence[str] | None = None, *, uncut: bool = False
    ) -> "Member":
        """Find the places at which a network can be cut.

        Parameters
        ----------
        loaded : Loaded
        inputs : Inputs
        exits_at : sequence of str, optional
            Names of the places.
        uncut : bool
            Whether a network that cannot be cut is taken as a whole. Otherwise, it is an error.
        """
        x = inputs.batch(np.arange(min(4, len(inputs))))
        if not isinstance(loaded.module, HuggingFace):
            module = loaded.module.float().cpu()
            try:
                return cls(loaded, find_blocks(module, x, exits_at), inputs)
            except ValueError:
                if not uncut:
                    raise
                return cls(loaded, UncutNetwork(module, x), inputs)
        network = check_encoder(EncoderNetwork(loaded.module), x)
        if exits_at is None:
            return cls(loaded, network, inputs)
        if unknown := [name for name in exits_at if name not in network.places]:
            raise ValueError(f"--exits-at: no {unknown[0]!r}; expected some of {', '.join(network.places)}")
        return cls(loaded, network.limited(exits_at), inputs)

    @cached_property
    def classes(self) -> int:
        with torch.inference_mode():
            *_, (logits,) = self.network.states(self.inputs.batch(np.arange(1)))
        return logits.shape[1]

    @cached_property
    def cost(self) -> float:
        """Average MACs over the inputs, without exits."""
        return float(self.costs(cost_coefficients(self.network.staged((), ()), self.inputs.preparation)).mean())

    def costs(self, coefficients, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Return the costs of exits (1, L), or of each text (n, L), from their coefficients as in a bundle."""
        lengths = self.inputs.lengths
        tokens = np.ones(1) if lengths is None else lengths[rows].astype(np.float64)  # (1,) or (n,)
        coefficients = np.asarray(coefficients)  # (L, 1) or (L, 3)
        return (tokens[:, None] ** np.arange(coefficients.shape[1])) @ coefficients.T

    @cached_property
    def key(self) -> str:
        return fingerprint(self.network, self.inputs)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the classes, if they are known."""
        known = self.loaded.names or self.inputs.classes
        return known if len(known) == self.classes else ()

    def matched(self) -> "Member":
        """Return the same with the labels in the order of the classes of the model, whose names it may know."""
        inputs = self.inputs
        if inputs.labels is None:
            return self
        found = len(inputs.classes) or int(inputs.labels.max()) + 1
        if found > self.classes or (inputs.classes and found != self.classes):
            raise ValueError(f"the data have {found} classes, {self.loaded.name} has {self.classes}; expected the same")
        known = list(self.loaded.names)
        if inputs.classes and set(known) == set(inputs.classes):
            order = np.array([known.index(name) for name in inputs.classes])  # (C,)
            return replace(self, inputs=replace(inputs, labels=order[inputs.labels], classes=self.loaded.names))
        return self


@dataclass(frozen=True, eq=False)
class Exits:
    """A network with a trained head at every place, and the outputs of all of them on all inputs.

    Attributes
    ----------
    member : Member
    heads : list of Head
    features : list of ndarray of shape (N, F)
    logits : ndarray of shape (N, C)
        Of the network.
    held : ndarray of shape (H,), bool
        Which samples of the part of the heads were not trained on.
    coefficients : ndarray of shape (L, 1) or (L, 3)
        Of the cost of each exit, as in a bundle.
    head_cost : list of float
        MACs of the head of each exit; the last one has none.
    """

    member: Member
    heads: list[Head]
    features: list[np.ndarray]
    logits: np.ndarray
    held: np.ndarray
    coefficients: np.ndarray
    head_cost: list[float]

    @classmethod
    def of(
        cls,
        member: Member,
        parts: Parts,
        cache: Path,
        seed: int,
        progress: bool,
        teacher: np.ndarray | None = None,
    ) -> "Exits":
        """Compute the features and train the heads, as far as the cache does not have them.

        Heads learn the answers of a teacher, given by its logits (H, C) on the samples of the heads: by default, the
        network itself.
        """
        network, inputs, key = member.network, member.inputs, member.key
        places = range(len(network.places))
        with torch.inference_mode():
            *states, _ = network.states(inputs.batch(np.arange(2)))
        pools = [pool_of(state) for state in states]
        features, logits = compute_features(
            network, pools, inputs, cache, key, title=f"computing features of {member.loaded.name}", progress=progress
        )
        rows = parts.heads
        held = np.zeros(len(rows), bool)  # (H,)
        held[np.random.default_rng(seed).permutation(len(rows))[: max(1, round(HELD * len(rows)))]] = True
        heads = train_heads(
            pools,
            [each[rows] for each in features],
            logits[rows] if teacher is None else teacher,
            None if inputs.labels is None else inputs.labels[rows],
            held,
            cache,
            key,
            progress=progress,
        )
        bare = np.array(cost_coefficients(network.staged(places, [First() for _ in places]), inputs.preparation))
        full = np.array(cost_coefficients(network.staged(places, heads), inputs.preparation))  # (L, 1) or (L, 3)
        head_cost = np.diff((full - bare).sum(axis=1), prepend=0)  # (L,): at one token; heads may pool more than one
        return cls(member, heads, features, logits, held, full, head_cost.tolist())

    def record(self, rows: np.ndarray, answers: np.ndarray | None = None) -> ExitRecord:
        """Return the record of all exits on some samples.

        Parameters
        ----------
        rows : ndarray of shape (n,)
        answers : ndarray of shape (N,), optional
            They take the place of labels where there are none.
        """
        member = self.member
        with torch.inference_mode():
            early = [head.of_features(torch.from_numpy(x[rows])).numpy() for head, x in zip(self.heads, self.features)]
        logits = np.stack([*early, self.logits[rows]], axis=1)  # (n, L, C)
        labels = answers if member.inputs.labels is None else member.inputs.labels  # (N,) or None
        cost = member.costs(self.coefficients, rows)  # (1, L) or (n, L)
        metadata = {
            "system": member.loaded.name,
            "seed": 0,
            "classes": logits.shape[2],
            "unit": "MAC",
            "head_cost": self.head_cost,
            "blocks": [*member.network.places, "end"],
        }
        if member.names:
            metadata["names"] = list(member.names)
        return ExitRecord(
            logits,
            None if labels is None else labels[rows],
            cost[0] if member.inputs.lengths is None else cost,
            rows,
            metadata,
        )

    def staged(self, exits: Sequence[int]) -> MultiExitModel:
        """Return the network with these exits, the last of which is its end."""
        cuts = exits[:-1]
        return self.member.network.staged(cuts, [self.heads[i] for i in cuts])
