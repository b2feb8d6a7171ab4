"""Tokenization. Texts are tokenized once, and datasets store the token ids."""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from offramp.datasets.base import TextDataset, Vocabulary
from offramp.datasets.pretrained import one_line, source_of

BATCH = 4096  # texts tokenized at once; lists of ids need much more memory than the resulting arrays


@dataclass(frozen=True, kw_only=True, eq=False)
class Texts(TextDataset):
    """Labelled texts that can be corrupted, because the texts are known.

    Parameters
    ----------
    texts : sequence of mappings of str to sequence of str
        For each column of the texts: the texts of each pool.
    """

    texts: Sequence[Mapping[str, Sequence[str]]] = field(repr=False)

    def corrupted(self, corruption, pool: str) -> "Texts":
        corruption.check("texts")
        columns = [
            [corruption.text(text, i, k) for i, text in enumerate(column[pool])] for k, column in enumerate(self.texts)
        ]
        texts, pairs = [*columns, None][:2]
        its = self.vocabulary
        label = f"{self.name} {pool}, corrupted"
        _, tokens, offsets = tokenize(texts, pairs, its.tokenizer, its.max_tokens, label=label)
        return replace(self, tokens={pool: tokens}, offsets={pool: offsets})


def text_dataset(
    *,
    name: str,
    classes: int,
    labels: Mapping[str, np.ndarray],
    texts: Mapping[str, Sequence[str]],
    pairs: Mapping[str, Sequence[str]] | None = None,
    tokenizer: str,
    max_tokens: int,
    columns: tuple[str, ...] = ("text",),
    names: tuple[str, ...] = (),
    metric: Literal["accuracy", "f1", "matthews"] = "accuracy",
) -> Texts:
    """Build a dataset from the texts, or pairs of texts, of each pool. See `tokenize` for truncation."""
    tokens, offsets = {}, {}
    for pool in texts:
        vocabulary, tokens[pool], offsets[pool] = tokenize(
            texts[pool], pairs and pairs[pool], tokenizer, max_tokens, label=f"{name} {pool}"
        )
    return Texts(
        name=name,
        classes=classes,
        labels=labels,
        metric=metric,
        names=names,
        columns=columns,
        vocabulary=vocabulary,
        tokens=tokens,
        offsets=offsets,
        texts=[texts] if pairs is None else [texts, pairs],
    )


def tokenize(
    texts: Sequence[str], pairs: Sequence[str] | None, tokenizer: str, max_tokens: int, *, label: str = "texts"
) -> tuple[Vocabulary, np.ndarray, np.ndarray]:
    """Convert texts, or pairs of texts, to token ids, including special tokens.

    Texts longer than `max_tokens` are truncated at the end; for pairs, the longer text is truncated first. Special
    tokens are kept. The number of truncated texts is printed on stderr. Empty texts are kept and consist of special
    tokens only. If a text contains the name of a special token, such as "[SEP]", it is encoded as ordinary tokens.
    These are our choices.

    Parameters
    ----------
    texts, pairs : sequence of str
        N texts each. `pairs` are the second texts, or None.
    tokenizer : str
        Name of the tokenizer, see `pretrained.source_of`.
    max_tokens : int
        Maximum number of tokens, including special tokens.
    label : str
        Name of the texts in the message on stderr.

    Returns
    -------
    vocabulary : Vocabulary
    tokens : ndarray of shape (sum of lengths,), int32
    offsets : ndarray of shape (N + 1,), int64
        Text i is `tokens[offsets[i]:offsets[i + 1]]`.

    Raises
    ------
    ValueError
        If the tokenizer cannot be loaded or has no padding or separator token, or if `max_tokens` is too small for one
        token of each text or larger than the tokenizer's model allows.
    """
    encoder = load_tokenizer(tokenizer)
    least = encoder.num_special_tokens_to_add(pair=pairs is not None) + (1 if pairs is None else 2)
    if not least <= max_tokens <= encoder.model_max_length:
        raise ValueError(f"max_tokens: {max_tokens}, expected {least} to {encoder.model_max_length} for {tokenizer!r}")

    def ids(places: Sequence[int], **options) -> Iterator[np.ndarray]:
        second = None if pairs is None else [pairs[i] for i in places]
        encoded = encoder([texts[i] for i in places], second, split_special_tokens=True, verbose=False, **options)
        return (np.array(row, np.int32) for row in encoded["input_ids"])

    rows = []
    for start in range(0, len(texts), BATCH):
        rows += ids(range(start, min(start + BATCH, len(texts))))
    long = [i for i, row in enumerate(rows) if len(row) > max_tokens]
    if long:
        print(f"offramp: {label}: {len(long)} of {len(rows)} texts cut to {max_tokens} tokens", file=sys.stderr)
        for i, row in zip(long, ids(long, truncation="longest_first", max_length=max_tokens)):
            rows[i] = row
    vocabulary = Vocabulary(len(encoder), encoder.pad_token_id, encoder.sep_token_id, tokenizer, max_tokens)
    offsets = np.cumsum([0, *map(len, rows)])  # (N + 1,)
    return vocabulary, np.concatenate(rows), offsets


def load_tokenizer(name: str):
    """Load the tokenizer of a text encoder from a package, the hub or its cache."""
    tokenizer = fetch_tokenizer(name)
    if tokenizer.pad_token_id is None or tokenizer.sep_token_id is None:
        raise ValueError(f"tokenizer {name!r} has no pad or separator token: expected that of a text encoder")
    return tokenizer


def fetch_tokenizer(name: str):
    """Load any tokenizer of transformers from a package, the hub or its cache."""
    # Any value prevents a warning of older tokenizers when a process that used their threads forks workers.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    from transformers import AutoTokenizer  # slow import

    try:
        return AutoTokenizer.from_pretrained(source_of(name))
    except (OSError, ImportError) as error:  # includes the errors of the hub
        raise ValueError(
            f"tokenizer {name!r} could not be fetched ({one_line(error)}); fetch it to the hub's cache "
            "(HF_HOME) where there is a network, or take minilm-l6, which comes with a package"
        ) from error
