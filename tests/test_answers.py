"""Studies of the answers of language models: their datasets, their records, routers, and a tiny study of each."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

import listing
from checkout import SHARED, STORED, Checkout
from offramp import ExitRecord, cascade, make_policy, router
from offramp.cli import cli
from offramp.comparison.bootstrap import Bootstrap
from offramp.comparison.claims import control
from offramp.comparison.runs import Run
from offramp.datasets import answers, load_dataset
from offramp.datasets.splits import make_splits
from offramp.reports.labels import about_quality
from offramp.stored import stored_outputs

QUESTIONS = 60
MIXTRAL, GPT4 = answers.MMLU_MODELS


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def data(tmp_path, monkeypatch):
    """The folder of datasets."""
    monkeypatch.setenv("OFFRAMP_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def gsm8k(data, monkeypatch):
    """A small file of the same shape as the real one: larger models solve more of the questions."""
    random = np.random.default_rng(0)
    rows = []
    for n in range(QUESTIONS):
        hard, row = random.random(), {"question": f"What is {n} + 1?", "ground_truth": f"A: {n + 1}"}
        for skill, model in zip((0.3, 0.6, 0.5, 0.8), answers.GSM8K_MODELS):
            right = bool(random.random() < skill + 0.4 - hard)
            given = n + 1 if right else int(random.integers(1000, 1003))
            row[model] = {"is_correct": right, "solution": f"{n} + 1 = <<{given}>>{given}\nA: {given:,}"}
        rows.append(row)
    rows[0][answers.GSM8K_MODELS[0]] = {"is_correct": False, "solution": "It goes on 1818"}
    content = "\n".join(json.dumps(row) for row in rows).encode() + b"\n"
    folder = data / "gsm8k_outputs"
    folder.mkdir(parents=True)
    (folder / "solutions.jsonl").write_bytes(content)
    monkeypatch.setattr(answers, "GSM8K_FILES", {"solutions.jsonl": [sha256(content)]})
    return rows


@pytest.fixture
def mmlu(data, monkeypatch):
    """Small files of the same shape as the real ones: Mixtral knows one subject as well as GPT-4, and not the other."""
    random = np.random.default_rng(1)
    tables, digests = {}, {}
    folder = data / "mmlu_outputs"
    folder.mkdir(parents=True)
    for subject, skill in (("law", 0.2), ("logic", 0.9)):
        columns = {MIXTRAL: random.random(200) < skill, GPT4: random.random(200) < 0.9}
        tables[subject] = pd.DataFrame({"prompt": "Which?\nA. This", **columns})
        content = tables[subject].to_csv(index=False).encode()
        (folder / f"mmlu_{subject}.csv").write_bytes(content)
        digests[subject] = sha256(content)
    monkeypatch.setattr(answers, "MMLU_SUBJECTS", digests)
    return tables


def record_of(dataset: str, column: str, **cost) -> ExitRecord:
    """The test record of a stored model: all samples but the first few, which are for validation."""
    stored = stored_outputs((dataset, {}), {"column": column, **cost})
    size = len(stored.source.labels["all"])
    splits = pd.DataFrame({"split": ["validation"] + ["test"] * (size - 1), "pool": "all", "index": range(size)})
    return stored.records(splits)["test"]


# Datasets and records


@pytest.mark.parametrize(
    ("solution", "answer"),
    [
        ("1 + 1 = <<1+1=2>>2\nA: 2", "2"),
        ("A: 3 is wrong\nA: 65,960 ", "65960"),
        ("It goes on 1,818", "It goes on 1818"),  # no answer: only an equal text agrees with it
    ],
)
def test_final_answers(solution, answer):
    assert answers.final_answer(solution) == answer


def test_answers_are_those_of_the_file(gsm8k):
    for model in answers.GSM8K_MODELS:
        record = record_of("gsm8k_outputs", model, macs_per_token=6e9)
        for n, row in enumerate(gsm8k[1:]):
            solution = row[model]["solution"]
            assert record.quality[n, 0] == row[model]["is_correct"]
            assert record.names[record.prediction[n, 0]] == solution.partition("A: ")[2].replace(",", "")
            assert record.sample_cost[n, 0] == 6e9 * (len(row["question"]) + len(solution)) / 4
            assert record.features[n].tolist() == [len(row["question"]) / 4, 2]
    assert (record.metric, record.metadata["unit"], record.n_classes) == ("solve rate", "MAC", None)


def test_subjects_are_features(mmlu):
    record = record_of("mmlu_outputs", MIXTRAL, price=1)
    assert record.quality[:, 0].tolist() == pd.concat(mmlu.values())[MIXTRAL].astype(float).tolist()[1:]
    assert record.features.tolist() == [[1, 0]] * 199 + [[0, 1]] * 200
    assert record.metadata["features"] == ["law", "logic"]
    assert (record.metadata["unit"], record.cost.tolist(), record.prediction) == ("calls of Mixtral", [1], None)
    splits = make_splits(load_dataset("mmlu_outputs"), validation=100, test=300, seed=0)
    assert (splits["index"][splits["split"] == "test"] < 200).sum() == 150  # the same share of each subject


def test_both_records_pay_what_they_say(gsm8k):
    small, large = (
        record_of("gsm8k_outputs", model, macs_per_token=cost)
        for model, cost in ((answers.GSM8K_MODELS[0], 6e9), (answers.GSM8K_MODELS[2], 175e9))
    )
    assert (router([small, large]).sample_cost == np.hstack([small.sample_cost, large.sample_cost])).all()
    both = cascade([small, large])
    assert (both.sample_cost[:, 1] == small.sample_cost[:, 0] + large.sample_cost[:, 0]).all()
    same = [both.names[one] == both.names[other] for one, other in both.prediction]
    assert make_policy("patience").signal(both)[:, 1].tolist() == [float(each) for each in same]


@pytest.mark.parametrize(
    ("dataset", "options", "said"),
    [
        (
            "gsm8k_outputs",
            {"column": "7b", "macs": 1.0},
            "unknown model of gsm8k_outputs '7b': expected one of",
        ),
        ("gsm8k_outputs", {"column": "6b_finetuning", "price": 1.0}, "the costs of gsm8k_outputs are MACs"),
        ("mmlu_outputs", {"column": GPT4, "macs": 1.0}, "are calls of Mixtral; expected them as price"),
        ("mmlu_outputs", {"column": GPT4, "macs_per_token": 1.0}, "are calls of Mixtral; expected them as price"),
    ],
)
def test_mistakes_in_options(gsm8k, mmlu, dataset, options, said):
    splits = pd.DataFrame({"split": ["validation", "test"], "pool": "all", "index": [0, 1]})
    with pytest.raises(ValueError, match=said):
        stored_outputs((dataset, {}), options).records(splits)


def test_another_file_is_refused(gsm8k, data):
    (data / "gsm8k_outputs/solutions.jsonl").write_text("{}\n")
    with pytest.raises(ValueError, match=r"solutions\.jsonl: damaged or another file"):
        load_dataset("gsm8k_outputs")


# Routers on the command line


def offramp(*arguments) -> str:
    done = CliRunner().invoke(cli, list(map(str, arguments)))
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


def test_offramp_router(mmlu, tmp_path):
    records = [record_of("mmlu_outputs", column, price=price) for column, price in ((MIXTRAL, 1), (GPT4, 10))]
    paths = [tmp_path / f"{name}.safetensors" for name in ("mixtral", "gpt-4")]
    for record, path in zip(records, paths):
        record.metadata["split"] = "validation"
        record.save(path)
    offramp("router", *paths, "--system", "both", "--out", tmp_path / "both.safetensors")
    made, expected = ExitRecord.load(tmp_path / "both.safetensors"), router(records)
    assert made.is_router
    assert made.metadata == expected.metadata | {"system": "both"}
    assert (made.cost.tolist(), made.quality.tolist()) == ([1, 10], expected.quality.tolist())
    offramp("evaluate", "--policy", "router", "--validation", tmp_path / "both.safetensors", "--test",
            tmp_path / "both.safetensors", "--out", tmp_path / "curve.csv")  # fmt: skip
    curve = pd.read_csv(tmp_path / "curve.csv")
    half = curve[np.isclose(curve["exit_1"], 0.5, atol=0.01)]  # one subject is for Mixtral
    assert half["cost"].tolist() == pytest.approx([5.5], abs=0.1)
    assert half["accuracy"].item() > 0.85
    with pytest.raises(ValueError, match="expected the exits in order of their cost"):
        offramp("router", *paths[::-1], "--out", tmp_path / "other.safetensors")


# Comparisons and texts without policies that claim an accuracy


def test_control_of_nothing_is_an_empty_table(mmlu):
    record = router([record_of("mmlu_outputs", column, price=price) for column, price in ((MIXTRAL, 1), (GPT4, 10))])
    runs = [Run("both", 0, record, record, {"random": make_policy("random")})]
    made = control(runs, np.linspace(0, 1, 11), "confidence", Bootstrap.draw(len(record), 10, 0))
    assert made.empty
    assert {"system", "policy", "baseline", "error", "worst", "short", "excess"} <= set(made)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("if an accuracy of δ is requested", "if a solve rate of δ is requested"),
        ("Accuracy and cost", "Solve rate and cost"),
        ("an accuracy-weighted mean", "an accuracy-weighted mean"),
    ],
)
def test_the_article_fits_the_name(text, said):
    assert about_quality(text, "solve rate") == said
    assert about_quality("an accuracy", "exact match") == "an exact match"


# The workflow

POLICIES = SHARED["policies"] | {
    "patience": {"policy": "patience"},
    "random": {"policy": "random"},
    "agreement": {"policy": "agreement", "models": ["cascade"]},
}
ASKED = STORED | {
    "own_policies": {"oracle": {"policy": "oracle", "target": "label"}, "router": {"policy": "router"}},
    "delta": {"start": -1.0, "stop": 1.0, "step": 0.1},
    "search": {},
    "report": {},
}
DUELS = {"targets": [0.5], "pairs": [], "resamples": 100, "duels": [["router", "random"]]}


def study_of(tmp_path, study: dict, *targets: str) -> Checkout:
    pytest.importorskip("snakemake")
    checkout = Checkout(tmp_path / "checkout")
    checkout.write(ASKED | study, {**SHARED, "policies": POLICIES})
    checkout.run_here("curves", *targets)
    return checkout


def test_a_tiny_study_of_texts(gsm8k, tmp_path):
    """From the file in the data folder to tables and figures."""
    models = dict(zip("abcd", answers.GSM8K_MODELS))
    costs = {"a": 6e9, "b": 12e11, "c": 175e9, "d": 350e11}
    checkout = study_of(
        tmp_path,
        {
            "dataset": {"name": "gsm8k_outputs"},
            "splits": {"validation": 30, "test": 30, "seed": 0},
            "models": {
                name: {"model": "outputs", "column": column, "macs_per_token": costs[name]}
                for name, column in models.items()
            },
            "cascades": {"all": ["a", "c", "b", "d"]},
            "routers": {"one": ["a", "c", "b", "d"]},
            "comparison": DUELS,
        },
        "reports/tiny/metrics.json",
        "reports/tiny/figures/quality-cost.png",
        "reports/tiny/tables/exits.md",
        "reports/tiny/tables/targets.md",
    )
    folder = checkout.folder / "reports/tiny/curves"
    curves = {system: pd.read_parquet(folder / f"{system}-s0.parquet") for system in ("all", "one")}
    assert set(curves["one"]["policy"]) == {"oracle", "random", "router"}
    assert set(curves["all"]["policy"]) == {"oracle", "random", "router", "patience", "agreement"}
    made = checkout.folder / "artifacts/tiny"
    assert not list(made.glob("calibrate/*.parquet"))  # no reliability without max softmax
    assert set(pd.read_parquet(made / "evaluate/duels.parquet")["system"]) == {"all", "one"}
    one, every = (ExitRecord.load(made / f"records/{name}-s0/test.safetensors") for name in ("one", "all"))
    assert one.metadata["costs"] == "router"
    assert every.sample_cost == pytest.approx(one.sample_cost.cumsum(axis=1))
    exits = (checkout.folder / "reports/tiny/tables/exits.md").read_text()
    assert "| Solve rate (%) |" in " ".join(exits.split())
    assert "T MACs" in exits
    targets = (checkout.folder / "reports/tiny/tables/targets.md").read_text()
    assert "accura" not in exits + targets
    assert json.loads((checkout.folder / "reports/tiny/metrics.json").read_text())["control_error"] == {}


def test_a_tiny_study_of_routers(mmlu, tmp_path):
    """The router finds the subject that the cheap model knows, and pays for one model."""
    checkout = study_of(
        tmp_path,
        {
            "dataset": {"name": "mmlu_outputs"},
            "splits": {"validation": 200, "test": 200, "seed": 0},
            "models": {
                "mixtral": {"model": "outputs", "column": MIXTRAL, "price": 1},
                "gpt-4": {"model": "outputs", "column": GPT4, "price": 10},
            },
            "cascades": {"both": ["mixtral", "gpt-4"]},
            "routers": {"one": ["mixtral", "gpt-4"]},
            "comparison": DUELS,
        },
        "reports/tiny/figures/exit-histogram.png",
    )
    duels = pd.read_parquet(checkout.folder / "artifacts/tiny/evaluate/duels.parquet")
    assert (duels.loc[duels["match"] == "budgets", "gain_low"] > 0).all()
    assert duels.set_index("system")["speedup"].isna().to_dict() == {"both": False, "one": True}
    targets = pd.read_parquet(checkout.folder / "artifacts/tiny/evaluate/targets.parquet")
    assert set(targets["unit"]) == {"calls of Mixtral"}
    jobs = listing.jobs(checkout.folder, "--forceall", "pages")
    shown = {Path(job.output[0]).stem for job in jobs if job.rule in ("figure", "table")}
    assert shown >= {"quality-cost", "duels", "exits", "speedup"}
    assert not shown & {"agreement", "control", "calibration", "claims", "beem-claims", "overconfidence-two"}
