"""The page of an accelerated model: what is promised and saved, and how its exits compare."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from offramp._io.tables import write_table
from offramp.comparison.bootstrap import Bootstrap
from offramp.comparison.points import points
from offramp.comparison.runs import Run
from offramp.evaluation import default_thresholds, evaluate, frontier
from offramp.evaluation.exits import exit_table
from offramp.policies import Policy, save_policies
from offramp.records import ExitRecord
from offramp.records.metrics import with_metric
from offramp.reports.catalogue import FIGURES, TABLES, shown
from offramp.reports.environment import environment
from offramp.reports.page import write_report

AGREEMENT = "agreement with the model"
BINS = 15
RESAMPLES = 2000
PAGES = ("quality-cost", "speedup", "agreement", "exits")  # of the catalogue


def with_agreement(record: ExitRecord) -> ExitRecord:
    """Return the record, with the agreement with the last exit as the quality of answers if it has no labels."""
    if record.labels is not None:
        return record
    answers = record.needed_prediction("agreement")
    metadata = {**record.metadata, "metric": AGREEMENT}
    return record.replace(quality=(answers == answers[:, -1:]).astype(np.float64), metadata=metadata)


def write_page(
    choosing: ExitRecord,
    record: ExitRecord,
    policies: Mapping[str, Policy],
    start: tuple[str, float],
    lines: Sequence[str],
    parameters: Mapping[str, Any],
    command: str,
    out: Path,
) -> Path:
    """Write the page.

    Parameters
    ----------
    choosing : ExitRecord
        Record of the chosen exits on the samples that chose the structure, from which the page picks thresholds.
    record : ExitRecord
        Record of the chosen exits, on samples that chose nothing or the structure.
    policies : mapping of str to Policy
        Fitted policies that could have been chosen.
    start : (str, float)
        Label of the one that was chosen, and its certified threshold, which the charts show first.
    lines : sequence of str
        What is promised, saved and chosen.
    parameters : mapping
    command : str
    out : path
        Folder for `index.html`, `figures/`, `tables/` and `data/`.
    """
    record, choosing = with_agreement(record), with_agreement(choosing)
    system = str(record.metadata["system"])
    pages: list[Path] = []
    if record.n_exits > 1:
        files = _write_tables(record, policies, system, out / "data")
        pages.append(_write_points(Run(system, 0, choosing, record, dict(policies)), start, out / "data"))
        its: dict[str, Any] = {
            "quality": record.quality is not None,
            "layers": record.quality is None,
            "prediction": True,
        }
        for entries, folder, ending in ((FIGURES, "figures", "png"), (TABLES, "tables", "csv")):
            for entry in shown(entries, files, its, [policy.name for policy in policies.values()]):
                if entry.name in PAGES:
                    entry.write([files[kind] for kind in entry.reads], out / folder / entry.name)
                    pages.append(out / folder / f"{entry.name}.{ending}")
    page, title = out / "index.html", f"Offramp: {system}, accelerated"
    notes = [] if pages else list(lines)  # the charts begin with them
    about, use = {"notes": notes, **parameters}, " ".join(lines)
    write_report(pages, title, about, environment(), command, page, use=use, start=start)
    return page


def _write_points(run: Run, start: tuple[str, float], folder: Path) -> Path:
    """Write the operating points, and the files of which the commands on the page speak."""
    files = {name: str(folder / f"{name}.safetensors") for name in ("validation", "test", "policies")}
    run.validation.save(files["validation"])
    run.test.save(files["test"])
    save_policies(run.policies, files["policies"], run.validation.metadata)
    bootstrap = Bootstrap.draw(run.test.n_samples, RESAMPLES, seed=0)
    table = points([replace(run, files=files)], bootstrap, also={start[0]: [start[1]]})
    write_table(with_metric(table, run.test), folder / "points.parquet")
    return folder / "points.parquet"


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
