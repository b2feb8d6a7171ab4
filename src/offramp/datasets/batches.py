"""Batches of samples by torch's DataLoader, the same whatever number of processes makes them."""

from collections.abc import Collection, Iterator
from math import ceil

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from offramp.datasets.base import Samples

STRETCH = 50  # batches that share their samples out by length; our choice


def batches_in_order(n: int, batch_size: int, lengths: np.ndarray | None = None) -> list[np.ndarray]:
    """Positions 0 … n − 1 in equal batches of at most `batch_size`; those of texts by rising `lengths`, (N,)."""
    positions = np.arange(n) if lengths is None else np.argsort(lengths, kind="stable")  # (N,)
    return np.array_split(positions, ceil(n / batch_size))


class ShuffledBatches:
    """The batches of one epoch, each with a seed for its augmentation. `seed` and `epoch` alone decide.

    The samples are cut into equal batches of at most `batch_size`: batch norm takes no small one that is
    left over. Texts come in batches of similar length, which need little padding: up to 50 batches that were drawn
    at random share their samples out by length.

    Parameters
    ----------
    n : int
        Number of samples.
    batch_size : int
    seed : int
    lengths : ndarray of shape (N,), optional
        Of texts, in tokens.

    Attributes
    ----------
    epoch : int
        Set it before each pass.
    """

    def __init__(self, n: int, batch_size: int, seed: int, lengths: np.ndarray | None = None):
        self.n, self.batches, self.seed, self.lengths, self.epoch = n, ceil(n / batch_size), seed, lengths, 0

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[tuple[np.ndarray, int]]:
        random = np.random.default_rng([self.seed, self.epoch])
        batches = np.array_split(random.permutation(self.n), self.batches)
        if self.lengths is not None:
            for places in np.array_split(random.permutation(self.batches), ceil(self.batches / STRETCH)):
                positions = np.concatenate([batches[place] for place in places])
                positions = positions[np.argsort(self.lengths[positions], kind="stable")]
                ends = np.cumsum([len(batches[place]) for place in places])  # sizes stay where they are
                for place, similar in zip(places, np.split(positions, ends[:-1]), strict=True):
                    batches[place] = similar
        for positions in batches:
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
    """A loader of inputs (B, …) and labels (B,): it indexes `samples` with each of `batches`."""
    return BatchLoader(
        samples,
        sampler=batches,
        batch_size=None,  # samples give whole batches already
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # its own, to leave the global one alone
    )
