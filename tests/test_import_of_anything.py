"""`offramp import` takes the files that people have, in one command each, and refuses what cannot be meant."""

import gzip
import json
import re
import shlex
import warnings
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from offramp import ExitRecord, cascade
from offramp.cli import cli
from offramp.records.confidence import confidences
from offramp.records.importing import import_outputs
from strategies import quick
from test_imports import npz, write
from test_records import assert_same, logits_of

SCORED = pytest.mark.skipif(not hasattr(ExitRecord, "from_scores"), reason="records have no qualities")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(line, *words):
    """Run a command, given in words, and more words that may contain blanks. Return what it says, and its warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = CliRunner().invoke(cli, [*line.split(), *words], standalone_mode=False)
    if result.exception:
        raise result.exception
    return result.output, "\n".join(str(warning.message) for warning in caught)


def text(name, content):
    Path(name).write_text(content, encoding="utf-8")
    return Path(name)


def silent(path, metadata=None, **options):
    """Import without a word about columns."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return import_outputs(path, metadata, **options)


# The shapes of public files


def test_outputs_of_an_imagenet_model(folder):
    text(
        "ImageNet_timm__b1.csv", "true_label,pred_label,confidence\n0,394,0.6835041642189026\n0,0,0.7415875792503357\n"
    )
    _, warned = run("import ImageNet_timm__b1.csv r --cost 0.76 --unit GMAC --classes 1000 --system b1")
    assert warned == (
        "ImageNet_timm__b1.csv: label is taken from true_label; prediction is taken from pred_label; max_softmax is "
        "taken from confidence"
    )
    record = ExitRecord.load("r")
    assert record.correct.tolist() == [[False], [True]]
    assert record.confidence().tolist() == [[0.6835041642189026], [0.7415875792503357]]
    assert record.metadata["unit"] == "GMAC"


def test_probabilities_of_a_network(folder):
    p = np.exp(confidence := logits_of(exits=1)[:, 0]) / np.exp(confidence).sum(1, keepdims=True)
    np.savez("net.npz", ground_truth=[0, 1, 2, 0, 1, 2], predictions=p)
    with pytest.raises(
        ValueError, match=r"is 0\.\d+; expected a whole .* probabilities \(--probabilities predictions\)"
    ):
        run("import net.npz r --cost 1")
    _, warned = run("import net.npz r --cost 1 --probabilities predictions")
    assert warned == "net.npz: label is taken from ground_truth"
    record = ExitRecord.load("r")
    np.testing.assert_array_equal(record.prediction[:, 0], p.argmax(1))
    np.testing.assert_allclose(record.confidence()[:, 0], p.max(1), rtol=1e-6)


MODELS = ("6b", "175b")


@SCORED
def test_answers_of_language_models(folder):
    rows = [
        {
            "question": "1+1?",
            "ground_truth": "2",
            **{m: {"is_correct": r, "solution": f"{r}"} for m, r in zip(MODELS, right)},
        }
        for right in ([False, True], [True, True], [False, False])
    ]
    text("gsm8k.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    columns = [word for m in MODELS for word in ("--quality", f"{m}.is_correct", "--prediction", f"{m}.solution")]
    _, warned = run("import gsm8k.jsonl r --cost 6 --cost 181", *columns)
    assert warned == "gsm8k.jsonl: ignored: question, ground_truth"
    record = ExitRecord.load("r")
    assert record.quality.tolist() == [[0, 1], [1, 1], [0, 0]]
    assert record.prediction.tolist() == [[0, 1], [1, 1], [0, 0]]
    assert record.metadata["names"] == ["False", "True"]


@SCORED
def test_parts_of_a_benchmark(folder):
    header = "prompt,mixtral/8x7B,gpt-4\n"
    text("mmlu_a.csv", header + '"Is this\n#### a, prompt?",True,False\n')
    text("mmlu_b.csv", header + "b,False,True\nc,True,True\n")
    run("import mmlu_a.csv mmlu_b.csv r --join samples --quality mixtral/8x7B --quality gpt-4 --cost 1 --cost 20")
    record = ExitRecord.load("r")
    assert record.quality.tolist() == [[1, 0], [0, 1], [1, 1]]
    assert record.metadata["source"] == ["mmlu_a.csv", "mmlu_b.csv"]


def test_without_labels_or_qualities(folder):
    text("mmlu.csv", "prompt,mixtral,gpt-4\na,True,False\n")
    with pytest.raises(
        ValueError, match=r"no label; .* by --label \(or --quality\), .*; there are prompt, mixtral, gpt-4"
    ):
        run("import mmlu.csv r --cost 1")


PAGE = (Path(__file__).parents[1] / "docs/import.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^offramp (import .*)$", PAGE.replace("\\\n", ""), re.MULTILINE)
ANSWERS = "prompt,mistralai/Mixtral-8x7B-Instruct-v0.1,gpt-4-1106-preview\na,True,False\nb,False,True\n"
TWO_EXITS = "label,prediction_1,prediction_2\n" + "0,0,0\n1,1,1\n" * 4
SHAPES = {
    "outputs.csv": TWO_EXITS,
    **dict.fromkeys(["part_1.csv", "part_2.csv", "small.csv", "large.csv"], "label,prediction\n0,0\n1,0\n"),
    "ImageNet_torchvision__resnet101.csv": "true_label,pred_label,confidence\n0,394,0.5\n",
    "gsm8k_responses.csv": ANSWERS,
    "mmlu_a.csv": ANSWERS,
    "example_model_solutions.jsonl": json.dumps(
        {"question": "q", **{f"{m}_finetuning": {"is_correct": True, "solution": "a"} for m in ("6b", "175b")}}
    ),
}


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_of_the_documentation(line, folder):
    if "--quality" in line and not hasattr(ExitRecord, "from_scores"):
        pytest.skip("records have no qualities")
    for name, content in SHAPES.items():
        text(name, content)
    np.savez("densenet-bc-100-cifar-100.npz", ground_truth=[0, 1], predictions=np.float32([[0.5, 0.5], [0, 1]]))
    words = [
        name for word in shlex.split(line) for name in (sorted(map(str, folder.glob(word))) if "*" in word else [word])
    ]
    said, _ = run("", *words)
    assert "<ExitRecord" in said


# Names of columns


def test_patterns_count_from_the_first_number(folder):
    for first in (0, 1):
        frame = pd.DataFrame({"y": [1, 0], "other": ["a", "b"]})
        for i, (prediction, sure) in enumerate([([1, 1], [0.9, 0.6]), ([1, 0], [0.8, 0.7])], start=first):
            frame = frame.assign(**{f"exit{i}_pred": prediction, f"sure[{i}]": sure})
        frame.to_csv("o.csv", index=False)
        columns = {"label": "y", "prediction": "exit{}_pred", "max_softmax": "sure[{}]"}
        with pytest.warns(UserWarning, match=r"o\.csv: ignored: other$"):
            record = import_outputs("o.csv", cost=[1, 2], columns=columns)
        assert record.prediction.tolist() == [[1, 1], [1, 0]]
        assert record.confidence().tolist() == [[0.9, 0.8], [0.6, 0.7]]


def test_logits_of_exits_and_classes(folder):
    logits = logits_of(exits=2, dtype=np.float64)
    columns = {f"exit{i}_logit{c}": logits[:, i, c] for i in range(2) for c in range(3)}
    pd.DataFrame({"label": [0, 1, 2, 0, 1, 2]} | columns).to_csv("o.csv", index=False)
    record = silent("o.csv", cost=[1, 2], columns={"logits": "exit{}_logit{}"})
    np.testing.assert_array_equal(record.logits, logits)
    pd.DataFrame(columns).drop(columns="exit1_logit2").assign(label=0).to_csv("o.csv", index=False)
    with pytest.raises(ValueError, match=r"exit1_logit0 has shape \(6, 2\); expected \(6, 3\), as exit0_logit0 has"):
        import_outputs("o.csv", cost=[1, 2], columns={"logits": "exit{}_logit{}"})


def test_guesses(folder):
    text("o.csv", "ID,Ground Truth,Pred,conf,notes\n7,0,0,0.9,x\n9,1,0,0.6,y\n")
    with pytest.warns(
        UserWarning, match=r"label is taken from ground_truth; .*; index is taken from id; ignored: notes"
    ):
        record = import_outputs("o.csv", cost=[1])
    assert (record.index.tolist(), record.labels.tolist()) == ([7, 9], [0, 1])
    text("o.csv", "id,target,y_true,pred\n1,0,0,0\n1,0,0,0\n")
    with pytest.raises(ValueError, match="target or y_true may be the label; name the right one by --label"):
        import_outputs("o.csv", cost=[1])
    with pytest.warns(UserWarning, match="ignored: id, y_true"):  # an id of several samples is no index
        record = import_outputs("o.csv", cost=[1], columns={"label": "target"})
    assert record.index.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"label": "species"}, "no column 'species' for --label; there are label, prediction"),
        ({"prediction": "p{}"}, "no column 'p{}' for --prediction"),
        ({"labels": "label"}, "columns: 'labels' is not known; expected some of label, prediction"),
        ({"label": ["label", "prediction"]}, "--label: 2 columns; expected one"),
        ({"logits": "label", "probabilities": "label"}, "both --logits and --probabilities; expected one of them"),
    ],
)
def test_names_that_are_wrong(columns, message, folder):
    text("o.csv", "label,prediction\n0,0\n")
    with pytest.raises(ValueError, match=rf"o\.csv: {message}"):
        import_outputs("o.csv", cost=[1], columns=columns)


def test_what_is_named_is_used_in_place_of_logits(folder):
    text("o.csv", "label,logit_0,logit_1,prediction,sure\n0,1,2,0,0.75\n")
    for columns in ({"prediction": "prediction"}, {"max_softmax": "sure"}):
        with pytest.warns(UserWarning, match="ignored: logit_0, logit_1"):
            assert import_outputs("o.csv", cost=[1], columns=columns).prediction.tolist() == [[0]]


def test_costs_in_a_column_of_another_name(folder):
    text("o.csv", "label,prediction,flops\n0,0,2\n0,1,3\n")
    run("import o.csv r --cost flops")
    assert ExitRecord.load("r").sample_cost.tolist() == [[2], [3]]


# Formats


@pytest.fixture
def plain():
    """Values that every format can hold."""
    return pd.DataFrame({"label": [0, 1, 2], "prediction": [0, 2, 2], "max_softmax": [0.9, 0.625, 0.5]})


def test_text_formats(folder, plain):
    expected = ExitRecord.from_outputs([[0], [2], [2]], [[0.9], [0.625], [0.5]], [0, 1, 2], [1])
    written = plain.to_csv(index=False)
    text("comma.csv", written)
    text("comment.csv", "# made by hand\n\n# twice\n" + written)
    text("mark.csv", "\ufeff" + written)
    text("semicolon.csv", written.replace(",", ";"))
    text("decimal.csv", written.replace(",", ";").replace(".", ","))
    text("tab.tsv", written.replace(",", "\t"))
    text("tab.csv", written.replace(",", "\t"))
    Path("packed.csv.gz").write_bytes(gzip.compress(written.encode()))
    text("bar.csv", written.replace(",", "|"))
    lines = "".join(json.dumps(row) + "\n" for row in plain.to_dict("records"))
    text("lines.jsonl", lines)
    Path("packed.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    for path in sorted(folder.iterdir()):
        separator = "|" if path.name == "bar.csv" else None
        expected.metadata = {"source": path.name}
        assert_same(silent(path, cost=[1], separator=separator), expected)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("o.csv", "label;prediction\n0;0;1\n", "its rows have 3 fields with ';' between them; expected 2"),
        ("o.csv", "label,prediction\n0,0\n0,0,1\n", "row 2 has 3 fields with ',' between them; expected 2"),
        ("o.jsonl", '{"label": 0}\n[1]\n', r"row 2 is '\[1\]'; expected an object of JSON"),
        ("o.jsonl", "", "no rows"),
    ],
)
def test_text_that_is_no_table(name, content, message, folder):
    with pytest.raises(ValueError, match=rf"{name}: .*{message}"):
        import_outputs(text(name, content), cost=[1])


def test_nested_keys_and_lists(folder):
    p = np.float32([[0.25, 0.75], [0.5, 0.5]])
    frame = pd.DataFrame({"true": [{"id": 1}, {"id": 0}], "p": list(p)})
    frame.to_parquet("o.parquet")
    text("o.jsonl", frame.assign(p=p.tolist()).to_json(orient="records", lines=True))
    for path in ("o.parquet", "o.jsonl"):
        record = silent(path, cost=[1], columns={"label": "true.id", "probabilities": "p"})
        assert record.labels.tolist() == [1, 0]
        np.testing.assert_allclose(record.confidence(), [[0.75], [0.5]], rtol=1e-6)
    text("o.jsonl", '{"label": 0, "logits": [1, 2]}\n{"label": 0, "logits": [1]}\n')
    with pytest.raises(ValueError, match="logits in row 2 has 1 values; expected 2 values, as in the first row"):
        import_outputs("o.jsonl", cost=[1])


def test_lists_of_exits(folder):
    text("o.jsonl", '{"label": 0, "prediction": [1, 0], "max_softmax": [0.5, 0.75]}\n')
    record = silent("o.jsonl", cost=[1, 2])
    assert (record.prediction.tolist(), record.confidence().tolist()) == ([[1, 0]], [[0.5, 0.75]])
    text("o.jsonl", '{"label": 0, "logits": [[0, 1], [2, 0]]}\n')
    assert silent("o.jsonl", cost=[1, 2]).logits.tolist() == [[[0, 1], [2, 0]]]


def test_decimals(folder):
    frame = pd.DataFrame({"label": [0], "prediction": [0], "max_softmax": [Decimal("0.90")]})
    assert silent(write(frame, folder / "o.parquet"), cost=[1]).confidence().tolist() == [[0.9]]


@pytest.mark.parametrize("suffix", ["csv", "npz"])
def test_whole_floats_are_labels(suffix, folder):
    values = {"label": [1.0, 0.0], "prediction": [1.0, 1.0]}
    path = npz(folder, **values) if suffix == "npz" else write(pd.DataFrame(values), folder / "outputs.csv")
    assert silent(path, cost=[1]).labels.tolist() == [1, 0]
    values["label"] = [1.0, 0.5]
    path = npz(folder, **values) if suffix == "npz" else write(pd.DataFrame(values), folder / "outputs.csv")
    with pytest.raises(ValueError, match=r"label(\[1\]| in row 2) is 0.5; expected a whole number"):
        import_outputs(path, cost=[1])


# Values


@quick
@given(st.lists(st.tuples(*[st.sampled_from(["ant", "bee", "NA", "10"])] * 3), min_size=1, max_size=5))
def test_labels_in_words(tmp_path_factory, rows):
    labels, *predictions = map(list, zip(*rows))
    frame = pd.DataFrame({"label": labels, "prediction_1": predictions[0], "prediction_2": predictions[1]})
    frame = pd.concat([frame, pd.DataFrame([["cat"] * 3], columns=list(frame))])  # so that CSV has text in all columns
    record = silent(write(frame, tmp_path_factory.mktemp("words") / "o.csv"), cost=[1, 2])
    names = np.array(record.metadata["names"])
    assert names.tolist() == sorted({*labels, *predictions[0], *predictions[1], "cat"})
    np.testing.assert_array_equal(names[record.labels], frame["label"])
    np.testing.assert_array_equal(names[record.prediction], frame.iloc[:, 1:])


def test_truth_values(folder):
    record = silent(text("o.csv", "label,prediction\nTrue,False\nFalse,False\n"), cost=[1])
    assert (record.labels.tolist(), record.metadata["names"]) == ([1, 0], ["False", "True"])
    record = silent(text("o.csv", "label,prediction\nTrue,0\nFalse,0\n"), cost=[1])
    assert (record.labels.tolist(), record.metadata.get("names")) == ([1, 0], None)


def test_names_of_classes_in_their_order(folder):
    text("o.csv", "label,logit_0,logit_1\ndog,1,-1\ncat,1,2\n")
    with pytest.raises(
        ValueError, match=r"label in row 1 is 'dog' \(str\); expected .* the order of the logits .*--names"
    ):
        import_outputs("o.csv", cost=[1])
    run("import o.csv r --cost 1 --names dog,cat")
    record = ExitRecord.load("r")
    assert (record.labels.tolist(), record.metadata["names"]) == ([0, 1], ["dog", "cat"])
    with pytest.raises(ValueError, match="label in row 1 is 'dog'; expected one of the names eel, cat"):
        run("import o.csv r --cost 1 --names eel,cat")


def test_text_as_index(folder):
    text("small.csv", "label,prediction,index\n0,0,b.png\n1,1,a.png\n1,0,12\n")
    text("large.csv", "label,prediction,index\n1,1,12\n0,0,b.png\n1,1,a.png\n")
    small, large = silent("small.csv", cost=[1]), silent("large.csv", cost=[5])
    assert small.index[2] == 12
    joined = cascade([small, large])
    assert joined.prediction.tolist() == [[0, 0], [1, 1], [0, 1]]


def test_percentages(folder):
    columns = "label,prediction,max_softmax,margin,entropy\n"
    text("o.csv", columns + "0,0,87.5,75,0.37\n0,0,50,0,0.69\n")
    with pytest.raises(
        ValueError, match=r"max_softmax in row 1 is 87\.5: expected .*; percentages are imported with --percent"
    ):
        run("import o.csv r --cost 1")
    run("import o.csv r --cost 1 --percent --classes 2")
    record = ExitRecord.load("r")
    assert record.confidence("margin").tolist() == [[0.75], [0]]
    assert record.measure("entropy").tolist() == [[0.37], [0.69]]
    text("o.csv", columns + "0,0,87.5%,75%,0.37\n")
    run("import o.csv r --cost 1 --percent")
    assert ExitRecord.load("r").confidence().tolist() == [[0.875]]


def test_the_probability_of_class_1(folder):
    text("o.csv", "label,p\n0,0.25\n1,0.9\n")
    record = silent("o.csv", cost=[1], columns={"probabilities": "p"})
    assert record.prediction.tolist() == [[0], [1]]
    np.testing.assert_allclose(record.confidence(), [[0.75], [0.9]], rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_masked_classes(dtype, folder):
    logits = logits_of(dtype=dtype)
    logits[2, 1, 0] = -np.inf
    record = silent(npz(folder, logits=logits, labels=[1] * 6, cost=[1, 2]))
    assert record.logits.dtype == dtype
    without = ExitRecord(logits[2:3, 1:, 1:].copy(), [0], [1])
    for measure in record.measures:
        assert record.measure(measure)[2, 1] == pytest.approx(without.measure(measure)[0, 0], rel=1e-6)
    logits[2, 1] = -np.inf
    with pytest.raises(ValueError, match=r"logits\[2, 1, 0\] is -inf: logits must be finite"):
        import_outputs(npz(folder, logits=logits, labels=[1] * 6, cost=[1, 2]))


def test_probabilities_of_zero(folder):
    record = silent(npz(folder, probabilities=[[[1.0, 0.0], [0.5, 0.5]]], labels=[1], cost=[1, 2]))
    assert record.confidence().tolist() == [[1, 0.5]]
    assert record.measure("entropy")[0, 0] == pytest.approx(0, abs=1e-30)


# What cannot be meant


def test_logits_that_are_probabilities(folder):
    text("o.csv", "label,logit_0,logit_1\n0,0.9,0.1\n1,0.2,0.8\n")
    with pytest.raises(ValueError, match=r"logit_0 …: all values are at least 0 and sum to 1, .* as --probabilities"):
        import_outputs("o.csv", cost=[1])
    with pytest.raises(ValueError, match="logits: all values are at least 0 and sum to 1"):
        import_outputs(npz(folder, logits=[[0.25, 0.75]], labels=[0], cost=[1]))
    record = silent("o.csv", cost=[1], columns={"probabilities": "logit_{}"})
    np.testing.assert_allclose(record.confidence(), [[0.9], [0.8]], rtol=1e-6)
    text("o.csv", "label,probs_0,probs_1\n0,1,2\n")
    with pytest.raises(ValueError, match=r"in row 1: the probabilities are 1, 2, in all 3; expected .* sum to 1"):
        import_outputs("o.csv", cost=[1])


IMPOSSIBLE = [
    (
        {"max_softmax": 0.01},
        2,
        r"is 0\.01: expected at least 1/2, .*; if it is the probability of class 1, import it with",
    ),
    ({"max_softmax": 0.2}, 4, r"is 0\.2: expected at least 1/4"),
    ({"entropy": 0.8}, 2, r"is 0\.8: expected 0 to 0\.693147"),
    ({"max_softmax": 0.6, "margin": 0.7}, None, "is 0.7, which does not fit its max softmax: expected 0.2 to 0.6"),
    ({"max_softmax": 0.9, "margin": 0.5}, None, "is 0.5, which does not fit its max softmax: expected 0.8 to 0.9"),
    ({"max_softmax": 0.9, "margin": 0.85}, 2, "is 0.85, which does not fit its max softmax: expected 0.8 to 0.8"),
    ({"max_softmax": 0.5, "entropy": 0.5}, None, "is 0.5, which does not fit its max softmax: expected 0.65"),
    ({"max_softmax": 0.99, "entropy": 0.6}, 10, "is 0.6, which does not fit its max softmax"),
    ({"margin": 0.1, "entropy": 0.4}, None, "is 0.4, which does not fit its margin: expected 0.56"),
]


@pytest.mark.parametrize(("measures", "classes", "message"), IMPOSSIBLE)
def test_measures_that_no_probabilities_have(measures, classes, message, folder):
    frame = pd.DataFrame({"label": [0, 1], "prediction": [0, 1], **measures})
    frame.iloc[0, 2:] = [{"max_softmax": 1, "margin": 1, "entropy": 0}[measure] for measure in measures]
    write(frame.astype(dict.fromkeys(measures, float)), folder / "o.csv")
    with pytest.raises(ValueError, match=rf"{list(measures)[-1]} in row 2 {message}"):
        import_outputs("o.csv", {} if classes is None else {"classes": classes}, cost=[1])


def test_a_largest_probability_that_is_too_small_for_the_classes_that_occur(folder):
    text("o.csv", "label,prediction,max_softmax\n0,0,0.1\n1,1,0.9\n")
    with pytest.warns(
        UserWarning, match=r"row 1 is 0\.1: expected at least 1/2, .* more classes than 2, give their number"
    ):
        import_outputs("o.csv", cost=[1])
    assert silent("o.csv", {"classes": 10}, cost=[1]).n_classes == 10


def test_answers_that_are_no_classes_have_no_smallest_largest_probability(folder):
    text("o.csv", "right,max_softmax\n1,0.01\n0,0.9\n")
    record = silent("o.csv", columns={"quality": "right"}, cost=[1])
    np.testing.assert_array_equal(record.confidence(), [[0.01], [0.9]])


@quick
@given(st.integers(0, 999), st.sampled_from([2, 3, 10]), st.floats(0.1, 9), st.booleans())
def test_measures_of_probabilities_are_accepted(tmp_path_factory, seed, classes, scale, known):
    logits = np.random.default_rng(seed).normal(size=(20, 2, classes)) * scale
    prediction, *measures = confidences(logits)
    names = ("max_softmax", "margin", "entropy")
    rounded = {name: np.round(values, 2) for name, values in zip(names, measures)}
    path = npz(tmp_path_factory.mktemp("fit"), labels=prediction[:, 0], prediction=prediction, cost=[1, 2], **rounded)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # with unknown classes, not all of which occur
        import_outputs(path, {"classes": classes} if known else {})


# Several files, and splits of one


@pytest.fixture
def two(folder):
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 40)
    for name in ("small", "large"):
        prediction = np.where(random.random(40) < 0.7, labels, 0)
        frame = pd.DataFrame({"label": labels, "prediction": prediction, "id": random.permutation(40)})
        frame = frame.assign(id=np.arange(40) + 100)
        order = random.permutation(40)
        frame.iloc[order].to_csv(f"{name}.csv", index=False)
    return folder


def test_a_cascade_of_files(two):
    said, _ = run("import small.csv large.csv c --join cascade --cost 1 --cost 5 --unit GMAC --dataset d")
    assert said == "c: <ExitRecord 40 samples × 2 exits dataset=d system=small + large>\n"
    record = ExitRecord.load("c")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = cascade([import_outputs("small.csv", cost=[1]), import_outputs("large.csv", cost=[5])])
    np.testing.assert_array_equal(record.prediction, made.prediction)
    assert (record.cost.tolist(), record.metadata["unit"]) == ([1, 6], "GMAC")
    assert "system=mine" in run("import small.csv large.csv c --join cascade --cost 1 --cost 5 --system mine")[0]


def test_what_is_said_of_several_files_is_said_once(two):
    frame = pd.read_csv("small.csv")
    frame.rename(columns={"prediction": "y_pred"}).assign(max_softmax=0.1, extra=1).to_csv("other.csv", index=False)
    said = run("import small.csv large.csv other.csv {system}.st --cost 1 --cost 5 --cost 9")[1].splitlines()
    assert said == [
        "small.csv and 1 more: index is taken from id",
        "other.csv: max_softmax in row 1 is 0.1: expected at least 1/3, because it is the largest of 3 probabilities; "
        "if there are more classes than 3, give their number (--classes)",
        "other.csv: prediction is taken from y_pred; index is taken from id; ignored: extra",
    ]


def test_a_record_of_each_file_and_split(two):
    run("import small.csv large.csv {system}/{split} --split 0.25 --seed 3 --cost 1 --cost 5")
    whole = [ExitRecord.load(f"{system}/{split}") for system in ("small", "large") for split in ("validation", "test")]
    assert [(r.metadata["system"], r.metadata["split"], r.metadata["seed"], len(r), r.cost[0]) for r in whole] == [
        *(("small", "validation", 3, 10, 1), ("small", "test", 3, 30, 1)),
        *(("large", "validation", 3, 10, 5), ("large", "test", 3, 30, 5)),
    ]
    for k in (0, 2):
        assert not set(whole[k].index) & set(whole[k + 1].index)
        assert set(whole[k].index) | set(whole[k + 1].index) == set(range(100, 140))
    labels = pd.read_csv("small.csv").label.value_counts(normalize=True)
    shares = pd.Series(whole[0].labels).value_counts(normalize=True)
    assert abs(labels - shares).max() <= 0.1
    cascade([whole[1], whole[3]])  # the same samples in both


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "small.csv large.csv r --cost 1 --cost 5",
            "several OUTPUTS; expected --join samples, --join cascade, or {system}",
        ),
        ("small.csv large.csv {system} --cost 1", "1 costs for 2 models; expected one --cost for each of OUTPUTS"),
        ("small.csv small.csv {system} --cost 1 --cost 2", "1 names of 2 models; expected one --system for each"),
        ("small.csv r --cost 1 --split 0.5", "expected {split} in RECORD and --split SHARE, or none of them"),
        ("small.csv {split} --cost 1", "expected {split} in RECORD and --split SHARE, or none of them"),
        ("small.csv {split} --cost 1 --split 1.5", "expected validation, test, or a share between 0 and 1"),
    ],
)
def test_orders_that_do_not_fit(line, message, two):
    with pytest.raises(Exception, match=message.replace("{", r"\{")):
        run(f"import {line}")
    assert not list(two.glob("r*"))


def test_the_file_and_row_of_an_error(folder):
    text("a.csv", "label,prediction,max_softmax\n0,0,1\n0,0,1\n")
    text("b.csv", "label,prediction,max_softmax\n0,0,1\n0,0,1\n0,0,7\n")
    with pytest.raises(ValueError, match=r"a\.csv and 1 more: max_softmax in row 3 of b\.csv is 7\.0: expected 0 to 1"):
        import_outputs(["a.csv", "b.csv"], cost=[1])
    text("b.csv", "label\n0\n")
    with pytest.raises(ValueError, match="no prediction"):
        import_outputs(["a.csv", "b.csv"], cost=[1])


def test_archives_with_other_costs(folder):
    for name, cost in (("a", [1, 2]), ("b", [1, 2]), ("c", [1, 3])):
        np.savez(f"{name}.npz", labels=[0], prediction=[[0, 1]], cost=cost)
    assert silent(["a.npz", "b.npz"]).cost.tolist() == [1, 2]
    with pytest.raises(ValueError, match=r"a\.npz and 1 more: cost differs between the files"):
        import_outputs(["a.npz", "c.npz"])


@SCORED
def test_features_of_samples(folder):
    text("o.csv", "quality_1,quality_2,length,words\n0.5,1,3,2\n0,0.25,1,7\n")
    run("import o.csv r --cost 1 --cost 2 --features length --features words")
    record = ExitRecord.load("r")
    assert record.features.tolist() == [[3, 2], [1, 7]]
    assert record.metadata["features"] == ["length", "words"]
