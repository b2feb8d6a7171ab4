"""The exit record refuses invalid input, and its file restores exactly what was saved or fails."""

import json
import os
import resource
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

import oracles
from offramp import ExitRecord, cascade, make_policy
from offramp.records.confidence import MEASURES
from strategies import quick, records, without_labels

METADATA = {
    "dataset": "digits",
    "split": "test",
    "system": "5",
    "seed": 5,
    "unit": "MAC",
    "rate": 0.1,
    "whole": 1.0,
    "said": "true",
    "quoted": '"x"',
    "blank": "",
    "odd": "NaN",
    "accents": "é δ\n",
    "nothing": None,
    "yes": True,
    "parameters": {"widths": [1, 2.5, None, "3"], "deep": {"a": []}},
}


def logits_of(n=6, exits=2, classes=3, dtype=np.float32):
    return np.random.default_rng(0).normal(size=(n, exits, classes)).astype(dtype)


@pytest.fixture
def record():
    return ExitRecord(logits_of(), [0, 1, 2, 0, 1, 2], [1.5, 4], index=[9, 7, 5, 3, 1, 0], metadata=METADATA)


def assert_same(a, b):
    assert (a.labels is None) == (b.labels is None)
    for field in ("index", "cost", "prediction", *(() if a.labels is None else ("labels", "correct"))):
        x, y = getattr(a, field), getattr(b, field)
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y, err_msg=field)
    assert (a.sample_cost is None) == (b.sample_cost is None)
    if a.sample_cost is not None:
        np.testing.assert_array_equal(a.sample_cost, b.sample_cost)
    assert set(a.measures) == set(b.measures)
    for measure in a.measures:
        assert a.confidence(measure).dtype == b.confidence(measure).dtype
        np.testing.assert_array_equal(a.confidence(measure), b.confidence(measure))
    assert (a.logits is None) == (b.logits is None)
    if a.logits is not None:
        assert a.logits.dtype == b.logits.dtype
        np.testing.assert_array_equal(a.logits, b.logits)
    assert a.metadata == b.metadata
    # 1 == 1.0 == True, so the types too
    assert json.dumps(a.metadata, sort_keys=True) == json.dumps(b.metadata, sort_keys=True)


# The content of a record


def test_fields(record):
    assert (record.n_samples, record.n_exits, record.n_classes) == (6, 2, 3)
    assert record.measures == MEASURES
    np.testing.assert_array_equal(record.prediction, logits_of().argmax(-1))
    np.testing.assert_array_equal(record.correct, logits_of().argmax(-1) == record.labels[:, None])
    assert record.correct.dtype == bool
    assert (record.labels.dtype, record.index.dtype, record.cost.dtype) == (np.int64, np.int64, np.float64)
    assert repr(record) == "<ExitRecord 6 samples × 2 exits dataset=digits split=test system=5 seed=5>"


def test_logits_that_are_probabilities_are_warned_of():
    """Softmax is taken of logits, so confidences would be those of other probabilities."""
    probability = np.array([[[0.1, 0.9]], [[0.8, 0.2]]])
    with pytest.warns(UserWarning, match="these seem to be probabilities"):
        ExitRecord(probability, [0, 1], [1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ExitRecord(np.log(probability), [0, 1], [1])
        ExitRecord(probability + 0.1, [0, 1], [1])


def test_larger_is_surer_for_every_measure():
    sure, torn = [9.0, 0, 0], [0.1, 0, 0]
    record = ExitRecord(np.array([[sure, torn]]), [0], [1, 2])
    for measure in MEASURES:
        first, second = record.confidence(measure)[0]
        assert first > second
    assert (record.confidence("entropy") < 0).all()
    np.testing.assert_array_equal(record.confidence(), record.confidence("max_softmax"))
    assert all(record.confidence(measure).dtype == np.float32 for measure in MEASURES)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_confidence_meets_the_threshold_of_its_own_value(dtype, tmp_path):
    """A float64 confidence of 0.9 is still 0.9 after saving, not a nearby float32."""
    confidence = np.array([[0.9, 0.5]], dtype)
    record = ExitRecord.from_outputs([[0, 0]], confidence, [0], [1, 2])
    record.save(tmp_path / "r")
    for each in (record, ExitRecord.load(tmp_path / "r")):
        assert each.confidence().dtype == dtype
        assert each.confidence()[0, 0] == dtype(0.9)


def test_classes_that_a_file_cannot_hold_are_refused():
    with pytest.raises(ValueError, match=r"prediction\[0, 1\] is 1099511627776: expected a class from 0 to 2147483647"):
        ExitRecord.from_outputs([[0, 2**40]], [[0.5, 0.5]], [0], [1, 2])


def test_the_index_counts_where_none_is_given():
    record = ExitRecord.from_outputs([[0], [0], [0]], [[0.5]] * 3, [0, 1, 2], [1])
    assert record.index.tolist() == [0, 1, 2]
    assert record.n_classes is None
    assert record.logits is None
    assert record.measures == ("max_softmax",)


def test_every_measure_by_name():
    entropy = [[0.3]]
    record = ExitRecord.from_outputs([[0]], {"margin": [[0.5]], "entropy": entropy}, [0], [1])
    assert record.confidence("entropy")[0, 0] == -0.3
    assert record.confidence("margin")[0, 0] == 0.5
    assert record.measure("entropy")[0, 0] == 0.3
    with pytest.raises(ValueError, match="only margin, entropy; use score=margin, or make the record with max_softmax"):
        record.confidence()
    with pytest.raises(ValueError, match="'variance' is not known; expected one of max_softmax, margin, entropy"):
        record.confidence("variance")


def test_metadata_of_the_caller_is_left_alone():
    metadata = {"seed": 1}
    ExitRecord(logits_of(), [0] * 6, [1, 2], metadata=metadata)
    assert metadata == {"seed": 1}


# Invalid input: messages name the field, the position and the expected value

NAN = logits_of()
NAN[4, 1, 2] = np.nan

FROM_LOGITS = {
    "NaN": ({"logits": NAN}, r"logits\[4, 1, 2\] is nan.*finite"),
    "two axes": ({"logits": NAN[0]}, r"logits: expected floats of shape \(samples, exits, classes\).*\(2, 3\)"),
    "whole numbers": ({"logits": np.zeros((6, 2, 3), int)}, r"logits: expected floats.*int64"),
    "no samples": ({"logits": np.zeros((0, 2, 3))}, r"logits: expected.*none of them 0.*\(0, 2, 3\)"),
    "no exits": ({"logits": np.zeros((6, 0, 3))}, r"logits: expected.*none of them 0"),
    "no classes": ({"logits": np.zeros((6, 2, 0))}, r"logits: expected.*none of them 0"),
    "label too high": ({"labels": [0, 1, 3, 0, 1, 2]}, r"labels\[2\] is 3: expected a class from 0 to 2"),
    "label too low": ({"labels": [0, 1, 2, 0, -1, 2]}, r"labels\[4\] is -1: expected a class from 0 to 2"),
    "other classes": ({"metadata": {"classes": 4}}, "3 classes.*classes: 4"),
}
FROM_OUTPUTS = {
    "too few labels": ({"labels": [0, 1]}, r"labels: expected shape \(3\), got \(2,\)"),
    "labels of floats": ({"labels": [0.0, 1, 2]}, "labels: expected integers, got float64"),
    "labels of truth": ({"labels": [True, False, True]}, "labels: expected integers, got bool"),
    "label below 0": ({"labels": [0, -1, 2]}, r"labels\[1\] is -1: expected a class from 0"),
    "label of no class": ({"labels": [0, 1, 5]}, r"labels\[2\] is 5: expected a class from 0 to 2"),
    "prediction of no class": (
        {"prediction": [[0, 0], [1, 3], [2, 2]]},
        r"prediction\[1, 1\] is 3: expected a class from 0 to 2",
    ),
    "prediction with one axis": ({"prediction": [0, 1, 2]}, r"prediction: expected shape \(any, any\), got \(3,\)"),
    "predictions of floats": ({"prediction": [[0.0, 0], [1, 1], [2, 2]]}, "prediction: expected integers"),
    "no samples": ({"prediction": np.zeros((0, 2), int)}, "prediction: expected at least one sample"),
    "no exits": ({"prediction": np.zeros((3, 0), int)}, "prediction: expected at least one sample and one exit"),
    "index too long": ({"index": [0, 1, 2, 3]}, r"index: expected shape \(3\), got \(4,\)"),
    "index twice": ({"index": [4, 7, 4]}, r"index\[2\]"),
    "index of floats": ({"index": [0.0, 1, 2]}, "index: expected integers"),
    "a cost too few": ({"cost": [1]}, r"cost: expected shape \(2\), got \(1,\)"),
    "costs that fall": ({"cost": [3, 2]}, r"cost\[1\] = 2 after cost\[0\] = 3: expected.*strictly increasing"),
    "costs that stay": ({"cost": [3, 3]}, r"cost\[1\] = 3 after cost\[0\] = 3"),
    "a cost below 0": ({"cost": [-1, 3]}, r"cost\[0\] is -1"),
    "an endless cost": ({"cost": [1, np.inf]}, r"cost\[1\] is inf: expected finite numbers"),
    "a cost of NaN": ({"cost": [np.nan, 1]}, r"cost\[0\] is nan: expected finite numbers"),
    "costs in words": ({"cost": ["1", "2"]}, "cost: expected numbers"),
    "confidence of NaN": (
        {"confidence": [[0.5, 0.5], [0.5, np.nan], [0.5, 0.5]]},
        r"confidence\.max_softmax\[1, 1\] is nan: expected finite numbers",
    ),
    "too few confidences": (
        {"confidence": {"margin": [[0.5, 0.5]]}},
        r"confidence\.margin: expected shape \(3, 2\), got \(1, 2\)",
    ),
    "unknown confidence": ({"confidence": {"sureness": [[1, 1]] * 3}}, "'sureness' is not known; expected one of"),
    "classes in words": ({"metadata": {"classes": "3"}}, "classes"),
}


@pytest.mark.parametrize(("change", "message"), FROM_LOGITS.values(), ids=FROM_LOGITS)
def test_logits_that_do_not_fit(change, message):
    fitting = {"logits": logits_of(), "labels": [0, 1, 2, 0, 1, 2], "cost": [1, 2]}
    with pytest.raises(ValueError, match=message):
        ExitRecord(**fitting | change)


@pytest.mark.parametrize(("change", "message"), FROM_OUTPUTS.values(), ids=FROM_OUTPUTS)
def test_outputs_that_do_not_fit(change, message):
    fitting = {
        "prediction": [[0, 0], [1, 1], [2, 2]],
        "confidence": [[0.5, 0.6]] * 3,
        "labels": [0, 1, 2],
        "cost": [1, 2],
        "metadata": {"classes": 3},
    }
    with pytest.raises(ValueError, match=message):
        ExitRecord.from_outputs(**fitting | change)


# Files


@quick
@given(records(unlabelled=True))
def test_a_file_gives_back_every_record(record):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "r.safetensors"
        record.save(path)
        assert_same(record, ExitRecord.load(path))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_file_gives_back_logits_and_metadata(dtype, tmp_path):
    record = ExitRecord(logits_of(dtype=dtype), [0, 1, 2, 0, 1, 2], [1.5, 4], metadata=METADATA)
    record.save(tmp_path / "r.safetensors")
    loaded = ExitRecord.load(tmp_path / "r.safetensors")
    assert_same(record, loaded)
    assert loaded.measures == MEASURES


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec="utf-8")),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text("abc"), inside, max_size=3),
    max_leaves=5,
)


@quick
@given(st.dictionaries(st.text("xyz δ", min_size=1), json_values, max_size=4))
def test_a_file_gives_back_any_metadata(metadata):
    record = ExitRecord.from_outputs([[0]], [[0.5]], [0], [1], metadata=metadata)
    with tempfile.TemporaryDirectory() as folder:
        record.save(f"{folder}/r")
        assert_same(record, ExitRecord.load(f"{folder}/r"))


def test_logits_are_mapped_not_read(record, tmp_path):
    path = tmp_path / "r.safetensors"
    record.save(path)
    damage(path, "logits")
    loaded = ExitRecord.load(path)  # the logits have not been read yet
    with pytest.raises(ValueError, match="logits is damaged"):
        _ = loaded.logits
    record.save(path)
    logits = ExitRecord.load(path).logits
    assert isinstance(logits, np.memmap)
    assert not logits.flags.writeable


@pytest.mark.parametrize("stored", [False, True])
def test_some_of_the_samples(stored, record, tmp_path):
    rows = np.array([4, 0, 3])
    expected = ExitRecord(logits_of()[rows], [1, 0, 0], [1.5, 4], index=[1, 9, 3], metadata=METADATA)
    if stored:
        record.save(tmp_path / "r")
    whole = ExitRecord.load(tmp_path / "r") if stored else record
    taken = whole.take(rows)
    assert_same(taken, expected)
    assert_same(taken.take(np.array([2, 0])), expected.take(np.array([2, 0])))
    assert_same(whole, record)
    taken.metadata["seed"] = 6
    assert whole.metadata["seed"] == 5


@quick
@given(records(sample_costs=True, unlabelled=True), st.data())
def test_rows_are_samples(record, data):
    n = record.n_samples
    assert len(record) == n
    order = data.draw(st.permutations(range(n)))[: data.draw(st.integers(1, n))]
    expected = record.take(np.array(order))
    for rows in (order, tuple(order), np.array(order, np.uint8), np.array(order) - n):
        assert_same(record.take(rows), expected)
    for rows in (order, np.array(order, np.int32)):
        assert_same(record[rows], expected)
    mask = [place in order for place in range(n)]
    assert_same(record[mask], record.take(sorted(order)))
    start, step = data.draw(st.integers(0, n - 1)), data.draw(st.sampled_from([1, 2, -1]))
    assert_same(record[start::step], record.take(range(n)[start::step]))
    assert_same(record[start], record.take([start]))
    assert_same(record[start - n], record.take([start]))
    for one, place in zip(record, range(n), strict=True):
        assert_same(one, record.take([place]))


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        (6, IndexError, "rows: 6 is out of range; the record has 6 samples"),
        ([0, -7], IndexError, "rows: -7 is out of range"),
        ([1, 4, 1], ValueError, r"index\[2\] is 7, as index\[0\] is: expected all different"),
        ([0, -6], ValueError, r"index\[1\] is 9, as index\[0\] is"),
        ([], ValueError, "expected at least one sample"),
        (slice(3, 3), ValueError, "expected at least one sample"),
        ([False] * 6, ValueError, "expected at least one sample"),
        ([True] * 5, IndexError, r"rows: expected .* a mask of 6 truth values; got bool \(5,\)"),
        (True, IndexError, r"rows: expected .*; got bool \(\)"),
        (0.0, IndexError, r"rows: expected .*; got float64 \(\)"),
        ("labels", IndexError, r"rows: expected an int, a slice, a list of ints"),
        ([[0, 1]], IndexError, r"rows: expected .*; got int64 \(1, 2\)"),
        ((0, 1), IndexError, "indexed by its samples only, got 2 indices; give several samples as a list"),
    ],
)
def test_rows_that_are_refused(rows, error, message, record):
    with pytest.raises(error, match=message):
        record[rows]


def test_some_of_the_samples_without_their_logits(record, tmp_path):
    record.save(tmp_path / "r")
    damage(tmp_path / "r", "logits")
    taken = ExitRecord.load(tmp_path / "r").take(np.array([2, 1]))  # the logits have not been read yet
    assert taken.labels.tolist() == [2, 1]
    with pytest.raises(ValueError, match="logits is damaged"):
        _ = taken.logits
    bare = ExitRecord.from_outputs([[0], [1]], [[0.5], [0.5]], [0, 0], [1])
    assert bare.take(np.array([1])).logits is None


def test_arrays_in_a_file_are_aligned(tmp_path):
    record = ExitRecord(logits_of(3, 3, 3, np.float16), [0, 1, 2], [1, 2, 3])
    record.save(tmp_path / "r")
    loaded = ExitRecord.load(tmp_path / "r")
    arrays = [loaded.cost, loaded.labels, loaded.index, loaded.logits, *map(loaded.measure, MEASURES)]
    assert all(array.flags.aligned for array in arrays)


def test_a_loaded_record_can_be_saved_over_its_own_file(record, tmp_path):
    path = tmp_path / "r.safetensors"
    record.save(path)
    before = path.read_bytes()
    loaded = ExitRecord.load(path)
    loaded.save(path)
    assert path.read_bytes() == before
    assert_same(loaded, record)


def test_other_programs_can_read_it(record, tmp_path):
    record.save(tmp_path / "r.safetensors")
    tensors = load_file(tmp_path / "r.safetensors")
    assert set(tensors) == {"labels", "cost", "index", "prediction", "logits", *(f"confidence.{m}" for m in MEASURES)}
    np.testing.assert_array_equal(tensors["prediction"], record.prediction)
    types = {"labels": np.int64, "cost": np.float64, "index": np.int64, "prediction": np.int32, "logits": np.float32}
    assert {name: tensors[name].dtype for name in types} == types
    np.testing.assert_array_equal(tensors["confidence.entropy"], -record.confidence("entropy"))  # not negated, in nats


def test_same_content_same_bytes(record, tmp_path):
    record.save(tmp_path / "a")
    other = ExitRecord(logits_of(), record.labels, record.cost, record.index, dict(reversed(METADATA.items())))
    other.save(tmp_path / "b")
    code = (
        "import sys; from offramp import ExitRecord; r = ExitRecord.load(sys.argv[1]); "
        "ExitRecord(r.logits, r.labels, r.cost, r.index, r.metadata).save(sys.argv[2])"
    )
    words = [sys.executable, "-c", code, str(tmp_path / "a"), str(tmp_path / "c")]
    subprocess.run(words, env={**os.environ, "PYTHONHASHSEED": "7"}, check=True)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == (tmp_path / "c").read_bytes()


def places(path):
    """Return where the data of each tensor start and end in the file, and where all data start."""
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    tensors = {k: [start + offset for offset in v["data_offsets"]] for k, v in header.items() if k != "__metadata__"}
    return tensors, start


def damage(path, tensor):
    begin, end = places(path)[0][tensor]
    content = bytearray(path.read_bytes())
    content[(begin + end) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("tensor", ["labels", "cost", "index", "prediction", *(f"confidence.{m}" for m in MEASURES)])
def test_a_flipped_bit_is_seen(tensor, record, tmp_path):
    path = tmp_path / "r.safetensors"
    record.save(path)
    damage(path, tensor)
    with pytest.raises(ValueError, match=rf"r\.safetensors: {tensor} is damaged"):
        ExitRecord.load(path)


def test_a_flipped_bit_in_the_header_changes_nothing(record, tmp_path):
    """Loading either fails with a ValueError, or gives the same record."""
    path = tmp_path / "r.safetensors"
    record.save(path)
    content = path.read_bytes()
    name = content.index(b'"checksums"')
    for at in {*range(0, places(path)[1], 5), *range(name, name + 11)}:
        spoilt = bytearray(content)
        spoilt[at] ^= 1 << (at % 8)
        path.write_bytes(spoilt)
        try:
            loaded = ExitRecord.load(path)
            _ = loaded.logits
        except ValueError:
            continue
        assert_same(record, loaded)


def test_cut_short_is_refused_wherever(record, tmp_path):
    path = tmp_path / "r.safetensors"
    record.save(path)
    content = path.read_bytes()
    tensors, start = places(path)
    cuts = {0, 1, 7, 8, 9, start // 2, start - 1, start, len(content) - 1}
    cuts |= {at for begin, end in tensors.values() for at in (begin, (begin + end) // 2, end - 1)}
    for cut in cuts:
        path.write_bytes(content[:cut])
        with pytest.raises(ValueError, match=r"r\.safetensors"):
            ExitRecord.load(path)
    path.write_bytes(content + b"\0")
    with pytest.raises(ValueError, match=r"r\.safetensors"):
        ExitRecord.load(path)


def test_what_is_no_record_is_refused(tmp_path):
    (tmp_path / "text").write_text("prediction,labels\n1,2\n")
    save_file({"weight": np.zeros(3, np.float32)}, tmp_path / "weights")
    save_file({"weight": np.zeros(3, np.float32)}, tmp_path / "other", {"format": "pt"})
    with pytest.raises(ValueError, match=r"text: .*expected a whole offramp-record/1 file"):
        ExitRecord.load(tmp_path / "text")
    with pytest.raises(ValueError, match=r"weights: .*format: None; expected a whole offramp-record/1"):
        ExitRecord.load(tmp_path / "weights")
    with pytest.raises(ValueError, match=r"other: .*format: pt; expected a whole offramp-record/1"):
        ExitRecord.load(tmp_path / "other")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        ExitRecord.load(tmp_path / "nowhere")


@pytest.fixture
def foreign():
    """Return the tensors of a record as another program would write them: int32 predictions, no checksums."""
    return {
        "labels": np.array([0, 1]),
        "cost": np.array([1.0, 2.0]),
        "index": np.array([0, 1]),
        "prediction": np.array([[0, 1], [1, 1]], np.int32),
        "confidence.margin": np.full((2, 2), 0.5, np.float32),
        "logits": np.zeros((2, 2, 3), np.float16),
    }


def test_a_record_of_another_program(foreign, tmp_path):
    save_file(foreign, tmp_path / "r", {"format": "offramp-record/1", "classes": "3", "seed": "1"})
    record = ExitRecord.load(tmp_path / "r")
    np.testing.assert_array_equal(record.prediction, foreign["prediction"])
    assert record.prediction.dtype == np.int64
    assert record.metadata == {"classes": 3, "seed": 1}
    assert record.logits.dtype == np.float16


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prediction": None}, "no prediction"),
        ({"cost": np.array([2.0, 1.0])}, r"cost\[1\]"),
        ({"labels": np.array([0, 3])}, r"labels\[1\] is 3"),
        ({"logits": np.zeros((2, 2, 4), np.float32)}, r"logits have shape \(2, 2, 4\), expected \(2, 2, 3\)"),
        ({"confidence.sureness": np.zeros((2, 2), np.float32)}, "'sureness' is not known"),
        ({"surprise": np.zeros(2, np.float32)}, "surprise"),
        ({"labels": np.array([0, 1], np.uint16)}, "labels has type U16"),
    ],
)
def test_a_record_that_does_not_fit_together(change, message, foreign, tmp_path):
    tensors = {name: values for name, values in (foreign | change).items() if values is not None}
    save_file(tensors, tmp_path / "r.safetensors", {"format": "offramp-record/1", "classes": "3"})
    with pytest.raises(ValueError, match=rf"r\.safetensors: .*{message}"):
        ExitRecord.load(tmp_path / "r.safetensors")


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError("disk full")])
@pytest.mark.parametrize("before", [None, b"an older file"])
def test_an_interrupted_save_leaves_nothing(stop, before, record, tmp_path, monkeypatch):
    def interrupted(_):
        raise stop

    path = tmp_path / "r.safetensors"
    if before:
        path.write_bytes(before)
    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(type(stop) if isinstance(stop, OSError) else stop):
        record.save(path)
    assert [p.read_bytes() for p in tmp_path.iterdir()] == ([before] if before else [])


def test_a_full_disk_leaves_nothing(record, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, hard))
    try:
        with pytest.raises(OSError, match="too large"):
            record.save(tmp_path / "r.safetensors")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_save_left_is_cleared_by_the_next(record, tmp_path):
    folder = tmp_path / "new" / "folder"
    record.save(folder / "r.safetensors")
    # A killed process leaves its temporary file, which shows its name
    code = (
        "import os, sys, signal; os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL); "
        "from offramp import ExitRecord; r = ExitRecord.load(sys.argv[1]); r.save(sys.argv[1])"
    )
    subprocess.run([sys.executable, "-c", code, str(folder / "r.safetensors")])
    assert len(list(folder.iterdir())) == 2
    assert_same(record, ExitRecord.load(folder / "r.safetensors"))
    record.save(folder / "r.safetensors")
    assert [p.name for p in folder.iterdir()] == ["r.safetensors"]


@pytest.mark.parametrize("key", ["format", "checksums"])
def test_a_key_of_the_file_format_is_refused(key, tmp_path):
    record = ExitRecord.from_outputs([[0]], [[0.5]], [0], [1], metadata={key: "mine"})
    with pytest.raises(ValueError, match=f"metadata: '{key}'"):
        record.save(tmp_path / "r")
    assert list(tmp_path.iterdir()) == []


def test_metadata_that_is_not_json_leaves_nothing(tmp_path):
    record = ExitRecord.from_outputs([[0]], [[0.5]], [0], [1], metadata={"made by": object()})
    with pytest.raises((TypeError, ValueError)):
        record.save(tmp_path / "r")
    assert list(tmp_path.iterdir()) == []


# Records without labels


@pytest.mark.parametrize("stored", [False, True])
def test_a_record_without_labels(stored, record, tmp_path):
    bare = ExitRecord(logits_of(), None, [1.5, 4], index=record.index, metadata=METADATA)
    if stored:
        bare.save(tmp_path / "r")
        assert "labels" not in load_file(tmp_path / "r")
        bare = ExitRecord.load(tmp_path / "r")
    assert bare.labels is None
    assert repr(bare).startswith("<ExitRecord 6 samples × 2 exits without labels dataset=digits")
    assert_same(bare, without_labels(record))
    with pytest.raises(ValueError, match="correct needs labels, but this record has none; make the record with labels"):
        _ = bare.correct


# Costs per sample, similarity of hidden states, and metric

COSTS = np.array([[1, 4], [2.5, 3], [0, 10.0], [1, 2], [3, 4], [5, 9]])


def test_each_sample_has_its_own_costs(tmp_path):
    record = ExitRecord(logits_of(), [0, 1, 2, 0, 1, 2], COSTS)
    record.save(tmp_path / "r")
    for each in (record, ExitRecord.load(tmp_path / "r")):
        assert each.sample_cost.dtype == each.cost.dtype == np.float64
        np.testing.assert_array_equal(each.sample_cost, COSTS)
        np.testing.assert_allclose(each.cost, [12.5 / 6, 32 / 6], rtol=1e-15)
        assert each.cost_of(np.array([0, 1, 1, 0, 0, 1])).tolist() == [1, 3, 10, 1, 3, 9]
        both = each.cost_of(np.array([[0] * 6, [1] * 6]))
        np.testing.assert_array_equal(both, COSTS.T)
    assert load_file(tmp_path / "r")["cost"].shape == (6, 2)


def test_costs_that_all_share(record):
    assert record.sample_cost is None
    assert record.cost_of(np.array([0, 1, 1, 0, 0, 1])).tolist() == [1.5, 4, 4, 1.5, 1.5, 4]
    assert record.take(np.array([0])).sample_cost is None


@pytest.mark.parametrize("stored", [False, True])
def test_some_of_the_samples_pay_their_own(stored, tmp_path):
    record = ExitRecord(logits_of(), [0, 1, 2, 0, 1, 2], COSTS, similarity=np.full((6, 2), 0.5))
    if stored:
        record.save(tmp_path / "r")
        record = ExitRecord.load(tmp_path / "r")
    taken = record.take(np.array([4, 2]))
    assert taken.sample_cost.tolist() == [[3, 4], [0, 10]]
    assert taken.cost.tolist() == [1.5, 7]
    assert taken.take(np.array([1])).cost.tolist() == [0, 10]
    assert taken.confidence("similarity").tolist() == [[0.5, 0.5]] * 2


@quick
@given(records(sample_costs=True, metrics=("accuracy", "f1", "matthews")), st.data())
def test_costs_are_means_of_the_samples_there(record, data):
    rows = np.array(data.draw(st.permutations(range(record.n_samples)))[: data.draw(st.integers(1, record.n_samples))])
    taken = record.take(rows)
    for i in range(record.n_exits):
        costs = oracles.cost_of(record, [i] * record.n_samples)
        assert record.cost[i] == pytest.approx(sum(costs) / len(costs))
        assert taken.cost[i] == pytest.approx(sum(costs[n] for n in rows) / len(rows))
    assert taken.metric == record.metric
    with tempfile.TemporaryDirectory() as folder:
        taken.save(f"{folder}/r")
        assert_same(taken, ExitRecord.load(f"{folder}/r"))


@pytest.mark.parametrize(
    ("cost", "message"),
    [
        ([[1, 2], [3, 4]], r"cost: expected shape \(3, 2\), got \(2, 2\)"),
        ([[1, 2, 3]] * 3, r"cost: expected shape \(3, 2\), got \(3, 3\)"),
        ([[[1, 2]] * 3], r"cost: expected shape \(2\), got \(1, 3, 2\)"),
        (1.0, r"cost: expected shape \(2\), got \(\)"),
        ([[1, 2], [3, 4], [6, 5]], r"cost\[2, 1\] = 5 after cost\[2, 0\] = 6: expected.*strictly increasing"),
        ([[1, 2], [3, 3], [1, 5]], r"cost\[1, 1\] = 3 after cost\[1, 0\] = 3"),
        ([[1, 2], [-3, 3], [1, 5]], r"cost\[1, 0\] is -3.0: costs are not negative"),
        ([[1, 2], [1, 3], [1, np.inf]], r"cost\[2, 1\] is inf: expected finite numbers"),
        ([[1, 2], [np.nan, 3], [1, 4]], r"cost\[1, 0\] is nan: expected finite numbers"),
        ([["1", "2"]] * 3, "cost: expected numbers"),
    ],
)
def test_costs_of_samples_that_are_refused(cost, message):
    with pytest.raises(ValueError, match=message):
        ExitRecord.from_outputs([[0, 0]] * 3, [[0.5, 0.6]] * 3, [0, 0, 0], cost)


def test_costs_that_fall_for_one_sample_are_refused_though_their_mean_rises():
    with pytest.raises(ValueError, match=r"cost\[1, 1\] = 2 after cost\[1, 0\] = 3"):
        ExitRecord.from_outputs([[0, 0]] * 2, [[0.5, 0.6]] * 2, [0, 0], [[1, 9], [3, 2]])


SIMILARITY = np.linspace(-1, 1, 12, dtype=np.float32).reshape(6, 2)


def test_similarity_beside_logits(tmp_path):
    record = ExitRecord(logits_of(), [0, 1, 2, 0, 1, 2], [1, 2], similarity=SIMILARITY)
    record.save(tmp_path / "r")
    for each in (record, ExitRecord.load(tmp_path / "r")):
        assert each.measures == (*MEASURES, "similarity")
        np.testing.assert_array_equal(each.confidence("similarity"), SIMILARITY)
        np.testing.assert_array_equal(each.measure("similarity"), SIMILARITY)
    assert_same(record, ExitRecord.load(tmp_path / "r"))


def test_similarity_alone():
    record = ExitRecord.from_outputs(np.zeros((6, 2), int), {"similarity": SIMILARITY}, [0] * 6, [1, 2])
    assert record.measures == ("similarity",)
    np.testing.assert_array_equal(make_policy("hidden-similarity").signal(record), SIMILARITY)


def test_a_record_without_similarity(record):
    for ask in (lambda: record.confidence("similarity"), lambda: make_policy("hidden-similarity").signal(record)):
        with pytest.raises(ValueError, match="no similarity, only max_softmax, margin, entropy"):
            ask()


@pytest.mark.parametrize(
    ("similarity", "message"),
    [
        (SIMILARITY[:5], r"confidence\.similarity: expected shape \(6, 2\), got \(5, 2\)"),
        (np.where(SIMILARITY == 1, np.nan, SIMILARITY), r"confidence\.similarity\[5, 1\] is nan"),
    ],
)
def test_similarity_that_does_not_fit(similarity, message):
    with pytest.raises(ValueError, match=message):
        ExitRecord(logits_of(), [0, 1, 2, 0, 1, 2], [1, 2], similarity=similarity)


@pytest.mark.parametrize("metric", ["accuracy", "f1", "matthews"])
def test_a_record_says_its_metric(metric, tmp_path):
    record = ExitRecord(logits_of(classes=2), [0, 1, 1, 0, 1, 0], [1, 2], metadata={"metric": metric})
    record.save(tmp_path / "r")
    assert record.metric == ExitRecord.load(tmp_path / "r").metric == record.take(np.array([1])).metric == metric
    assert ExitRecord(logits_of(), [0] * 6, [1, 2]).metric == "accuracy"


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"metric": "auc", "classes": 2}, "metadata: metric is 'auc'; expected accuracy, f1 or matthews"),
        ({"metric": None, "classes": 2}, "metadata: metric is None; expected accuracy, f1 or matthews"),
        ({"metric": "f1", "classes": 3}, "metadata: metric is f1; expected classes: 2"),
        ({"metric": "matthews"}, "metadata: metric is matthews; expected classes: 2"),
    ],
)
def test_metrics_that_are_refused(metadata, message):
    with pytest.raises(ValueError, match=message):
        ExitRecord.from_outputs([[0]], [[0.5]], [0], [1], metadata=metadata)


def test_predictions_without_confidences(tmp_path):
    made = ExitRecord.from_outputs([[0, 1, 1], [1, 1, 0]], None, [1, 1], [1, 2, 3])
    made.save(tmp_path / "record")
    record = ExitRecord.load(tmp_path / "record")
    assert_same(record, made)
    assert make_policy("patience").exits(record, 1).tolist() == [2, 1]
    for name in ("confidence", "pcee", "isotonic", "budget"):
        with pytest.raises(ValueError, match="no max_softmax"):
            make_policy(name).fit(record).signal(record)
    joined = cascade([record, made])
    assert (joined.measures, joined.prediction.tolist()) == ((), [[0, 1, 1] * 2, [1, 1, 0] * 2])


def everything(labels=(0, 1, 2, 0, 1, 2)):
    """A record that has every field, with costs of each sample."""
    return ExitRecord(
        logits_of(),
        list(labels),
        np.arange(1.0, 13).reshape(6, 2),
        index=[9, 7, 5, 3, 1, 0],
        metadata={**METADATA, "features": ["length"], "names": ["a", "b", "c"]},
        similarity=np.linspace(0, 1, 12).reshape(6, 2),
        features=np.arange(6.0)[:, None],
    )


CHANGED = {
    "prediction": np.ones((6, 2), np.int64),
    "confidence": {"margin": np.full((6, 2), 0.5)},
    "labels": np.ones(6, np.int64),
    "cost": np.array([1.0, 10.0]),
    "index": np.arange(6),
    "metadata": {"classes": 3, "unit": "s"},
    "features": np.zeros((6, 3)),
    "logits": None,
}


@pytest.mark.parametrize("field", CHANGED)
def test_a_replaced_field_leaves_all_others(field):
    def fields(record):
        measures = {measure: record.measure(measure).tolist() for measure in record.measures}
        kept = {name: getattr(record, name) for name in ("prediction", "labels", "index", "features", "logits")}
        kept = {name: None if values is None else values.tolist() for name, values in kept.items()}
        return {**kept, "confidence": measures, "cost": record.costs.tolist(), "metadata": record.metadata}

    before, change = everything(), CHANGED[field]
    after = fields(before.replace(**{field: change}))
    of_measure = {name: values.tolist() for name, values in change.items()} if field == "confidence" else change
    expected = of_measure.tolist() if isinstance(of_measure, np.ndarray) else of_measure
    assert after == fields(everything()) | {field: expected}
    assert fields(before) == fields(everything())


def test_replaced_logits_give_their_own_predictions_and_confidences():
    doubled = everything().replace(logits=2 * logits_of())
    same = ExitRecord(2 * logits_of(), None, [1, 2])
    for measure in MEASURES:
        np.testing.assert_array_equal(doubled.measure(measure), same.measure(measure))
    assert doubled.measure("similarity").tolist() == everything().measure("similarity").tolist()
    assert (doubled.features.tolist(), doubled.costs.tolist()) == ([[k] for k in range(6)], everything().costs.tolist())
    for change in ({"logits": logits_of(), "colour": 1}, {"colour": 1}):
        with pytest.raises(TypeError, match="colour"):
            everything().replace(**change)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperatures": "fit"},
        {"ensemble": "mean_logit"},
        {"ensemble": "accuracy_weighted", "confidence": "ensemble", "temperatures": "fit"},
    ],
)
@pytest.mark.filterwarnings("ignore:.*fitting temperatures|.*weighting an ensemble|.*expected cheaper stages")
def test_a_cascade_keeps_the_features_and_names(options):
    made = cascade([everything(), everything()], **options)
    assert made.features.tolist() == [[k] for k in range(6)]
    assert (made.metadata["features"], made.names) == (["length"], ["a", "b", "c"])
