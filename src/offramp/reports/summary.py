"""The few numbers of a study that are worth following from version to version."""

from collections.abc import Sequence
from pathlib import Path

from offramp.reports.loading import read_tables


def summarise(files: Sequence[Path]) -> dict[str, dict[str, float]]:
    """What `dvc metrics` shows: means over the study's systems and seeds, of test data.

    Parameters
    ----------
    files : sequence of paths
        What `offramp compare` wrote as speedup and control.

    Returns
    -------
    dict
        "full_accuracy" of each system. Of each policy, at the cheapest threshold that on validation data is no less
        accurate than the last exit: "speedup", in layers, and "accuracy_change", from the last exit's. "control_error":
        how far, on average over δ, the accuracy is from δ, of policies whose δ claims to be one. Six decimals.

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
