"""Records imported from archives and tables are the same, and errors name what does not fit."""

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offramp import ExitRecord, cascade, evaluate, make_policy
from offramp.cli import cli
from offramp.records.confidence import MEASURES, confidences
from offramp.records.importing import import_outputs
from strategies import quick, records
from test_records import COSTS, NAN, SIMILARITY, assert_same, logits_of

# Archives


def npz(folder, **arrays):
    np.savez(folder / "outputs.npz", **arrays)
    return folder / "outputs.npz"


def test_import_logits(tmp_path):
    record = import_outputs(npz(tmp_path, logits=logits_of(), labels=[0] * 6, cost=[1, 2], index=[5, 4, 3, 2, 1, 0]))
    made = ExitRecord(logits_of(), [0] * 6, [1, 2], [5, 4, 3, 2, 1, 0], {"source": "outputs.npz", "index": "index"})
    assert_same(record, made)


def test_import_predictions(tmp_path):
    given = {"prediction": [[0, 1]], "margin": [[0.25, 0.5]], "entropy": [[0.75, 0.5]]}
    record = import_outputs(npz(tmp_path, labels=[1], cost=[1, 2], **given))
    assert record.correct.tolist() == [[False, True]]
    assert record.confidence("margin").tolist() == [[0.25, 0.5]]
    assert record.confidence("entropy").tolist() == [[-0.75, -0.5]]
    assert record.index.tolist() == [0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": None}, "no label; expected a column label, or its name by --label .*; there are logits, cost"),
        ({"cost": None}, r"no costs; expected them in the file \(cost\), or given beside it \(--cost, cost=…\)"),
        ({"logits": None}, "no prediction; expected a column prediction, or its name by"),
        ({"label": [0] * 6}, "label or labels may be the label; name the right one by --label"),
        ({"labels": [0] * 5}, r"labels: expected shape \(6\), got \(5,\)"),
        ({"cost": [2, 1]}, r"cost\[1\]"),
        ({"logits": NAN}, r"logits\[4, 1, 2\] is nan"),
        (
            {"logits": None, "prediction": [[0, 0]] * 6, "max_softmax": [[1, 1.5]] * 6},
            r"max_softmax\[0, 1\] is 1.5: expected 0 to 1",
        ),
        (
            {"logits": None, "prediction": [[0, 0]] * 6, "margin": [[1, -0.5]] * 6},
            r"margin\[0, 1\] is -0.5: expected 0 to 1",
        ),
        (
            {"logits": None, "prediction": [[0, 0]] * 6, "entropy": [[1, -0.5]] * 6},
            r"entropy\[0, 1\] is -0.5: .* not negated",
        ),
        (
            {"logits": None, "prediction": [[0, 0]] * 6, "margin": [["1", "0"]] * 6},
            r"margin\[0, 0\] is '1' \(str\); expected a finite number",
        ),
        ({"labels": np.array([0, 1, 2, 0, 1, None], object)}, "not a readable"),
    ],
)
def test_import_refuses(change, message, tmp_path):
    fitting = {"logits": logits_of(), "labels": [0] * 6, "cost": [1, 2]}
    arrays = {name: values for name, values in (fitting | change).items() if values is not None}
    with pytest.raises(ValueError, match=rf"outputs\.npz: .*{message}"):
        import_outputs(npz(tmp_path, **arrays))


def test_import_of_what_is_no_npz(tmp_path):
    path = npz(tmp_path, logits=logits_of())
    path.write_bytes(path.read_bytes()[:100])
    for name, values in (("one.npz", logits_of()), ("pickled.npz", np.array([{}], object))):
        with open(tmp_path / name, "wb") as file:
            np.save(file, values)
    (tmp_path / "text.npz").write_text("labels")
    for name in ("outputs", "one", "pickled", "text"):
        with pytest.raises(ValueError, match=rf"{name}\.npz: not a readable \.npz file"):
            import_outputs(tmp_path / f"{name}.npz")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        import_outputs(tmp_path / "nowhere.npz")


@pytest.mark.parametrize("kind", ["logits", "prediction"])
def test_import_with_costs_of_samples_and_similarity(kind, tmp_path):
    outputs = {"logits": logits_of()} if kind == "logits" else {"prediction": np.ones((6, 2), int)}
    record = import_outputs(npz(tmp_path, labels=[1] * 6, cost=COSTS, similarity=SIMILARITY, **outputs))
    np.testing.assert_array_equal(record.sample_cost, COSTS)
    np.testing.assert_array_equal(record.confidence("similarity"), SIMILARITY)
    assert record.measures == ((*MEASURES, "similarity") if kind == "logits" else ("similarity",))


@pytest.mark.parametrize("value", [1.01, -1.01])
@pytest.mark.parametrize("outputs", [{"logits": logits_of()}, {"prediction": np.ones((6, 2), int)}])
def test_import_of_what_is_no_cosine(value, outputs, tmp_path):
    wrong = SIMILARITY.astype(np.float64)
    wrong[3, 1] = value
    path = npz(tmp_path, labels=[1] * 6, cost=[1, 2], similarity=wrong, **outputs)
    with pytest.raises(ValueError, match=rf"outputs\.npz: similarity\[3, 1\] is {value}: expected -1 to 1"):
        import_outputs(path)
    wrong[3, 1] = np.sign(value) * (1 + 1e-7)  # rounding
    assert import_outputs(npz(tmp_path, labels=[1] * 6, cost=[1, 2], similarity=wrong, **outputs)).n_samples == 6


# Tables


def table_of(record, numbered):
    """Return the table that a user would write for a record without logits, with one row per sample."""
    exits = [f"_{i + 1}" if numbered else "" for i in range(record.n_exits)]
    cost = np.broadcast_to(record.cost if record.sample_cost is None else record.sample_cost, record.prediction.shape)
    values = {"prediction": record.prediction, "cost": cost} | {m: record.measure(m) for m in record.measures}
    columns = {name + each: matrix[:, i] for name, matrix in values.items() for i, each in enumerate(exits)}
    return pd.DataFrame({"label": record.labels, "index": record.index, **columns})


def write(frame, path):
    if path.suffix.lower() == ".csv":
        frame.to_csv(path, index=False)
    else:
        frame.to_parquet(path)
    return path


@quick
@given(records(sample_costs=True, metrics=("accuracy", "f1")), st.data())
def test_files_of_all_kinds_give_the_same_record(record, data):
    numbered = record.n_exits > 1 or data.draw(st.booleans())
    cost = record.cost if record.sample_cost is None else record.sample_cost
    cost = cost[0] if cost.ndim == 2 and (cost == cost[0]).all() else cost  # a table does not distinguish these cases
    logits = np.random.default_rng(data.draw(st.integers(0, 99))).normal(
        size=(*record.prediction.shape, record.n_classes)
    )
    used = data.draw(st.sets(st.sampled_from(MEASURES)))
    arrays = dict(zip(MEASURES, confidences(logits)[1:]))  # (N, L) each
    arrays = {measure: arrays[measure].astype(np.float64) for measure in used}
    arrays["similarity"] = np.cos(np.arange(record.prediction.size)).reshape(record.prediction.shape)
    index = data.draw(st.permutations(range(record.n_samples)))
    metadata = record.metadata | {"source": "of a person", "index": "index"}
    made = ExitRecord.from_outputs(record.prediction, arrays, record.labels, cost, index, metadata)
    frame = table_of(made, numbered)
    frame = frame[data.draw(st.permutations(list(frame)))]
    with tempfile.TemporaryDirectory() as folder:
        arrays |= {"prediction": record.prediction, "labels": record.labels, "cost": cost, "index": index}
        files = [npz(Path(folder), **arrays)]
        files += [write(frame, Path(folder) / f"outputs.{kind}") for kind in ("csv", "parquet")]
        for path in files:
            assert_same(import_outputs(path, metadata), made)


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".CSV"])
def test_logits_of_one_exit(suffix, tmp_path):
    logits = logits_of(exits=1, dtype=np.float64)
    frame = pd.DataFrame(logits[:, 0], columns=["logit_0", "logit_1", "logit_2"])
    frame = frame.assign(label=[0, 1, 2, 0, 1, 2], similarity=0.5, prediction=0, max_softmax=0.25).iloc[:, ::-1]
    path = write(frame, tmp_path / f"outputs{suffix}")
    made = ExitRecord(logits, [0, 1, 2, 0, 1, 2], [3], None, {"source": path.name}, np.full((6, 1), 0.5))
    assert_same(import_outputs(path, cost=[3]), made)


def test_parquet_keeps_float32(tmp_path):
    frame = pd.DataFrame({"label": [0, 1], "prediction": [0, 0], "max_softmax": np.float32([0.1, 0.7])})
    record = import_outputs(write(frame, tmp_path / "outputs.parquet"), cost=[1])
    assert record.confidence().dtype == np.float32
    assert record.confidence().tolist() == [[np.float32(0.1)], [np.float32(0.7)]]


def test_a_threshold_of_nine_tenths_meets_what_a_csv_says_is(tmp_path):
    (tmp_path / "outputs.csv").write_text("label,prediction,max_softmax\n0,0,0.9\n1,1,0.8999999999999999\n2,2,1\n")
    record = import_outputs(tmp_path / "outputs.csv", cost=[1])
    assert record.confidence()[:, 0].tolist() == [0.9, 0.8999999999999999, 1]


def test_numbers_however_a_table_holds_them(tmp_path):
    whole = {"label": [1.0, 0.0], "prediction": np.uint8([1, 1]), "index": pd.array([5, 3], "Int64")}
    frame = pd.DataFrame({**whole, "entropy": [0, 1], "cost": np.float32([0.5, 1])}, index=[7, 4])
    record = import_outputs(write(frame, tmp_path / "outputs.parquet"))
    assert (record.labels.tolist(), record.index.tolist()) == ([1, 0], [5, 3])
    assert record.sample_cost.tolist() == [[0.5], [1]]
    assert_same(import_outputs(write(frame.set_index("index"), tmp_path / "outputs.parquet")), record)


PLAIN = "label,prediction,max_softmax,cost\n"
TWO = "label,prediction_1,prediction_2,margin_1,margin_2\n0,0,0,0.5,0.5\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (PLAIN, "no rows; expected one for each sample"),
        (
            "label_1,prediction,margin\n0,0,1\n",
            "no label; expected a column label, or .*there are label_1, prediction, m",
        ),
        ("label,margin,cost\n0,1,1\n", "no prediction; expected a column prediction"),
        ("label,prediction_1,prediction_3\n0,0,0\n", "no column prediction_2; expected it, as there is prediction_3"),
        ("label,prediction_2,prediction_3\n0,0,0\n", "no column prediction_1; expected it, as there is prediction_3"),
        (
            "label,prediction_1,prediction_2,margin_1,cost\n0,0,0,1,1\n",
            r"margin is of 1 exits \(margin_1\), prediction of 2 \(prediction_1, prediction_2\); expected the same",
        ),
        ("label,prediction_1,margin_1,margin_999999999999\n0,0,1,1\n", "no column margin_2; expected it, as there is"),
        ("label,prediction,prediction_1,cost\n0,0,0,1\n", "prediction or prediction_{} may be the prediction; name"),
        ("label,logit_0,logit_2\n0,0,1\n", "no column logit_1"),
        ("label,logit_1,cost\n0,0,1\n", "logit_1 is of one class; expected one column for each class"),
        ("label,logit_0,logit_1,cost_1,cost_2\n0,0,-1,1,2\n", r"cost: expected shape \(1\), got \(2,\)"),
        (PLAIN + "0,0,1,1\n\n,0,1,1\n", "label in row 2 is nan; expected a whole number"),
        (PLAIN + "0,0,1,1\n0,0,1,1\n0.5,0,1,1\n", "label in row 3 is 0.5; expected a whole number"),
        (PLAIN + "0,0,1,1\ncat,0,1,1\n", r"label in row 2 is 'cat' \(str\); expected a whole number"),
        (PLAIN + "cat,cat,1,1\n,cat,1,1\n", "label in row 2 is missing; expected text, as in the other rows"),
        (
            PLAIN + "0,0,1,1\n0,18446744073709551615,1,1\n",
            "prediction in row 2 is 18446744073709551615; expected a whole",
        ),
        (PLAIN + "0,0,1,1\n0,1e30,1,1\n", r"prediction in row 2 is 1e\+30; expected a whole number"),
        (PLAIN + "0,0,1,1\n0,0,1\n", "cost in row 2 is nan; expected a finite number"),
        (PLAIN + "0,0,inf,1\n", "max_softmax in row 1 is inf; expected a finite number"),
        (PLAIN + "0,0,high,1\n", r"max_softmax in row 1 is 'high' \(str\); expected a finite number"),
        (PLAIN + '0,0,1,1\n0,0,"0,5",1\n', r"max_softmax in row 2 is '0,5' \(str\); expected a finite number"),
        (PLAIN + "0,0,1,1\n0,0,1.5,1\n", "max_softmax in row 2 is 1.5: expected 0 to 1; percentages are imported with"),
        (PLAIN + "0,0,1,1\n0,-1,1,1\n", "prediction in row 2 is -1: expected a class"),
        (PLAIN + "0,0,1,-1\n", "cost is -1.0: costs are not negative"),
        (PLAIN + "0,0,1,1\n0,0,1,-1\n", "cost in row 2 is -1.0: costs are not negative"),
        (
            "label,prediction_0,prediction_1,cost_0,cost_1\n0,0,0,1,2\n0,0,0,2,1\n",
            "cost_1 in row 2 = 1 after cost_0 in row 2 = 2: expected cumulative costs",
        ),
        (
            "label,prediction,margin,index,cost\n0,0,1,4,1\n0,0,1,4,1\n",
            "index in row 2 is 4, as index in row 1 is: expected all different",
        ),
        (
            "label,prediction,index,cost\n0,0,b.png,1\n0,0,b.png,1\n",
            "index in row 2 is 'b.png', as index in row 1: expected all different",
        ),
        (TWO, r"no costs; expected them in the file \(cost\), or given beside it \(--cost, cost=…\)"),
    ],
)
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_tables_that_are_refused(text, message, suffix, tmp_path):
    path = tmp_path / "outputs.csv"
    path.write_text(text)
    if suffix == ".parquet":
        path = write(pd.read_csv(path), tmp_path / "outputs.parquet")
    with pytest.raises(ValueError, match=rf"outputs\{suffix}: {message}") as refused:
        import_outputs(path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "column", [pd.to_datetime(["2024-01-01"]), pd.Categorical(["1"]), ["1"], [None], [b"1"]], ids=str
)
def test_a_parquet_column_that_is_no_number(column, tmp_path):
    frame = pd.DataFrame({"label": column, "prediction": [0], "margin": [0.5], "cost": [1]})
    with pytest.raises(ValueError, match=r"outputs\.parquet: label in row 1 is .* \(\w+\); expected a whole"):
        import_outputs(write(frame, tmp_path / "outputs.parquet"))


def test_what_is_no_table(tmp_path):
    whole = write(pd.DataFrame({"label": range(99)}), tmp_path / "outputs.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[:-9])
    (tmp_path / "text.parquet").write_text(TWO)
    (tmp_path / "empty.parquet").write_bytes(b"")
    (tmp_path / "latin.csv").write_bytes("label,prédiction\n0,0\n".encode("latin-1"))
    (tmp_path / "longer_row.csv").write_text(PLAIN + "0,0,1,1\n0,0,1,1,1\n")
    (tmp_path / "longer_rows.csv").write_text(PLAIN + "0,0,1,1,1\n" * 2)  # pandas would use the first column as index
    for name in ("cut.parquet", "text.parquet", "empty.parquet", *(path.name for path in tmp_path.glob("*.csv"))):
        with pytest.raises(ValueError, match=rf"{name}: not a readable \.{name.split('.')[1]} file"):
            import_outputs(tmp_path / name)
    for name in ("nowhere.csv", "nowhere.parquet"):
        with pytest.raises(FileNotFoundError, match="nowhere"):
            import_outputs(tmp_path / name)


@pytest.mark.parametrize("name", ["outputs.txt", "outputs", "outputs.npz.gz", "outputs.npy"])
def test_another_ending(name, tmp_path):
    (tmp_path / name).write_text(TWO)
    with pytest.raises(ValueError, match=rf"{name}: expected a file that ends in \.npz, \.csv, .* or \.parquet"):
        import_outputs(tmp_path / name, cost=[1, 2])


def test_two_columns_of_one_name(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table([[0], [0], [0.5], [1]], ["label", "prediction", "margin", "label"]), tmp_path / "o.parquet")
    with pytest.raises(ValueError, match=r"o\.parquet: two columns of the name 'label'"):
        import_outputs(tmp_path / "o.parquet", cost=[1])


# Costs given in addition to the file


@pytest.mark.parametrize("suffix", [".npz", ".csv", ".parquet"])
@pytest.mark.parametrize(
    ("cost", "message"),
    [
        ([1, 2], "its costs are in the file, and given beside it"),
        ([2, 1], r"cost\[1\] = 1 after cost\[0\] = 2: expected cumulative costs"),
        ([1], r"cost: expected shape \(2\), got \(1,\)"),
        ([1, np.nan], r"cost\[1\] is nan: expected finite numbers"),
    ],
)
def test_costs_beside_the_file(suffix, cost, message, tmp_path):
    (tmp_path / "outputs.csv").write_text(TWO)
    path = tmp_path / f"outputs{suffix}"
    extra = {"cost": [1, 2]} if "both" in message or "in the file" in message else {}
    if suffix == ".npz":
        npz(tmp_path, labels=[0], prediction=[[0, 0]], margin=[[0.5, 0.5]], **extra)
    else:
        extra = {f"cost_{i}": [i] for i in (1, 2)} if extra else {}
        write(pd.read_csv(tmp_path / "outputs.csv").assign(**extra), path)
    with pytest.raises(ValueError, match=rf"outputs\{suffix}: {message}"):
        import_outputs(path, cost=cost)
    if not extra:
        record = import_outputs(path, cost=(1.5, 4))
        assert (record.cost.tolist(), record.sample_cost) == ([1.5, 4], None)


# From files to decisions


def offramp(words):
    cli(words.split(), standalone_mode=False)


@pytest.mark.parametrize("suffix", ["csv", "parquet", "npz"])
def test_from_a_file_to_a_curve(suffix, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    arrays = {"prediction": random.integers(0, 3, (40, 2)), "max_softmax": random.uniform(0.4, 1, (40, 2))}
    made = ExitRecord.from_outputs(arrays["prediction"], arrays["max_softmax"], random.integers(0, 3, 40), [1, 2.5])
    if suffix == "npz":
        npz(tmp_path, labels=made.labels, **arrays)
    else:
        frame = table_of(made, numbered=True)
        write(frame.drop(columns=["cost_1", "cost_2", "index"]), tmp_path / f"outputs.{suffix}")
    offramp(f"import outputs.{suffix} r --cost 1 --cost 2.5 --classes 3 --system mine --split test")
    about = {"source": f"outputs.{suffix}", "classes": 3, "system": "mine", "split": "test"}
    assert ExitRecord.load("r").metadata == about
    offramp("evaluate --policy pcee --validation r --test r --out curve.parquet")
    curve = pd.read_parquet("curve.parquet")
    expected = evaluate(make_policy("pcee").fit(made), made, curve.threshold)
    pd.testing.assert_frame_equal(curve[expected.columns], expected)


def test_two_classes_of_a_metric(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("outputs.csv").write_text("label,prediction,margin,cost\n0,0,0.5,1\n1,0,0.5,1\n")
    offramp("import outputs.csv r --metric f1")
    assert ExitRecord.load("r").n_classes == 2
    with pytest.raises(ValueError, match=r"outputs\.csv: metadata: metric is f1; expected classes: 2"):
        offramp("import outputs.csv r --metric f1 --classes 3")
    with pytest.raises(ValueError, match=r"outputs\.csv: label in row 2 is 1: expected a class from 0 to 0"):
        offramp("import outputs.csv r --classes 1")


def test_a_cascade_of_two_tables(tmp_path):
    for name, prediction, sure in (("small", [0, 0, 2], [0.9, 0.4, 0.4]), ("large", [0, 1, 1], [0.9, 0.9, 0.9])):
        frame = pd.DataFrame({"label": [0, 1, 2], "index": [7, 8, 9], "prediction": prediction, "max_softmax": sure})
        write(frame, tmp_path / f"{name}.csv")
    small, large = (import_outputs(tmp_path / f"{name}.csv", cost=[c]) for name, c in (("small", 1), ("large", 5)))
    curve = evaluate(make_policy("confidence"), cascade([small, large]), [-np.inf, 0.5, np.inf])
    assert curve.accuracy.tolist() == [2 / 3, 2 / 3, 2 / 3]
    assert curve.cost.tolist() == [1, (1 + 6 + 6) / 3, 6]
