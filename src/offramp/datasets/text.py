"""Tables of texts, and texts to token ids, once and for all: datasets keep the ids."""

import csv
import io
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import numpy as np

from offramp.datasets.base import TextDataset, Vocabulary
from offramp.datasets.pretrained import one_line, source_of

BATCH = 4096  # texts tokenised at once: Python's lists of ids take much more room than the arrays they become


def read_table(
    content: bytes,
    where: str,
    columns: Sequence[str],
    *,
    delimiter: str,
    quoting: int,
    header: Sequence[str] | None = None,
) -> Iterator[tuple[int, list[str]]]:
    """The rows of a table in UTF-8: the number of a row's line, and its fields in `columns`. Blank lines are no rows.

    Parameters
    ----------
    content : bytes
    where : str
        What messages call the table.
    columns : sequence of str
    delimiter : str
    quoting : int
        As in `csv`.
    header : sequence of str, optional
        The names of all columns; else the first line has them.

    Raises
    ------
    ValueError
        If a column is missing, or a line is not UTF-8 or has a field too many or too few.
    """
    reader = csv.reader(_lines(content, where), delimiter=delimiter, quoting=quoting, strict=True)
    try:
        for row in filter(None, reader):
            if header is None:
                header = row
                if missing := [column for column in columns if column not in header]:
                    raise ValueError(f"{where}, line {reader.line_num}: no column {missing[0]!r}: only {header}")
                if twice := [column for column in columns if header.count(column) > 1]:
                    raise ValueError(f"{where}, line {reader.line_num}: two columns {twice[0]!r}, expected one")
                continue
            if len(row) != len(header):
                raise ValueError(f"{where}, line {reader.line_num}: {len(row)} fields, expected {len(header)}")
            yield reader.line_num, [row[header.index(column)] for column in columns]
    except csv.Error as error:
        reason = str(error).split(" - ")[0]  # what follows is advice to programmers
        raise ValueError(f"{where}, line {reader.line_num}: not as expected in such a table ({reason})") from None


def _lines(content: bytes, where: str) -> Iterator[str]:
    for number, line in enumerate(io.BytesIO(content), 1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError:
            raise ValueError(f"{where}: not UTF-8 at line {number}: save it as UTF-8") from None


def text_dataset(
    *,
    name: str,
    classes: int,
    labels: Mapping[str, np.ndarray],
    texts: Mapping[str, Sequence[str]],
    pairs: Mapping[str, Sequence[str]] | None = None,
    tokenizer: str,
    max_tokens: int,
    metric: Literal["accuracy", "f1", "matthews"] = "accuracy",
) -> TextDataset:
    """A dataset of the texts of each pool, or of pairs of texts; what is cut is as `tokenize` says."""
    tokens, offsets = {}, {}
    for pool in texts:
        vocabulary, tokens[pool], offsets[pool] = tokenize(
            texts[pool], pairs and pairs[pool], tokenizer, max_tokens, label=f"{name} {pool}"
        )
    return TextDataset(
        name=name,
        classes=classes,
        labels=labels,
        metric=metric,
        vocabulary=vocabulary,
        tokens=tokens,
        offsets=offsets,
    )


def tokenize(
    texts: Sequence[str], pairs: Sequence[str] | None, tokenizer: str, max_tokens: int, *, label: str = "texts"
) -> tuple[Vocabulary, np.ndarray, np.ndarray]:
    """Token ids of texts or of pairs of texts, with the special tokens around them.

    What is longer than `max_tokens` is cut at its end, of a pair the longer text first; the special tokens stay. How
    many were cut is said on stderr. An empty text is kept as its special tokens alone, so that no sample vanishes.
    A text that spells a special token, such as "[SEP]", gets ordinary tokens for it. All our choice.

    Parameters
    ----------
    texts, pairs : sequence of str
        Of one length N; `pairs` are the second texts, or None.
    tokenizer : str
        Its name, see `pretrained.source_of`.
    max_tokens : int
        Special tokens count.
    label : str
        What the message on stderr calls the texts.

    Returns
    -------
    vocabulary : Vocabulary
    tokens : ndarray of shape (sum of lengths,), int32
    offsets : ndarray of shape (N + 1,), int64
        Text i is `tokens[offsets[i]:offsets[i + 1]]`.

    Raises
    ------
    ValueError
        If the tokenizer cannot be had or has no pad or separator token, or if `max_tokens` leaves no room for a token
        of each text or is more than the tokenizer's model takes.
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
    """The tokenizer of that name, from a package, the hub or its cache."""
    # Set, whichever way, it keeps older tokenizers from a warning when a process that used their threads forks workers.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    from transformers import AutoTokenizer  # takes seconds

    try:
        tokenizer = AutoTokenizer.from_pretrained(source_of(name))
    except (OSError, ImportError) as error:  # the hub's own errors among them
        raise ValueError(
            f"tokenizer {name!r} could not be fetched ({one_line(error)}); fetch it to the hub's cache "
            "(HF_HOME) where there is a network, or take minilm-l6, which comes with a package"
        ) from error
    if tokenizer.pad_token_id is None or tokenizer.sep_token_id is None:
        raise ValueError(f"tokenizer {name!r} has no pad or separator token: expected that of a text encoder")
    return tokenizer
