"""Files that appear whole or not at all, and are checked when read."""

import json
import os
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open

if TYPE_CHECKING:
    import pandas as pd


@contextmanager
def whole_file(path: str | os.PathLike) -> Iterator[Path]:
    """Give a temporary name beside `path`; what was written there takes the name `path` if the block succeeds.

    The temporary name is always the same, so what a killed run left behind is overwritten by the next one.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: str | os.PathLike, text: str) -> None:
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_table(frame: "pd.DataFrame", path: str | os.PathLike) -> None:
    """Write a table as Parquet or CSV, as the name's ending says."""
    suffix = Path(path).suffix
    if suffix not in (".parquet", ".csv"):
        raise ValueError(f"{path}: tables are written as .parquet or .csv, not {suffix or 'without an ending'}")
    with whole_file(path) as partial:
        if suffix == ".parquet":
            frame.to_parquet(partial, index=False)
        else:
            frame.to_csv(partial, index=False)


# Arrays, as .safetensors files. The library reads and checks them; we write them, for the library puts metadata in an
# order that changes from run to run, and equal results are to be equal files.

_TYPES = {"F64": "<f8", "I64": "<i8", "F32": "<f4", "I32": "<i4", "F16": "<f2", "U8": "|u1", "BOOL": "|b1"}
_CODES = {np.dtype(name): code for code, name in _TYPES.items()}


def save_arrays(
    path: str | os.PathLike, kind: str, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, Any]
) -> None:
    """Write arrays and metadata to one .safetensors file: whole or not at all, and the same bytes for the same content.

    Parameters
    ----------
    kind : str
        What the file is, for example "offramp-record/1"; `open_arrays` asks for it.
    metadata : mapping
        JSON values. Strings are stored as they are, anything else as JSON.
    """
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    order = sorted(arrays, key=lambda name: (-arrays[name].itemsize, name))  # larger items first keeps all aligned
    checksums = {name: _checksum(arrays[name]) for name in order}
    header: dict[str, Any] = {
        "__metadata__": _to_strings({**dict(sorted(metadata.items())), "checksums": checksums, "format": kind})
    }
    end = 0
    for name in order:
        start, end = end, end + arrays[name].nbytes
        code = _CODES[arrays[name].dtype]
        header[name] = {"dtype": code, "shape": list(arrays[name].shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with whole_file(path) as partial, partial.open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for name in order:
            file.write(memoryview(arrays[name].reshape(-1).view(np.uint8)))


@dataclass(frozen=True)
class StoredArray:
    """An array inside a file, not read yet."""

    path: Path
    name: str
    dtype: np.dtype
    shape: tuple[int, ...]
    offset: int
    checksum: int | None  # None: written by another program

    def read(self) -> np.ndarray:
        """The array, mapped into memory.

        Raises
        ------
        ValueError
            If it is not what was written.
        """
        values = np.empty(self.shape, self.dtype)
        if values.size:
            values = np.memmap(self.path, self.dtype, "r", self.offset, self.shape)
        if self.checksum is not None and _checksum(values) != self.checksum:
            raise ValueError(f"{self.path}: {self.name} is damaged (checksum differs); make the file again")
        return values


def read_kind(path: str | os.PathLike) -> tuple[str | None, dict[str, Any]]:
    """What a .safetensors file says it is (None: nothing), and its metadata."""
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = _from_strings(file.metadata() or {})
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{path}: not a whole .safetensors file ({error}); make it again") from None
    return metadata.pop("format", None), metadata


def open_arrays(path: str | os.PathLike, kind: str) -> tuple[dict[str, StoredArray], dict[str, Any]]:
    """The arrays, unread, and the metadata of a file that `save_arrays` wrote.

    Raises
    ------
    ValueError
        If the file is cut short, no .safetensors file or not of this kind.
    """
    path = Path(path)
    found, metadata = read_kind(path)
    if found != kind:
        raise ValueError(f"{path}: expected {kind}, but its metadata says format: {found}")
    checksums = metadata.pop("checksums", {})
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    header.pop("__metadata__")
    arrays = {}
    for name, entry in header.items():
        if entry["dtype"] not in _TYPES:
            raise ValueError(f"{path}: {name} has type {entry['dtype']}; expected one of {', '.join(_TYPES)}")
        dtype = np.dtype(_TYPES[entry["dtype"]])
        offset = 8 + length + entry["data_offsets"][0]
        arrays[name] = StoredArray(path, name, dtype, tuple(entry["shape"]), offset, checksums.get(name))
    return arrays, metadata


def _checksum(values: np.ndarray) -> int:
    return zlib.crc32(values.reshape(-1).view(np.uint8))


def _to_strings(metadata: Mapping[str, Any]) -> dict[str, str]:
    return {key: value if _plain(value) else json.dumps(value) for key, value in metadata.items()}


def _from_strings(metadata: Mapping[str, str]) -> dict[str, Any]:
    return {key: value if _plain(value) else json.loads(value) for key, value in metadata.items()}


def _plain(value: Any) -> bool:
    """Is it a string that JSON would not read as something else?"""
    if not isinstance(value, str):
        return False
    try:
        json.loads(value)
    except ValueError:
        return True
    return False
