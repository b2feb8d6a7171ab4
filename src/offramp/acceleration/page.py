"""The page of an accelerated model: what is promised and saved, and how its exits compare."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from offramp._io.tables import write_table
from offramp.evaluation import default_thresholds, evaluate, frontier
from offramp.evaluation.exits import exit_table
from offramp.policies import Policy
from offramp.records import ExitRecord
from offramp.records.metrics import with_metric
from offramp.reports.catalogue import FIGURES, TABLES, shown
from offramp.reports.environment import environment
from offramp.reports.page import write_report

AGREEMENT = "agreement with the model"
BINS = 15
PAGES = ("quality-cost", "speedup", "agreement", "exits")  # of the catalogue


def with_agreement(record: ExitRecord) -> ExitRecord:
    """Return the record, with the agreement with the last exit as the quality of answers if it has no labels."""
    if record.labels is not None:
        return record
    answers = record.needed_prediction("agreement")
    metadata = {**record.metadata, "metric": AGREEMENT}
    return record.replace(quality=(answers == answers[:, -1:]).astype(np.float64), metadata=metadata)


def write_page(
    record: ExitRecord,
    policies: Mapping[str, Policy],
    lines: Sequence[str],
    parameters: Mapping[str, Any],
    command: str,
    out: Path,
) -> Path:
    """Write the page.

    Parameters
    ----------
    record : ExitRecord
        Record of the chosen exits, at least two, on samples that chose nothing or the structure.
    policies : mapping of str to Policy
        Fitted policies that could have been chosen.
    lines : sequence of str
        What is promised, saved and chosen.
    parameters : mapping
    command : str
    out : path
        Folder for `index.html`, `figures/`, `tables/` and `data/`.
    """
    record = with_agreement(record)
    system = str(record.metadata["system"])
    pages: list[Path] = []
    if record.n_exits > 1:
        files = _write_tables(record, policies, system, out / "data")
        its = {"quality": record.quality is not None, "layers": record.quality is None, "prediction": True}
        for entries, folder, ending in ((FIGURES, "figures", "png"), (TABLES, "tables", "csv")):
            for entry in shown(entries, files, its, [policy.name for policy in policies.values()]):
                if entry.name in PAGES:
                    entry.write([files[kind] for kind in entry.reads], out / folder / entry.name)
                    pages.append(out / folder / f"{entry.name}.{ending}")
    about = {"notes": list(lines), **parameters}
    write_report(pages, f"Offramp: {system}, accelerated", about, environment(), command, out / "index.html")
    return out / "index.html"


def _write_tables(record: ExitRecord, policies: Mapping[str, Policy], system: str, folder: Path) -> dict[str, Path]:
    about = {"dataset": None, "system": system, "seed": 0}

    def said_of(table: pd.DataFrame) -> pd.DataFrame:
        table = with_metric(table.assign(**about)[[*about, *table.columns]], record)
        return table.assign(unit="MAC") if "cost" in table else table

    curves = [
        evaluate(policy, record, default_thresholds(policy, record)).assign(policy=label)
        for label, policy in policies.items()
    ]
    points = [frontier(policy, record).assign(policy=label) for label, policy in policies.items()]
    tables = {
        "curve": said_of(pd.concat(curves, ignore_index=True)),
        "frontier": said_of(pd.concat(points, ignore_index=True)),
        "exits": said_of(exit_table(record, dict(policies), BINS)),
    }
    for kind, table in tables.items():
        write_table(table, folder / f"{kind}.parquet")
    return {kind: folder / f"{kind}.parquet" for kind in tables}
