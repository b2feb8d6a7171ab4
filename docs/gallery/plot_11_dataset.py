"""
Adding a dataset of stored outputs
==================================

Studies can use published outputs of models in place of inputs. Such a dataset is a list of files with their hashes, and
a function that reads one of them. Nothing is trained, and no torch is needed.
"""

import hashlib
import io
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from offramp import ExitRecord, cascade, make_policy
from offramp.datasets.outputs import OutputsDataset
from offramp.records.example import example_records
from offramp.reports import FrontierDisplay

# %%
# Here, the "published" files are the outputs of the first and of the last exit of a network, which are treated as two
# models. In reality they are downloaded, and the hashes are written into the loader.

folder = Path(tempfile.mkdtemp())
_, test = example_records()
for name, i in (("small.npz", 0), ("large.npz", 3)):
    np.savez(folder / name, labels=test.labels, logits=test.logits[:, i])
files = {path.name: [hashlib.sha256(path.read_bytes()).hexdigest()] for path in folder.iterdir()}


def read(content):
    """Return the labels (N,) and logits (N, C) of one file."""
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        return {"labels": file["labels"], "logits": file["logits"]}


def load_mine():
    """Load the labels. The outputs of a model are read when they are asked for, and checked by hash."""
    labels = read((folder / "small.npz").read_bytes())["labels"]
    return OutputsDataset(name="mine", classes=10, labels={"all": labels}, files=files, read=read)


# %%
# A file that is not the expected one is refused. The record of a cascade of both:

dataset = load_mine()
dataset

# %%
# With the line ``"mine": "mine:load_mine"`` in ``DATASETS`` (and its contents in ``OUTPUTS``) in
# ``src/offramp/datasets/__init__.py``, a study can name it in ``params.yaml``; each of its models is an entry
# ``model: outputs`` with a file and a cost.

records = [
    ExitRecord(
        read((folder / name).read_bytes())["logits"][:, None], dataset.labels["all"], [cost], metadata={"unit": "MAC"}
    )
    for name, cost in (("small.npz", 26_272), ("large.npz", 190_048))
]
_, ax = plt.subplots(figsize=(7, 5))
FrontierDisplay.from_record({name: make_policy(name) for name in ("confidence", "random")}, cascade(records)).plot(ax)
