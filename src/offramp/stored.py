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

OPTIONS = ("file", "column", "macs", "macs_per_token", "price", "timm", "image_size")


class StoredOutputs:
    """The stored outputs of one model, which answers once.

    Parameters
    ----------
    dataset : tuple of str and mapping
        Name of a dataset of outputs, and its options.
    system : str
        Name of the model.
    file : str, optional
        File with its outputs. Or, if a file has the answers of several models:
    column : str, optional
        Name of the model there.
    macs : float, optional
        Multiply-accumulates per sample.
    macs_per_token : float, optional
        Alternatively, multiply-accumulates per token of the question and the answer: the number of parameters, times
        the number of passes. For datasets with tokens.
    price : float, optional
        Alternatively, the price of an answer, in the unit of the dataset. For datasets of answers.
    timm : str, optional
        Alternatively, the name of the model in the table of public models that the dataset names as `costs`.
    image_size : int, optional
        Height of the images in this table, in pixels. With `timm` only.

    Raises
    ------
    ValueError
        If the dataset has no stored outputs, if not exactly one of file and column is given, or if the cost is not
        given in exactly one way, is not in the table, or is of a kind that the dataset does not have.
    """

    def __init__(
        self,
        dataset: tuple[str, Mapping[str, Any]],
        system: str,
        *,
        file: str | None = None,
        column: str | None = None,
        macs: float | None = None,
        macs_per_token: float | None = None,
        price: float | None = None,
        timm: str | None = None,
        image_size: int | None = None,
    ) -> None:
        name, options = dataset
        if name not in OUTPUTS:
            raise ValueError(f"{name} has no stored outputs; expected one of {', '.join(OUTPUTS)}")
        if (file is None) == (column is None):
            raise ValueError(f"{system}: expected either file or column, where its outputs are")
        ways = [macs, macs_per_token, price, timm]
        if ways.count(None) != len(ways) - 1 or (timm is None) != (image_size is None):
            raise ValueError(
                f"{system}: expected its cost as one of macs, macs_per_token and price, or as timm and image_size, the "
                "row of a table"
            )
        if timm is not None and "costs" not in options:
            raise ValueError(f"{system}: timm is {timm}, but the dataset {name} names no table as costs")
        self.source, self.system, self.name = load_dataset(name, **options), system, file or column
        unit = getattr(self.source, "unit", None)
        if (price is None) != (unit is None):
            expected = "price" if unit else "macs"
            raise ValueError(f"{system}: the costs of {name} are {unit or 'MACs'}; expected them as {expected}")
        self.public = None if timm is None else public_model(options["costs"], timm, image_size)
        self.unit, self.macs_per_token = unit or "MAC", macs_per_token
        self.cost = macs if self.public is None else 1e9 * self.public["gmacs"]
        if price is not None:
            self.cost = price

    def records(self, splits: pd.DataFrame) -> dict[str, ExitRecord]:
        """Return the records of the validation and the test samples, by name of the split.

        Parameters
        ----------
        splits : DataFrame
            From `make_splits`.
        """
        made = self.source.outputs(self.name)
        metadata = {
            "dataset": self.source.name,
            "system": self.system,
            "seed": 0,
            "metric": self.source.metric,
            "unit": self.unit,
            "source": self.name,
            "index": "row",  # all files have the same samples in the same order, which the dataset checks
        }
        if self.macs_per_token is not None and "tokens" not in made:
            raise ValueError(f"{self.system}: {self.source.name} has no tokens; expected its cost as macs")
        if "quality" in made:
            whole = self._answers(made, metadata)
        else:
            metadata["classes"] = self.source.classes
            about = {"labels": self.source.labels["all"], "cost": [self.cost], "metadata": metadata}
            if "logits" in made:
                whole = ExitRecord(made["logits"][:, None], **about)  # (N, 1, C)
            else:
                whole = ExitRecord.from_outputs(made["prediction"][:, None], made["max_softmax"][:, None], **about)
        records = {}
        for split in ("validation", "test"):
            records[split] = whole.take(splits.loc[splits["split"] == split, "index"].to_numpy())
            records[split].metadata["split"] = split
        return records

    def _answers(self, made: Mapping[str, np.ndarray], metadata: Mapping[str, Any]) -> ExitRecord:
        """Return the record of answers that are not classes."""
        cost = [self.cost]
        if self.macs_per_token is not None:
            cost = self.macs_per_token * made["tokens"][:, None]  # (N, 1)
        prediction = made["prediction"][:, None] if "prediction" in made else None  # (N, 1)
        if self.source.features is not None:
            metadata = {**metadata, "features": list(self.source.feature_names)}
        return ExitRecord.from_scores(
            made["quality"][:, None], None, cost, prediction, metadata=metadata, features=self.source.features
        )

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
    """Find the outputs that the options of a model name. The default of `system` is the name of their file or column.

    Raises
    ------
    ValueError
        If an option is unknown, or as for `StoredOutputs`.
    """
    check_options(STORED, options, OPTIONS)
    return StoredOutputs(dataset, system or Path(options.get("file", options.get("column", STORED))).stem, **options)
