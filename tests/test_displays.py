"""Displays of a record show the results of `frontier`, `reliability_diagram` and `evaluate`."""

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from offramp import ExitRecord, evaluate, frontier, make_policy
from offramp.calibration import reliability_diagram
from offramp.reports import ControlDisplay, FrontierDisplay, ReliabilityDisplay, StreamDisplay
from offramp.reports.figures.style import BLUE, PALE, VERMILLION, policy_styles

THRESHOLDS = np.linspace(0, 1, 101)


@pytest.fixture(autouse=True)
def _no_windows():
    """Draw without a screen, and close all figures."""
    before = matplotlib.get_backend()
    plt.switch_backend("agg")
    yield
    plt.close("all")
    plt.switch_backend(before)


@pytest.fixture(scope="module")
def record():
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 5, 200)
    logits = rng.normal(size=(200, 4, 5))
    logits[np.arange(200)[:, None], np.arange(4), labels[:, None]] += [1.0, 2.0, 2.5, 3.0]
    return ExitRecord(logits, labels, cost=[1e6, 2e6, 3e6, 4e6], metadata={"unit": "MAC"})


@pytest.fixture(scope="module")
def policies(record):
    return {name: make_policy(name).fit(record) for name in ("confidence", "pcee-ws")}


def of(ax, label):
    """Return the line of a policy."""
    color = policy_styles([label])[label].color
    (line,) = [line for line in ax.lines if to_hex(line.get_color()) == to_hex(color) and len(line.get_xdata()) > 2]
    return line


def made(name, record, policies):
    return {
        "frontier": lambda: FrontierDisplay.from_record(policies, record),
        "reliability": lambda: ReliabilityDisplay.from_record(record),
        "control": lambda: ControlDisplay.from_record(policies, record, THRESHOLDS),
    }[name]()


@pytest.mark.parametrize("name", ["frontier", "reliability", "control"])
def test_with_axes_and_without(name, record, policies):
    display = made(name, record, policies)
    ax = Figure().subplots()
    assert display.plot(ax) is display
    assert display.ax_ is ax
    assert display.figure_ is ax.figure
    assert not plt.get_fignums()
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [h.get_label() for h in display.handles_]
    display.plot()
    assert display.ax_ is not ax
    assert plt.get_fignums() == [display.figure_.number]
    assert display.plot(Figure().subplots(), legend=False).ax_.get_legend() is None


def test_the_frontier_is_exact(record, policies):
    ax = FrontierDisplay.from_record(policies, record).plot().ax_
    for label, policy in policies.items():
        points = frontier(policy, record)
        np.testing.assert_allclose(of(ax, label).get_xdata(), points["cost"] / 1e6)
        np.testing.assert_allclose(of(ax, label).get_ydata(), 100 * points["accuracy"])
    (full,) = [line for line in ax.lines if line.get_marker() == "^"]
    np.testing.assert_allclose(full.get_xydata(), [[4, 100 * record.correct[:, -1].mean()]])
    assert ax.get_xscale() == "log"
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("Average cost (M MACs)", "Accuracy (%)")
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert names == ["max softmax", "PCEE-WS", "full model"]


def test_the_frontier_of_one_policy_as_error(record, policies):
    bare = ExitRecord(record.logits, record.labels, record.cost)
    display = FrontierDisplay.from_record(policies["confidence"], bare).plot(error=True)
    line = of(display.ax_, "confidence")
    points = frontier(policies["confidence"], bare)
    np.testing.assert_allclose(line.get_xydata(), np.stack([points["cost"], 100 * (1 - points["accuracy"])], axis=1))
    assert (display.ax_.get_xlabel(), display.ax_.get_ylabel()) == ("Average cost", "Error (%)")


@pytest.mark.parametrize("exit", [0, 3])
def test_reliability_of_one_exit(exit, record):
    display = ReliabilityDisplay.from_record(record, exit=exit, bins=10).plot()
    expected = reliability_diagram(record.confidence()[:, exit], record.correct[:, exit], bins=10)
    full = expected.count > 0
    accuracy, over, under = display.ax_.containers
    np.testing.assert_allclose([bar.get_height() for bar in accuracy], expected.accuracy[full])
    np.testing.assert_allclose([bar.get_x() for bar in accuracy], expected.edges[:-1][full])
    for bars, color, sign in ((over, VERMILLION, 1), (under, BLUE, -1)):
        gap = (expected.mean_confidence - expected.accuracy)[full]
        np.testing.assert_allclose([bar.get_height() for bar in bars], gap[sign * gap > 0])
        shown = {to_hex(bar.get_edgecolor() if sign > 0 else bar.get_facecolor()) for bar in bars}
        assert shown <= {to_hex(color)}
    assert display.ax_.get_title() == f"Exit {exit + 1} of 4: ECE {100 * expected.ece:.1f} %"
    display.plot_samples()
    heights = [bar.get_height() for bar in display.ax_.patches]
    np.testing.assert_allclose(heights, 100 * expected.count / record.n_samples)


@pytest.mark.parametrize("exit", [-1, 4])
def test_an_exit_that_is_not_there(exit, record):
    with pytest.raises(ValueError, match=f"exit is {exit}; expected 0 to 3, for exits are counted from 0"):
        ReliabilityDisplay.from_record(record, exit=exit)


def test_control(record, policies):
    display = ControlDisplay.from_record(policies, record, THRESHOLDS)
    above, below = Figure().subplots(2)
    display.plot(above).plot(below, error=True)
    assert display.ax_ is below
    low, high = 100 * record.correct[:, [0, -1]].mean(0)
    shown = (low - 0.15 * (high - low), min(100, high + 0.15 * (high - low)))
    for label, policy in policies.items():
        points = evaluate(policy, record, THRESHOLDS)
        points = points[(100 * points["threshold"]).between(*shown)]
        np.testing.assert_allclose(of(above, label).get_xdata(), 100 * points["threshold"])
        np.testing.assert_allclose(of(above, label).get_ydata(), 100 * points["accuracy"])
        error = (points["accuracy"] - points["threshold"]).abs()
        np.testing.assert_allclose(of(below, label).get_ydata(), 100 * error, atol=1e-9)
    for ax in (above, below):
        assert ax.get_xlim() == pytest.approx(shown)
        shades = [patch for patch in ax.patches if to_hex(patch.get_facecolor()) == PALE.lower()]
        spans = sorted((patch.get_x(), patch.get_x() + patch.get_width()) for patch in shades)
        np.testing.assert_allclose(spans, [(0, low), (high, 100)])
    assert any(list(line.get_xdata()) == list(line.get_ydata()) for line in above.lines)
    assert (above.get_ylabel(), below.get_ylabel()) == ("Accuracy (%)", "Control error (points)")


def test_no_threshold_in_reach(record, policies):
    display = ControlDisplay.from_record(policies["confidence"], record, [0.0, 0.01]).plot()
    assert display.ax_.get_legend().get_texts()[0].get_text() == "max softmax"


# Streams


def stream_of(accuracy, cost, **more):
    n = len(accuracy)
    return pd.DataFrame({"sample": np.arange(n) + 1, "correct": accuracy, "cost": cost, "threshold": 0.9} | more)


STREAMS = {
    "static": stream_of(
        [True, True, False, False],
        [1e6, 3e6, 1e6, 3e6],
        severity=[0, 0, 1, 2],
        evidence_shift=[-3.0, 0.5, 1.5, 9.0],
        raised_shift=[False, False, True, True],
    ),
    "window": stream_of([True, False, True, True], [2e6, 2e6, 4e6, 4e6]),
}


@pytest.mark.parametrize(
    ("show", "static", "window"),
    [
        ("accuracy", [100, 100, 50, 0], [100, 50, 50, 100]),
        ("cost", [1, 2, 2, 2], [2, 2, 3, 4]),
        ("threshold", [0.9] * 4, [0.9] * 4),
        ("evidence", [-2, 0.5, 1.5, 4], None),
    ],
)
def test_lines_of_streams(show, static, window):
    display = StreamDisplay(STREAMS, window=2, unit="MAC").plot(show=show)
    values = [line.get_ydata().tolist() for line in display.ax_.lines if len(line.get_xdata()) == 4]
    assert values == [static] + ([window] if window else [])
    (alarm,) = [line for line in display.ax_.lines if len(line.get_xdata()) == 2]
    assert list(alarm.get_xdata()) == [3, 3]
    assert len(display.ax_.patches) == 3  # severities
    assert [handle.get_label() for handle in display.handles_] == ["static", "window", "alarm"]


def test_streams_that_are_refused():
    with pytest.raises(ValueError, match="expected at least one table, and all of the same samples"):
        StreamDisplay({"a": STREAMS["static"], "b": STREAMS["window"][:2]})
    with pytest.raises(ValueError, match="show is 'colour'; expected accuracy, cost, threshold or evidence"):
        StreamDisplay(STREAMS).plot(show="colour")
    with pytest.raises(ValueError, match="no table has what accuracy shows"):
        StreamDisplay({"window": STREAMS["window"].drop(columns="correct")}).plot()
