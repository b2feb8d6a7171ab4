"""Processes that torchrun started and that train one model together. One alone is the first, and waits for none."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, distributed

from offramp.datasets.batches import ShuffledBatches


class ProcessRank(NamedTuple):
    """Which of how many processes this one is."""

    rank: int
    processes: int


def process_rank() -> ProcessRank:
    if not distributed.is_initialized():
        return ProcessRank(0, 1)
    return ProcessRank(distributed.get_rank(), distributed.get_world_size())


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Inside, the processes that torchrun started are joined; those that are joined already stay so."""
    several = distributed.is_torchelastic_launched() and int(os.environ["WORLD_SIZE"]) > 1
    join = several and not distributed.is_initialized()
    if join:
        if device.type == "cuda":
            torch.cuda.set_device(device)
        distributed.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    yield
    if join:  # not after an error: others may be waiting for this one, until torchrun ends them
        distributed.destroy_process_group()


@contextmanager
def first_before_others() -> Iterator[None]:
    """The block in the first process, and only then in the others."""
    rank, processes = process_rank()
    if rank > 0:
        distributed.barrier()
    yield
    if rank == 0 and processes > 1:
        distributed.barrier()


def gathered(values: Tensor) -> Tensor:
    """The values of all processes, one process behind the other."""
    if process_rank().processes == 1:
        return values
    parts = [values] * process_rank().processes
    distributed.all_gather_object(parts, values)
    return torch.cat(parts)


def take_from_first(tensors: Iterable[Tensor]) -> None:
    """Give every process the first one's values."""
    if process_rank().processes > 1:
        for tensor in tensors:
            distributed.broadcast(tensor, 0)


def part_of(batch: np.ndarray, rank: int, processes: int) -> np.ndarray:
    """A process's part of a batch."""
    return np.array_split(batch, processes)[rank]


@dataclass(frozen=True)
class Parts:
    """A process's part of every batch, with a seed of its own for the augmentation."""

    order: ShuffledBatches
    rank: int
    processes: int

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[tuple[np.ndarray, int]]:
        for positions, seed in self.order:
            yield part_of(positions, self.rank, self.processes), seed + self.rank
