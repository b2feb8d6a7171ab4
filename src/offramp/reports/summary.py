"""Summary of a study in a few numbers, which DVC compares between versions."""

from collections.abc import Sequence
from pathlib import Path

from offramp.reports.loading import read_tables


def summarise(files: Sequence[Path]) -> dict[str, dict[str, float]]:
    """Return the numbers that `dvc metrics` shows: means over the systems and seeds of a study, on test data.

    Parameters
    ----------
    files : sequence of paths
        Tables that `offramp compare` wrote with `--speedup-out` and `--control-out`.

    Returns
    -------
    dict
        - "full_accuracy": accuracy of the last exit, for each system;
        - "speedup" (in layers) and "accuracy_change" (relative to the last exit), for each policy, at the cheapest
          threshold that is at least as accurate on validation data as the last exit;
        - "control_error": mean distance between accuracy and δ, for each policy whose δ is an accuracy.

        Numbers are rounded to six decimals.

    Raises
    ------
    ValueError
        If a table is missing.
    """
    speedup, control = read_tables(files, "speedup", "control")
    shared = speedup[(speedup["choice"] == "shared") & (speedup["drop"] == 0)]
    columns = {
        "full_accuracy": shared.groupby("system", sort=False)["full_accuracy"].mean(),
        "speedup": shared.groupby("policy", sort=False)["speedup"].mean(),
        "accuracy_change": shared.groupby("policy", sort=False)["loss"].mean(),
        "control_error": control.groupby("policy", sort=False)["error"].mean(),
    }
    return {name: values.dropna().round(6).to_dict() for name, values in columns.items()}
