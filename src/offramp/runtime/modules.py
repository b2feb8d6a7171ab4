"""Early exits of torch models, in batches: samples that have left are removed in mid-network."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from offramp.cascades.building import Combination, Ensemble
from offramp.models.base import ExitOutput, MultiExitModel
from offramp.models.costs import exit_costs
from offramp.models.wrapping import CascadeModel
from offramp.online import Online
from offramp.policies import Policy
from offramp.runtime.loop import Answers, Stages
from offramp.runtime.regrouping import Times

LARGEST_GRAPH = 1024  # samples in a batch that runs as a CUDA graph
WORTH = 0.8  # of the time without a graph
TOKENS = 16  # lengths of texts are multiples of this number if they run as CUDA graphs


class EarlyExit(Stages):
    """A model that stops for each sample at the first exit at which a policy says so.

    Parameters
    ----------
    model : MultiExitModel
        It is set to evaluation mode. Its computations run on the device of its parameters.
    policy : Policy or Online
        A fitted policy, or one that does not learn from data. All but `Oracle`. An online policy decides with what it
        has learned so far, and takes feedback on the answers.
    threshold : float or array-like of shape (L − 1,)
        Threshold δ, shared by all exits or one per exit. None for online policies, which have their own.
    reject_below : float
        Threshold ρ. Answers whose `Policy.estimate` is below ρ are rejected: their prediction is −1.
    abstain_below : float or array-like of shape (L − 1,)
        Threshold for early abstention, shared by all exits or one per exit except the last. A sample that stays at an
        exit, and whose estimate there is below it, is rejected at once: later stages do not run.
    regroup : {"measured", "always", "never"} or int
        When the samples that have left are removed from the batch. "measured": when it saves time according to the
        times that `profile` measured; before that, always. "never": the whole batch is computed until all samples have
        left. A number: once at most this many samples are left.
    cost : array-like of shape (L,), optional
        Cumulative cost of each exit. By default, MACs are counted at the first batch of each shape.

    Attributes
    ----------
    times : Times or None
        What `profile` measured.

    Raises
    ------
    NotFittedError
        If the policy learns from data and was not fitted.
    ValueError
        If an option is unknown, if a threshold is NaN or has another shape, or if the policy does not suit the model.

    Examples
    --------
    >>> import torch
    >>> from offramp import make_policy
    >>> from offramp.models import build_model
    >>> from offramp.runtime import EarlyExit
    >>> model = build_model("msdnet", classes=10, image_shape=(3, 32, 32))
    >>> fast = EarlyExit(model, make_policy("confidence"), threshold=0.9)
    >>> fast(torch.zeros(8, 3, 32, 32)).exit.shape
    (8,)
    """

    def __init__(
        self,
        model: MultiExitModel,
        policy: Policy | Online,
        threshold=None,
        *,
        reject_below: float = -np.inf,
        abstain_below: float | np.ndarray = -np.inf,
        regroup: str | int = "measured",
        cost=None,
    ) -> None:
        super().__init__(
            *(model.n_exits, policy, threshold, regroup), reject_below=reject_below, abstain_below=abstain_below
        )
        self.model = model.eval()
        self._costs: dict[tuple[int, ...], np.ndarray] = {}
        self._cost = None if cost is None else np.asarray(cost, np.float64)
        if self._cost is not None and self._cost.shape != (self.n_exits,):
            raise ValueError(f"cost: expected {self.n_exits} numbers, one for each exit; got shape {self._cost.shape}")
        self._graphs = _Graphs(model)

    @classmethod
    def cascade(
        cls,
        models: Sequence[nn.Module],
        policy: Policy | Online,
        threshold=None,
        *,
        preparations: Sequence[Callable[[Tensor], Tensor] | None] | None = None,
        ensemble: Ensemble | None = None,
        confidence: Literal["own", "ensemble"] = "own",
        weights: Sequence[float] | None = None,
        temperatures: Sequence[Sequence[float]] | None = None,
        reject_below: float = -np.inf,
        abstain_below: float | np.ndarray = -np.inf,
        regroup: str | int = "measured",
        cost=None,
    ) -> "EarlyExit":
        """Run separate models one after another, each only on the samples that have not left before it.

        Parameters
        ----------
        models : sequence of Module
            Cheaper models first. Each is a `MultiExitModel`, or any module that returns logits (B, C).
        policy, threshold, reject_below, abstain_below, regroup, cost
            As for the class. The exits are those of all models.
        preparations : sequence of callable, optional
            A function for each model from the input (B, …) to the input of the model, or None.
        ensemble, confidence, weights, temperatures
            As for `offramp.cascade`. Weights and temperatures are those in the metadata of the validation cascade on
            which the policy was fitted.

        Returns
        -------
        EarlyExit

        Raises
        ------
        ValueError
            As for the class, or if the models, preparations, weights or temperatures do not match.
        """
        model = CascadeModel(models, preparations)
        made = cls(
            *(model, policy, threshold),
            reject_below=reject_below,
            abstain_below=abstain_below,
            regroup=regroup,
            cost=cost,
        )
        if ensemble is not None or temperatures is not None:
            exits = [each.n_exits for each in model.models]
            made.combination = partial(Combination, ensemble, exits, weights, confidence, temperatures)
            made.combination()  # raises its errors here
        return made

    @torch.inference_mode()
    def __call__(self, x: Tensor, ids=None) -> Answers:
        return super().__call__(x, ids)

    @torch.inference_mode()
    def profile(self, x: Tensor) -> Times:
        return super().profile(x)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def start(self, x: Tensor) -> "_Run":
        """Start with a batch of inputs, as in `loop.Stages`."""
        return _Run(self.model, x, self.device, self._graphs)

    def cost(self, x: Tensor) -> np.ndarray:
        """Return the cumulative cost of each exit, (L,), or (B, L) for texts, which differ in length."""
        if self._cost is not None:
            return self._cost
        lengths = self.model.lengths(x)
        if lengths is None:
            return self._cost_of(tuple(x.shape[1:]))
        each, place = np.unique(lengths.cpu().numpy(), return_inverse=True)  # (U,), (B,)
        return np.stack([self._cost_of((int(length),)) for length in each])[place]

    def _cost_of(self, shape: tuple[int, ...]) -> np.ndarray:
        if shape not in self._costs:
            self._costs[shape] = exit_costs(self.model, shape).macs
        return self._costs[shape]

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


class _Graphs:
    """Stages as CUDA graphs, one for each shape of their inputs, so that batches do not wait for launches of kernels.

    Batches are filled up to one of a few sizes, and texts are cut to one of a few lengths. A graph is used if its stage
    then takes less than `WORTH` of the time; if it does not, batches of this size and larger ones run without graphs.
    """

    def __init__(self, model: MultiExitModel) -> None:
        self.model = model
        self.captured: dict[tuple, tuple[torch.cuda.CUDAGraph, list[Tensor], ExitOutput]] = {}
        self.largest = LARGEST_GRAPH if model.has_stages else 0
        steps = [*range(1, 9), *(size * step // 4 for size in 2 ** np.arange(3, 11) for step in (5, 6, 7, 8))]
        self.sizes = np.array(steps)  # at most 25 % larger than the batch

    def applies(self, x: Tensor) -> bool:
        return x.is_cuda and len(x) <= self.largest

    def filled(self, rows: np.ndarray) -> np.ndarray:
        """Repeat the last position until their number is one of `sizes`."""
        size = self.sizes[np.searchsorted(self.sizes, len(rows))]
        return np.append(rows, np.repeat(rows[-1:], size - len(rows)))

    def stage(self, i: int, *state: Tensor) -> ExitOutput:
        key = (i, *((tensor.shape, tensor.dtype) for tensor in state))
        if key not in self.captured:
            free, total = torch.cuda.mem_get_info()
            captured = self._captured(i, state) if self.applies(state[0]) and free > total / 2 else None
            if captured is None:
                return self.model.stage(i, *state)
            self.captured[key] = captured
        graph, inputs, output = self.captured[key]
        for own, given in zip(inputs, state):
            own.copy_(given)
        graph.replay()
        return output

    def _captured(
        self, i: int, state: tuple[Tensor, ...]
    ) -> tuple[torch.cuda.CUDAGraph, list[Tensor], ExitOutput] | None:
        """Capture a stage. Return None if it cannot be captured, or if that does not pay."""
        inputs = [tensor.clone() for tensor in state]
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # kernels are chosen and libraries loaded before the capture
            self.model.stage(i, *inputs)
            self.model.stage(i, *inputs)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                output = self.model.stage(i, *inputs)
        except RuntimeError:  # some operation of the model waits for the device
            self.largest = 0
            return None
        if self._seconds(graph.replay) > WORTH * self._seconds(lambda: self.model.stage(i, *inputs)):
            self.largest = min(self.largest, len(state[0]) - 1)
            return None
        return graph, inputs, output

    @staticmethod
    def _seconds(function: Callable[[], object]) -> float:
        """Return the shortest time of three calls."""
        times = []
        for _ in range(3):
            torch.cuda.synchronize()
            begin = time.perf_counter()
            function()
            torch.cuda.synchronize()
            times.append(time.perf_counter() - begin)
        return min(times)


class _Run:
    """A batch in a model, as in `loop.Run`."""

    def __init__(self, model: MultiExitModel, x: Tensor, device: torch.device, graphs: _Graphs) -> None:
        lengths = model.lengths(x)
        self.lengths = None if lengths is None else lengths.cpu().numpy()  # (b,): on the host, for `keep`
        self.inside = np.arange(len(x))  # (b,): positions in the whole batch
        self.only_exits = not model.has_stages  # whose generator may ignore which samples stay
        self.device, self.graphs = device, graphs
        x = x.to(device, non_blocking=True)
        self.graphed = graphs.applies(x)
        if self.graphed and (rows := graphs.filled(self.inside)).size > len(x):
            x = x[self._on_device(rows)]
        self.outputs = model.outputs(x, graphs.stage if self.graphed else None)
        self.kept: tuple[Tensor, int | None] | None = None
        self.model = model

    def step(self) -> tuple[np.ndarray, np.ndarray | None]:
        output = self.outputs.send(self.kept)
        self.kept, self.state = None, output.state
        numbers = output.logits  # (b, C)
        if output.similarity is not None:  # one copy to the host for both
            numbers = torch.cat([numbers, output.similarity[:, None].to(numbers.dtype)], dim=1)
        numbers = (numbers.float() if numbers.dtype == torch.bfloat16 else numbers).cpu().numpy()
        if self.only_exits and len(numbers) != len(self.inside):
            numbers = numbers[self.inside]
        return (numbers, None) if output.similarity is None else (numbers[:, :-1], numbers[:, -1])

    def keep(self, rows: np.ndarray) -> None:
        self.inside = self.inside[rows]
        length = None
        if self.lengths is not None:
            self.lengths = self.lengths[rows]
            length = int(self.lengths.max())
            if self.graphed:
                length = -(-length // TOKENS) * TOKENS
        self.kept = self._on_device(self.graphs.filled(rows) if self.graphed else rows), length

    def select(self, rows: np.ndarray) -> None:
        self.model.keep(self.state, self._on_device(rows))

    def _on_device(self, rows: np.ndarray) -> Tensor:
        return torch.from_numpy(rows).to(self.device, non_blocking=True)
