"""The blocks of a network that was not written for Offramp, and the network in stages that end after some of them."""

import copy
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from timm.models import get_notrace_functions
from torch import Tensor, fx, nn

from offramp.datasets.base import Vocabulary
from offramp.datasets.pretrained import one_line
from offramp.models.base import TextModel
from offramp.models.costs import exit_costs
from offramp.models.encoder import _FAMILIES, _chain
from offramp.models.wrapping import Staged

LATEST = 0.95  # of the MACs: what follows a later block is too little to save
SHOWN = 12  # modules that an error names


class Network:
    """A network with places at which it can be cut into stages.

    Attributes
    ----------
    module : Module
        The network itself, from inputs (B, …) to logits (B, C).
    places : tuple of str
        Names of the blocks after which an exit is possible, in the order in which they run. The end of the network,
        where it answers anyway, is not one of them.
    """

    module: nn.Module
    places: tuple[str, ...]

    def stages(self, cuts: Sequence[int]) -> list[nn.Module]:
        """Return the network in len(cuts) + 1 stages, cut after these places. They share its parameters.

        Each stage reads what the one before it returns, and the last one returns the logits (B, C).
        """
        raise NotImplementedError

    def staged(self, cuts: Sequence[int], heads: Sequence[nn.Module]) -> Staged:
        """Return the network with an exit after each of these places. Its last exit is its own answer."""
        return Staged(self.stages(cuts), [*heads, nn.Identity()])

    def states(self, x: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """Yield the state after each place, and the logits (B, C) at last, as tuples of tensors."""
        state: Any = (x,)
        for stage in self.all_stages:
            state = stage(*state)
            state = state if isinstance(state, tuple) else (state,)
            yield state

    @property
    def all_stages(self) -> list[nn.Module]:
        if not hasattr(self, "_all"):
            self._all = self.stages(range(len(self.places)))
        return self._all


class _Whole(nn.Module):
    """A network with a single input, so that its other arguments have their defaults when it is traced."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)


class _Tracer(fx.Tracer):
    """Trace which modules a network calls, without looking into any except the named ones."""

    def __init__(self, root: nn.Module, opened: set[str]) -> None:
        # Functions that branch on sizes, such as that of position embeddings for any image size, are steps of the graph
        super().__init__(autowrap_functions=tuple(get_notrace_functions()))
        self._autowrap_search += [sys.modules[name] for name in {type(each).__module__ for each in root.modules()}]
        self.opened = {"network", *(f"network.{name}" for name in opened)}

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name not in self.opened


@dataclass(frozen=True)
class _Cut:
    """A place between two nodes of the graph at which a single tensor is all that the rest reads."""

    name: str
    after: int  # place of the node in the graph
    live: fx.Node


class TracedNetwork(Network):
    """A network whose graph of module calls was traced.

    Parameters
    ----------
    module : Module
    root : Module
    graph : Graph
    cuts : sequence of _Cut
    """

    def __init__(self, module: nn.Module, root: nn.Module, graph: fx.Graph, cuts: Sequence[_Cut]) -> None:
        self.module, self.root, self.graph, self.cuts = module, root, graph, list(cuts)
        self.places = tuple(cut.name for cut in cuts)

    def stages(self, cuts: Sequence[int]) -> list[nn.Module]:
        nodes, stages, begin = list(self.graph.nodes), [], 0
        source = next(node for node in nodes if node.op == "placeholder")
        for cut in [*(self.cuts[i] for i in cuts), None]:
            end = len(nodes) if cut is None else cut.after + 1
            graph = fx.Graph()
            made = {source: graph.placeholder("x")}

            def found(node: fx.Node, made=made, graph=graph) -> fx.Node:
                if node not in made and node.op == "get_attr":  # a parameter that an earlier stage reads, too
                    made[node] = graph.node_copy(node)
                return made[node]

            for node in nodes[begin:end]:
                if node.op not in ("placeholder", "output"):
                    made[node] = graph.node_copy(node, found)
            graph.output(found(nodes[-1].args[0] if cut is None else cut.live))
            stages.append(fx.GraphModule(self.root, graph))
            begin, source = end, None if cut is None else cut.live
        return stages


class UncutNetwork(Network):
    """A network that is run as a whole, for example because it is too small for exits.

    Raises ValueError if it cannot read the inputs x (B, …), or does not return logits.
    """

    def __init__(self, module: nn.Module, x: Tensor) -> None:
        self.module, self.places = module.eval(), ()
        with torch.inference_mode():
            _answers(self.module, x)

    def stages(self, cuts: Sequence[int]) -> list[nn.Module]:
        return [self.module]


def find_blocks(module: nn.Module, x: Tensor, names: Sequence[str] | None = None, most: int = 12) -> TracedNetwork:
    """Find the places at which a network for images can be cut into stages.

    The calls of modules in its forward pass are traced (torch.fx), and a cut is possible where a single tensor is all
    that the rest of the network reads. The network in stages must answer exactly as the network does.

    Parameters
    ----------
    module : Module
        From images (B, C, H, W) to logits (B, classes). Set to evaluation mode.
    x : Tensor
        A batch of at least two inputs.
    names : sequence of str, optional
        Names of submodules after which exits are possible. By default, up to `most` blocks at about equal steps of
        MACs.
    most : int

    Returns
    -------
    TracedNetwork

    Raises
    ------
    ValueError
        If a name is unknown, if no block can be found, or if the network in stages answers otherwise. The message lists
        the modules that were seen.
    """
    module = module.eval()
    with torch.inference_mode():
        expected = _answers(module, x)
        reasons = []
        for opened in _ways(module, names):
            try:
                network = _traced(module, opened, names)
                if names is None:
                    network = _spread(network, tuple(x.shape[1:]), most)
                *states, (found,) = network.states(x)
                if not torch.equal(found, expected):
                    raise ValueError("in stages, it answers otherwise than as a whole")
                for name, (state,) in zip(network.places, states):
                    if not torch.is_floating_point(state) or state.ndim not in (2, 3, 4) or len(state) != len(x):
                        raise ValueError(
                            f"{name} returns {state.dtype} {tuple(state.shape)}, not a state of the samples"
                        )
                if network.places:
                    return network
                reasons.append("no block is followed by enough computation to save")
            except Exception as error:  # tracing runs the code of the network with symbols, which fails in many ways
                reasons.append(one_line(error)[:200])
    seen = [name for name, _ in module.named_modules() if name and name.count(".") < 2]
    listed = ", ".join(seen[:SHOWN]) + (f" and {len(seen) - SHOWN} more" if len(seen) > SHOWN else "")
    raise ValueError(
        f"{type(module).__name__}: no blocks found ({reasons[0]}); its modules are {listed or 'none'}; name those "
        "that run one after another (--exits-at), or give a network that is an nn.Sequential of blocks"
    )


def _answers(module: nn.Module, x: Tensor) -> Tensor:
    try:
        logits = module(x)
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        raise ValueError(
            f"{type(module).__name__} cannot read inputs of shape {tuple(x.shape)} ({one_line(error)[:200]})"
        ) from error
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(x) or logits.shape[1] < 2:
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"{type(module).__name__} returns {found}; expected logits ({len(x)}, classes)")
    if not torch.isfinite(logits).all():
        raise ValueError(f"{type(module).__name__}: a logit is not finite; expected finite numbers")
    return logits


def _ways(module: nn.Module, names: Sequence[str] | None) -> list[set[str]]:
    """Return the sets of modules to look into, from the one that may find most blocks to the one that fails least."""
    modules = dict(module.named_modules())
    if names is not None:
        if unknown := [name for name in names if name not in modules or not name]:
            raise ValueError(f"--exits-at: no module {unknown[0]!r}; {_children(module, unknown[0])}")
        return [{name[:end] for name in names for end in range(len(name)) if name[end] == "."}]

    def rows_of_one_class(each: nn.Module) -> bool:
        for child in each.children():
            classes = [type(block) for block in child.children() if any(True for _ in block.parameters())]
            if isinstance(child, nn.Sequential | nn.ModuleList) and len(classes) > len(set(classes)):
                return True
        return False

    plain = {name for name, each in modules.items() if type(each).forward is nn.Sequential.forward}
    return [plain | {name for name, each in modules.items() if rows_of_one_class(each)}, plain, set()]


def _children(module: nn.Module, name: str) -> str:
    """Say which modules there are at the level at which a name is unknown."""
    modules = dict(module.named_modules())
    parent = name.rpartition(".")[0]
    while parent not in modules:
        parent = parent.rpartition(".")[0]
    there = [f"{parent}.{child}".lstrip(".") for child, _ in modules[parent].named_children()]
    return f"expected one of {', '.join(there[:SHOWN])}" + (" …" if len(there) > SHOWN else "")


def _traced(module: nn.Module, opened: set[str], names: Sequence[str] | None) -> TracedNetwork:
    root = _Whole(module)
    graph = _Tracer(root, opened).trace(root)
    nodes = list(graph.nodes)
    last = {used: place for place, node in enumerate(nodes) for used in node.all_input_nodes}
    cuts, refused = [], []
    for place, node in enumerate(nodes):
        if node.op != "call_module":
            continue
        live = [each for each in nodes[: place + 1] if each.op != "get_attr" and last.get(each, -1) > place]
        name = str(node.target).removeprefix("network.")
        if live == [node]:
            cuts.append(_Cut(name, place, node))
        else:
            refused.append(name)
    if names is not None:
        by_name = {cut.name: cut for cut in cuts}
        if missing := [name for name in names if name not in by_name]:
            why = "more than its output is read after it" if missing[0] in refused else "it is not called by itself"
            raise ValueError(f"the network cannot be cut after {missing[0]}, since {why}")
        cuts = sorted((by_name[name] for name in names), key=lambda cut: cut.after)
    return TracedNetwork(module, root, graph, cuts)


def _spread(network: TracedNetwork, shape: tuple[int, ...], most: int) -> TracedNetwork:
    """Keep the last of the cuts between which nothing is computed, and at most `most`, at about equal steps of MACs."""
    macs = place_costs(network, shape)  # (P + 1,)
    share = macs[:-1] / macs[-1]  # (P,)
    useful = np.flatnonzero((np.diff(macs) > 0) & (share > 0) & (share <= LATEST))
    if len(useful) > most:
        wanted = np.linspace(share[useful[0]], share[useful[-1]], most)
        useful = useful[np.unique(np.abs(share[useful][:, None] - wanted).argmin(axis=0))]
    return TracedNetwork(network.module, network.root, network.graph, [network.cuts[i] for i in useful])


def place_costs(network: Network, shape: tuple[int, ...]) -> np.ndarray:
    """Return the cumulative MACs of the network without heads at each place and at its end, (P + 1,)."""
    places = range(len(network.places))
    return exit_costs(network.staged(places, [First() for _ in places]), shape).macs


class First(nn.Module):
    """A head that returns the state, for counting what the stages cost without heads."""

    def forward(self, *state: Tensor) -> Tensor:
        return state[0]


class StagedText(Staged, TextModel):
    """A text classifier in stages. The state is the hidden state (B, T, D) and which tokens are no padding (B, T)."""

    def __init__(self, stages: Sequence[nn.Module], heads: Sequence[nn.Module], vocabulary: Vocabulary) -> None:
        TextModel.__init__(self, vocabulary)
        self.stages, self.heads = nn.ModuleList(stages), nn.ModuleList(heads)
        self.n_exits = len(self.stages)

    def keep(self, state: tuple[Tensor, ...], rows: Tensor, length: int | None = None) -> tuple[Tensor, ...]:
        return tuple(tensor[:, :length].index_select(0, rows) for tensor in state)


class EncoderNetwork(Network):
    """A sequence classifier of transformers of the BERT family, which can be cut after each layer.

    Parameters
    ----------
    classifier : models.huggingface.HuggingFace

    Raises
    ------
    ValueError
        If its architecture is of another kind.
    """

    def __init__(self, classifier) -> None:
        model = classifier.classifier
        kind = model.config.model_type
        if kind not in _FAMILIES:
            raise ValueError(f"a {kind} cannot be cut into layers; expected one of {', '.join(_FAMILIES)}")
        self.module, self.vocabulary = classifier.eval(), classifier.vocabulary
        self.project, self.blocks, self.order = _chain(model.base_model)
        self.layers = list(range(1, len(self.order)))  # after how many layers each place is
        self.places = tuple(f"layer {i}" for i in self.layers)

    def limited(self, names: Sequence[str]) -> "EncoderNetwork":
        """Return the same network with these places only."""
        other = copy.copy(self)
        other.__dict__.pop("_all", None)
        other.layers = [layer for layer, place in zip(self.layers, self.places) if place in names]
        other.places = tuple(place for place in self.places if place in names)
        return other

    def stages(self, cuts: Sequence[int]) -> list[nn.Module]:
        ends = [*(self.layers[i] for i in cuts), len(self.order)]
        begins = [0, *ends[:-1]]
        return [_Layers(self, begin, end) for begin, end in zip(begins, ends)]

    def staged(self, cuts: Sequence[int], heads: Sequence[nn.Module]) -> StagedText:
        return StagedText(self.stages(cuts), [*heads, First()], self.vocabulary)


class _Layers(nn.Module):
    """Some layers of an encoder, with the embeddings before the first and the classifier after the last."""

    def __init__(self, network: EncoderNetwork, begin: int, end: int) -> None:
        super().__init__()
        model, order = network.module.classifier, network.order
        self.layers = nn.ModuleList(network.blocks[i] for i in order[begin:end])
        self.first, self.last = begin == 0, end == len(order)
        if self.first:
            self.embeddings, self.project = model.base_model.embeddings, network.project
            self.has_types, self.pad = network.module.has_types, network.vocabulary.pad
            self.separator = network.vocabulary.separator
        if self.last:
            self.pooler = getattr(model.base_model, "pooler", None)
            self.activation = getattr(model.base_model, "pooler_activation", None)  # ALBERT, whose pooler is linear
            self.classifier = model.classifier

    def forward(self, x: Tensor, kept: Tensor | None = None) -> tuple[Tensor, Tensor] | Tensor:
        if kept is None:
            kept = x != self.pad  # (B, T)
            types = TextModel.token_types(self, x) if self.has_types else None
            x = self.project(self.embeddings(input_ids=x, token_type_ids=types))  # (B, T, D)
        for layer in self.layers:
            x = layer(x, kept[:, None, None, :])
            x = x[0] if isinstance(x, tuple) else x
        if not self.last:
            return x, kept
        if self.pooler is None:
            return self.classifier(x)
        return self.classifier(self.pooler(x) if self.activation is None else self.activation(self.pooler(x[:, 0])))


def check_encoder(network: EncoderNetwork, x: Tensor) -> EncoderNetwork:
    """Return the network. Raises ValueError if it answers otherwise in layers than as a whole, apart from rounding."""
    with torch.inference_mode():
        expected = network.module.stage(0, x).logits
        *_, (found,) = network.states(x)
    if not torch.allclose(found, expected, atol=1e-4, rtol=1e-4):
        raise ValueError("the network answers otherwise in layers than as a whole; it cannot be accelerated")
    return network
