"""The signal of each policy compared with loops; options, fitting, and the file of fitted policies."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import entr, softmax

import oracles
from offramp import ExitRecord, evaluate, frontier, load_policies, make_policy, save_policies
from offramp.calibration import fit_temperature, isotonic_map, reliability_diagram
from offramp.policies import POLICIES
from offramp.policies.budget import P
from strategies import quick, records

SCORES = ["max_softmax", "margin", "entropy"]
EVERY = [
    ("beem-c", {}),
    ("beem-c", {"on_disagree": "zero"}),
    ("beem-a", {}),
    ("beem-a", {"normalisation": "max"}),
    ("patience", {}),
    ("patience", {"count": "lgvit"}),
    ("patient-confident", {}),
    ("f-pabee", {}),
    ("f-pabee", {"divergence": "kl"}),
    ("normalized-entropy", {}),
    ("ztw", {}),
    ("ztw", {"ensemble": "arithmetic"}),
    ("oracle", {}),
    ("oracle", {"target": "label"}),
    ("random", {}),
    ("random", {"seed": 7}),
    *(("confidence", {"score": score}) for score in SCORES),
    *(("confidence", {"score": score, "temperature": "per_exit"}) for score in SCORES),
    ("pcee", {}),
    *(("pcee", {"score": score, "bins": 6}) for score in SCORES),
    ("pcee", {"binning": "equal_mass", "bins": 4}),
    ("pcee", {"bins": 1, "no_exit": "most_accurate"}),
    ("pcee", {"fit_on": "reached", "reach_threshold": 0.6, "no_exit": "most_confident"}),
    ("pcee-ws", {}),
    *(("pcee-ws", {"score": score, "window": 5}) for score in SCORES),
    ("pcee-ws", {"fit_on": "reached", "reach_threshold": 0.5, "window": 9, "no_exit": "most_accurate"}),
    *(("isotonic", {"score": score}) for score in SCORES),
    ("isotonic", {"fit_on": "reached", "reach_threshold": 0.5, "no_exit": "most_confident"}),
    *(("budget", {"score": score}) for score in SCORES),
    ("agreement", {}),
    ("agreement", {"tier": 3}),
    ("learned-deferral", {}),
    ("learned-deferral", {"penalty": 0.1}),
    ("stopping", {}),
    ("stopping", {"answer": "exit", "target": "final"}),
]
IDS = [name + "".join(f" {key}={value}" for key, value in options.items()) for name, options in EVERY]


def record_of(seed=0, n=60, exits=3, classes=4):
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, n)
    logits = random.normal(size=(n, exits, classes))
    logits[np.arange(n), :, labels] += np.linspace(1, 3, exits)  # later exits are better
    return ExitRecord(logits.astype(np.float32), labels, np.arange(1, exits + 1))


@pytest.fixture(scope="module")
def validation():
    return record_of(0)


@pytest.fixture(scope="module")
def test():
    return record_of(1, n=50)


# All policies


def test_the_names_that_users_know():
    assert {"oracle", "confidence", "random", "pcee", "pcee-ws", "isotonic", "budget"} <= set(POLICIES)
    for name in POLICIES:
        assert make_policy(name).name == name  # every option has a default


@pytest.mark.parametrize(("name", "options"), EVERY, ids=IDS)
def test_a_file_gives_back_the_same_signal(name, options, validation, test, tmp_path):
    fitted = make_policy(name, **options)
    assert fitted.fit(validation) is fitted
    signal = fitted.signal(test)
    assert (signal.shape, signal.dtype) == ((50, 3), np.float64)
    save_policies({"it": fitted}, tmp_path / "p.safetensors", {"system": "s", "seed": 3})
    policies, run = load_policies(tmp_path / "p.safetensors")
    assert run == {"system": "s", "seed": 3}
    loaded = policies["it"]
    assert (type(loaded), loaded.options) == (type(fitted), fitted.options)
    np.testing.assert_array_equal(loaded.signal(test), signal)
    assert loaded.claims_accuracy == fitted.claims_accuracy
    for threshold in (0.3, np.inf):
        a, b = (evaluate(policy, test, [threshold]) for policy in (loaded, fitted))
        assert a.equals(b)


def test_a_file_holds_several(validation, test, tmp_path):
    fitted = {
        f"{k}": make_policy(name, **options).fit(validation) for k, (name, options) in reversed([*enumerate(EVERY)])
    }
    save_policies(fitted, tmp_path / "p")
    loaded, run = load_policies(tmp_path / "p")
    assert list(loaded) == list(fitted)
    assert run == {}
    for label, policy in fitted.items():
        np.testing.assert_array_equal(loaded[label].signal(test), policy.signal(test))
        assert loaded[label].state.keys() == policy.state.keys()


@pytest.mark.parametrize(("name", "options"), [case for case in EVERY if not make_policy(case[0], **case[1]).learns])
def test_what_needs_no_fit_is_not_changed_by_one(name, options, test):
    policy = make_policy(name, **options)
    np.testing.assert_array_equal(policy.signal(test), policy.fit(test).signal(test))


def test_what_needs_no_fit_is_saved_without(test, tmp_path):
    save_policies({"it": make_policy("oracle")}, tmp_path / "p")
    np.testing.assert_array_equal(
        load_policies(tmp_path / "p")[0]["it"].signal(test), make_policy("oracle").signal(test)
    )


@pytest.mark.parametrize(("name", "options"), EVERY, ids=IDS)
def test_another_system_than_the_fit(name, options, validation):
    policy = make_policy(name, **options).fit(validation)
    with pytest.raises(ValueError, match=r"2 exits, but .* fitted on 3"):
        policy.signal(record_of(exits=2))
    with pytest.raises(ValueError, match=r"5 classes, but .* fitted on 4"):
        policy.signal(record_of(classes=5))


def test_unknown_classes_are_no_other_classes(validation):
    record = ExitRecord.from_outputs([[0, 0, 0]], [[0.5, 0.5, 0.5]], [0], [1, 2, 3])
    policy = make_policy("pcee").fit(validation)
    np.testing.assert_array_equal(policy.signal(record).shape, (1, 3))
    np.testing.assert_array_equal(make_policy("pcee").fit(record).signal(validation).shape, (60, 3))


def test_a_signal_knows_no_label(validation, test):
    """Only the oracle uses labels."""
    other = ExitRecord(test.logits, (test.labels + 1) % 4, test.cost)
    for name, options in EVERY:
        policy = make_policy(name, **options).fit(validation)
        same = np.array_equal(policy.signal(test), policy.signal(other))
        assert same == (options.get("target") != "label")


def test_a_signal_of_a_sample_depends_on_no_other_sample(validation, test):
    few = ExitRecord(test.logits[:20], test.labels[:20], test.cost)
    for name, options in EVERY:
        policy = make_policy(name, **options).fit(validation)
        np.testing.assert_array_equal(policy.signal(test)[:20], policy.signal(few))


# Names and options


def test_unknown_names_list_the_known():
    with pytest.raises(ValueError, match="unknown policy 'pceee': expected one of oracle, confidence, random, pcee"):
        make_policy("pceee")
    with pytest.raises(ValueError, match="pcee: unknown option 'bin': expected some of bins, binning, score, fit_on"):
        make_policy("pcee", bin=50)
    with pytest.raises(ValueError, match="pcee: unknown option 'name': expected some of bins"):
        make_policy("pcee", **{"name": "mine"})


@pytest.mark.parametrize(
    ("name", "option", "value", "expected"),
    [
        ("pcee", "bins", 0, "whole number"),
        ("pcee", "bins", -3, "whole number"),
        ("pcee", "bins", 2.5, "whole number"),
        ("pcee", "bins", 50.0, "whole number"),
        ("pcee", "bins", "50", "whole number"),
        ("pcee", "bins", True, "whole number"),
        ("pcee", "bins", None, "whole number"),
        ("pcee", "bins", np.inf, "whole number"),
        ("pcee", "bins", np.nan, "whole number"),
        ("pcee", "bins", [50], "whole number"),
        ("pcee", "binning", "equal", "'equal_width' or 'equal_mass'"),
        ("pcee", "score", "softmax", "'max_softmax' or 'margin' or 'entropy'"),
        ("pcee", "fit_on", "some", "'all' or 'reached'"),
        ("pcee", "no_exit", None, "'last' or 'most_accurate' or 'most_confident'"),
        ("pcee", "reach_threshold", "high", "a number"),
        ("pcee", "reach_threshold", np.nan, "a number"),
        ("pcee", "reach_threshold", np.inf, "a number"),
        ("pcee-ws", "window", 0, "whole number"),
        ("isotonic", "fit_on", "some", "'all' or 'reached'"),
        ("budget", "score", "logit", "'max_softmax'"),
        ("confidence", "score", "logit", "'max_softmax'"),
        ("confidence", "temperature", 2.0, "'per_exit'.*None"),
        ("oracle", "target", "first", "'final' or 'label'"),
        ("random", "seed", "one", "whole number"),
        ("random", "seed", -1, "whole number"),
        ("agreement", "tier", 0, "whole number from 1"),
        ("agreement", "tier", 1.5, "whole number from 1"),
        ("learned-deferral", "penalty", 0, "a number above 0"),
        ("learned-deferral", "penalty", -1.0, "a number above 0"),
        ("learned-deferral", "penalty", np.inf, "a number above 0"),
        ("learned-deferral", "penalty", "high", "a number above 0"),
    ],
)
def test_options_out_of_range(name, option, value, expected):
    with pytest.raises(ValueError, match=rf"{name}: option {option} is .*expected .*{expected}"):
        make_policy(name, **{option: value})


@pytest.mark.parametrize(("name", "option"), [("pcee", "bins"), ("pcee-ws", "window"), ("random", "seed")])
@pytest.mark.parametrize("value", [np.int64(5), np.uint8(5)])
def test_numpys_whole_numbers_are_whole_numbers(name, option, value, validation, tmp_path):
    plain = make_policy(name, **{option: 5}).fit(validation)
    policy = make_policy(name, **{option: value}).fit(validation)
    np.testing.assert_array_equal(policy.signal(validation), plain.signal(validation))
    save_policies({"it": plain}, tmp_path / "plain")
    save_policies({"it": policy}, tmp_path / "numpy")
    assert (tmp_path / "plain").read_bytes() == (tmp_path / "numpy").read_bytes()


def test_options_are_what_was_given():
    policy = make_policy("pcee", bins=10)
    assert policy.options == {
        "bins": 10,
        "binning": "equal_width",
        "score": "max_softmax",
        "fit_on": "all",
        "reach_threshold": 0.9,
        "no_exit": "last",
    }
    assert make_policy("pcee").bins == 50
    assert make_policy("pcee-ws").window == 150


# Files


def test_the_run_may_hold_numpys_numbers(tmp_path):
    save_policies({}, tmp_path / "p", {"seed": np.int64(3), "rate": np.float64(0.5), "names": ["a", np.str_("b")]})
    assert load_policies(tmp_path / "p") == ({}, {"seed": 3, "rate": 0.5, "names": ["a", "b"]})


def test_a_damaged_or_foreign_file_is_refused(validation, tmp_path):
    path = tmp_path / "p.safetensors"
    save_policies({"it": make_policy("pcee").fit(validation)}, path)
    content = bytearray(path.read_bytes())
    content[-5] ^= 4
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"p\.safetensors: .*damaged"):
        load_policies(path)
    path.write_bytes(content[:-10])
    with pytest.raises(ValueError, match=r"p\.safetensors: .*expected a whole offramp-policies/1 file"):
        load_policies(path)
    validation.save(path)
    with pytest.raises(ValueError, match="format: offramp-record/1; expected a whole offramp-policies/1 file"):
        load_policies(path)


def test_same_policies_same_bytes(validation, tmp_path):
    for name in "ab":
        save_policies({"it": make_policy("pcee-ws").fit(validation)}, tmp_path / name, {"seed": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


# Confidence


@pytest.mark.parametrize("score", SCORES)
def test_confidence_is_the_measure(score, test):
    np.testing.assert_array_equal(make_policy("confidence", score=score).signal(test), test.confidence(score))
    assert make_policy("confidence", score=score).claims_accuracy == (score == "max_softmax")


@pytest.mark.parametrize("score", SCORES)
def test_temperature_divides_the_logits_of_each_exit(score, validation, test):
    signal = make_policy("confidence", score=score, temperature="per_exit").fit(validation).signal(test)
    for i in range(test.n_exits):
        temperature = fit_temperature(validation.logits[:, i], validation.labels)
        p = np.sort(softmax(test.logits[:, i].astype(np.float64) / temperature, axis=-1), axis=-1)
        expected = {"max_softmax": p[:, -1], "margin": p[:, -1] - p[:, -2], "entropy": -entr(p).sum(-1)}[score]
        np.testing.assert_allclose(signal[:, i], expected, rtol=1e-5, atol=1e-6)


def test_temperature_needs_logits(validation, tmp_path):
    bare = ExitRecord.from_outputs(
        validation.prediction, validation.confidence(), validation.labels, validation.cost, metadata={"classes": 4}
    )
    policy = make_policy("confidence", temperature="per_exit")
    with pytest.raises(ValueError, match="needs logits"):
        policy.fit(bare)
    with pytest.raises(ValueError, match="needs logits"):
        policy.fit(validation).signal(bare)


def test_a_measure_that_the_record_has_not(validation):
    bare = ExitRecord.from_outputs([[0]], {"margin": [[0.5]]}, [0], [1])
    with pytest.raises(ValueError, match="no max_softmax, only margin"):
        make_policy("pcee").fit(bare)


# Oracle and random


@quick
@given(records())
def test_the_oracle_knows_the_end(record):
    final, label = make_policy("oracle").signal(record), make_policy("oracle", target="label").signal(record)
    for n in range(record.n_samples):
        for i in range(record.n_exits):
            assert final[n, i] == float(record.prediction[n, i] == record.prediction[n, record.n_exits - 1])
            assert label[n, i] == float(record.prediction[n, i] == record.labels[n])
    # These exits cost no accuracy, and no policy with the same answers is cheaper
    table = evaluate(make_policy("oracle"), record, [0.001, 0.5, 1.0, np.inf])
    assert table.accuracy.nunique() == 1
    assert table.cost[:3].nunique() == 1
    some_exit_is_right = sum(any(row) for row in record.correct)
    best = evaluate(make_policy("oracle", target="label"), record, [1.0])
    assert round(best.accuracy[0] * record.n_samples) == some_exit_is_right


def test_random_is_chance():
    record = ExitRecord.from_outputs(np.zeros((5000, 3), int), np.full((5000, 3), 0.5), np.zeros(5000, int), [1, 2, 3])
    signal = make_policy("random").signal(record)
    np.testing.assert_array_equal(signal, make_policy("random").signal(record))
    assert not np.array_equal(signal, make_policy("random", seed=2).signal(record))
    assert not np.array_equal(
        make_policy("random", seed=0).signal(record), make_policy("random", seed=1).signal(record)
    )
    assert ((signal >= 0) & (signal < 1)).all()
    assert np.abs(np.corrcoef(signal.T) - np.eye(3)).max() < 0.05
    # δ is the probability to continue
    for delta in (0.2, 0.5, 0.9):
        shares = evaluate(make_policy("random"), record, [delta])[["exit_1", "exit_2", "exit_3"]].to_numpy()[0]
        np.testing.assert_allclose(shares, [1 - delta, delta * (1 - delta), delta**2], atol=0.03)


# PCEE


def limits(score, record):
    return (-np.log(record.n_classes), 0.0) if score == "entropy" else (0.0, 1.0)


@st.composite
def fits(draw):
    """Draw a validation and a test record of one system, and options of PCEE."""
    size = {"exits": (2, 3), "classes": (3, 3)}
    validation, test = draw(records(**size)), draw(records(**size))
    if validation.n_exits != test.n_exits:
        test = validation
    options = {
        "score": draw(st.sampled_from(SCORES)),
        "fit_on": draw(st.sampled_from(["all", "reached"])),
        "reach_threshold": draw(st.sampled_from([0.0, 0.25, 0.5, 1.0])),
    }
    return validation, test, options


def loop(validation, test, options, estimate):
    """Compute the signal on both records.

    `estimate` takes (confidence, correct) of the fit, and returns a function of one confidence.
    """
    fitted, asked = (np.float64(r.confidence(options["score"])) for r in (validation, test))
    alive = list(range(validation.n_samples))
    signal = np.empty(asked.shape)
    for i in range(validation.n_exits):
        of_exit = estimate([fitted[n, i] for n in alive], [validation.correct[n, i] for n in alive])
        for n in range(test.n_samples):
            signal[n, i] = of_exit(asked[n, i])
        if options["fit_on"] == "reached":
            alive = [n for n in alive if of_exit(fitted[n, i]) < options["reach_threshold"]] or alive
    return signal


@quick
@given(fits(), st.integers(1, 8), st.sampled_from(["equal_width", "equal_mass"]))
def test_pcee_is_the_loop(case, bins, binning):
    validation, test, options = case

    def estimate(confidence, correct):
        if binning == "equal_mass":
            edges = reliability_diagram(confidence, correct, bins, binning).edges
        else:
            edges = np.linspace(*limits(options["score"], validation), bins + 1)
        rows = oracles.diagram(edges, confidence, correct)
        return lambda query: oracles.histogram_accuracy(edges, rows, query)

    signal = make_policy("pcee", bins=bins, binning=binning, **options).fit(validation).signal(test)
    np.testing.assert_array_equal(signal, loop(validation, test, options, estimate))


@quick
@given(fits(), st.integers(1, 10))
def test_pcee_ws_is_the_loop(case, window):
    validation, test, options = case

    def estimate(confidence, correct):
        return lambda query: float(oracles.window_accuracy(confidence, correct, window, query))

    signal = make_policy("pcee-ws", window=window, **options).fit(validation).signal(test)
    np.testing.assert_allclose(signal, loop(validation, test, options, estimate), atol=1e-15)


@quick
@given(fits())
def test_isotonic_is_the_loop(case):
    validation, test, options = case
    policy = make_policy("isotonic", **options).fit(validation)
    np.testing.assert_array_equal(policy.signal(test), loop(validation, test, options, isotonic_map))
    assert policy.claims_accuracy


@quick
@given(fits(), st.integers(1, 50), st.sampled_from(["equal_width", "equal_mass"]))
def test_pcee_never_estimates_more_than_was_seen(case, bins, binning):
    validation, test, options = case
    policy = make_policy("pcee", bins=bins, binning=binning, **options | {"fit_on": "all"}).fit(validation)
    confidence = validation.confidence(options["score"])
    for i in range(test.n_exits):
        best = max(np.mean(validation.correct[confidence[:, i] == level, i]) for level in np.unique(confidence[:, i]))
        assert policy.signal(test)[:, i].max() <= best


def test_pcee_of_unknown_classes_bins_entropy_from_the_lowest_seen():
    entropy = np.array([[0.0, 0.9], [0.4, 0.5], [0.8, 0.1]])
    record = ExitRecord.from_outputs([[0, 0], [1, 1], [0, 0]], {"entropy": entropy}, [0, 0, 0], [1, 2])
    signal = make_policy("pcee", score="entropy", bins=2).fit(record).signal(record)
    assert signal.tolist() == [[0.5, 0.5], [0.5, 0.5], [1.0, 1.0]]


def test_reached_keeps_the_last_who_came_where_all_have_left():
    correct_first = ExitRecord.from_outputs([[0, 1]] * 4, [[0.9, 0.2]] * 4, [0] * 4, [1, 2])
    signal = make_policy("pcee", fit_on="reached", reach_threshold=0.5).fit(correct_first).signal(correct_first)
    assert signal.tolist() == [[1.0, 0.0]] * 4


# Budget


def published(policy, record):
    """Return the exit of each sample with the published rule, for each p: (39, N)."""
    confidence = make_policy("confidence", score=policy.score)
    return np.array([confidence.exits(record, policy.thresholds(p)) for p in P])


@quick
@given(fits())
def test_budget_is_the_published_procedure(case):
    validation, test, options = case
    policy = make_policy("budget", score=options["score"]).fit(validation)
    confidence = validation.confidence(options["score"])
    for p in P:
        assert policy.thresholds(p).tolist() == oracles.budget_thresholds(confidence, p)
    rule = published(policy, test)
    for i, p in enumerate(P):
        # The earliest exit for this p and all larger ones, which is the published rule unless a larger p exits earlier
        np.testing.assert_array_equal(policy.exits(test, p), rule[i:].min(axis=0))
        np.testing.assert_array_equal(policy.exits(test, p - 0.5), policy.exits(test, p))


@pytest.mark.parametrize("exits", [2, 3, 5])
def test_each_exit_takes_its_share(exits):
    random = np.random.default_rng(exits)
    sure = random.normal(size=(2000, 1)) + random.normal(size=(2000, exits))  # exits are correlated, without ties
    record = ExitRecord.from_outputs(np.zeros((2000, exits), int), sure, np.zeros(2000, int), np.arange(exits) + 1)
    policy = make_policy("budget").fit(record)
    for p, leave_at in zip(P, published(policy, record)):
        shares = [int(2000 * share) for share in oracles.budget_shares(p, exits)[:-1]]
        shares.append(2000 - sum(shares))
        assert np.bincount(leave_at, minlength=exits).tolist() == shares
        if p >= 10 or exits == 2:  # no exit runs out of samples, so δ is exactly p
            np.testing.assert_array_equal(policy.exits(record, p), leave_at)
            row = evaluate(policy, record, [p]).iloc[0]
            np.testing.assert_array_equal(row.to_numpy()[3:] * 2000, shares)


def test_budget_at_and_beyond_the_ends(validation, test):
    policy = make_policy("budget").fit(validation)
    for delta, exits in ((-np.inf, 0), (-1, 0), (0, 0), (39.001, 2), (np.inf, 2)):
        assert (policy.exits(test, delta) == exits).all()
    assert set(frontier(policy, test).threshold) <= {0, *P, np.inf}
    assert (policy.signal(test)[:, -1] == 39).all()  # the last exit takes all remaining samples
    assert not policy.claims_accuracy


def test_budget_counts_in_whole_numbers():
    """An integer share is not rounded down.

    With p = 16, the first of two exits takes 5 of 9 samples, not 4.9999.
    """
    record = ExitRecord.from_outputs(np.zeros((9, 2), int), np.arange(1, 19).reshape(9, 2) / 20, [0] * 9, [1, 2])
    policy = make_policy("budget").fit(record)
    assert [policy.thresholds(p).tolist() for p in (1, 16, 17, 39)] == [[0.15], [0.45], [0.55], [0.65]]


def test_budget_of_one_exit():
    record = ExitRecord.from_outputs([[0]], [[0.5]], [0], [1])
    policy = make_policy("budget").fit(record)
    assert policy.thresholds(1).shape == (0,)
    assert policy.exits(record, 20).tolist() == [0]


def test_budget_with_ties():
    """All samples tied at the threshold leave. If fewer samples are left than requested, none leaves."""
    confidence = [[0.9, 0.1, 0.1], [0.5, 0.8, 0.1], [0.5, 0.7, 0.1], [0.5, 0.6, 0.1], [0.5, 0.5, 0.1], [0.2, 0.9, 0.1]]
    record = ExitRecord.from_outputs(np.zeros((6, 3), int), confidence, [0] * 6, [1, 2, 3])
    policy = make_policy("budget").fit(record)
    assert policy.thresholds(20).tolist() == [0.5, np.inf]  # 2 requested per exit: 5 leave, 1 is left
    assert policy.thresholds(39).tolist() == [np.inf, 0.9]  # 6 · 0.15 is less than one sample, 6 · 0.29 more than one


@pytest.mark.parametrize("p", [0, 40, -1, 2.5, np.nan, "20", None])
def test_budget_has_thresholds_for_whole_p(p, validation):
    with pytest.raises(ValueError, match=r"p is .*: expected a whole number from 1 to 39"):
        make_policy("budget").fit(validation).thresholds(p)


@pytest.mark.parametrize("name", ["pcee", "pcee-ws", "isotonic"])
def test_maps_are_what_the_signal_looks_up(name):
    record = record_of()
    policy = make_policy(name).fit(record)
    maps = policy.maps()
    assert len(maps) == record.n_exits
    looked_up = [map_(record.confidence()[:, i].astype(np.float64)) for i, map_ in enumerate(maps)]
    np.testing.assert_array_equal(np.stack(looked_up, axis=1), policy.signal(record))
