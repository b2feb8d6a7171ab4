"""Recording without running a model: exit records, and times, from the published outputs of one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from offramp._registry import check_options
from offramp.cascades.public_models import COSTS, read_zoo
from offramp.datasets import OUTPUTS, load_dataset
from offramp.models import STORED
from offramp.records import ExitRecord


class StoredOutputs:
    """The stored outputs of one model, which answers once.

    Parameters
    ----------
    dataset : tuple of str and mapping
        Name of a dataset of outputs, and its options.
    system : str
        Name of the model.
    file : str
        File with its outputs.
    macs : float, optional
        Multiply-accumulates per sample.
    timm : str, optional
        Alternatively, the name of the model in the table of public models that the dataset names as `costs`.
    image_size : int, optional
        Height of the images in this table, in pixels. With `timm` only.

    Raises
    ------
    ValueError
        If the dataset has no stored outputs, or if the cost is not given in exactly one way, or is not in the table.
    """

    def __init__(
        self,
        dataset: tuple[str, Mapping[str, Any]],
        system: str,
        *,
        file: str,
        macs: float | None = None,
        timm: str | None = None,
        image_size: int | None = None,
    ) -> None:
        name, options = dataset
        if name not in OUTPUTS:
            raise ValueError(f"{name} has no stored outputs; expected one of {', '.join(OUTPUTS)}")
        self.source, self.system, self.file = load_dataset(name, **options), system, file
        if (macs is None) == (timm is None) or (timm is None) != (image_size is None):
            raise ValueError(f"{system}: expected its cost as macs, or timm and image_size, the row of a table")
        if timm is not None and "costs" not in options:
            raise ValueError(f"{system}: timm is {timm}, but the dataset {name} names no table as costs")
        self.public = None if timm is None else public_model(options["costs"], timm, image_size)
        self.macs = macs if self.public is None else 1e9 * self.public["gmacs"]

    def records(self, splits: pd.DataFrame) -> dict[str, ExitRecord]:
        """Return the records of the validation and the test samples, by name of the split.

        Parameters
        ----------
        splits : DataFrame
            From `make_splits`.
        """
        made = self.source.outputs(self.file)
        about = {"labels": self.source.labels["all"], "cost": [self.macs]}
        about["metadata"] = {
            "dataset": self.source.name,
            "system": self.system,
            "seed": 0,
            "classes": self.source.classes,
            "metric": self.source.metric,
            "unit": "MAC",
            "source": self.file,
            "index": "row",  # all files have the same images in the same order, which the dataset checks
        }
        if "logits" in made:
            whole = ExitRecord(made["logits"][:, None], **about)  # (N, 1, C)
        else:
            whole = ExitRecord.from_outputs(made["prediction"][:, None], made["max_softmax"][:, None], **about)
        records = {}
        for split in ("validation", "test"):
            records[split] = whole.take(splits.loc[splits["split"] == split, "index"].to_numpy())
            records[split].metadata["split"] = split
        return records

    def seconds(self) -> pd.DataFrame:
        """Return the published time per sample, with the columns of `recording.time_exits`, one row per device.

        Raises
        ------
        ValueError
            If the model is not in a table of public models.
        """
        if self.public is None:
            raise ValueError(f"{self.system}: no published time; expected a model with timm and image_size")
        rows = [
            {"exit": 1, "seconds": self.public[cost] / 1000, "device": title}
            for cost, (title, _) in COSTS.items()
            if cost.endswith("_ms") and not np.isnan(self.public[cost])
        ]
        return pd.DataFrame(rows)


def public_model(table: str | Path, name: str, image_size: int) -> pd.Series:
    """Return the row of a public model at an image size.

    Parameters
    ----------
    table : path
        As for `read_zoo`.
    name : str
    image_size : int
        Height in pixels.

    Raises
    ------
    ValueError
        If there is no such row. The message lists the image sizes of the model.
    """
    zoo = read_zoo(Path(table))
    its = zoo[zoo["model"] == name]
    if its.empty:
        raise ValueError(f"{table}: no model {name}; expected one of its names, such as {zoo['model'].iloc[0]}")
    at = its[its["img_size"] == image_size]
    if len(at) != 1 or np.isnan(at["gmacs"].iloc[0]):
        known = ", ".join(f"{size:g}" for size in sorted(its["img_size"]))
        raise ValueError(f"{table}: no cost of {name} at {image_size} pixels; expected one of {known}")
    return at.iloc[0]


def stored_outputs(
    dataset: tuple[str, Mapping[str, Any]], options: Mapping[str, Any], system: str | None = None
) -> StoredOutputs:
    """Find the outputs that the options of a model name. The default of `system` is the name of their file.

    Raises
    ------
    ValueError
        If an option is unknown or missing, or as for `StoredOutputs`.
    """
    check_options(STORED, options, ["file", "macs", "timm", "image_size"], ["file"])
    return StoredOutputs(dataset, system or Path(options["file"]).stem, **options)
