"""10,605 sentences of movie reviews with human ratings, from the same collection as SST.

The sentences are from Pang and Lee (2004, 2005). The ratings are from Hutto and Gilbert (ICWSM 2014): means over at
least twenty people, from −4 to 4. They are part of the source of the package vaderSentiment, under the MIT licence.
"""

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from offramp.datasets.base import TextDataset
from offramp.datasets.download import data_folder, read_checked, read_tar
from offramp.datasets.labelled import Published, published
from offramp.datasets.text import text_dataset

SOURCE = "vaderSentiment-3.3.2.tar.gz", "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"
ARCHIVE = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"  # in the source; contains FILE
FILE = "movieReviewSnippets_GroundTruth.txt", "c8293b0d942e90e223ea2c0955d969040d1a1be514a978b9af0698940bd13350"


@published(lambda **_: Published({"all": 10_605}, 2, FILE[:1]))
def load_reviews(min_rating: float = 0.5, tokenizer: str = "minilm-l6", max_tokens: int = 128) -> TextDataset:
    """Load sentences that were rated positive (class 1) or negative (class 0), as one pool, "all".

    The file is downloaded once with pip, from the package index that pip is configured for. Indices count the sentences
    that are kept, in the order of the file (our choice, so that all splits consist of sentences with a label).

    Parameters
    ----------
    min_rating : float
        Minimum absolute rating of the sentences that are kept, at most 3. The default (our choice) keeps 10,072.
    tokenizer : str
        See `pretrained.source_of`.
    max_tokens : int
        Longer texts are truncated, see `text.tokenize`.

    Raises
    ------
    ValueError
        If the file cannot be downloaded or is not the expected one, or if an option is out of range.
    """
    if not 0 < min_rating <= 3:
        raise ValueError(f"min_rating: {min_rating}, expected more than 0, which is neither, and at most 3")
    path = data_folder("reviews") / FILE[0]
    if not path.exists():
        fetch_reviews(path)
    lines = read_checked(path, FILE[1:]).decode().split("\r\n")
    _, ratings, texts = zip(*(line.split("\t") for line in lines))
    ratings = np.array(ratings, float)  # (10605,)
    kept = np.flatnonzero(np.abs(ratings) >= min_rating)  # (N,)
    return text_dataset(
        name="reviews",
        classes=2,
        labels={"all": (ratings[kept] > 0).astype(np.int64)},
        texts={"all": [texts[i] for i in kept]},
        tokenizer=tokenizer,
        max_tokens=max_tokens,
        names=("negative", "positive"),
    )


def fetch_reviews(path: Path) -> None:
    """Create the file atomically from the source of the package, which is in its folder or is downloaded with pip."""
    path.parent.mkdir(parents=True, exist_ok=True)
    source = path.parent / SOURCE[0]
    with TemporaryDirectory(dir=path.parent.resolve()) as scratch:
        if not source.exists():
            try:
                source = download(Path(scratch))
            except (OSError, subprocess.SubprocessError) as error:
                said = (getattr(error, "stderr", None) or b"").decode(errors="replace").split("\n")
                reason = next((line for line in reversed(said) if "ERROR" in line), type(error).__name__).strip()
                raise ValueError(
                    f"pip downloads no {SOURCE[0]} ({reason}); put into {path.parent}, by hand: {SOURCE[0]} (sha256 "
                    f"{SOURCE[1]}) or, out of {Path(ARCHIVE).name} in it, {FILE[0]} (sha256 {FILE[1]})"
                ) from None
        archive = read_tar(read_checked(source, SOURCE[1:]))[ARCHIVE]
        copy = Path(scratch, FILE[0])
        copy.write_bytes(read_tar(archive)[f"hutto_ICWSM_2014/{FILE[0]}"])
        read_checked(copy, FILE[1:])
        copy.replace(path)


def download(folder: Path) -> Path:
    """Download the source of the package with pip. pip runs its set-up script, so the hash is verified first."""
    package = SOURCE[0].removesuffix(".tar.gz").replace("-", "==")
    wanted = folder / "requirements.txt"
    wanted.write_text(f"{package} --hash=sha256:{SOURCE[1]}\n")
    options = ["--no-deps", "--no-binary", ":all:", "--no-build-isolation", "--dest", folder, "-r", wanted]
    subprocess.run([sys.executable, "-m", "pip", "download", *options], check=True, capture_output=True, timeout=300)
    return folder / SOURCE[0]
