"""Training of one model by several processes of torchrun. A single process counts as the first and does not wait."""

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
    """The rank of this process and the number of processes."""

    rank: int
    processes: int


def process_rank() -> ProcessRank:
    if not distributed.is_initialized():
        return ProcessRank(0, 1)
    return ProcessRank(distributed.get_rank(), distributed.get_world_size())


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Context manager for the process group of torchrun. An existing process group is reused."""
    several = distributed.is_torchelastic_launched() and int(os.environ["WORLD_SIZE"]) > 1
    join = several and not distributed.is_initialized()
    if join:
        if device.type == "cuda":
            torch.cuda.set_device(device)
        distributed.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    yield
    if join:  # not after an error, when other processes may be waiting until torchrun ends them
        distributed.destroy_process_group()


@contextmanager
def first_before_others() -> Iterator[None]:
    """Context manager that runs the block in the first process, and then in the others."""
    rank, processes = process_rank()
    if rank > 0:
        distributed.barrier()
    yield
    if rank == 0 and processes > 1:
        distributed.barrier()


def gather(values: Tensor) -> Tensor:
    """Concatenate the values of all processes."""
    if process_rank().processes == 1:
        return values
    parts = [values] * process_rank().processes
    distributed.all_gather_object(parts, values)
    return torch.cat(parts)


def broadcast_from_first(tensors: Iterable[Tensor]) -> None:
    """Copy the values of the first process to all processes."""
    if process_rank().processes > 1:
        for tensor in tensors:
            distributed.broadcast(tensor, 0)


def shard(batch: np.ndarray, rank: int, processes: int) -> np.ndarray:
    """Return the part of a batch that belongs to a process."""
    return np.array_split(batch, processes)[rank]


@dataclass(frozen=True)
class ShardedBatches:
    """The part of every batch that belongs to a process, with a separate augmentation seed."""

    order: ShuffledBatches
    rank: int
    processes: int

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[tuple[np.ndarray, int]]:
        for positions, seed in self.order:
            yield shard(positions, self.rank, self.processes), seed + self.rank
