"""Batches of samples by torch's DataLoader, the same whatever number of processes makes them."""

from collections.abc import Collection, Iterator
from math import ceil

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from offramp.datasets.base import Samples


def batches_in_order(n: int, batch_size: int) -> list[np.ndarray]:
    """Positions 0 … n − 1 in equal batches of at most `batch_size`."""
    return np.array_split(np.arange(n), ceil(n / batch_size))


class ShuffledBatches:
    """The batches of one epoch, each with a seed for its augmentation. `seed` and `epoch` alone decide.

    The samples are cut into equal batches of at most `batch_size`: batch norm takes no small one that is
    left over.

    Attributes
    ----------
    epoch : int
        Set it before each pass.
    """

    def __init__(self, n: int, batch_size: int, seed: int):
        self.n, self.batches, self.seed, self.epoch = n, ceil(n / batch_size), seed, 0

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[tuple[np.ndarray, int]]:
        random = np.random.default_rng([self.seed, self.epoch])
        for positions in np.array_split(random.permutation(self.n), self.batches):
            yield positions, int(random.integers(2**63))


class SeededSamples(Dataset):
    """Samples indexed with (positions, seed): what is drawn while they are made comes from that seed."""

    def __init__(self, samples: Samples):
        self.samples = samples

    def __getitem__(self, batch: tuple[np.ndarray, int]) -> tuple[Tensor, Tensor]:
        positions, seed = batch
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return self.samples[positions]


class BatchLoader(DataLoader):
    """A DataLoader whose errors are one line, in whichever process they arose."""

    def __iter__(self) -> Iterator:
        try:
            yield from super().__iter__()
        except ValueError as error:  # from a worker: its traceback, of which the last line says what was wrong
            raise ValueError(str(error).rpartition("ValueError: ")[2].strip()) from error


def batch_loader(samples: Dataset, batches: Collection, workers: int, device: torch.device) -> BatchLoader:
    """A loader of images (B, C, H, W) and labels (B,): it indexes `samples` with each of `batches`."""
    return BatchLoader(
        samples,
        sampler=batches,
        batch_size=None,  # samples give whole batches already
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # its own, to leave the global one alone
    )
