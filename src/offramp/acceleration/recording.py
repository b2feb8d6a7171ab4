"""Records of trained single-exit models with an exit at every block, for studies."""

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from offramp.acceleration.data import inputs_of
from offramp.acceleration.exits import Exits, Member
from offramp.acceleration.loading import of_trained
from offramp.acceleration.splits import Parts
from offramp.datasets.splits import load_splits
from offramp.recording import load_trained
from offramp.records import ExitRecord
from offramp.training.checkpoints import digest
from offramp.training.device import portable_kernels, torch_settings


def record_exits(
    weights: str | os.PathLike,
    splits: str | os.PathLike,
    teacher: ExitRecord,
    *,
    threads: int = 1,
    progress: bool = True,
) -> tuple[ExitRecord, ExitRecord]:
    """Train an exit at every block of a trained single-exit model, which stays as it is, and record their answers.

    Parameters
    ----------
    weights : path
        From `offramp train`.
    splits : path
        Table of the splits on which it was trained. The exits are trained on the validation samples.
    teacher : ExitRecord
        Record with logits of the validation samples. The exits learn its last answers: those of the model itself, or of
        the model before which this one is to run in a cascade.
    threads : int
    progress : bool

    Returns
    -------
    validation, test : ExitRecord
        Of the validation samples on which the exits were not trained, with the answers of the teacher as labels, and of
        the test samples. `metadata["teacher"]` is the system of the teacher.

    Raises
    ------
    ValueError
        If the model has several exits, if the splits are others, or if the teacher has other samples or no logits.
    """
    model, dataset, made = load_trained(weights)
    table = load_splits(splits, dataset)
    if digest(table) != made["splits"]:
        raise ValueError(f"{weights}: was trained on other splits; make both again")
    samples = [dataset.samples(table, split) for split in ("validation", "test")]
    n = len(samples[0])
    if not teacher.has_logits or not np.array_equal(teacher.index, samples[0].index):
        raise ValueError(
            f"{weights}: the teacher has no logits or other samples; expected a record of the validation split"
        )
    given = teacher.needed_logits(f"{weights}: the teacher")  # (n, 1, C)
    logits = np.array(given[:, -1], np.float32)  # (n, C), which torch may write to
    portable = made["training"].get("portable", False)
    with portable_kernels(portable), torch_settings(threads), TemporaryDirectory() as cache:
        inputs = inputs_of(samples, dataset.preparation)
        member = Member.of(of_trained(str(weights), model, dataset, made), inputs, uncut=True)
        rows = np.arange(len(inputs))
        parts = Parts(heads=rows[:n], structure=rows[n:], certificate=rows[:0], check=rows[:0])
        exits = Exits.of(member, parts, Path(cache), int(made["seed"]), progress, logits)
        labels = np.concatenate([logits.argmax(axis=1), samples[1].labels])  # (N,)
        recorded = exits.record(rows[:n][exits.held], labels), exits.record(rows[n:], labels)
    index = np.concatenate([each.index for each in samples])  # (N,)
    found = []
    for split, record in zip(("validation", "test"), recorded):
        about = {key: record.metadata[key] for key in ("classes", "unit", "head_cost", "blocks")}
        about |= {"dataset": dataset.name, "split": split, "system": made["system"], "seed": made["seed"]}
        about["teacher"] = teacher.metadata["system"]
        found.append(record.replace(index=index[record.index], metadata=about))
    return found[0], found[1]
