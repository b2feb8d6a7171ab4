"""Files that appear whole or not at all, from one process at a time, and are checked when read."""

import errno
import json
import os
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open

try:
    import fcntl
except ImportError:  # Windows: files are not locked
    fcntl = None

if TYPE_CHECKING:
    import pandas as pd


_claimed: set[Path] = set()


@contextmanager
def claim(path: str | os.PathLike) -> Iterator[Path]:
    """Be the only process that writes `path`, inside; gives a temporary name beside it to write to.

    The name is always the same, and locked: another process fails at once, rather than mixing its bytes in or putting
    its own file there later. The lock ends with the process, however that ends, and what a killed one left behind is
    overwritten by the next.

    Raises
    ------
    ValueError
        If another process has it.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial")
    if partial in _claimed:  # by the verb, for all of its time
        yield partial
        return
    partial.parent.mkdir(parents=True, exist_ok=True)
    if fcntl is None:
        try:
            yield partial
        finally:
            partial.unlink(missing_ok=True)
        return
    while True:
        with partial.open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(
                    f"{path}: another process is writing it; wait until that has ended, or end it, and run again"
                ) from None
            except OSError:
                pass  # a file system without locks
            if not _is(partial, file):  # its last owner has just given it its final name
                continue
            _claimed.add(partial)
            try:
                yield partial
            finally:
                _claimed.discard(partial)
                if _is(partial, file):
                    partial.unlink()
            return


def _is(path: Path, file: IO) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


@contextmanager
def whole_file(path: str | os.PathLike) -> Iterator[Path]:
    """Give a temporary name beside `path`; what was written there takes the name `path` if the block succeeds."""
    with claim(path) as partial:
        try:
            yield partial
            with partial.open("rb") as file:
                os.fsync(file.fileno())
            partial.replace(path)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise OSError(f"{path}: not written ({os.strerror(error.errno)}); make room and run again") from None
            raise


def write_text(path: str | os.PathLike, text: str) -> None:
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


AGAIN = "delete it and run again"
TABLE_SUFFIXES = (".parquet", ".csv")


def write_table(frame: "pd.DataFrame", path: str | os.PathLike) -> None:
    """Write a table as Parquet or CSV, as the name's ending says."""
    suffix = Path(path).suffix
    if suffix not in TABLE_SUFFIXES:
        raise ValueError(f"{path}: expected a name that ends in {' or '.join(TABLE_SUFFIXES)}")
    with whole_file(path) as partial:
        if suffix == ".parquet":
            frame = frame.copy(deep=False)
            # Parquet's checksums are of the pages, not of what says where they are
            frame.attrs = {"offramp": _outline(frame)}
            frame.to_parquet(partial, index=False, write_page_checksum=True)
        else:
            frame.to_csv(partial, index=False)


def read_table(path: str | os.PathLike) -> "pd.DataFrame":
    """Read a table; a Parquet file that `write_table` wrote is checked to be what was written.

    Raises
    ------
    ValueError
        If it is no table or damaged.
    """
    import pandas as pd

    try:
        if Path(path).suffix == ".csv":
            return pd.read_csv(path)
        frame = pd.read_parquet(path, page_checksum_verification=True)
    except (FileNotFoundError, PermissionError):
        raise
    except Exception as error:  # of a damaged file pyarrow and pandas raise whatever they stumble over
        raise ValueError(
            f"{path}: not a readable table ({' '.join(str(error).split())}); if damaged, {AGAIN}"
        ) from None
    outline = _outline(frame)
    if frame.attrs.pop("offramp", outline) != outline:  # other programs write none
        raise ValueError(f"{path}: its rows or columns are not those that were written; {AGAIN}")
    return frame


def _outline(frame: "pd.DataFrame") -> dict[str, Any]:
    return {"rows": len(frame), "columns": {name: dtype.kind for name, dtype in frame.dtypes.items()}}


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
    if reserved := {"format", "checksums"} & metadata.keys():
        raise ValueError(f"metadata: {reserved.pop()!r} is a key of the file format; expected another name")
    arrays = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    order = sorted(arrays, key=lambda name: (-arrays[name].itemsize, name))  # larger items first keeps all aligned
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
            raise ValueError(f"{self.path}: {self.name} is damaged (checksum differs); {AGAIN}")
        return values


def open_arrays(path: str | os.PathLike, *kinds: str) -> tuple[str, dict[str, StoredArray], dict[str, Any]]:
    """The kind of a file that `save_arrays` wrote, its arrays, unread, and its metadata.

    Raises
    ------
    ValueError
        If the file is cut short, damaged, no .safetensors file or of none of these kinds.
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
        if checksums and checksums[HEADER] != _header_checksum(header, strings):
            raise ValueError("its header is damaged")
        metadata = _from_strings(strings)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
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


HEADER = "header"  # under this name the checksums have that of everything but themselves and the arrays


def _header_checksum(header: Mapping[str, Any], strings: Mapping[str, str]) -> int:
    return zlib.crc32(json.dumps([header, strings], sort_keys=True).encode())


def _checksum(values: np.ndarray) -> int:
    return zlib.crc32(values.reshape(-1).view(np.uint8))


def _to_strings(metadata: Mapping[str, Any]) -> dict[str, str]:
    return {
        key: value if _plain(value) else json.dumps(value, default=np.generic.item) for key, value in metadata.items()
    }


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
