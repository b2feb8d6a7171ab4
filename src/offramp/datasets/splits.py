"""Splits into training, validation (for fitting policies) and test samples: a table with columns split, pool, index."""

import os

import numpy as np
import pandas as pd

from offramp._io.writing import AGAIN, write_text
from offramp.datasets.labelled import Labelled

COLUMNS = ["split", "pool", "index"]
SPLITS = ["train", "validation", "test"]
UNUSED = "unused"  # in files only, which list every sample, so that a missing line is detected


def make_splits(
    dataset: Labelled, *, validation: int, test: int | None = None, train: int | None = None, seed: int
) -> pd.DataFrame:
    """Draw the splits, stratified by class.

    Parameters
    ----------
    dataset : Labelled
    validation : int
        Number of samples held out for validation. They are used to fit policies, never for training.
    test : int, optional
        Number of samples held out for testing. Not allowed if the dataset has a test pool, which is then used.
    train : int, optional
        Number of training samples. The default is all remaining samples.
    seed : int

    Returns
    -------
    DataFrame
        One row per sample: split, pool, index (of the sample in the pool).

    Raises
    ------
    ValueError
        If `test` is missing or not allowed, or if a split, or what it leaves, would have fewer samples than there are
        classes. A split may take all that is left.
    """
    from sklearn.model_selection import train_test_split

    has_test = "test" in dataset.labels
    if has_test and test is not None:
        raise ValueError(f"test: {dataset.name} has a test pool, expected no number but got {test}")
    if not has_test and test is None:
        raise ValueError(f"test: {dataset.name} has no test pool, expected the number of samples to hold out")

    pool = "train" if has_test else "all"
    labels = dataset.labels[pool]
    random = np.random.RandomState(seed)  # scikit-learn does not accept a Generator

    def hold_out(split: str, size: int, rest: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if size == len(rest):  # nothing is left for training, which stored outputs do not need
            return rest[:0], rest
        most = len(rest) - dataset.classes
        if not dataset.classes <= size <= most:
            raise ValueError(
                f"{split}: {size} samples, expected {dataset.classes} (one a class) to {most}, or all {len(rest)}"
            )
        return train_test_split(rest, test_size=size, stratify=labels[rest], random_state=random)

    rest = np.arange(len(labels))
    if has_test:
        tests = np.arange(len(dataset.labels["test"]))
    else:
        rest, tests = hold_out("test", test, rest)
    rest, validations = hold_out("validation", validation, rest)
    if train is not None:
        rest = hold_out("train", train, rest)[1]
    parts = {"train": rest, "validation": validations, "test": tests}
    splits = pd.concat(
        [pd.DataFrame({"split": split, "pool": pool, "index": np.sort(index)}) for split, index in parts.items()],
        ignore_index=True,
    )
    if has_test:
        splits.loc[splits["split"] == "test", "pool"] = "test"
    return splits


def save_splits(splits: pd.DataFrame, path: str | os.PathLike, dataset: Labelled) -> None:
    """Write the table as CSV, followed by the samples that are in no split. The file is written atomically."""
    rest = [
        pd.DataFrame({"split": UNUSED, "pool": pool, "index": index})
        for pool, labels in dataset.labels.items()
        if len(index := np.setdiff1d(np.arange(len(labels)), splits.loc[splits["pool"] == pool, "index"]))
    ]
    write_text(path, pd.concat([splits, *rest]).to_csv(index=False))


def load_splits(path: str | os.PathLike, dataset: Labelled) -> pd.DataFrame:
    """Read a table of splits and check it against the dataset.

    Raises
    ------
    ValueError
        If the file is not such a table, names an unknown split or pool or an index outside the pool, lists a sample
        twice or not at all, or takes one split from two pools.
    """
    try:
        splits = pd.read_csv(path, dtype={"split": str, "pool": str, "index": np.int64})
    except ValueError as error:
        raise ValueError(f"{path}: not a table of {','.join(COLUMNS)} ({str(error).strip()})") from None
    if list(splits.columns) != COLUMNS:
        raise ValueError(f"{path}: columns {','.join(splits.columns)}, expected {','.join(COLUMNS)}")

    def refuse(wrong: pd.Series, expected: str) -> None:
        if wrong.any():
            row = int(wrong.argmax())
            found = ",".join(map(str, splits.iloc[row]))
            raise ValueError(f"{path}, line {row + 2} ({found}): expected {expected}")

    pools = {pool: len(labels) for pool, labels in dataset.labels.items()}
    sizes = splits["pool"].map(pools)
    outside = (splits["index"] < 0) | (splits["index"] >= sizes)
    first_pool = splits.groupby("split")["pool"].transform("first")
    unused = splits["split"] == UNUSED
    refuse(~splits["split"].isin(SPLITS) & ~unused, f"a split from {', '.join(SPLITS)}")
    refuse(sizes.isna(), f"a pool of {dataset.name}: {', '.join(pools)}")
    refuse(outside, f"an index from 0 up to the pool's size: {', '.join(f'{p} {n}' for p, n in pools.items())}")
    refuse(splits.duplicated(["pool", "index"]), "each sample once, but an earlier line has it")
    refuse((splits["pool"] != first_pool) & ~unused, "all samples of a split from one pool")
    if missing := sum(pools.values()) - len(splits):
        raise ValueError(f"{path}: {missing} samples of {dataset.name} are missing, the unused have lines too; {AGAIN}")
    return splits[~unused]
