"""The loop of models that stop: its decisions are those of records, with rejection and for online policies."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from offramp import ExitRecord, decide, make_policy
from offramp.online import METHODS, ConfidenceAlarm, Online, RiskAlarm
from offramp.runtime.loop import Stages
from strategies import quick

N, L, C = 60, 3, 3


def system(seed, sure=2.0):
    """A record with logits, of which later exits are more often right."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, C, N)
    logits = random.normal(size=(N, L, C)) + np.eye(C)[labels][:, None] * np.array([0.5, 1, 2])[:, None]  # (N, L, C)
    return ExitRecord((sure * logits).astype(np.float32), labels, [1.0, 2.0, 4.0])


class Recorded(Stages):
    """A model that answers with the logits of a record, whose samples it is given by their positions."""

    def __init__(self, record, policy, threshold=None, **options):
        super().__init__(record.n_exits, policy, threshold, "always", **options)
        self.record, self.ran = record, []  # number of samples at each exit

    def start(self, x):
        return _Replay(self, x)

    def cost(self, x):
        return self.record.cost


class _Replay:
    def __init__(self, model, rows):
        self.model, self.rows, self.exit = model, rows, -1

    def step(self):
        self.exit += 1
        self.model.ran.append(len(self.rows))
        return self.model.record.logits[self.rows, self.exit], None

    def keep(self, rows):
        self.rows = self.rows[rows]

    select = keep


@quick
@given(st.data(), st.sampled_from(["confidence", "pcee", "patience", "beem-a"]))
def test_rejection_and_early_abstention_are_those_of_the_record(data, name):
    n, l, c = (data.draw(st.integers(*bounds)) for bounds in ((1, 9), (1, 4), (2, 3)))
    logits = data.draw(arrays(np.float32, (n, l, c), elements=st.sampled_from([-3.0, -1.0, 0.0, 2.0])))
    record = ExitRecord(logits, data.draw(arrays(np.int64, n, elements=st.integers(0, c - 1))), np.arange(1.0, l + 1))
    policy = make_policy(name).fit(record)
    values = [-np.inf, np.inf, 0.4, 0.9, *policy.estimate(record).ravel().tolist(), *policy.signal(record).ravel()]
    value = st.sampled_from(values)
    delta = data.draw(value | arrays(np.float64, l - 1, elements=value))
    eta = data.draw(value | arrays(np.float64, l - 1, elements=value))
    below = {"reject_below": data.draw(value), "abstain_below": eta}
    model = Recorded(record, policy, delta, **below)
    answers = model(np.arange(n))
    (exits,), (predicted,) = decide(policy, record, [delta], **below)
    np.testing.assert_array_equal(answers.exit, exits)
    np.testing.assert_array_equal(answers.prediction, predicted)
    np.testing.assert_array_equal(answers.cost, record.cost[exits])
    assert model.ran == [int((exits >= i).sum()) for i in range(exits.max() + 1)]  # the others did not run


VALIDATION, STREAM = system(0), system(1, sure=3.0)
PCEE = make_policy("pcee", bins=5).fit(VALIDATION)
SOURCES = [("labels", 0.0), ("labels", 0.4), ("audited", 0.4), ("last_exit", 0.4)]


def made(method, source, audit):
    alarms = {"shift": ConfidenceAlarm(VALIDATION, exits=(0, 2)), "risk": RiskAlarm(0.2)}
    return Online(PCEE, 0.65, VALIDATION, method, source=source, audit=audit, alarms=alarms, seed=3)


@pytest.mark.parametrize(("source", "audit"), SOURCES)
@pytest.mark.parametrize("method", METHODS)
def test_over_a_model_and_over_its_record_with_the_same_feedback(method, source, audit, tmp_path):
    """The answers, the alarms and what was learned are the same, also after the state was saved and loaded."""
    over, running = made(method, source, audit), made(method, source, audit)
    thresholds = set()
    for k, ids in enumerate(np.split(np.arange(N), 6)):
        model = Recorded(STREAM, running)
        answers, expected = model(ids, ids), over.decide(STREAM, rows=ids)
        for name in ("prediction", "exit", "signal", "cost"):
            np.testing.assert_array_equal(getattr(answers, name), getattr(expected, name))
        ran = np.where(expected.audited, L - 1, expected.exit)
        assert model.ran == [int((ran >= i).sum()) for i in range(ran.max() + 1)]
        np.testing.assert_array_equal(answers.logits, STREAM.logits[ids, answers.exit])
        if source != "last_exit" and k:  # late, and not for all
            known = over.waiting[::2]
            known = known[over._memory["audited"][over._memory.find(known)]] if source == "audited" else known
            for online in (over, running):
                online.feedback(known, STREAM.labels[known])
        running.save(tmp_path / "state")
        running = Online.load(tmp_path / "state")
        thresholds.add(str(running.threshold))
    assert len(thresholds) > 1 or method != "aci"
    for name, alarm in over.alarms.items():
        assert running.alarms[name].evidence == alarm.evidence
    for name, values in over.method.state.items():
        np.testing.assert_array_equal(running.method.state[name], values)


def test_what_a_model_with_an_online_policy_refuses():
    online = made("static", "labels", 0.0)
    model = Recorded(STREAM, online)
    with pytest.raises(ValueError, match="an online policy needs ids, one name for each of the 2 samples"):
        model(np.arange(2))
    with pytest.raises(ValueError, match="an online policy needs ids, one name for each of the 2 samples"):
        model(np.arange(2), [1])
    model(np.arange(2), [1, 2])
    with pytest.raises(ValueError, match="sample 2 is decided twice"):
        model(np.arange(2), [2, 3])
    with pytest.raises(ValueError, match="threshold: an online policy has its own; expected None"):
        Recorded(STREAM, online, 0.5)
    with pytest.raises(ValueError, match="an online policy does not reject; expected neither reject_below nor abstain"):
        Recorded(STREAM, online, abstain_below=[0.1, 0.2])
    with pytest.raises(ValueError, match="the model has 2 exits; the online policy is for 3"):
        Recorded(ExitRecord(STREAM.logits[:, :2], STREAM.labels, [1.0, 2.0]), online)
    with pytest.raises(ValueError, match="ids are names of samples for an online policy; expected none"):
        Recorded(STREAM, PCEE, 0.5)(np.arange(2), [1, 2])
    with pytest.raises(ValueError, match=r"threshold: expected a number or 2 of them .* got nan"):
        Recorded(STREAM, PCEE)


def test_a_batch_that_fails_is_not_remembered():
    """Its samples can be answered later, one by one."""
    bad = ExitRecord(STREAM.logits.copy(), STREAM.labels, [1.0, 2.0, 4.0])
    online = made("window", "labels", 0.0)
    model = Recorded(bad, online)
    bad.logits[3, 0, 0] = np.nan
    with pytest.raises(ValueError, match="finite"):
        model(np.arange(5), np.arange(5))
    assert online.waiting.tolist() == []
    model(np.arange(3), np.arange(3))
    assert online.waiting.tolist() == [0, 1, 2]
