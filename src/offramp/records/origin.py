"""Where a record comes from, as its metadata say: warnings where origins do not fit together."""

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from offramp.records import ExitRecord

ORIGIN = ("system", "seed", "dataset", "classes", "unit")


def warn_of_test(record: "ExitRecord", what: str) -> None:
    """Warn if `what` learns from a record of the test split. Everything that fits or chooses on a record calls this."""
    if record.metadata.get("split") == "test":
        warnings.warn(
            f"{what} uses a record whose split is test: results on the same samples are too good; use validation data",
            stacklevel=3,
        )


def origin(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of the metadata that says of which system, seed, dataset, classes and unit a record is."""
    return {key: metadata[key] for key in ORIGIN if metadata.get(key) is not None}


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Describe the keys of `one` that have another value in `other`. Keys that `other` does not have are left out."""
    return [f"{key} {one[key]}, not {other[key]}" for key in one if other.get(key, one[key]) != one[key]]


def samples_of(record: "ExitRecord") -> tuple[np.ndarray, np.ndarray]:
    """Return what tells the samples of a record from others, (N,) each: their positions, and labels or qualities."""
    known = [values for values in (record.labels, record.quality, record.prediction) if values is not None]
    return record.index, known[0] if known[0].ndim == 1 else known[0][:, 0]


def shared_samples(one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray]) -> int:
    """Return how many samples two records share, given as `samples_of`.

    Positions are compared first. As records without positions count from 0, samples at the same positions are the same
    only if their labels (or qualities) are all equal.
    """
    _, ours, theirs = np.intersect1d(one[0], other[0], assume_unique=True, return_indices=True)
    return len(ours) if np.array_equal(one[1][ours], other[1][theirs]) else 0


def shared_unit(units: Mapping[str, str | None], who: str) -> str | None:
    """Return the unit of costs that are added or compared.

    Parameters
    ----------
    units : mapping of str to str or None
        Unit by what has it, for example "stage 1". None: not known.
    who : str
        Beginning of the message.

    Returns
    -------
    str or None
        None if no unit is known.

    Raises
    ------
    ValueError
        If there are two units.

    Warns
    -----
    UserWarning
        If only some units are known.
    """
    known = {place: unit for place, unit in units.items() if unit is not None}
    if not known:
        return None
    first = next(iter(known))
    for place, unit in known.items():
        if unit != known[first]:
            raise ValueError(f"{who}: {place} costs {unit}, {first} {known[first]}; expected one unit")
    if len(known) < len(units):
        without = next(place for place in units if place not in known)
        warnings.warn(
            f"{who}: {without} has no unit of its costs, {first} costs {known[first]}; the same unit is assumed",
            stacklevel=3,
        )
    return known[first]


def system_of(metadata: Mapping[str, Any], path: Path) -> str:
    """Return the system in the metadata. If there is none, the name of the file, or of its folder, is used.

    All of resnet-test.safetensors, resnet_val.safetensors and resnet/test.safetensors are of resnet.
    """
    if metadata.get("system") is not None:
        return metadata["system"]
    return re.sub(r"(^|[-_.])(validation|val|test|policies)$", "", path.stem) or path.parent.name or path.stem
