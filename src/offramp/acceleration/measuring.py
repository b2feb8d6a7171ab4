"""Measured seconds and memory of structures, side by side with the model itself."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from offramp._io.progress import progress_bar
from offramp.acceleration.exits import Exits
from offramp.acceleration.structures import KINDS, Fitted, Structure, Structures, full_cost
from offramp.models.base import MultiExitModel
from offramp.models.wrapping import CascadeModel
from offramp.policies import Policy
from offramp.records import ExitRecord
from offramp.runtime.bundle import Bundle, Prepared, load
from offramp.runtime.exporting import export_bundle
from offramp.runtime.modules import EarlyExit
from offramp.runtime.timing import side_by_side

BATCHES = (1, 32)  # sizes at which seconds are measured
SAMPLES = 96  # on which they are
FEW = 3  # repetitions for the choice among structures; the chosen one is measured again
LIKELY = 3  # structures of each kind that are measured, those with the lowest cost


@dataclass(frozen=True, eq=False)
class Running:
    """A structure of networks that can be exported and run.

    Attributes
    ----------
    systems : sequence of Exits
        Of the models of the structure, in the order in which they run.
    structure : Structure
    policy : Policy
    """

    systems: Sequence[Exits]
    structure: Structure
    policy: Policy

    @classmethod
    def of(cls, systems: Sequence[Exits], structure: Structure, fitted: Fitted) -> "Running":
        """Take the models of a structure from all models, and its policy from the fitted ones."""
        return cls([systems[m] for m in structure.models], structure, fitted.policy_of(structure))

    @property
    def staged(self) -> list[MultiExitModel]:
        return [system.staged(exits) for system, exits in zip(self.systems, self.structure.exits)]

    def export(self, folder: Path, threshold: float, run: dict | None = None) -> Path:
        """Export it to a bundle."""
        members = [system.member for system in self.systems]
        return export_bundle(
            folder,
            self.staged,
            self.policy,
            threshold,
            [member.inputs.preparation for member in members],
            label=self.structure.policy,
            names=members[-1].names,
            sources=[member.loaded.source for member in members],
            run=run,
        )

    @property
    def parameters(self) -> int:
        """Number of parameters of all its models."""
        return sum(each.numel() for model in self.staged for each in model.parameters())

    def measure(
        self,
        bundle: Path,
        plain: Path,
        rows: np.ndarray,
        threads: int,
        threshold=None,
        progress: bool = False,
        repetitions: int | None = None,
    ) -> pd.DataFrame:
        """Measure the seconds per sample of the model itself and of this structure.

        Parameters
        ----------
        bundle, plain : path
            Bundles of the structure and of the model itself, for onnxruntime.
        rows : ndarray of shape (n,)
            Samples, of which `SAMPLES` are used.
        threads : int
        threshold : float, optional
            Measure in torch, too, with this threshold, if all models read the same inputs.
        progress : bool
            Show progress bars on stderr.
        repetitions : int, optional
            As for `side_by_side`.

        Returns
        -------
        DataFrame
            runtime, batch_size, plain and fast (seconds per sample, medians), speedup (median of the ratios).
        """
        rows = rows[np.random.default_rng(0).permutation(len(rows))[:SAMPLES]]
        inputs = [system.member.inputs for system in self.systems]
        found = []
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            for size in BATCHES:
                parts = np.array_split(rows, -(-len(rows) // size))
                batches = [tuple(each.batch(part) for each in inputs) for part in parts]
                arrays = [Prepared(tuple(x.numpy() for x in batch)) for batch in batches]
                whole, fast = (load(path, threads=threads) for path in (plain, bundle))
                variants: dict[str, Callable[[Any], object]] = {"plain": partial(_itself, whole), "fast": fast}
                whole.profile(arrays[0].arrays[-1])
                fast.profile(arrays[0])
                title = f"measuring at batch size {size}" if progress else None
                times = side_by_side(variants, arrays, repetitions=repetitions, progress=title)
                found.append(("onnxruntime", size, times))
                if threshold is None or any(each is not inputs[-1] for each in inputs):
                    continue
                tensors = [batch[-1] for batch in batches]
                found.append(("torch", size, self._in_torch(tensors, threshold, title)))
        finally:
            torch.set_num_threads(before)
        return pd.DataFrame(
            [
                {
                    "runtime": runtime,
                    "batch_size": size,
                    **{name: np.median(values) / len(rows) for name, values in times.items()},
                    "speedup": np.median(times["plain"] / times["fast"]),
                }
                for runtime, size, times in found
            ]
        )

    def _in_torch(self, batches: Sequence[torch.Tensor], threshold: float, title: str | None) -> dict[str, np.ndarray]:
        staged = self.staged
        cost = np.arange(1.0, self.structure.n_exits + 1)  # counting costs takes time
        early = EarlyExit(staged[0] if len(staged) == 1 else CascadeModel(staged), self.policy, threshold, cost=cost)
        early.profile(batches[0])
        plain = CascadeModel([self.systems[-1].member.network.module]).eval()
        with torch.inference_mode():
            title = None if title is None else f"{title}, in torch"
            return side_by_side({"plain": partial(_forward, plain), "fast": early}, batches, progress=title)


@dataclass(frozen=True)
class Memory:
    """Parameters, and bytes of the exported models, of what was made and of the model itself."""

    parameters: int
    plain_parameters: int
    size: int
    plain_size: int

    @classmethod
    def of(cls, made: Running, plain: Running, bundle: Path, plain_bundle: Path) -> "Memory":
        sizes = [sum(file.stat().st_size for file in folder.glob("*.onnx")) for folder in (bundle, plain_bundle)]
        return cls(made.parameters, plain.parameters, *sizes)

    def __str__(self) -> str:
        return (
            f"Memory: {self.parameters:,} parameters in place of {self.plain_parameters:,} "
            f"({self.size / 1e6:.1f} MB in place of {self.plain_size / 1e6:.1f} MB)."
        )


def _itself(bundle: Bundle, inputs: Prepared):
    """Answer with the bundle of the model itself, whose inputs are those of the last model of a structure."""
    return bundle(inputs.arrays[-1])


def _forward(model: nn.Module, x: torch.Tensor) -> np.ndarray:
    return model(x)[:, -1].cpu().numpy()


def choose_fastest(
    systems: Sequence[Exits],
    found: Structures,
    fitted: Fitted,
    structure: Sequence[ExitRecord],
    plain: Path,
    cache: Path,
    optimise: str,
    threads: int,
    progress: bool,
) -> tuple[Running | None, pd.DataFrame]:
    """Choose among the best structures: the one with the lowest cost, or the fastest one on some samples.

    Parameters
    ----------
    systems : sequence of Exits
        All models.
    found : Structures
    fitted : Fitted
        Policies of all structures.
    structure : sequence of ExitRecord
        Records of all models on which structures were found.
    plain : path
        Bundle of the model itself.
    cache : path
        Folder for the bundles that are measured.
    optimise : {"seconds", "macs"}
    threads : int
    progress : bool

    Returns
    -------
    chosen : Running or None
        None: no structure is cheaper than the model.
    kinds : DataFrame
        The best of each kind: kind, macs (average share of those of the model on `structure`), and speedup in
        onnxruntime (geometric mean over batch sizes; NaN if optimise is macs).
    """
    full, rows = full_cost(structure), structure[-1].index
    tried = [each for kind in KINDS for each in found.of_kind(kind)[:LIKELY] if each.cost < full]
    made = [Running.of(systems, each, fitted) for each in tried]
    speedups = np.full(len(made), np.nan)
    if optimise == "seconds":
        with progress_bar(len(made), "measuring structures", shown=progress, unit="structure") as bar:
            for i, each in enumerate(made):
                folder = each.export(cache / f"structure-{i + 1}", each.structure.threshold)
                times = each.measure(folder, plain, rows, threads, repetitions=FEW)
                speedups[i] = np.exp(np.log(times["speedup"]).mean())
                bar.update()
    macs = np.array([each.cost / full for each in tried])
    table = pd.DataFrame({"kind": [each.kind for each in tried], "macs": macs, "speedup": speedups})
    order = np.argsort(macs if optimise == "macs" else -speedups, kind="stable")
    kinds = table.iloc[order].drop_duplicates("kind").reset_index(drop=True)  # the best of each kind
    return (made[order[0]] if made else None), kinds
