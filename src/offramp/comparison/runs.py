"""The runs of a study: records and fitted policies, loaded from files."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from offramp import policies, records
from offramp._io.arrays import open_arrays
from offramp.policies import Policy, load_policies
from offramp.records import ExitRecord
from offramp.records.joining import same_samples
from offramp.records.origin import shared_unit, system_of
from offramp.records.splitting import Holdout

if TYPE_CHECKING:
    import pandas as pd

SPLITS = ("validation", "test")


@dataclass(frozen=True)
class Run:
    """One trained system: its records and the policies fitted on its validation record, if there are any.

    `holdout` says which validation samples policies, temperatures and weights are fitted on (`fitting`), and on which
    thresholds are chosen (`choosing`). `files` are the paths of its files, for messages, by their part: validation,
    test or policies.
    """

    system: str
    seed: int
    validation: ExitRecord
    test: ExitRecord
    policies: dict[str, Policy] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    holdout: Holdout = field(default_factory=Holdout)

    def __post_init__(self) -> None:
        for split in SPLITS:
            getattr(self, split).needed_correct(f"{self.name(split)}: a comparison")

    @cached_property
    def _parts(self) -> tuple[ExitRecord, ExitRecord]:
        return self.holdout.parts(self.validation)

    @property
    def fitting(self) -> ExitRecord:
        """The validation samples on which policies, temperatures and weights are fitted."""
        return self._parts[0]

    @property
    def choosing(self) -> ExitRecord:
        """The validation samples on which thresholds are chosen."""
        return self._parts[1]

    @property
    def certified_holdout(self) -> Holdout:
        """The split for certified thresholds, which need samples on which nothing was fitted.

        It is that of the run, or halves if the run uses all samples for both.
        """
        return self.holdout if self.holdout.fit_share < 1 else Holdout.of_run(0.5, {"seed": self.seed})

    def name(self, split: str) -> str:
        """Return the file of a record, if it is known, or else its system, seed and split."""
        return self.files.get(split, f"{self.system} seed {self.seed}, {split}")


def load_runs(paths: Iterable[str | os.PathLike], *, fitted: bool = True, fit_share: float = 1.0) -> list[Run]:
    """Load record files and files of fitted policies, and combine them into runs by their metadata.

    Test samples are brought into one order by their index. Without a system in the metadata, the name of the file is
    used (see `records.origin.system_of`). Without a seed, it is 0.

    Parameters
    ----------
    fitted : bool
        Whether the files include fitted policies. Otherwise only records are expected.
    fit_share : float
        Share of the validation samples for fitting (see `Holdout`), if there are no fitted policies. With fitted
        policies, thresholds are chosen on the samples that were held out at the fit.

    Raises
    ------
    ValueError
        If a file is of another kind, a run is incomplete, a record has no labels, the test samples or labels of runs
        differ, the seeds of a system have different policies, or costs have different units.

    Warns
    -----
    UserWarning
        If only some records have a unit of their costs, or as for `records.joining.same_samples`.
    """
    expected = (*SPLITS, "policies") if fitted else SPLITS
    kinds = (records.FORMAT, policies.FORMAT) if fitted else (records.FORMAT,)
    parts: dict[tuple[str, int], dict[str, Any]] = {}
    for path in paths:
        kind, _, about = open_arrays(path, *kinds)
        if kind == policies.FORMAT:
            value, about = load_policies(path)
            part, holdout = "policies", Holdout.of_policies(about)
        else:
            value = ExitRecord.load(path)
            part = about.get("split")
            if part not in SPLITS:
                raise ValueError(
                    f"{path}: its metadata say split: {part}; expected validation or test (offramp import --split)"
                )
        system, seed = system_of(about, Path(path)), about.get("seed", 0)
        if kind == records.FORMAT:
            value.metadata |= {"system": system, "seed": seed}
        run = parts.setdefault((system, seed), {"files": {}})
        if part in run:
            raise ValueError(
                f"{path}: a second {part} of {system} seed {seed}, as {run['files'][part]}; expected one "
                "(offramp import --system and --seed name them)"
            )
        run[part], run["files"][part] = value, str(path)
        if part == "policies":
            run["holdout"] = holdout
        elif not fitted:
            run["holdout"] = Holdout.of_run(fit_share, {"seed": seed})
    runs: list[Run] = []
    for (system, seed), run in parts.items():
        name = f"{system} seed {seed}"
        if missing := [part for part in expected if part not in run]:
            files = ", ".join(run["files"].values())
            raise ValueError(f"{name}: no {missing[0]} among the files; expected {', '.join(expected)}, found {files}")
        runs.append(Run(system, seed, **run))
        like = next(run for run in runs if run.system == system)
        if runs[-1].policies.keys() != like.policies.keys():
            raise ValueError(f"{name}: other policies than {system} seed {like.seed}; fit the same for all seeds")
    unit_of(runs)  # raises an error if there are several
    names = [f"the test record of {run.system} seed {run.seed}" for run in runs]
    tests = same_samples([run.test for run in runs], names, "runs") if runs else []
    return [replace(run, test=test) for run, test in zip(runs, tests)]


def with_unit(table: "pd.DataFrame", runs: Sequence[Run]) -> "pd.DataFrame":
    """Add the column `unit`, the unit of all costs, if it is known. Raises ValueError if there are several."""
    unit = unit_of(runs)
    return table if unit is None else table.assign(unit=unit)


def unit_of(runs: Sequence[Run]) -> str | None:
    units = {run.name(split): getattr(run, split).metadata.get("unit") for run in runs for split in SPLITS}
    return shared_unit(units, "runs")


def by_system(runs: Sequence[Run]) -> dict[str, list[Run]]:
    systems: dict[str, list[Run]] = {}
    for run in runs:
        systems.setdefault(run.system, []).append(run)
    return systems
