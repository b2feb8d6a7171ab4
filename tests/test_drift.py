"""Streams whose corruption grows: blocks compared with loops over samples, and the figure and the table of them."""

import numpy as np
import pandas as pd
import pytest

from offramp import make_policy
from offramp._io.tables import write_table
from offramp.cli import cli
from offramp.comparison.drift import BLOCKS, VARIANTS, under_drift
from offramp.comparison.runs import Run
from offramp.online import ConfidenceAlarm, Online, RiskAlarm, drift, run_stream
from offramp.reports.catalogue import FIGURES, TABLES
from test_shift import COSTS, N, corrupted, files, make_record, runs  # noqa: F401

TARGET, ORDERS = 0.9, 2
OPTIONS = {"orders": ORDERS, "delay": 30, "audit": 0.5}


@pytest.fixture(scope="module")
def table(runs, corrupted):  # noqa: F811
    return under_drift(runs, corrupted, TARGET, **OPTIONS)


def stream_of(runs, corrupted, seed, order):  # noqa: F811
    return drift({0: runs[seed].test, **{severity: its[seed] for (_, severity), its in corrupted.items()}}, seed=order)


@pytest.mark.parametrize("label", ["static", "window-audited", "window-last-exit"])
def test_blocks_are_means_over_their_samples(table, runs, corrupted, label):  # noqa: F811
    seed = order = 1
    method, options, source = VARIANTS[label]
    run, stream = runs[seed], stream_of(runs, corrupted, seed, order)
    alarms = {"risk": RiskAlarm(1 - TARGET)}
    if label == "static":
        alarms["confidence"] = ConfidenceAlarm(run.validation, seed=order)
    options = {"source": source, "audit": 0.0 if source == "labels" else 0.5, "alarms": alarms, "seed": 1, **options}
    online = Online(run.policies["pcee"], TARGET, run.fitting, method, **options)
    answers = run_stream(online, stream, delay=30, batch=20, seed=order)
    rows = table.query("seed == @seed and order == @order and method == @label").to_dict("records")
    assert len(rows) == 3 * BLOCKS
    assert [row["severity"] for row in rows] == [0] * BLOCKS + [1] * BLOCKS + [5] * BLOCKS
    assert rows[-1]["sample"] == N
    first = 0
    for row in rows:
        inside = slice(first, int(row["sample"]))
        first = inside.stop
        part = answers[inside]
        assert row["samples"] == len(part)
        assert set(part["severity"]) == {row["severity"]}
        assert row["accuracy"] == pytest.approx(np.mean(part["correct"]))
        assert row["full_accuracy"] == pytest.approx(stream.correct[inside, -1].mean())
        assert row["cost"] == pytest.approx(np.mean(part["cost"]) / COSTS[-1])
    for name in ("confidence", "risk"):
        raised = answers["sample"][answers[f"raised_{name}"]] if name in alarms else []
        expected = min(raised) if len(raised) else np.nan
        np.testing.assert_equal([row[f"alarm_{name}"] for row in rows], [expected] * len(rows))


def test_orders_are_the_same_for_all_methods(table):
    ones = table.groupby(["seed", "order", "sample"])["full_accuracy"].nunique()
    assert (ones == 1).all()
    assert table.groupby(["seed", "order"])["method"].unique().map(list).tolist() == [[*VARIANTS]] * 4


def test_command(files, table):  # noqa: F811
    words = [*(str(path) for path in sorted(files.iterdir())), "--target", str(TARGET), "--orders", "1"]
    cli(["drift", *words, "--delay", "30", "--audit", "0.5", "--out", str(files / "d.parquet")], standalone_mode=False)
    expected = table[table["order"] == 0].reset_index(drop=True)
    pd.testing.assert_frame_equal(pd.read_parquet(files / "d.parquet"), expected, check_exact=False)


def test_what_is_refused(runs, corrupted):  # noqa: F811
    for wrong in ({}, {"pcee": make_policy("pcee", fit_on="reached").fit(runs[0].validation)}):
        run = Run("net", 0, runs[0].validation, runs[0].test, wrong)
        with pytest.raises(ValueError, match="net seed 0: no policy pcee with fit_on=all, which online"):
            under_drift([run], corrupted, TARGET)
    with pytest.raises(ValueError, match=r"drift: target is 1; expected an accuracy between 0 and 1"):
        under_drift(runs, corrupted, 1)


# Figure and table


def test_table(table, tmp_path):
    write_table(table, tmp_path / "drift.parquet")
    TABLES["stream"].write([tmp_path / "drift.parquet"], tmp_path / "stream")
    numbers = pd.read_csv(tmp_path / "stream.csv").set_index("method")
    assert list(numbers.index) == [*VARIANTS]
    for label, row in numbers.iterrows():
        its = table[table["method"] == label]
        for phase, part in (("before", its[its["severity"] == 0]), ("after", its[its["severity"] > 0])):
            per_seed = [
                np.average(each["accuracy"], weights=each["samples"]) for _, each in part.groupby("seed")
            ]  # streams are of equal length
            assert row[f"accuracy_{phase}"] == pytest.approx(np.mean(per_seed))
            assert row[f"error_{phase}"] == pytest.approx(np.mean(np.abs(np.array(per_seed) - TARGET)))
            assert row[f"accuracy_{phase}_low"] <= row[f"accuracy_{phase}"] <= row[f"accuracy_{phase}_high"]
    alarms = table[table["method"] == "static"].groupby(["seed", "order"])["alarm_risk"].first() - N // 3
    row = numbers.loc["static"]
    assert row["risk_raised"] == (alarms > 0).sum() > 0
    assert row["risk_early"] == (alarms <= 0).sum()
    assert row["risk_delay"] == alarms[alarms > 0].median()
    text = (tmp_path / "stream.md").read_text()
    assert f" in {row['risk_raised']} of 4" in text
    assert f"| {100 * row['accuracy_before']:.1f} → {100 * row['accuracy_after']:.1f} [" in text


def test_figure(table, tmp_path):
    write_table(table, tmp_path / "drift.parquet")
    figure = FIGURES["stream"].make([tmp_path / "drift.parquet"], {})
    accuracy, cost, alarms = figure.axes
    static = table[table["method"] == "static"]
    for ax, name in ((accuracy, "accuracy"), (cost, "cost")):
        drawn = [line.get_ydata() for line in ax.get_lines() if len(line.get_ydata()) == 3 * BLOCKS]
        expected = 100 * static.groupby("sample")[name].mean()
        assert any(np.allclose(line, expected) for line in drawn)
    final = 100 * static.groupby(["seed", "order"])["alarm_confidence"].first().notna().mean()
    assert alarms.get_lines()[0].get_ydata()[-1] == final
