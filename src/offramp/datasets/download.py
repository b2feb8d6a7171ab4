"""Fetching a dataset's files: each is one whose sha256 is known, and there whole or not at all."""

import hashlib
import io
import os
import sys
import tarfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

FOLDER = "OFFRAMP_DATA"  # environment variable: where datasets lie


def data_folder(dataset: str) -> Path:
    """Where the dataset's files lie: in `$OFFRAMP_DATA`, else in `data/downloads` of the working directory."""
    return Path(os.environ.get(FOLDER) or "data/downloads") / dataset


def fetch(folder: Path, url: str, files: Mapping[str, Sequence[str]]) -> None:
    """Download those of the files that are not in the folder.

    Each gets its name once its hash is right: what an interrupted download leaves behind is never taken for the
    file, and two jobs may fetch at once.

    Parameters
    ----------
    folder : Path
    url : str
        A file's own is this and its name.
    files : mapping of str to sequence of str
        The known sha256 of each file; the first is that of the file at `url`.

    Raises
    ------
    ValueError
        If a file cannot be had, or is another one than expected: one line that says what to put where.
    """
    import pooch
    import requests

    missing = [name for name in files if not (folder / name).exists()]
    for name in missing:
        try:
            pooch.retrieve(url + name, files[name][0], fname=name, path=folder, progressbar=sys.stderr.isatty())
        except requests.RequestException as error:
            reason = f"no download of {url}{name} ({type(error).__name__})"
        except ValueError:
            reason = f"{url}{name} is another file than expected"
        else:
            continue
        wanted = [f"{name} (sha256 {files[name][0]})" for name in missing if not (folder / name).exists()]
        raise ValueError(f"{reason}; put into {folder}, by hand: {', '.join(wanted)}")


def read_checked(path: Path, known: Collection[str]) -> bytes:
    """What is in a file, whose sha256 must be one of the known.

    Raises
    ------
    ValueError
        If it is not.
    """
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found not in known:
        raise ValueError(
            f"{path}: damaged or another file (sha256 {found}, expected {' or '.join(known)}); delete it and run again"
        )
    return content


def read_tar(content: bytes) -> dict[str, bytes]:
    """The regular files of a gzipped tar archive, by name. Nothing is written, so no name can lead anywhere."""
    with tarfile.open(fileobj=io.BytesIO(content), mode="r|gz") as tar:
        return {member.name: tar.extractfile(member).read() for member in tar if member.isreg()}
