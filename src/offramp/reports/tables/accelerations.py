"""How often the promises of accelerated models are kept, and what they save."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from offramp.comparison.promises import clopper_pearson
from offramp.reports.labels import ACCELERATIONS, system_name
from offramp.reports.loading import read_tables
from offramp.reports.tables.writing import Table, cell, cells

LOWEST, HIGHEST = 0.025, 0.975  # quantiles over draws


def numbers(files: Sequence[Path]) -> pd.DataFrame:
    """Accelerated models: promises and savings.

    The test samples are the population, of which the truth is known. From it, the samples that choose the structure and
    those that certify the threshold are drawn several times, independently and with replacement. Agreement: share of
    answers that are to be those of the model itself; with other risks, 100 % minus the highest risk. Speed-up: MACs of
    the model divided by the mean MACs on the population, mean over draws and seeds [the middle 95 % of them]. Risk: on
    the population, mean over draws. Kept: share of draws in which it is at most the level [95 % interval of Clopper and
    Pearson, of the chance of counting]. Bound: the speed-up that no structure of these models can exceed. The exits of
    the first kinds were trained on a frozen model; exits trained jointly are those of another model, compared with its
    own last exit.

    Parameters
    ----------
    files : sequence of one path
        The table that `offramp accelerations` wrote.
    """
    (table,) = read_tables(files, "accelerations")
    rows = []
    for (system, risk, level, kind), its in table.groupby(["system", "risk_name", "level", "kind"], sort=False):
        kept = int((its["risk"] <= its["level"]).sum())
        low, high = clopper_pearson(kept, len(its))
        rows.append(
            {
                "system": system,
                "risk": risk,
                "level": level,
                "kind": kind,
                "confidence": its["confidence"].iloc[0],
                "draws": len(its),
                "speedup": its["speedup"].mean(),
                "speedup_low": its["speedup"].quantile(LOWEST),
                "speedup_high": its["speedup"].quantile(HIGHEST),
                "measured": its["risk"].mean(),
                "kept": kept / len(its),
                "kept_low": low,
                "kept_high": high,
                "certified": its["certified"].mean(),
                "bound": its["bound"].mean(),
                "structure": its.groupby(["models", "exits"]).size().idxmax(),
            }
        )
    made = pd.DataFrame(rows)
    made["structure"] = [f"{models} ({exits})" for models, exits in made["structure"]]
    place = made["kind"].map(list(ACCELERATIONS).index)
    order = np.lexsort((place, -made["level"], made["system"].map(list(table["system"].unique()).index)))
    return made.iloc[order].reset_index(drop=True)


def readable(numbers: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "System": numbers["system"].map(system_name),
            "Agreement (%)": [f"{100 * (1 - level):g}" for level in numbers["level"]],
            "Kind": numbers["kind"].map(ACCELERATIONS),
            "Speed-up": cells(numbers, "speedup", digits=2),
            "Risk (%)": cells(numbers, "measured", scale=100, digits=2),
            "Kept (%)": cells(numbers, "kept", scale=100, digits=0),
            "Certified (%)": cells(numbers, "certified", scale=100, digits=0),
            "Bound": cells(numbers, "bound", digits=2),
            "Most frequent structure": numbers["structure"],
        }
    )


def findings(numbers: pd.DataFrame) -> list[str]:
    """Return one sentence per system: the kind that saves most at each level, and how often promises are kept."""
    sentences = []
    for system, rows in numbers.groupby("system", sort=False):
        own = rows[rows["kind"] != "best"]
        won = own.loc[own.groupby("level", sort=False)["speedup"].idxmax()]
        parts = [
            f"at {100 * (1 - row.level):g} %, {ACCELERATIONS[row.kind]} ({cell(row.speedup, digits=2)}×)"
            for row in won.itertuples()
        ]
        kept = 100 * np.average(own["kept"], weights=own["draws"])
        sentences.append(f"{system_name(system)}: {'; '.join(parts)}. Promises are kept in {kept:.0f} % of all draws.")
    return sentences


TABLE = Table(numbers, readable, findings)
