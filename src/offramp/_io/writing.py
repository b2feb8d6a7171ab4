"""Files that are written whole or not at all, by one process at a time."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # Windows: files are not locked
    fcntl = None

AGAIN = "delete it and run again"  # what messages advise where a file is damaged


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
