"""Quality of captions: BLEU, ROUGE-L, CIDEr, and METEOR where Java is. It needs pycocoevalcap."""

import shutil
from collections.abc import Sequence
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

import numpy as np

DROPS = (0.0, 0.01, 0.03)  # acceptable shares of lost CIDEr
METRICS = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr")


def spelled_layers(exits: np.ndarray, words: Sequence[tuple[str, int]]) -> str:
    """Return the layers of the tokens of a caption as text, in which words are separated by " ", and their tokens by
    "+". The token that ends the caption is a word of its own.

    Parameters
    ----------
    exits : ndarray of shape (T,)
        Exit of each token, counted from 0.
    words : sequence of (str, int)
        Each word, with the number of its tokens.
    """
    ends = np.cumsum([n for _, n in words], dtype=int)
    return " ".join("+".join(map(str, own + 1)) for own in np.split(exits, ends) if len(own))


def read_layers(text: str) -> list[list[int]]:
    """Return the layers of the tokens of each word, from the text that `spelled_layers` made of them."""
    return [[int(layer) for layer in word.split("+")] for word in text.split()]


def caption_quality(
    captions: Sequence[str], references: Sequence[Sequence[str]], *, meteor: bool = False
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Compare captions with the references of their images, by the public evaluation of COCO (pycocoevalcap).

    Words are separated by spaces. The public evaluation separates them by the tokenizer of Stanford CoreNLP, which
    needs Java. For captions in lower case and without punctuation (`datasets.captions.plain`), both are equal up to
    contractions such as "don't".

    Parameters
    ----------
    captions : sequence of N str
    references : sequence of N sequences of str
        Reference captions of each image. CIDEr weighs words by their frequency in them, so its values depend on all
        images that are compared.
    meteor : bool
        Also compute METEOR, which is a Java program.

    Returns
    -------
    whole : dict of str to float
        Each metric over all images. BLEU is not a mean over images, but that of the corpus.
    each : dict of str to ndarray of shape (N,)
        Each metric for each image. CIDEr is from 0 to 10, the others from 0 to 1.

    Raises
    ------
    ValueError
        If the numbers differ, if there are none, if an image has no reference, or if a program is not installed.
    """
    if len(captions) != len(references) or not len(captions):
        raise ValueError(f"{len(captions)} captions and {len(references)} images; expected as many, at least 1")
    if lone := [i for i, those in enumerate(references) if not len(those)]:
        raise ValueError(f"image {lone[0]} has no reference caption; expected at least one")
    try:
        from pycocoevalcap.bleu.bleu import Bleu
        from pycocoevalcap.cider.cider import Cider
        from pycocoevalcap.rouge.rouge import Rouge
    except ModuleNotFoundError:
        raise ValueError("captions are compared by pycocoevalcap: pip install 'offramp[captions]'") from None
    written = {i: [caption] for i, caption in enumerate(captions)}
    given = {i: list(those) for i, those in enumerate(references)}
    scorers: list[tuple[Sequence[str], Any]] = [(METRICS[:4], Bleu(4)), (["ROUGE-L"], Rouge()), (["CIDEr"], Cider())]
    if meteor:
        scorers.append((["METEOR"], _meteor()))
    whole: dict[str, float] = {}
    each: dict[str, np.ndarray] = {}
    for names, scorer in scorers:
        with redirect_stdout(StringIO()):  # Bleu prints its lengths
            total, values = scorer.compute_score(given, written)
        totals, rows = (total, values) if len(names) > 1 else ([total], [values])
        whole |= {name: float(value) for name, value in zip(names, totals)}
        each |= {name: np.asarray(row, np.float64) for name, row in zip(names, rows)}  # (N,) each
    return whole, each


def _meteor():
    if shutil.which("java") is None:
        raise ValueError("METEOR is a Java program, but there is no java on the path; install Java, or leave it out")
    from pycocoevalcap.meteor.meteor import Meteor

    return Meteor()
