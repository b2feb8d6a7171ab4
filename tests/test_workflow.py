"""The workflow end to end, on a tiny study, as a user runs it."""

import pandas as pd
import pytest
import yaml

import listing
from checkout import CAPTIONED, ROOT, SHARED, TINY, WHOLE, Checkout
from offramp import ExitRecord
from offramp.study.params import systems_of

SYSTEMS = set(systems_of(WHOLE))


def said(done) -> str:
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def study(finished, tmp_path_factory) -> Checkout:
    """A copy of the finished study. Tests that change it put it back."""
    return finished.copy(tmp_path_factory.mktemp("workflow") / "study")


def test_ends_with_a_report_of_everything(finished):
    folder = finished.folder / "reports/tiny"
    page = (folder / "index.html").read_text()
    figures = [
        "error-cost",
        "control",
        "speedup",
        "exit-histogram",
        "risk-coverage",
        "promises",
        "calibration-or-ranking",
        "agreement",
        "reliability-net-large",
        "overconfidence-three",
        "oracle-heatmap-three",
        "sensitivity",
        "shift",
        "stream",
        "accelerations",
        "cascades-front",
        "cascade-relation",
        "cascade-reduction",
        "cascade-variants",
    ]
    assert {path.stem for path in (folder / "figures").iterdir()} == set(figures)
    for name in figures:
        assert (folder / f"figures/{name}.png").stat().st_size > 1000
        assert (folder / f"figures/{name}.pdf").read_bytes().startswith(b"%PDF")
    tables = ["claims", "equal-cost", "equal-accuracy", "control", "calibration", "targets", "exits", "sensitivity"]
    tables += ["duels", "learning-curve"]
    tables += ["speedup", "per-exit", "cascade-claims", "reductions", "cascade-variants", "replacements", "models"]
    tables += ["seconds", "times", "coverage", "promises", "efficiency", "calibration-or-ranking"]
    tables += ["shift", "shift-claim", "stream", "accelerations"]
    assert {path.stem for path in (folder / "tables").iterdir()} == set(tables)
    for name in tables:
        assert all((folder / f"tables/{name}.{ending}").stat().st_size for ending in ("csv", "md", "tex"))
    assert page.count("data:image/png;base64") == len(figures)
    assert "PCEE-WS" in page


def test_records_are_of_the_written_splits(finished):
    splits = pd.read_csv(finished.folder / "artifacts/tiny/data/splits.csv")
    for split, size in (("validation", 300), ("test", 900)):
        record = ExitRecord.load(finished.folder / f"artifacts/tiny/records/net-large-s0/{split}.safetensors")
        assert sorted(record.index) == sorted(splits["index"][splits["split"] == split])
        assert (record.n_samples, record.n_exits) == (size, 3)


def test_leaves_nothing_half_done(finished):
    assert not list(finished.folder.glob("artifacts/**/.*.partial"))
    assert not list(finished.folder.glob("artifacts/**/*.checkpoint"))


def test_a_second_run_does_nothing_and_takes_its_settings_from_the_default_profile(study):
    again = study.run()  # without --cores, which only the profile then gives
    assert again.returncode == 0
    assert "Using workflow specific profile profiles/default" in said(again)
    assert "Nothing to be done" in said(again)
    code, text = listing.snakemake(study.folder, "--workflow-profile", "none")
    assert code != 0
    assert "cores have to be specified" in " ".join(text.split())


def test_another_grid_evaluates_anew_and_trains_nothing(study):
    study.write({**WHOLE, "delta": {"start": 0.2, "stop": 1.0, "step": 0.1}})
    try:
        jobs = study.would_run()
    finally:
        study.write(WHOLE)
    assert jobs["evaluate"] == SYSTEMS
    assert "compare" in jobs
    assert not jobs.keys() & {"data", "train", "record", "calibrate"}


def test_one_target_makes_the_tables_of_what_is_open(study):
    folder = study.folder / "reports/tiny"
    made = [folder / f"tables/{table}.{ending}" for table in ("calibration", "sensitivity") for ending in ("csv", "md")]
    before = [path.read_bytes() for path in made]
    for path in [*made, study.folder / "artifacts/tiny/evaluate/sensitivity.parquet"]:
        path.unlink()
    again = study.run("--cores", "2", "choices")
    assert again.returncode == 0, again.stderr
    assert [path.read_bytes() for path in made] == before


def test_another_width_trains_that_model_alone(study):
    models = {**WHOLE["models"], "net-small": {**WHOLE["models"]["net-small"], "channels": 6}}
    study.write({**WHOLE, "models": models})
    try:
        jobs = study.would_run()
    finally:
        study.write(WHOLE)
    for rule in ("train", "record", "calibrate", "evaluate"):
        assert jobs[rule] == {"net-small"}
    assert "data" not in jobs


def test_code_of_a_policy_fits_anew_and_trains_nothing(study):
    module = study.folder / "src/offramp/policies/pcee.py"
    text = module.read_text()
    module.write_text(text + "\n# an edit\n")
    try:
        jobs = study.would_run()
    finally:
        module.write_text(text)
    assert jobs["calibrate"] == SYSTEMS
    assert not jobs.keys() & {"data", "train", "record"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sead": [0]}, "studies.tiny has an unknown key 'sead': expected some of notes, dataset"),
        ({"seeds": "0"}, "studies.tiny.seeds is '0': expected array"),
        (
            {"models": {"m": {"model": "resnet"}}},
            "studies.tiny.models.m.model is 'resnet': expected one of encoder, huggingface, msdnet, timm, vit",
        ),
    ],
)
def test_bad_settings_stop_before_any_job(tmp_path, change, message):
    checkout = Checkout(tmp_path)
    checkout.write({**TINY, **change})
    code, text = listing.snakemake(tmp_path, "--cores", "1")
    assert code != 0
    assert message in text
    assert not (tmp_path / "artifacts").exists()


def test_a_failed_job_says_why_and_leaves_no_output(tmp_path):
    checkout = Checkout(tmp_path)
    checkout.write({**TINY, "splits": {"validation": 300, "test": 1500, "seed": 0}})
    stopped = checkout.run("--cores", "1")
    assert stopped.returncode != 0
    assert "offramp: error:" in said(stopped)
    assert not (tmp_path / "artifacts/tiny/data/splits.csv").exists()


def reviews(folder, max_tokens=64, **splits) -> Checkout:
    """The study of a few review sentences, with these splits and texts of at most so many tokens."""
    checkout = Checkout(folder)
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    study = params["studies"]["reviews_small"]
    changes = {
        "dataset": {**study["dataset"], "max_tokens": max_tokens},
        "splits": {**study["splits"], **splits},
    }
    checkout.write({**study, **changes}, {key: params[key] for key in SHARED})
    return checkout


def check_reviews(checkout: Checkout, samples: int) -> ExitRecord:
    """The report of such a study shows what it should; the record of its test samples."""
    record = ExitRecord.load(checkout.folder / "artifacts/tiny/records/minilm-s0/test.safetensors")
    assert (record.n_samples, record.n_exits, record.sample_cost.shape) == (samples, 3, (samples, 3))
    assert record.confidence("similarity").max() <= 1 + 1e-6
    tables = checkout.folder / "reports/tiny/tables"
    speedup = pd.read_csv(tables / "speedup.csv")
    assert {"beem-a", "beem-c", "patience", "hidden-similarity", "ztw", "pcee"} <= set(speedup["policy"])
    same_samples = speedup[(speedup["choice"] == "per exit, same samples") & (speedup["policy"] != "ztw")]
    assert (same_samples["validation_loss"] >= 0).all()
    duels = pd.read_csv(tables / "duels.csv")
    asked = {tuple(pair) for pair in yaml.safe_load((ROOT / "params.yaml").read_text())["duels"]}
    assert {("beem-a", "pcee"), ("stopping", "confidence")} <= set(zip(duels["policy"], duels["rival"])) <= asked
    page = (checkout.folder / "reports/tiny/index.html").read_text()
    assert "BEEM-A" in page
    figures = checkout.folder / "reports/tiny/figures"
    assert page.count("data:image/png;base64") == len(list(figures.glob("*.png")))
    return record


@pytest.mark.xdist_group("reviews")
@pytest.mark.nightly
def test_text_from_the_registry_to_the_report(tmp_path):
    """All commands of the study, in this process and on fewer sentences."""
    checkout = reviews(tmp_path, max_tokens=12, validation=80, test=80, train=64)
    checkout.run_here()
    check_reviews(checkout, 80)


@pytest.mark.nightly
@pytest.mark.xdist_group("reviews")
def test_the_small_study_of_text_learns(tmp_path):
    checkout = reviews(tmp_path)
    done = checkout.run("--cores", "2")
    assert done.returncode == 0, done.stderr
    record = check_reviews(checkout, 400)
    assert record.correct[:, -1].mean() > 0.55


@pytest.mark.nightly
def test_captions_from_scenes_to_the_report(tmp_path):
    """All commands of the tiny study of captions, in this process."""
    pytest.importorskip("pycocoevalcap")
    checkout = Checkout(tmp_path)
    checkout.write(CAPTIONED)
    checkout.run_here()
    sweeps = tmp_path / "artifacts/tiny/evaluate/captioner-s0/captions"
    of = {str(path.parent.relative_to(sweeps)) for path in sweeps.rglob("points.parquet")}
    assert of == {"validation/confidence", "validation/pcee", "generated/pcee", "validation/calm"}
    tables = tmp_path / "reports/tiny/tables"
    names = ("matched", "curve", "seconds", "fills", "texts", "words", "certified")
    assert {f"captions-{name}" for name in names} <= {path.stem for path in tables.iterdir()}
    matched = pd.read_csv(tables / "captions-matched.csv")
    assert set(zip(matched["policy"], matched["at_most"])) == {
        (policy, drop) for policy in ("confidence", "pcee", "calm") for drop in (0, 0.5)
    }
    assert (matched[["layer_speedup", "mac_speedup"]] >= 0.999).all(axis=None)
    curve = pd.read_csv(tables / "captions-curve.csv")
    assert (curve.loc[curve["policy"] != "full", "mac_speedup"] > 1).all()
    page = (tmp_path / "reports/tiny/index.html").read_text()
    assert "Captions with exits" in page
