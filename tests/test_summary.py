"""The numbers that are compared between versions."""

import json

import pandas as pd
import pytest
from click.testing import CliRunner

from offramp.cli import cli
from offramp.reports.summary import summarise


@pytest.fixture
def files(tmp_path):
    rows = [
        # system, policy, choice, drop, speedup, loss, full_accuracy
        ("small", "pcee", "shared", 0.0, 2.0, -0.01, 0.9),
        ("large", "pcee", "shared", 0.0, 4.0, 0.02, 0.95),
        ("small", "oracle", "shared", 0.0, 5.0, 0.0, 0.9),
        ("large", "oracle", "shared", 0.0, None, None, 0.95),  # no threshold was accurate enough
        ("small", "pcee", "shared", 0.01, 9.0, -0.9, 0.9),  # a larger allowed loss, which is not used
        ("small", "pcee", "per exit, overall", 0.0, 9.0, -0.9, 0.9),
    ]
    columns = ["system", "policy", "choice", "drop", "speedup", "loss", "full_accuracy"]
    pd.DataFrame(rows, columns=columns).assign(cost=0.5, worse=0.0).to_parquet(tmp_path / "speedup.parquet")
    control = pd.DataFrame({"system": ["small", "large"], "policy": "pcee", "error": [0.1, 0.3]})
    control.assign(baseline="confidence", worst=0.0, short=0.0, excess=0.0).to_parquet(tmp_path / "control.parquet")
    return [tmp_path / "control.parquet", tmp_path / "speedup.parquet"]


def test_means_over_systems_of_what_loses_nothing_on_validation_data(files):
    assert summarise(files) == {
        "full_accuracy": {"small": 0.9, "large": 0.95},
        "speedup": {"pcee": 3.0, "oracle": 5.0},
        "accuracy_change": {"pcee": 0.005, "oracle": 0.0},
        "control_error": {"pcee": 0.2},
    }


def test_the_verb_writes_them_as_json(files, tmp_path):
    out = tmp_path / "metrics.json"
    done = CliRunner().invoke(cli, ["summary", *map(str, files), "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert json.loads(out.read_text()) == summarise(files)


def test_a_missing_table_is_named(files):
    with pytest.raises(ValueError, match="control"):
        summarise(files[1:])
