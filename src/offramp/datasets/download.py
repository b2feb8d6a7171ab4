"""Download of dataset files. Each file has a known sha256 and is stored atomically."""

import hashlib
import io
import os
import sys
import tarfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

FOLDER = "OFFRAMP_DATA"  # environment variable with the folder of datasets


def data_folder(dataset: str) -> Path:
    """Return the folder of a dataset, in `$OFFRAMP_DATA` or by default in `data/downloads` of the working directory."""
    return Path(os.environ.get(FOLDER) or "data/downloads") / dataset


def fetch(folder: Path, url: str, files: Mapping[str, Sequence[str]]) -> None:
    """Download the files that are not in the folder yet.

    A file gets its final name only after its hash was verified. An interrupted download is therefore never mistaken for
    the file, and two jobs can download at the same time.

    Parameters
    ----------
    folder : Path
    url : str
        Base URL, to which the file name is appended.
    files : mapping of str to sequence of str
        The accepted sha256 hashes of each file. The first one is that of the file at `url`. Names may contain folders,
        which are then the same in `folder` as at `url`.

    Raises
    ------
    ValueError
        If a file cannot be downloaded or is not the expected one. The message is one line that states which files to
        put where.
    """
    import pooch
    import requests

    missing = [name for name in files if not (folder / name).exists()]
    for name in missing:
        try:
            path = folder / name
            pooch.retrieve(
                url + name, files[name][0], fname=path.name, path=path.parent, progressbar=sys.stderr.isatty()
            )
        except requests.RequestException as error:
            reason = f"no download of {url}{name} ({type(error).__name__})"
        except ValueError:
            reason = f"{url}{name} is another file than expected"
        else:
            continue
        wanted = [f"{name} (sha256 {files[name][0]})" for name in missing if not (folder / name).exists()]
        raise ValueError(f"{reason}; put into {folder}, by hand: {', '.join(wanted)}")


def read_checked(path: Path, known: Collection[str]) -> bytes:
    """Return the content of a file after verifying that its sha256 is one of `known`.

    Raises
    ------
    ValueError
        If the hash is not among them.
    """
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found not in known:
        raise ValueError(
            f"{path}: damaged or another file (sha256 {found}, expected {' or '.join(known)}); delete it and run again"
        )
    return content


def read_tar(content: bytes) -> dict[str, bytes]:
    """Return the regular files of a gzipped tar archive by name. Nothing is written to disk, so names are harmless."""
    with tarfile.open(fileobj=io.BytesIO(content), mode="r|gz") as tar:
        return {member.name: tar.extractfile(member).read() for member in tar if member.isreg()}
