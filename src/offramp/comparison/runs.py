"""The runs of a study: records and fitted policies, loaded from files."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from offramp import policies, records
from offramp._io.arrays import open_arrays
from offramp.policies import Policy, load_policies
from offramp.records import ExitRecord
from offramp.records.joining import same_samples


@dataclass(frozen=True)
class Run:
    """One trained system: its records and the policies fitted on its validation record, if there are any."""

    system: str
    seed: int
    validation: ExitRecord
    test: ExitRecord
    policies: dict[str, Policy] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for split in ("validation", "test"):
            getattr(self, split).needed_correct(f"{self.system} seed {self.seed}, {split}: a comparison")


def load_runs(paths: Iterable[str | os.PathLike], *, fitted: bool = True) -> list[Run]:
    """Load record files and files of fitted policies, and combine them into runs by their metadata.

    Test samples are brought into one order by their index.

    Parameters
    ----------
    fitted : bool
        Whether the files include fitted policies. Otherwise only records are expected.

    Raises
    ------
    ValueError
        If a file is of another kind, a run is incomplete, a record has no labels, the test samples or labels of runs
        differ, or the seeds of a system have different policies.
    """
    expected = ("validation", "test", "policies") if fitted else ("validation", "test")
    kinds = (records.FORMAT, policies.FORMAT) if fitted else (records.FORMAT,)
    parts: dict[tuple[str, int], dict[str, Any]] = {}
    for path in paths:
        kind, _, about = open_arrays(path, *kinds)
        if kind == policies.FORMAT:
            value, about = load_policies(path)
            part = "policies"
        else:
            value = ExitRecord.load(path)
            part = about.get("split")
            if part not in ("validation", "test"):
                raise ValueError(f"{path}: its metadata say split: {part}; expected validation or test")
        if not {"system", "seed"} <= about.keys():
            raise ValueError(f"{path}: its metadata do not name the system and seed; expected both")
        run = parts.setdefault((about["system"], about["seed"]), {})
        if part in run:
            raise ValueError(f"{path}: a second {part} of {about['system']} seed {about['seed']}; expected one")
        run[part] = value
    runs: list[Run] = []
    for (system, seed), run in parts.items():
        name = f"{system} seed {seed}"
        if missing := [part for part in expected if part not in run]:
            raise ValueError(f"{name}: no {missing[0]} among the files; expected {', '.join(expected)}")
        runs.append(Run(system, seed, **run))
        like = next(run for run in runs if run.system == system)
        if runs[-1].policies.keys() != like.policies.keys():
            raise ValueError(f"{name}: other policies than {system} seed {like.seed}; fit the same for all seeds")
    names = [f"the test record of {run.system} seed {run.seed}" for run in runs]
    tests = same_samples([run.test for run in runs], names, "runs") if runs else []
    return [replace(run, test=test) for run, test in zip(runs, tests)]


def by_system(runs: Sequence[Run]) -> dict[str, list[Run]]:
    systems: dict[str, list[Run]] = {}
    for run in runs:
        systems.setdefault(run.system, []).append(run)
    return systems
