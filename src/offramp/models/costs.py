"""Cost of each exit, counted while the model runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, shape_wrapper

from offramp.models.base import MultiExitModel

aten = torch.ops.aten


@dataclass(frozen=True)
class ExitCosts:
    """Cumulative cost of the exits, including all earlier exits.

    Attributes
    ----------
    macs : ndarray
        Multiply-accumulates for one image or text, float64 (L,).
    parameters : ndarray
        Number of parameters used, int64 (L,).
    """

    macs: np.ndarray  # (L,)
    parameters: np.ndarray  # (L,)


def exit_costs(
    model: MultiExitModel, input_shape: tuple[int, ...], convention: Literal["mac", "msdnet"] = "mac"
) -> ExitCosts:
    """Count the cost of each exit by running the model once, on a black image or on a text without padding.

    Costs are counted per operation, not per layer, so any model is supported. The model is not changed. A model on
    torch's "meta" device is counted without any computation.

    Parameters
    ----------
    model : MultiExitModel
        A model with L exits.
    input_shape : tuple of int
        Channels, height and width of an image, or (T,) for a text of T tokens.
    convention : {"mac", "msdnet"}
        "mac": multiply-accumulates of convolutions, linear layers and matrix products (attention), without biases.
        "msdnet": the count in the published logs of MSDNet, which adds one for each output of a ReLU, each bias of a
        linear layer, and each element read by a 2-d pooling window.

    Returns
    -------
    ExitCosts
        Arrays of shape (L,).

    Raises
    ------
    ValueError
        If the convention is unknown.
    """
    if convention not in _CONVENTIONS:
        raise ValueError(f"convention={convention!r}, expected one of {', '.join(_CONVENTIONS)}")
    parameters = list(model.parameters())
    blank = model.blank(input_shape)
    macs, needed = [], []
    counter = _Counter(parameters, _CONVENTIONS[convention])
    with _undisturbed(model, blank.device), torch.no_grad(), _plain_attention(), counter:
        for _ in model.exits(blank):
            macs.append(counter.flops / 2)
            needed.append(sum(p.numel() for p in parameters if p.untyped_storage() in counter.read))
    return ExitCosts(np.array(macs, dtype=np.float64), np.array(needed, dtype=np.int64))


# Formulas of the conventions that extend or replace those of torch. They receive shapes and return FLOPs; two FLOPs
# are one MAC.
def _relu(x: torch.Size, out_shape: torch.Size, **_: Any) -> int:
    return 2 * prod(out_shape)


def _avg_pool(x: torch.Size, kernel: list[int], *_: Any, out_shape: torch.Size) -> int:
    return 2 * kernel[0] * kernel[-1] * prod(out_shape)


def _max_pool(x: torch.Size, kernel: list[int], *_: Any, out_shape: tuple[torch.Size, torch.Size]) -> int:
    return _avg_pool(x, kernel, out_shape=out_shape[0])


def _linear(bias: torch.Size, x: torch.Size, weight: torch.Size, out_shape: torch.Size, **_: Any) -> int:
    return 2 * (x[1] + 1) * prod(out_shape)


_CONVENTIONS: dict[str, dict[Any, Any]] = {
    "mac": {},
    "msdnet": {
        aten.relu: _relu,
        aten.relu_: _relu,
        aten.avg_pool2d: _avg_pool,
        aten.max_pool2d_with_indices: _max_pool,
        aten.addmm: _linear,
    },
}


class _Counter(TorchDispatchMode):
    """Sum the FLOPs of operations, and record the storages of parameters that they read, also through views."""

    def __init__(self, parameters: list[nn.Parameter], formulas: dict[Any, Any]) -> None:
        super().__init__()
        self.wanted = {p.untyped_storage() for p in parameters}
        self.read: set[torch.UntypedStorage] = set()
        self.formulas = flop_registry | {operation: shape_wrapper(formula) for operation, formula in formulas.items()}
        self.flops = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # skipping it means importing it, which takes longer than a small model

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        self.read |= self.wanted & {x.untyped_storage() for x in tensors}
        formula = self.formulas.get(func.overloadpacket)
        if formula is None:  # in inference mode, operations that are made of others arrive as one
            with self:
                if (out := func.decompose(*args, **kwargs)) is not NotImplemented:
                    return out
        out = func(*args, **kwargs)
        self.flops += formula(*args, **kwargs, out_val=out) if formula else 0
        return out


@contextmanager
def _undisturbed(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Set evaluation mode; restore the mode of every module and the random state afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            model.eval()
            yield
        finally:
            for module, mode in modes:
                module.training = mode


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Prevent attention and transformer layers from running as one fused operation, which has no formula."""
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
