"""The classification tasks of GLUE (Wang et al. 2019), from their archives.

Each task has its own licence terms and citation.
"""

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from offramp._registry import find
from offramp.datasets.base import TextDataset
from offramp.datasets.download import data_folder, fetch, read_checked
from offramp.datasets.labelled import Published, published
from offramp.datasets.preparing import FORMATS, read_table
from offramp.datasets.text import text_dataset

URL = "https://dl.fbaipublicfiles.com/"
TSV = FORMATS[".tsv"]


@dataclass(frozen=True, kw_only=True)
class Task:
    """Location and format of the tables of a task."""

    files: Mapping[str, str]  # sha256 of each file, by its path below URL
    texts: tuple[str, ...]  # columns of the texts: one, or two for pairs
    label: str
    classes: tuple[str, ...]
    train: str = ""  # file in the archive
    test: str = ""
    header: tuple[str, ...] | None = None  # column names, if the table has no header
    ids: tuple[str, ...] = ()  # id columns, if one table has all samples and the second file lists the dev set
    metric: Literal["accuracy", "f1", "matthews"] = "accuracy"


ENTAILMENT = ("entailment", "not_entailment")
TASKS = {  # labels are in the same order as in the GLUE dataset of Hugging Face
    "sst2": Task(
        files={"glue/data/SST-2.zip": "d67e16fb55739c1b32cdce9877596db1c127dc322d93c082281f64057c16deaa"},
        train="SST-2/train.tsv",
        test="SST-2/dev.tsv",
        texts=("sentence",),
        label="label",
        classes=("0", "1"),
    ),
    "mnli": Task(
        files={"glue/data/MNLI.zip": "e7c1d896d26ed6caf700110645df426cc2d8ebf02a5ab743d5a5c68ac1c83633"},
        train="MNLI/train.tsv",
        test="MNLI/dev_matched.tsv",
        texts=("sentence1", "sentence2"),
        label="gold_label",
        classes=("entailment", "neutral", "contradiction"),
    ),
    "rte": Task(
        files={"glue/data/RTE.zip": "6bf86de103ecd335f3441bd43574d23fef87ecc695977a63b82d5efb206556ee"},
        train="RTE/train.tsv",
        test="RTE/dev.tsv",
        texts=("sentence1", "sentence2"),
        label="label",
        classes=ENTAILMENT,
    ),
    "qnli": Task(
        files={"glue/data/QNLIv2.zip": "e634e78627a29adaecd4f955359b22bf5e70f2cbd93b493f2d624138a0c0e5f5"},
        train="QNLI/train.tsv",
        test="QNLI/dev.tsv",
        texts=("question", "sentence"),
        label="label",
        classes=ENTAILMENT,
    ),
    "qqp": Task(
        files={"glue/data/QQP-clean.zip": "40e7c862c04eb26ee04b67fd900e76c45c6ba8e6d8fab4f8f1f8072a1a3fbae0"},
        train="QQP/train.tsv",
        test="QQP/dev.tsv",
        texts=("question1", "question2"),
        label="is_duplicate",
        classes=("0", "1"),
        metric="f1",
    ),
    "mrpc": Task(
        files={
            "senteval/senteval_data/msr_paraphrase_train.txt": (
                "60a9b09084528f0673eedee2b69cb941920f0b8cd0eeccefc464a98768457f89"
            ),
            "glue/data/mrpc_dev_ids.tsv": "971d7767d81b997fd9060ade0ec23c4fc31cbb226a55d1bd4a1bac474eb81dc7",
        },
        texts=("#1 String", "#2 String"),
        label="Quality",
        classes=("0", "1"),
        ids=("#1 ID", "#2 ID"),
        metric="f1",
    ),
    "cola": Task(
        files={"glue/data/CoLA.zip": "f212fcd832b8f7b435fb991f101abf89f96b933ab400603bf198960dfc32cbff"},
        train="CoLA/train.tsv",
        test="CoLA/dev.tsv",
        texts=("sentence",),
        label="label",
        classes=("0", "1"),
        header=("source", "label", "star", "sentence"),
        metric="matthews",
    ),
}


SIZES = {  # samples to train, and in the development set
    "sst2": (67_349, 872),
    "mnli": (392_702, 9_815),
    "rte": (2_490, 277),
    "qnli": (104_743, 5_463),
    "qqp": (363_846, 40_430),
    "mrpc": (3_668, 408),
    "cola": (8_551, 1_043),
}


def _published(*, task: str, **_) -> Published:
    pools = dict(zip(("train", "test"), SIZES[task]))
    return Published(pools, len(TASKS[task].classes), [Path(file).name for file in TASKS[task].files])


@published(_published)
def load_glue(
    task: str, tokenizer: str = "bert-base-uncased", max_tokens: int = 128, matched: bool = True
) -> TextDataset:
    """Load a task: its training set as pool "train" and its dev set as pool "test". Files are downloaded once.

    The labels of GLUE's test set are not public, so papers, including BEEM, report results on the dev set. No choices
    should be made on the dev set, so validation samples are taken from the training set.

    Parameters
    ----------
    task : {"sst2", "mnli", "rte", "qnli", "qqp", "mrpc", "cola"}
    tokenizer : str
        See `pretrained.source_of`.
    max_tokens : int
        Longer texts are truncated, see `text.tokenize`. The default is that of BEEM.
    matched : bool
        Which dev set of mnli to use: with the genres of the training set, or with other genres.

    Returns
    -------
    TextDataset
        The metric is f1 for mrpc and qqp, matthews for cola, and accuracy otherwise.

    Raises
    ------
    ValueError
        If the task is unknown or has no classes, or if a file cannot be downloaded or is not the expected one.
    """
    if task == "stsb":
        raise ValueError("glue: stsb has scores, not classes (regression), which no exit policy here is for")
    about = find(TASKS, "task of glue", task)
    if not matched and task != "mnli":
        raise ValueError(f"glue: matched: {task} has one dev set, only mnli has another")
    if not matched:
        about = replace(about, test="MNLI/dev_mismatched.tsv")
    pools = read_mrpc(about) if about.ids else read_archive(about)
    texts = {pool: list(zip(*(fields for _, fields in samples))) for pool, samples in pools.items()}
    return text_dataset(
        name="glue",
        classes=len(about.classes),
        labels={pool: np.array([label for label, _ in samples], np.int64) for pool, samples in pools.items()},
        texts={pool: texts[pool][0] for pool in pools},
        pairs={pool: texts[pool][1] for pool in pools} if len(about.texts) == 2 else None,
        tokenizer=tokenizer,
        max_tokens=max_tokens,
        metric=about.metric,
        columns=about.texts,
        names=about.classes,
    )


def read_archive(task: Task) -> dict[str, list[tuple[int, list[str]]]]:
    """Return the label and the texts of each sample, by pool. Files are read by name, without unpacking the archive."""
    [(path, content)] = fetch_files(task)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        pools = {}
        for pool, member in {"train": task.train, "test": task.test}.items():
            if member not in archive.namelist():
                raise ValueError(f"{path}: holds no {member}; only {', '.join(archive.namelist())}")
            pools[pool] = read_samples(task, archive.read(member), f"{path}, {member}")
    return pools


def read_mrpc(task: Task) -> dict[str, list[tuple[int, list[str]]]]:
    """As `read_archive`, for mrpc: one table contains all pairs, and another one the ids of the dev set."""
    (path, table), (ids_path, ids) = fetch_files(task)
    held_out = {tuple(row) for _, row in read_table(ids, str(ids_path), task.ids, header=task.ids, **TSV)}
    pools = {"train": [], "test": []}
    for label, (*texts, first, second) in read_samples(task, table, str(path)):
        pools["test" if (first, second) in held_out else "train"].append((label, texts))
    return pools


def fetch_files(task: Task) -> list[tuple[Path, bytes]]:
    folder = data_folder("glue")
    files = []
    for place, sha256 in task.files.items():
        url, _, name = place.rpartition("/")
        fetch(folder, f"{URL}{url}/", {name: [sha256]})
        files.append((folder / name, read_checked(folder / name, [sha256])))
    return files


def read_samples(task: Task, content: bytes, where: str) -> list[tuple[int, list[str]]]:
    """Return the label and the texts (and ids) of each row."""
    columns = [task.label, *task.texts, *task.ids]
    samples = []
    for line, (label, *fields) in read_table(content, where, columns, header=task.header, **TSV):
        if label not in task.classes:
            raise ValueError(f"{where}, line {line}: label {label!r}, expected one of {', '.join(task.classes)}")
        samples.append((task.classes.index(label), fields))
    return samples
