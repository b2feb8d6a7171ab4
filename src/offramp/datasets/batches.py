"""Batches of samples with torch's DataLoader. They do not depend on the number of worker processes."""

from collections.abc import Collection, Iterator
from math import ceil

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from offramp.datasets.base import Samples

STRETCH = 50  # number of batches among which samples are distributed by length; our choice


def batches_in_order(n: int, batch_size: int, lengths: np.ndarray | None = None) -> list[np.ndarray]:
    """Split positions 0 … n − 1 into equal batches of at most `batch_size`, sorted by `lengths` (N,) if given."""
    positions = np.arange(n) if lengths is None else np.argsort(lengths, kind="stable")  # (N,)
    return np.array_split(positions, ceil(n / batch_size))


class ShuffledBatches:
    """The batches of one epoch, each with a seed for its augmentation. They depend only on `seed` and `epoch`.

    The samples are split into equal batches of at most `batch_size`, because a small last batch is a problem for batch
    norm. Texts are grouped into batches of similar length to reduce padding: in groups of up to 50 randomly drawn
    batches, the samples are sorted by length and distributed again.

    Parameters
    ----------
    n : int
        Number of samples.
    batch_size : int
    seed : int
    lengths : ndarray of shape (N,), optional
        Lengths of texts in tokens.

    Attributes
    ----------
    epoch : int
        Epoch number. Set it before each pass.
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
                ends = np.cumsum([len(batches[place]) for place in places])  # the sizes of the batches do not change
                for place, similar in zip(places, np.split(positions, ends[:-1]), strict=True):
                    batches[place] = similar
        for positions in batches:
            yield positions, int(random.integers(2**63))


class SeededSamples(Dataset):
    """Samples indexed with (positions, seed). Augmentation uses random numbers from this seed."""

    def __init__(self, samples: Samples):
        self.samples = samples

    def __getitem__(self, batch: tuple[np.ndarray, int]) -> tuple[Tensor, Tensor]:
        positions, seed = batch
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return self.samples[positions]


class BatchLoader(DataLoader):
    """A DataLoader that raises one-line errors, also for errors in worker processes."""

    def __iter__(self) -> Iterator:
        try:
            yield from super().__iter__()
        except ValueError as error:  # an error of a worker contains its traceback; keep the last line
            raise ValueError(str(error).rpartition("ValueError: ")[2].strip()) from error


def batch_loader(samples: Dataset, batches: Collection, workers: int, device: torch.device) -> BatchLoader:
    """Return a loader of inputs (B, …) and labels (B,) that indexes `samples` with each of `batches`."""
    return BatchLoader(
        samples,
        sampler=batches,
        batch_size=None,  # samples already return whole batches
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # do not use the global generator
    )
