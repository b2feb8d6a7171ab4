"""Text datasets from your own files: tables with one row per text, with its label."""

import re
from pathlib import Path

import numpy as np

from offramp.datasets.base import TextDataset
from offramp.datasets.preparing import FORMATS, read_table
from offramp.datasets.text import text_dataset


def load_text_files(
    train: str,
    test: str | None = None,
    text: str = "text",
    pair: str | None = None,
    label: str = "label",
    tokenizer: str = "minilm-l6",
    max_tokens: int = 128,
) -> TextDataset:
    """Load the texts of one file as pool "all", or of two files as pools "train" and "test".

    Files are encoded in UTF-8, with column names in the first line. They are either .csv with commas and quotes, or
    .tsv with tabs, in which quotation marks have no special meaning. Labels are integers 0 … classes − 1, or names,
    which are numbered in sorted order. Whitespace around labels is ignored. Every row needs a label; texts can be
    empty.

    Parameters
    ----------
    train : str
        File with the training texts. If there is no `test`, test samples are held out from this file.
    test : str, optional
        File with the test texts.
    text, pair, label : str
        Names of columns. `pair` is the column of the second text, if samples are pairs.
    tokenizer : str
        See `pretrained.source_of`.
    max_tokens : int
        Longer texts are truncated, see `text.tokenize`.

    Raises
    ------
    ValueError
        If a file does not have this format, its labels are invalid, or `test` has labels that are not in `train`. The
        message is one line with the file and the line number.
    """
    files = {"all": train} if test is None else {"train": train, "test": test}
    columns = [label, text] if pair is None else [label, text, pair]
    rows = {pool: read_file(Path(file).expanduser(), columns) for pool, file in files.items()}
    names = class_names(train, {name for _, (name, *_) in next(iter(rows.values()))})
    for line, (name, *_) in rows.get("test", []):
        if name not in names:
            raise ValueError(f"{test}, line {line}: label {name!r}, expected one of {train}: {', '.join(names)}")
    fields = {pool: list(zip(*(row for _, row in rows[pool]))) for pool in rows}  # columns
    return text_dataset(
        name="text_files",
        classes=len(names),
        labels={pool: np.array([names.index(name) for name in fields[pool][0]], np.int64) for pool in fields},
        texts={pool: fields[pool][1] for pool in fields},
        pairs=None if pair is None else {pool: fields[pool][2] for pool in fields},
        tokenizer=tokenizer,
        max_tokens=max_tokens,
        columns=tuple(columns[1:]),
        names=tuple(names),
    )


def read_file(path: Path, columns: list[str]) -> list[tuple[int, list[str]]]:
    """Return the line number and the fields of each row: the label, and one or two texts."""
    if path.suffix not in FORMATS:
        raise ValueError(f"{path}: expected a name that ends in {' or '.join(FORMATS)}")
    rows = []
    for line, (label, *texts) in read_table(path.read_bytes(), str(path), columns, **FORMATS[path.suffix]):
        label = label.strip()
        if not label:
            raise ValueError(f"{path}, line {line}: no label")
        if re.fullmatch(r"[+-]?(\d+[.,]\d*|[.,]\d+|\d+(?=e))(e[+-]?\d+)?", label, re.IGNORECASE):
            raise ValueError(
                f"{path}, line {line}: label {label} is a score (regression), expected a class: 0, 1, … or a name"
            )
        rows.append((line, [label, *texts]))
    if not rows:
        raise ValueError(f"{path}: no rows, expected a line of names of columns and a line a text")
    return rows


def class_names(where: str, labels: set[str]) -> list[str]:
    """Return the names of the classes in the order of their labels."""
    names = sorted(labels)
    if len(names) < 2:
        raise ValueError(f"{where}: all labels are {names[0]!r}, expected two classes or more")
    if any(re.fullmatch(r"[+-]?\d+", name) for name in names):
        numbers = [str(number) for number in range(len(names))]
        if odd := [name for name in names if name not in numbers]:
            raise ValueError(
                f"{where}: label {odd[0]!r}, expected the {len(names)} to be 0 to {numbers[-1]}, or all names"
            )
        return numbers
    return names
