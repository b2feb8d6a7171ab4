"""Online policies: every method compared with a slow one, late and partial feedback, files, and streams."""

import json
import math
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import matplotlib.pyplot
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from offramp import ExitRecord, evaluate, make_policy
from offramp.cli import cli
from offramp.online import METHODS, ConfidenceAlarm, Online, RiskAlarm, drift, run_stream, shifted
from offramp.online.methods import RADIUS, projected
from offramp.policies import POLICIES
from strategies import quick, records

PAGE = (Path(__file__).parents[1] / "docs/shift.md").read_text(encoding="utf-8")
EXITS = 3


def system(n, *, noise=1.0, seed=0, classes=4, first=0, **about):
    """A system of which later exits are more often right. With more noise, it is as sure but more often wrong."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, n)
    hard = random.normal(size=(n, 1, classes))
    scores = noise * (0.7 * hard + 0.7 * random.normal(size=(n, EXITS, classes)))
    scores += np.eye(classes)[labels][:, None] * np.array([1.5, 2.5, 3.5])[:, None]
    share = np.exp(2 * scores)
    share /= share.sum(axis=2, keepdims=True)
    return ExitRecord.from_outputs(
        share.argmax(axis=2),
        share.max(axis=2),
        labels,
        [1.0, 2.0, 4.0],
        np.arange(first, first + n),
        {"classes": classes} | about,
    )


VALIDATION, STREAM = system(300, seed=1), system(400, noise=1.5, seed=2, first=1000)
PCEE = make_policy("pcee", bins=12).fit(VALIDATION)


def observed(online_exit, audited, source, share):
    """Return the weight of each exit of one sample, by the rule of the documentation."""
    weight = []
    for i in range(EXITS):
        if not (i <= online_exit or audited):
            weight.append(0.0)
        elif source == "labels":
            weight.append(1.0 if i <= online_exit else 1 / share)
        elif source == "audited":
            weight.append(1.0)
        else:
            weight.append(1.0 if online_exit == EXITS - 1 else 1 / share)
    return weight


def histogram(samples, edges):
    """Return the accuracy of each bin from (confidence, correct, weight), an empty bin taking that of the one below."""
    values, latest = [], 0.0
    for low, high in zip([-math.inf, *edges], [*edges, math.inf]):
        inside = [(c, w) for x, c, w in samples if low <= x < high]
        total = sum(w for _, w in inside)
        latest = sum(c * w for c, w in inside) / total if total > 0 else latest
        values.append(latest)
    return values


# What each method learns


@pytest.mark.parametrize("binning", ["equal_width", "equal_mass"])
def test_the_window_is_the_map_of_a_fit_on_the_latest_samples(binning):
    """With all samples audited, exactly: after any number of labels, the policy is a fit on the latest W samples."""
    policy = make_policy("pcee", bins=12, binning=binning).fit(VALIDATION)
    online = Online(policy, 0.8, VALIDATION, "window", size=120, source="audited", audit=1.0)
    together = [*range(len(VALIDATION)), *(len(VALIDATION) + np.arange(len(STREAM)))]
    everything = np.concatenate([VALIDATION.confidence(), STREAM.confidence()])  # (N, L)
    correct = np.concatenate([VALIDATION.correct, STREAM.correct])
    online.decide(STREAM)
    given_so_far = len(VALIDATION)
    for count in (0, 1, 50, 119, 7, 200):
        rows = np.arange(given_so_far, given_so_far + count) - len(VALIDATION)
        online.feedback(STREAM.index[rows], STREAM.labels[rows])
        given_so_far += count
        latest = together[given_so_far - 120 : given_so_far]
        for i, map_ in enumerate(online.policy.maps()):
            samples = [(everything[n, i], correct[n, i], 1) for n in latest]
            np.testing.assert_array_equal(map_.values, histogram(samples, policy.maps()[i].edges))
        if binning == "equal_width":
            fitted = make_policy("pcee", bins=12).fit(
                ExitRecord.from_outputs(
                    np.where(correct[latest], 1, 0), everything[latest], np.ones(120, int), [1, 2, 4]
                )
            )
            for ours, theirs in zip(online.policy.maps(), fitted.maps()):
                np.testing.assert_array_equal(ours.values, theirs.values)


@pytest.mark.parametrize("source", ["labels", "audited", "last_exit"])
@pytest.mark.parametrize("method", ["window", "discount"])
def test_maps_of_late_and_partial_feedback(method, source):
    """Against a plain list of what was observed, with its weights."""
    share, option = 0.3, {"window": {"size": 60}, "discount": {"half_life": 25.0}}[method]
    online = Online(PCEE, 0.8, VALIDATION, method, source=source, audit=share, seed=3, **option)
    samples = [
        [(VALIDATION.confidence()[n, i], VALIDATION.correct[n, i], 1.0) for n in range(len(VALIDATION))]
        for i in range(EXITS)
    ]
    random = np.random.default_rng(0)

    def learn(n, leaves, audited, target):
        for i, weight in enumerate(observed(leaves, audited, source, share)):
            if weight:
                samples[i].append((STREAM.confidence()[n, i], STREAM.prediction[n, i] == target, weight))

    decided = {}
    for first in range(0, 200, 20):
        rows = np.arange(first, first + 20)
        answers = online.decide(STREAM, rows=rows)
        for n, leaves, audited in zip(rows.tolist(), answers.exit, answers.audited):
            if source == "last_exit" and (audited or leaves == EXITS - 1):
                learn(n, leaves, audited, STREAM.prediction[n, -1])
            decided[n] = leaves, audited
        if source == "last_exit":
            continue
        later = [n for n in decided if source == "labels" or decided[n][1]]
        chosen = random.permutation(later)[: len(later) // 2].tolist()
        online.feedback(STREAM.index[chosen], STREAM.labels[chosen])
        for n in chosen:
            learn(n, *decided.pop(n), STREAM.labels[n])
    for i, map_ in enumerate(online.policy.maps()):
        its = samples[i]
        if method == "window":
            its = its[-60:]
        else:
            its = [(x, c, w * 0.5 ** ((len(its) - 1 - t) / 25.0)) for t, (x, c, w) in enumerate(its)]
        np.testing.assert_allclose(map_.values, histogram(its, map_.edges), rtol=1e-9)


def log_loss(theta, x, y):
    p = 1 / (1 + math.exp(-(theta[0] * x + theta[1])))
    return -math.log(p if y else 1 - p)


@pytest.mark.parametrize("bins", [None, 10])
def test_platt_is_the_online_newton_step_of_the_paper(bins):
    """Algorithm 1 of the paper and its tracking bins, sample by sample, with numerical gradients and `solve`."""
    policy = make_policy("confidence")
    few, later = VALIDATION.take(np.arange(80)), STREAM.take(np.arange(40))
    online = Online(policy, 0.8, few, "platt", bins=bins, source="audited", audit=1.0)
    online.decide(later)
    online.feedback(later.index, later.labels)
    for i in range(EXITS):
        theta, matrix = np.array([1.0, 0.0]), 100 * np.eye(2)
        tracked = {}
        for record in (few, later):
            for share, y in zip(record.confidence()[:, i], record.correct[:, i]):
                x = math.log(share / (1 - share))
                scaled = 1 / (1 + math.exp(-(theta @ [x, 1])))
                tracked.setdefault(int(scaled * 10), []).append(bool(y))
                h = 1e-5
                slope = [(log_loss(theta + d, x, y) - log_loss(theta - d, x, y)) / (2 * h) for d in h * np.eye(2)]
                matrix = matrix + np.outer(slope, slope)
                theta = theta - np.linalg.solve(matrix, slope) / 0.1
        state = online.method.state
        assert [state["slope"][i], state["shift"][i]] == pytest.approx(theta, rel=1e-4)
        for share in (0.2, 0.55, 0.7, 0.9, 0.99):
            scaled = 1 / (1 + math.exp(-(theta @ [math.log(share / (1 - share)), 1])))
            its = tracked.get(int(scaled * 10)) if bins else None
            expected = np.mean(its) if its else scaled
            assert online.method._scaled(np.array([share]), i)[0] == pytest.approx(expected, rel=1e-3)


@quick
@given(st.tuples(*[st.floats(-500, 500)] * 2), st.tuples(*[st.floats(-3, 3)] * 2), st.floats(0.1, 10))
def test_the_projection_is_the_nearest_point_of_the_ball(point, direction, size):
    matrix = size * np.eye(2) + np.outer(direction, direction)
    point = np.array(point)
    if np.linalg.norm(point) <= RADIUS:
        return
    found = projected(point, matrix)
    assert np.linalg.norm(found) <= RADIUS * (1 + 1e-9)

    def distance(angle):
        offset = RADIUS * np.array([np.cos(angle[0]), np.sin(angle[0])]) - point
        return offset @ matrix @ offset

    best = min(minimize(distance, [a], tol=1e-12).fun for a in np.linspace(0, 2 * np.pi, 8))
    assert distance([math.atan2(found[1], found[0])]) <= best * (1 + 1e-6)


def test_the_adaptive_threshold_sample_by_sample():
    online = Online(PCEE, 0.8, VALIDATION, "aci", step=0.02, level=0.05)
    threshold, low = 0.8, PCEE.signal(VALIDATION).min()
    signals = PCEE.signal(STREAM)
    for n in range(300):
        (leaves,) = online.decide(STREAM, rows=[n]).exit
        assert leaves == next((i for i in range(EXITS - 1) if signals[n, i] >= threshold), EXITS - 1)
        online.feedback([STREAM.index[n]], [STREAM.labels[n]])
        loss = leaves < EXITS - 1 and not STREAM.correct[n, leaves]
        threshold = max(threshold + 0.02 * (loss - 0.05), low)
        assert online.threshold == pytest.approx(threshold, abs=1e-12)


def test_the_adaptive_threshold_keeps_its_level_on_any_stream():
    """The bound of Gibbs and Candès, for a stream in which every early answer is wrong, and for a mixed one."""
    step, level = 0.05, 0.1
    wrong = ExitRecord.from_outputs(
        1 - VALIDATION.prediction % 2, VALIDATION.confidence(), VALIDATION.labels * 0 + 3, VALIDATION.cost,
        metadata={"classes": 4},
    )  # fmt: skip
    for record in (wrong, STREAM):
        online = Online(PCEE, 0.7, VALIDATION, "aci", step=step, level=level)
        table = run_stream(online, record)
        loss = (~table.correct & (table.exit < EXITS)).mean()
        highest = PCEE.signal(record).max()
        assert loss <= level + (highest - 0.7 + step) / (step * len(record))


def test_by_default_the_level_is_that_of_validation_data():
    online = Online(PCEE, 0.8, VALIDATION, "aci")
    exits = PCEE.exits(VALIDATION, 0.8)
    wrong = ~VALIDATION.correct[np.arange(len(exits)), exits]
    assert online.method.state["level"] == pytest.approx((wrong & (exits < EXITS - 1)).mean())


def test_weights_make_partial_observation_unbiased():
    """The accuracy of late exits, from the samples that reach them and a few audited ones, is that of all samples."""
    record = system(20_000, seed=5)
    found = {}
    for audit in (0.0, 0.2):
        online = Online(PCEE, 0.7, VALIDATION, "window", size=10_000, audit=audit)
        run_stream(online, record, batch=500)
        state = online.method.state
        found[audit] = (state["right"].sum(axis=1) / state["weight"].sum(axis=1))[1:]  # (L − 1,)
    truth = record.correct[:, 1:].mean(axis=0)
    assert found[0.2] == pytest.approx(truth, abs=0.01)
    assert (found[0.0] < truth - 0.015).all()  # those that reach a late exit are harder


def test_methods_that_learn_follow_a_shift():
    stream = drift({0: system(3000, seed=7), 1: system(3000, noise=1.5, seed=7)}, seed=1)
    accuracy, cost = {}, {}
    for method in METHODS:
        option = {"window": {"size": 300}, "discount": {"half_life": 150}}.get(method, {})
        table = run_stream(Online(PCEE, 0.9, VALIDATION, method, **option), stream, batch=25)
        assert table.severity.tolist() == [0.0] * 1500 + [1.0] * 1500
        accuracy[method], cost[method] = table.correct[2000:].mean(), table.cost[2000:].mean()
    assert min(accuracy[method] for method in METHODS if method != "static") > accuracy["static"] + 0.05
    assert min(cost[method] for method in METHODS if method != "static") > cost["static"] + 0.3


# Deciding


@quick
@given(
    records(samples=(2, 8), exits=(2, 4), classes=(3, 3)),
    st.sampled_from([name for name in POLICIES if name not in ("oracle", "router", "ztw", "deferral")]),
    st.data(),
)
def test_a_static_policy_decides_as_the_policy_does(record, name, data):
    policy = make_policy(name)
    if policy.needs_logits or not set(policy.needs) <= {"max_softmax", "margin", "entropy", "prediction"}:
        return
    policy.fit(record)
    signal = policy.signal(record)
    threshold = data.draw(st.sampled_from([-np.inf, np.inf, 0.5, *signal.ravel().tolist()]))
    per_exit = data.draw(st.booleans())
    threshold = np.full(record.n_exits - 1, threshold) if per_exit else threshold
    audit = data.draw(st.sampled_from([0.0, 0.5, 1.0]))
    online = Online(policy, threshold, record, "static", audit=audit)
    size = data.draw(st.integers(1, len(record)))
    parts = [online.decide(record, rows=slice(a, a + size)) for a in range(0, len(record), size)]
    exits, answers, audited, cost = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("exit", "prediction", "audited", "cost")
    )
    np.testing.assert_array_equal(exits, policy.exits(record, threshold))
    np.testing.assert_array_equal(answers, policy.predict(record, threshold))
    paid = np.where(audited, record.n_exits - 1, exits)
    np.testing.assert_array_equal(cost, record.cost_of(paid))
    np.testing.assert_array_equal(
        np.concatenate([part.signal for part in parts]), signal[np.arange(len(record)), exits]
    )
    if audit in (0, 1):
        assert (audited == audit).all()


@pytest.mark.parametrize("policy", ["pcee:most_accurate", "patience", "beem-a"])
@pytest.mark.parametrize("audit", [0.0, 0.4])
def test_a_running_model_decides_as_a_record_does(policy, audit):
    name, _, no_exit = policy.partition(":")
    policy = make_policy(name, **({"no_exit": no_exit} if no_exit else {})).fit(VALIDATION)
    threshold = 0.97 if no_exit else 1.2
    over, running = (Online(policy, threshold, VALIDATION, "static", audit=audit) for _ in range(2))
    expected = over.decide(STREAM)
    deciding = running.begin(STREAM.index)
    there = np.arange(len(STREAM))
    for i in range(EXITS):
        there = there[deciding.step(STREAM.outputs(i, there))]
    answers = deciding.finish(STREAM.cost)
    for field in ("prediction", "exit", "signal", "cost", "audited"):
        np.testing.assert_array_equal(getattr(answers, field), getattr(expected, field))


@pytest.mark.parametrize("source", ["labels", "last_exit"])
def test_alarms_see_what_does_not_depend_on_the_policy(source):
    """The first exit of all samples, later ones of audited samples; and the loss of the answers."""
    alarms = {"shift": ConfidenceAlarm(VALIDATION, exits=(0, 2)), "risk": RiskAlarm(0.2)}
    expected = {"shift": ConfidenceAlarm(VALIDATION, exits=(0, 2)), "risk": RiskAlarm(0.2)}
    online = Online(PCEE, 0.8, VALIDATION, "static", source=source, audit=0.3, alarms=alarms)
    answers = online.decide(STREAM)
    confidence = STREAM.confidence().astype(float)
    confidence[~answers.audited, 1:] = np.nan
    expected["shift"].update(confidence)
    if source == "labels":
        online.feedback(STREAM.index, STREAM.labels)
        expected["risk"].update(answers.prediction != STREAM.labels)
    else:
        expected["risk"].update((answers.prediction != STREAM.prediction[:, -1])[answers.audited])
    for name, alarm in expected.items():
        assert (alarm.seen, alarm.evidence) == (alarms[name].seen, alarms[name].evidence)


def test_the_policy_of_the_caller_does_not_change():
    before = {name: values.copy() for name, values in PCEE.state.items()}
    for method in METHODS:
        run_stream(Online(PCEE, 0.8, VALIDATION, method), STREAM.take(slice(0, 50)), batch=10)
    assert all((PCEE.state[name] == values).all() for name, values in before.items())


# Files


def same(one, other):
    assert one.threshold == other.threshold
    np.testing.assert_array_equal(one.waiting, other.waiting)
    assert one.method.state.keys() == other.method.state.keys()
    for name, values in one.method.state.items():
        np.testing.assert_array_equal(values, other.method.state[name])
    for name, alarm in one.alarms.items():
        assert (alarm.raised_at, alarm.seen) == (other.alarms[name].raised_at, other.alarms[name].seen)
        assert alarm.evidence == other.alarms[name].evidence


@pytest.mark.parametrize("method", METHODS)
def test_a_saved_policy_goes_on_as_if_nothing_had_happened(method, tmp_path):
    def made():
        alarms = {"shift": ConfidenceAlarm(VALIDATION, exits=(0, 2)), "risk": RiskAlarm(0.2)}
        return Online(PCEE, 0.8, VALIDATION, method, audit=0.2, alarms=alarms, memory=90, seed=4)

    def feed(online, first):
        online.decide(STREAM, rows=slice(first, first + 50))
        online.feedback(STREAM.index[first : first + 25], STREAM.labels[first : first + 25])

    undisturbed, stopped = made(), made()
    for online in (undisturbed, stopped):
        feed(online, 0)
        feed(online, 50)  # memory is full: the oldest 10 were forgotten
    stopped.save(tmp_path / "state")
    again = Online.load(tmp_path / "state")
    same(again, undisturbed)
    for online in (undisturbed, again):
        feed(online, 100)
        online.feedback(STREAM.index[75:90], STREAM.labels[75:90])
    same(again, undisturbed)
    again.save(tmp_path / "a")
    undisturbed.save(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


KILLED = """
import sys
from offramp import ExitRecord
from offramp.online import Online
path, stream = sys.argv[1:]
online, record = Online.load(path), ExitRecord.load(stream)
for n in range(len(record)):
    online.decide(record, rows=[n])
    online.feedback([record.index[n]], [record.labels[n]])
    online.save(path)
    print(n, flush=True)
while True:
    online.save(path)
"""


def test_a_killed_process_loses_what_came_after_the_last_save(tmp_path):
    path, stream = tmp_path / "state.safetensors", tmp_path / "stream.safetensors"
    Online(PCEE, 0.8, VALIDATION, "window", size=50).save(path)
    STREAM.save(stream)
    process = subprocess.Popen([sys.executable, "-c", KILLED, path, stream], stdout=subprocess.PIPE, text=True)
    told = [int(process.stdout.readline()) for _ in range(30)]
    time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    told += [int(line) for line in process.stdout.read().split()]
    process.wait()
    loaded = Online.load(path)
    count = int(loaded.method.state["next"][0]) - len(VALIDATION)
    assert told[-1] + 1 <= count <= told[-1] + 2
    expected = Online(PCEE, 0.8, VALIDATION, "window", size=50)
    run = STREAM.take(slice(0, count))
    for n in range(count):
        expected.decide(run, rows=[n])
        expected.feedback([run.index[n]], [run.labels[n]])
    same(loaded, expected)


def test_a_damaged_file_is_refused(tmp_path):
    path = tmp_path / "state"
    Online(PCEE, 0.8, VALIDATION).save(path)
    whole = path.read_bytes()
    for damaged, message in ((whole[:-9], "not readable"), (whole[:-1] + bytes([whole[-1] ^ 1]), "damaged")):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=message):
            Online.load(path)
    VALIDATION.save(path)
    with pytest.raises(ValueError, match="format: offramp-record/1; expected a whole offramp-online/1 file"):
        Online.load(path)


# What is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "magic"}, "unknown method 'magic': expected one of static, window, discount, platt, aci"),
        ({"size": 0}, "window: option size is 0: expected a whole number from 1"),
        ({"bins": 3}, "window: unknown option 'bins': expected some of size"),
        ({"method": "discount", "half_life": 0.0}, "discount: option half_life is 0.0: expected a number above 0"),
        ({"method": "aci", "level": 1.0}, "aci: option level is 1.0: expected a number between 0 and 1"),
        ({"method": "aci", "step": -1.0}, "aci: option step is -1.0: expected a number above 0"),
        ({"method": "aci", "threshold": np.inf}, "aci: threshold is inf; expected a finite number, for all exits"),
        ({"threshold": np.nan}, "threshold: expected a number or 2 of them"),
        ({"audit": 1.5}, "online: audit is 1.5; expected a share from 0 to 1"),
        ({"source": "audited"}, "online: source=audited needs audited samples; expected an audit above 0"),
        ({"source": "oracle"}, "online: source is 'oracle'; expected one of labels, audited, last_exit"),
        ({"memory": 0}, "online: memory is 0; expected a whole number from 1"),
        ({"policy": make_policy("confidence")}, "window: the policy is confidence; expected pcee with fit_on=all"),
        (
            {"policy": make_policy("pcee", fit_on="reached").fit(VALIDATION)},
            "window: the policy is pcee with fit_on=reached; expected pcee with fit_on=all",
        ),
        ({"policy": make_policy("patience"), "method": "platt"}, "platt: the signal of patience is no estimate of"),
        ({"policy": make_policy("pcee")}, "pcee learns from data: call fit"),
        ({"policy": make_policy("oracle"), "method": "static"}, "oracle with target='final' needs the last exit"),
    ],
)
def test_options_that_are_refused(options, message):
    arguments = {"policy": PCEE, "threshold": 0.8, "validation": VALIDATION} | options
    with pytest.raises(ValueError, match=re.escape(message)) as refused:
        Online(**arguments)
    assert "\n" not in str(refused.value)


def test_feedback_that_is_refused_changes_nothing():
    online = Online(PCEE, 0.8, VALIDATION, size=50, memory=20)
    for first in (0, 15):
        online.decide(STREAM, rows=slice(first, first + 15))
    a, b, old = STREAM.index[25], STREAM.index[26], STREAM.index[0]
    online.feedback([b], [1])
    before = {name: values.copy() for name, values in online.method.state.items()}
    for ids, labels, message in [
        ([a, 5], [1, 1], "sample 5 is unknown; expected one of the latest 20 samples that were decided"),
        ([a, old], [1, 1], f"sample {old} is unknown"),
        ([a, b], [1, 1], f"sample {b} has feedback twice; expected it once for each sample"),
        ([a, a], [1, 1], f"sample {a} has feedback twice"),
        ([a], [4], f"the label of sample {a} is 4; expected a class from 0 to 3"),
        ([a], [-1], f"the label of sample {a} is -1; expected a class from 0 to 3"),
        ([a, 1025], [1], "feedback: 2 ids and 1 labels; expected one label for each"),
        ([a], [0.5], "feedback: labels: expected a list of whole numbers, got float64 (1,)"),
        (a, [1], "feedback: ids: expected a list of whole numbers, got int64 ()"),
    ]:
        with pytest.raises(ValueError, match=re.escape(message)):
            online.feedback(ids, labels)
    for name, values in before.items():
        np.testing.assert_array_equal(values, online.method.state[name])
    assert a in online.waiting
    online.feedback([], [])
    audited = Online(PCEE, 0.8, VALIDATION, source="audited", audit=0.5)
    answers = audited.decide(STREAM)
    other = STREAM.index[np.flatnonzero(~answers.audited)[0]]
    with pytest.raises(ValueError, match=f"feedback: sample {other} was not audited; expected labels of audited"):
        audited.feedback([other], [1])
    with pytest.raises(ValueError, match="learns from the last exit"):
        Online(PCEE, 0.8, VALIDATION, source="last_exit", audit=0.5).feedback([1], [1])


def test_samples_that_are_refused():
    online = Online(PCEE, 0.8, VALIDATION, memory=50)
    online.decide(STREAM, rows=[0])
    for ids, message in (
        ([1000], "sample 1000 is decided twice; expected a new id for each sample"),
        ([7, 7], "sample 7 is decided twice"),
        ([1, 2], "online: 2 ids for 1 samples; expected one for each"),
        (["a"], "online: ids: expected a list of whole numbers"),
    ):
        with pytest.raises(ValueError, match=message):
            online.decide(STREAM, ids, rows=[1] if len(ids) < 2 or ids[0] == 1 else [1, 2])
    with pytest.raises(ValueError, match="400 samples at once; expected at most 50"):
        online.decide(STREAM, np.arange(400))
    two = ExitRecord.from_outputs([[1, 1]], [[0.5, 0.5]], [1], [1, 2], metadata={"classes": 4})
    with pytest.raises(ValueError, match="the record has 2 exits and 4 classes; expected 3 and 4, as in the valid"):
        online.decide(two, [1])
    with pytest.raises(ValueError, match="the record has 3 exits and 5 classes; expected 3 and 4"):
        online.decide(system(3, classes=5), [1, 2, 3])
    scores = ExitRecord.from_scores([[0.5] * 3], [[0.5] * 3], [1, 2, 3])
    with pytest.raises(ValueError, match="an online policy needs labels, but this record has qualities"):
        Online(PCEE, 0.8, scores)
    with pytest.raises(ValueError, match="an online policy needs predictions"):
        online.decide(scores, [50])
    deciding = online.begin([77])
    deciding.step(STREAM.outputs(0, [3]))
    if len(deciding.there):
        with pytest.raises(ValueError, match="1 samples are still there after exit 1"):
            deciding.finish(STREAM.cost)


# Streams


def test_labels_come_after_their_delay():
    """The order of labels and answers, against a queue."""
    delay = np.random.default_rng(0).integers(0, 30, 60)
    events = []

    class Spy(Online):
        def decide(self, record, ids=None, rows=None):
            events.extend(("answer", n) for n in np.asarray(rows).tolist())
            return super().decide(record, ids, rows)

        def feedback(self, ids, labels):
            events.extend(("label", n - 1000) for n in ids.tolist())
            super().feedback(ids, labels)

    run_stream(Spy(PCEE, 0.8, VALIDATION), STREAM.take(slice(0, 60)), delay=delay)
    expected, queue = [], []
    for n in range(60):
        ready = sorted(each for each in queue if each[0] <= n - 1)
        queue = [each for each in queue if each not in ready]
        expected += [("label", m) for _, m in ready] + [("answer", n)]
        queue.append((n + delay[n], n))
    assert events == expected


def test_the_table_of_a_stream():
    alarms = {"shift": ConfidenceAlarm(VALIDATION)}
    online = Online(PCEE, 0.8, VALIDATION, "static", audit=0.25, alarms=alarms)
    table = run_stream(online, STREAM, batch=16, labelled=0.5)
    (row,) = evaluate(PCEE, STREAM, [0.8]).to_dict("records")
    assert table.correct.mean() == pytest.approx(row["accuracy"])
    assert table.cost[~table.audited].mean() < row["cost"] + 0.5
    assert (table.cost[table.audited] == 4).all()
    assert list(table) == [
        *("sample", "index", "exit", "prediction", "signal", "cost", "audited", "threshold"),
        *("evidence_shift", "raised_shift", "correct"),
    ]
    waiting = len(online.waiting)
    assert 150 < waiting < 250  # the labels of half of the samples never come


def test_a_stream_from_the_last_exit_needs_no_labels():
    unlabelled = ExitRecord.from_outputs(
        STREAM.prediction, STREAM.confidence(), None, STREAM.cost, STREAM.index, STREAM.metadata
    )
    tables = [
        run_stream(Online(PCEE, 0.8, VALIDATION, "window", source="last_exit", audit=0.3, size=50), record)
        for record in (STREAM, unlabelled)
    ]
    assert "correct" not in tables[1]
    pd.testing.assert_frame_equal(tables[0].drop(columns="correct"), tables[1])
    with pytest.raises(ValueError, match="gives labels as feedback, needs labels"):
        run_stream(Online(PCEE, 0.8, VALIDATION), unlabelled)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"delay": -1}, "delay: expected a whole number from 0"),
        ({"delay": [1, 2]}, "or one for each of the 400 samples"),
        ({"labelled": 2}, "labelled is 2; expected a share from 0 to 1"),
        ({"batch": 0}, "batch is 0; expected a whole number from 1"),
    ],
)
def test_options_of_a_stream_that_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        run_stream(Online(PCEE, 0.8, VALIDATION), STREAM, **options)


# Shifts


@quick
@given(records(samples=(1, 30), exits=(1, 2)), st.data())
def test_frequencies_of_a_shifted_record(record, data):
    count = np.bincount(record.labels, minlength=record.n_classes)
    wanted = np.array([data.draw(st.integers(0, 3)) if c else 0 for c in count], float)
    if not wanted.sum():
        return
    most = min(c * wanted.sum() / w for c, w in zip(count, wanted) if w)  # samples in all, by hand
    expected = np.floor(most * wanted / wanted.sum() + 1e-9)
    if not expected.sum():
        return
    made = shifted(record, frequencies=wanted, seed=data.draw(st.integers(0, 5)))
    np.testing.assert_array_equal(np.bincount(made.labels, minlength=record.n_classes), expected)
    places = np.searchsorted(record.index, made.index)
    np.testing.assert_array_equal(record.prediction[places], made.prediction)
    np.testing.assert_array_equal(record.labels[places], made.labels)


def test_severities_of_class_frequencies():
    record = system(8000)
    count = np.bincount(record.labels)
    assert sorted(shifted(record, severity=0).index) == list(range(8000))
    for severity in (1, 5):
        its = shifted(record, severity=severity, seed=3)
        odds = np.bincount(its.labels) / count
        assert odds.max() == pytest.approx(1, abs=1e-3)
        assert odds.max() / odds.min() == pytest.approx(2.0**severity, rel=0.05)
    assert shifted(record, severity=2, seed=1).index.tolist() != shifted(record, severity=2, seed=2).index.tolist()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "expected either frequencies or severity"),
        ({"frequencies": [1, 1], "severity": 1}, "expected either frequencies or severity"),
        ({"severity": -1}, "severity is -1; expected a number from 0"),
        ({"frequencies": [1, 1]}, "frequencies: expected 4 numbers from 0, one for each class, not all 0"),
        ({"frequencies": [1, -1, 1, 1]}, "expected 4 numbers from 0"),
        ({"frequencies": [1e9, 1, 1e-9, 1e-9]}, None),
    ],
)
def test_shifts_that_are_refused(options, message):
    if message is None:  # a class may get no samples
        assert set(shifted(STREAM, **options).labels) == {0}
        return
    with pytest.raises(ValueError, match=message):
        shifted(STREAM, **options)


def test_a_class_without_samples_is_refused():
    record = ExitRecord.from_outputs([[0]], [[0.5]], [0], [1], metadata={"classes": 2})
    with pytest.raises(ValueError, match="class 1 has no samples; expected a frequency of 0"):
        shifted(record, frequencies=[1, 1])


def test_a_drift_takes_each_sample_once():
    clean = system(100, system="s")
    noisy = system(100, noise=3, system="s")
    mixed = noisy.take(np.random.default_rng(0).permutation(100))  # samples may be in another order
    made = drift({0: clean, 2: mixed, 5: noisy}, shares=[2, 1, 1], seed=4)
    assert made.metadata["drift"] == [[0.0, 50], [2.0, 25], [5.0, 25]]
    assert sorted(made.index) == list(range(100))
    for rows, source in ((slice(0, 50), clean), (slice(50, 100), noisy)):
        its = made.take(rows)
        np.testing.assert_array_equal(its.prediction, source.prediction[its.index])
        np.testing.assert_array_equal(its.confidence(), source.confidence()[its.index])
        np.testing.assert_array_equal(its.labels, clean.labels[its.index])


def test_a_drift_keeps_logits_and_costs_of_samples():
    def record(shift):
        logits = np.arange(24, dtype=np.float32).reshape(4, 2, 3) + shift
        return ExitRecord(logits, [0, 1, 2, 0], np.cumsum(np.ones((4, 2)), axis=1) + np.arange(4)[:, None])

    made = drift({0: record(0), 1: record(100)}, seed=0)
    for n, i in enumerate(made.index):
        np.testing.assert_array_equal(made.logits[n], record(100 * (n >= 2)).logits[i])
        assert made.sample_cost[n].tolist() == [1 + i, 2 + i]


def test_drifts_that_are_refused():
    for records_, options, message in [
        ({}, {}, "expected at least one record"),
        ({0: system(9), 1: system(8)}, {}, "severity 1 has 8 samples, severity 0 has 9"),
        ({0: system(9), 1: system(9, seed=1)}, {}, "severity 1 has .* as label"),
        ({0: system(9)}, {"shares": [1, 2]}, "shares: expected 1 numbers above 0"),
        ({0: system(1), 1: system(1)}, {}, "1 samples are too few for 2 severities"),
    ]:
        with pytest.raises(ValueError, match=message):
            drift(records_, **options)
    few = ExitRecord.from_outputs(
        VALIDATION.prediction[:, :2], VALIDATION.confidence()[:, :2], VALIDATION.labels, [1, 2]
    )
    with pytest.raises(ValueError, match="severity 1 has n_exits 2, severity 0 has 3; expected the same"):
        drift({0: VALIDATION, 1: few})


# The command


def test_the_command(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    VALIDATION.save("validation")
    drift({0: STREAM, 1: system(400, noise=4, seed=2, first=1000)}).save("test")
    line = "stream test --validation validation --policy pcee:bins=12 --threshold 0.8 --method static "
    line += "--method discount:half_life=50 --delay 10 --batch 20 --risk-level 0.3 --out out.csv"
    code, out, err = run(line)
    assert (code, err) == (0, "")
    table = pd.read_csv("out.csv")
    assert table.groupby("method").size().to_dict() == {"static": 400, "discount:half_life=50": 400}
    alarms = {"confidence": ConfidenceAlarm(VALIDATION), "risk": RiskAlarm(0.3)}
    expected = run_stream(
        Online(PCEE, 0.8, VALIDATION, "discount", half_life=50, alarms=alarms),
        ExitRecord.load("test"),
        delay=10,
        batch=20,
    )
    ours = table[table.method != "static"].reset_index(drop=True)
    np.testing.assert_array_equal(ours[list(expected)].to_numpy(float), expected.to_numpy(float))
    first = expected.raised_risk.argmax() + 1
    assert f"discount:half_life=50: accuracy {expected.correct.mean():.4g}, average cost" in out
    assert f"risk alarm at sample {first}" in out
    code, _, err = run("stream test --validation validation --threshold 0.8 --method magic --out out.csv")
    assert (code, err.strip()) == (
        1,
        "offramp: error: unknown method 'magic': expected one of static, window, discount, platt, aci",
    )


def test_all_methods_are_explained():
    assert all(re.search(rf"^      {name} ", cli.commands["stream"].help, re.MULTILINE) for name in METHODS)
    assert all(f"| `{name}` |" in PAGE for name in METHODS)


def test_online_policies_are_light():
    code = "import offramp.online, sys; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", f"import json; {code}"], capture_output=True, text=True, check=True)
    assert not {"torch", "pandas", "scipy", "numba", "matplotlib"} & set(json.loads(done.stdout))


def test_examples_of_the_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    matplotlib.use("agg")
    names = {}
    for code in re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE):
        exec(code, names)
    assert names["online"].alarms["shift"].raised
    assert len(names["display"].ax_.lines) >= 2
    matplotlib.pyplot.close("all")
