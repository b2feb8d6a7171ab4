"""A few numbers of a study that are compared between versions."""

from collections.abc import Sequence
from pathlib import Path

from offramp.reports.loading import read_tables


def summarise(files: Sequence[Path]) -> dict[str, dict[str, float]]:
    """Return the numbers that `dvc metrics` shows: means over the systems and seeds of the study, on test data.

    Parameters
    ----------
    files : sequence of paths
        The speed-up table and the control table that `offramp compare` wrote.

    Returns
    -------
    dict
        "full_accuracy": accuracy of the full model, by system. "speedup" (in layers) and "accuracy_change" (compared
        with the last exit), by policy, at the cheapest threshold with which the policy is at least as accurate as the
        last exit on validation data. "control_error": mean distance between accuracy and δ, by policy, for policies
        whose signal is an estimate of accuracy. All numbers have six decimals.

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
