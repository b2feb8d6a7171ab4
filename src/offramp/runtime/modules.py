"""Early exits of torch models, in batches: samples that have left are removed in mid-network."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from offramp.cascades.building import Combination, Ensemble
from offramp.models.base import MultiExitModel
from offramp.models.costs import exit_costs
from offramp.models.wrapping import CascadeModel
from offramp.policies import Policy
from offramp.runtime.loop import Answers, Stages
from offramp.runtime.regrouping import Times


class EarlyExit(Stages):
    """A model that stops for each sample at the first exit at which a policy says so.

    Parameters
    ----------
    model : MultiExitModel
        It is set to evaluation mode. Its computations run on the device of its parameters.
    policy : Policy
        A fitted policy, or one that does not learn from data. All but `Oracle`.
    threshold : float or array-like of shape (L − 1,)
        Threshold δ, shared by all exits or one per exit.
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
        If an option is unknown, if the threshold is NaN or has another shape, or if the policy does not suit the model.

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
        policy: Policy,
        threshold,
        *,
        regroup: str | int = "measured",
        cost=None,
    ) -> None:
        super().__init__(model.n_exits, policy, threshold, regroup)
        self.model = model.eval()
        self._costs: dict[tuple[int, ...], np.ndarray] = {}
        self._cost = None if cost is None else np.asarray(cost, np.float64)
        if self._cost is not None and self._cost.shape != (self.n_exits,):
            raise ValueError(f"cost: expected {self.n_exits} numbers, one for each exit; got shape {self._cost.shape}")

    @classmethod
    def cascade(
        cls,
        models: Sequence[nn.Module],
        policy: Policy,
        threshold,
        *,
        preparations: Sequence[Callable[[Tensor], Tensor] | None] | None = None,
        ensemble: Ensemble | None = None,
        confidence: str = "own",
        weights: Sequence[float] | None = None,
        temperatures: Sequence[Sequence[float]] | None = None,
        regroup: str | int = "measured",
        cost=None,
    ) -> "EarlyExit":
        """Run separate models one after another, each only on the samples that have not left before it.

        Parameters
        ----------
        models : sequence of Module
            Cheaper models first. Each is a `MultiExitModel`, or any module that returns logits (B, C).
        policy, threshold, regroup, cost
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
        made = cls(model, policy, threshold, regroup=regroup, cost=cost)
        if ensemble is not None or temperatures is not None:
            exits = [each.n_exits for each in model.models]
            made.combination = partial(Combination, ensemble, exits, weights, confidence, temperatures)
            made.combination()  # raises its errors here
        return made

    @torch.inference_mode()
    def __call__(self, x: Tensor) -> Answers:
        return super().__call__(x)

    @torch.inference_mode()
    def profile(self, x: Tensor) -> Times:
        return super().profile(x)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def start(self, x: Tensor) -> "_Run":
        """Start with a batch of inputs, as in `loop.Stages`."""
        return _Run(self.model, x, self.device)

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


class _Run:
    """A batch in a model, as in `loop.Run`."""

    def __init__(self, model: MultiExitModel, x: Tensor, device: torch.device) -> None:
        lengths = model.lengths(x)
        self.lengths = None if lengths is None else lengths.cpu().numpy()  # (b,): on the host, for `keep`
        self.inside = np.arange(len(x))  # (b,): positions in the whole batch
        self.outputs = model.outputs(x.to(device, non_blocking=True))
        self.kept: tuple[Tensor, int | None] | None = None
        self.model, self.device = model, device

    def step(self) -> tuple[np.ndarray, np.ndarray | None]:
        output = self.outputs.send(self.kept)
        self.kept, self.state = None, output.state
        numbers = output.logits  # (b, C)
        if output.similarity is not None:  # one copy to the host for both
            numbers = torch.cat([numbers, output.similarity[:, None].to(numbers.dtype)], dim=1)
        numbers = (numbers.float() if numbers.dtype == torch.bfloat16 else numbers).cpu().numpy()
        if len(numbers) != len(self.inside):  # a model that defines `exits` and ignores which samples stay
            numbers = numbers[self.inside]
        return (numbers, None) if output.similarity is None else (numbers[:, :-1], numbers[:, -1])

    def keep(self, rows: np.ndarray) -> None:
        self.inside = self.inside[rows]
        length = None
        if self.lengths is not None:
            self.lengths = self.lengths[rows]
            length = int(self.lengths.max())
        self.kept = torch.from_numpy(rows).to(self.device, non_blocking=True), length

    def select(self, rows: np.ndarray) -> None:
        self.model.keep(self.state, torch.from_numpy(rows).to(self.device))
