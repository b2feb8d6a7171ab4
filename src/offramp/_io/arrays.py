"""Named arrays and metadata in .safetensors files, verified when they are read.

The safetensors library reads the files. Offramp writes them itself, because the library stores the metadata in an order
that changes from run to run, and equal results must give identical files.
"""

import json
import os
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from offramp._io.writing import AGAIN, whole_file

_TYPES = {"F64": "<f8", "I64": "<i8", "F32": "<f4", "I32": "<i4", "F16": "<f2", "U8": "|u1", "BOOL": "|b1"}
_CODES = {np.dtype(name): code for code, name in _TYPES.items()}


def save_arrays(
    path: str | os.PathLike, kind: str, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, Any]
) -> None:
    """Write arrays and metadata to one .safetensors file, atomically and with identical bytes for identical content.

    Parameters
    ----------
    kind : str
        Kind of the file, for example "offramp-record/1". `open_arrays` checks it.
    metadata : mapping
        JSON values. Strings are stored unchanged, other values as JSON.
    """
    if reserved := {"format", "checksums"} & metadata.keys():
        raise ValueError(f"metadata: {reserved.pop()!r} is a key of the file format; expected another name")
    arrays = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    order = sorted(arrays, key=lambda name: (-arrays[name].itemsize, name))  # aligned: larger items first
    header: dict[str, Any] = {}
    end = 0
    for name in order:
        start, end = end, end + arrays[name].nbytes
        code = _CODES[arrays[name].dtype]
        header[name] = {"dtype": code, "shape": list(arrays[name].shape), "data_offsets": [start, end]}
    strings = _to_strings({**dict(sorted(metadata.items())), "format": kind})
    checksums = {name: _checksum(arrays[name]) for name in order} | {HEADER: _header_checksum(header, strings)}
    header["__metadata__"] = {**strings, **_to_strings({"checksums": checksums})}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with whole_file(path) as partial, partial.open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for name in order:
            file.write(arrays[name].reshape(-1).view(np.uint8).data)


@dataclass(frozen=True)
class StoredArray:
    """An array in a file that has not been read yet."""

    path: Path
    name: str
    dtype: np.dtype
    shape: tuple[int, ...]
    offset: int
    checksum: int | None  # None if the file was written by another program

    def read(self) -> np.ndarray:
        """Return the array, memory-mapped.

        Raises
        ------
        ValueError
            If the content does not match the checksum.
        """
        values = np.empty(self.shape, self.dtype)
        if values.size:
            values = np.memmap(self.path, self.dtype, "r", self.offset, self.shape)
        if self.checksum is not None and _checksum(values) != self.checksum:
            raise ValueError(f"{self.path}: {self.name} is damaged (checksum differs); {AGAIN}")
        return values


def open_arrays(path: str | os.PathLike, *kinds: str) -> tuple[str, dict[str, StoredArray], dict[str, Any]]:
    """Open a file written by `save_arrays`. Return its kind, its arrays (not read yet) and its metadata.

    Raises
    ------
    ValueError
        If the file is truncated or damaged, is not a .safetensors file, or has none of the given kinds.
    """
    path = Path(path)
    expected = f"expected a whole {' or '.join(kinds)} file"
    try:
        with safe_open(path, framework="numpy"):  # checks sizes, offsets and types
            pass
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
        strings = header.pop("__metadata__", {})
        checksums = json.loads(strings.pop("checksums", "{}"))
        if not isinstance(checksums, dict):
            raise ValueError(f"its checksums are {checksums!r}")
        renamed = not checksums and any(f'"{HEADER}": ' in text for text in strings.values())
        if renamed or (checksums and checksums[HEADER] != _header_checksum(header, strings)):
            raise ValueError("its header is damaged")
        metadata = _from_strings(strings)
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path}: not readable ({error}); {expected}; if damaged, {AGAIN}") from None
    found = metadata.pop("format", None)
    if found not in kinds:
        raise ValueError(f"{path}: its metadata says format: {found}; {expected}")
    arrays = {}
    for name, entry in header.items():
        if entry["dtype"] not in _TYPES:
            raise ValueError(f"{path}: {name} has type {entry['dtype']}; expected one of {', '.join(_TYPES)}")
        dtype = np.dtype(_TYPES[entry["dtype"]])
        offset = 8 + length + entry["data_offsets"][0]
        arrays[name] = StoredArray(path, name, dtype, tuple(entry["shape"]), offset, checksums.get(name))
    return found, arrays, metadata


@contextmanager
def reading(path: str | os.PathLike, kind: str) -> Iterator[None]:
    """Context manager that raises ValueError, with the path, where the content of a file is not what its kind has."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error).removeprefix(f"{path}: ")
        raise ValueError(f"{path}: {reason}; expected a whole {kind} file") from None


HEADER = "header"  # name of the checksum of the header, which excludes the checksums themselves and the arrays


def _header_checksum(header: Mapping[str, Any], strings: Mapping[str, str]) -> int:
    return zlib.crc32(json.dumps([header, strings], sort_keys=True).encode())


def _checksum(values: np.ndarray) -> int:
    return zlib.crc32(values.reshape(-1).view(np.uint8).data)


def _to_strings(metadata: Mapping[str, Any]) -> dict[str, str]:
    return {
        key: value if _plain(value) else json.dumps(value, default=np.generic.item) for key, value in metadata.items()
    }


def _from_strings(metadata: Mapping[str, str]) -> dict[str, Any]:
    return {key: value if _plain(value) else json.loads(value) for key, value in metadata.items()}


def _plain(value: Any) -> bool:
    """Whether the value is a string that JSON would not parse as another type."""
    if not isinstance(value, str):
        return False
    try:
        json.loads(value)
    except ValueError:
        return True
    return False
