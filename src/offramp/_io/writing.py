"""Atomic writing of files, by one process at a time."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # Windows: files are not locked
    fcntl = None  # type: ignore[assignment]

AGAIN = "delete it and run again"  # advice in error messages about damaged files


_claimed: set[Path] = set()


@contextmanager
def claim(path: str | os.PathLike) -> Iterator[Path]:
    """Context manager that locks `path` for writing and yields the path of a temporary file next to it.

    The temporary file always has the same name and is locked, so a second process that writes the same path fails
    immediately. The lock is released when the process ends for any reason. A temporary file left by a killed process
    is overwritten by the next one.

    Raises
    ------
    ValueError
        If another process is writing the path.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial")
    if partial in _claimed:  # already claimed by the command, for its whole run
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
            if not _is(partial, file):  # the previous owner has just renamed it to its final name
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
    """Context manager that yields a temporary path, and renames that file to `path` if the block succeeds."""
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


@contextmanager
def whole_folder(path: str | os.PathLike) -> Iterator[Path]:
    """Context manager that yields an empty temporary folder, and renames it to `path` if the block succeeds.

    A folder that is there already is replaced. The temporary folder is beside it, and is removed if the block fails.
    """
    path = Path(path)
    partial, before = (path.with_name(f".{path.name}.{ending}") for ending in ("new", "old"))
    with claim(path):
        for folder in (partial, before):  # left by a process that was killed
            shutil.rmtree(folder, ignore_errors=True)
        partial.mkdir()
        try:
            yield partial
            for file in partial.rglob("*"):
                if file.is_file():
                    with file.open("rb") as written:
                        os.fsync(written.fileno())
            if path.exists():
                path.replace(before)
            partial.replace(path)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
            shutil.rmtree(before, ignore_errors=True)


def write_text(path: str | os.PathLike, text: str) -> None:
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")
