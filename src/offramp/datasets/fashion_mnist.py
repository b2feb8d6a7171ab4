"""Fashion-MNIST (Xiao, Rasul and Vollgraf 2017): 70,000 grey images of 28 × 28 pixels, ten classes of clothing."""

import gzip
import math
import subprocess
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from offramp.datasets.base import InMemoryDataset
from offramp.datasets.download import data_folder, fetch, read_checked
from offramp.datasets.labelled import Published, published

URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
FILES = {  # sha256 of the file at URL and of that in the Debian package, which differ in the gzip header only
    "train-images-idx3-ubyte.gz": (
        "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7",
    ),
    "train-labels-idx1-ubyte.gz": (
        "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056",
    ),
    "t10k-images-idx3-ubyte.gz": (
        "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa",
    ),
    "t10k-labels-idx1-ubyte.gz": (
        "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05",
    ),
}
POOLS = {"train": "train", "test": "t10k"}
PACKAGE = "dataset-fashion-mnist"
INSTALLED = Path("/usr/share/datasets/fashion-mnist")


@published(lambda **_: Published({"train": 60_000, "test": 10_000}, 10, list(FILES), (1, 28, 28)))
def load_fashion_mnist(shift: int = 2) -> InMemoryDataset:
    """Load Fashion-MNIST: 60,000 training and 10,000 test images, from the Debian package or else downloaded once.

    Images are normalised by the mean and standard deviation of the training pixels. Augmentation shifts and flips
    images (our choice).

    Parameters
    ----------
    shift : int
        Maximum random shift by augmentation, in pixels in each direction.

    Raises
    ------
    ValueError
        If a file cannot be downloaded or is not the expected one.
    """
    folder = data_folder("fashion_mnist")
    if not all((folder / name).exists() for name in FILES):
        copy_from_debian(folder)
        fetch(folder, URL, FILES)

    def read(pool: str, kind: str) -> np.ndarray:
        path = folder / f"{POOLS[pool]}-{kind}-ubyte.gz"
        return parse_idx(gzip.decompress(read_checked(path, FILES[path.name])), path)

    images = {pool: torch.from_numpy(read(pool, "images-idx3")) for pool in POOLS}  # (N, 28, 28)
    return InMemoryDataset(
        name="fashion_mnist",
        classes=10,
        image_shape=(1, 28, 28),
        labels={pool: read(pool, "labels-idx1").astype(np.int64) for pool in POOLS},
        pixels={pool: images[pool][:, None] for pool in POOLS},
        mean=(72.94,),
        std=(90.02,),
        shift=shift,
        flip=True,
    )


def copy_from_debian(folder: Path) -> None:
    """Copy the files of the Debian package into the folder, without root. Do nothing if it is not available."""
    folder.mkdir(parents=True, exist_ok=True)
    with (
        suppress(OSError, subprocess.SubprocessError, ValueError),
        TemporaryDirectory(dir=folder.resolve()) as scratch,
    ):
        source = INSTALLED
        if not source.is_dir():
            quiet = {"cwd": scratch, "check": True, "capture_output": True, "timeout": 300}
            subprocess.run(["apt-get", "download", PACKAGE], **quiet)
            subprocess.run(["dpkg", "-x", *Path(scratch).glob("*.deb"), scratch], **quiet)
            source = Path(scratch, *INSTALLED.parts[1:])
        for name, known in FILES.items():
            if not (folder / name).exists():
                copy = Path(scratch, name)
                copy.write_bytes(read_checked(source / name, known))
                copy.replace(folder / name)


def parse_idx(content: bytes, path: Path) -> np.ndarray:
    """Return the uint8 array in an IDX file, with the shape that the file states.

    The format is: two zero bytes, the type (8: unsigned byte), the number of dimensions, the sizes as big-endian 32-bit
    numbers, and the values.
    """
    dimensions = content[3] if content.startswith(b"\0\0\x08") and len(content) > 3 else 0
    start = 4 + 4 * dimensions
    shape = [int.from_bytes(content[at : at + 4]) for at in range(4, start, 4)]
    if not dimensions or len(content) != start + math.prod(shape):
        raise ValueError(f"{path}: no IDX file of bytes ({len(content)} bytes, it says {shape})")
    return np.frombuffer(bytearray(content), np.uint8, offset=start).reshape(shape)
