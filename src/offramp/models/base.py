"""What every multi-exit model looks like to training, recording and the cost counter."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor, nn


class MultiExitModel(nn.Module, ABC):
    """A classifier that answers at `n_exits` places, each later and dearer than the one before.

    A subclass's constructor takes `classes`, `image_shape` and its own options, all by keyword.
    """

    n_exits: int

    @abstractmethod
    def exits(self, x: Tensor) -> Iterator[Tensor]:
        """Yield the logits of each exit as soon as they are computed.

        Whoever stops asking stops paying: nothing behind the last exit asked for is computed.

        Parameters
        ----------
        x : Tensor
            Images (B, channels, H, W).

        Yields
        ------
        Tensor
            Logits (B, C) of exit 1, 2, … L.
        """

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of all exits, (B, L, C)."""
        return torch.stack(list(self.exits(x)), dim=1)  # (B, L, C)

    @classmethod
    def options(cls) -> list[str]:
        """Return the names of the options that the constructor takes."""
        return [name for name in inspect.signature(cls).parameters if name not in ("classes", "image_shape")]
