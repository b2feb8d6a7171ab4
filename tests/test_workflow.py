"""The workflow end to end, on a tiny study, as a user runs it."""

import pytest
import yaml

from checkout import ROOT, SHARED, TINY, Checkout
from offramp import ExitRecord

SYSTEMS = list(TINY["models"])


def test_ends_with_a_report_of_everything(finished):
    folder = finished.folder
    page = (folder / "reports/tiny/index.html").read_text()
    figures = [
        "error-cost",
        "control",
        "speedup",
        "exit-histogram",
        "agreement",
        "reliability-net-large",
        "overconfidence-vit",
        "oracle-heatmap-vit",
        "sensitivity",
    ]
    for name in figures:
        assert (folder / f"reports/tiny/figures/{name}.png").stat().st_size > 1000
        assert (folder / f"reports/tiny/figures/{name}.pdf").read_bytes().startswith(b"%PDF")
    tables = ["claims", "equal-cost", "equal-accuracy", "control", "calibration", "targets", "exits", "sensitivity"]
    tables += ["speedup", "per-exit"]
    for name in tables:
        assert all((folder / f"reports/tiny/tables/{name}.{ending}").stat().st_size for ending in ("csv", "md", "tex"))
    assert page.count("data:image/png;base64") == 9
    assert "PCEE-WS" in page


def test_records_are_of_the_written_splits(finished):
    import pandas as pd

    splits = pd.read_csv(finished.folder / "artifacts/tiny/data/splits.csv")
    for split, size in (("validation", 300), ("test", 900)):
        record = ExitRecord.load(finished.folder / f"artifacts/tiny/records/net-large-s0/{split}.safetensors")
        assert sorted(record.index) == sorted(splits["index"][splits["split"] == split])
        assert (record.n_samples, record.n_exits) == (size, 3)


def test_second_run_does_nothing(finished):
    again = finished.run("--cores", "2")
    assert again.returncode == 0
    assert "Nothing to be done" in again.stdout + again.stderr


def test_leaves_nothing_half_done(finished):
    assert not list(finished.folder.glob("artifacts/**/.*.partial"))
    assert not list(finished.folder.glob("artifacts/**/*.checkpoint"))


def test_another_grid_evaluates_anew_and_trains_nothing(finished):
    finished.write({**TINY, "delta": {"start": 0.2, "stop": 1.0, "step": 0.1}})
    try:
        jobs = finished.would_run()
    finally:
        finished.write(TINY)
    assert jobs["evaluate"] == set(SYSTEMS)
    assert "compare" in jobs
    assert not jobs.keys() & {"data", "train", "record", "calibrate"}


def test_one_target_makes_the_tables_of_what_is_open(finished):
    folder = finished.folder / "reports/tiny"
    made = [folder / f"tables/{table}.{ending}" for table in ("calibration", "sensitivity") for ending in ("csv", "md")]
    before = [path.read_bytes() for path in made]
    for path in [*made, finished.folder / "artifacts/tiny/evaluate/sensitivity.parquet"]:
        path.unlink()
    again = finished.run("--cores", "2", "choices")
    assert again.returncode == 0, again.stderr
    assert [path.read_bytes() for path in made] == before


def test_another_width_trains_that_model_alone(finished):
    models = {**TINY["models"], "net-small": {**TINY["models"]["net-small"], "channels": 6}}
    finished.write({**TINY, "models": models})
    try:
        jobs = finished.would_run()
    finally:
        finished.write(TINY)
    for rule in ("train", "record", "calibrate", "evaluate"):
        assert jobs[rule] == {"net-small"}
    assert "data" not in jobs


def test_code_of_a_policy_fits_anew_and_trains_nothing(finished):
    module = finished.folder / "src/offramp/policies/pcee.py"
    text = module.read_text()
    module.write_text(text + "\n# an edit\n")
    try:
        jobs = finished.would_run()
    finally:
        module.write_text(text)
    assert jobs["calibrate"] == set(SYSTEMS)
    assert not jobs.keys() & {"data", "train", "record"}


def test_one_core_gives_the_same_bytes_as_two(finished, tmp_path):
    alone = Checkout(tmp_path)
    done = alone.run("--cores", "1")
    assert done.returncode == 0, done.stderr
    assert alone.artifacts().keys() == finished.artifacts().keys()
    differ = [name for name, content in alone.artifacts().items() if content != finished.artifacts()[name]]
    assert differ == []


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
    stopped = checkout.run("--cores", "1")
    assert stopped.returncode != 0
    assert message in stopped.stderr
    assert not (tmp_path / "artifacts").exists()


def test_a_failed_job_says_why_and_leaves_no_output(tmp_path):
    checkout = Checkout(tmp_path)
    checkout.write({**TINY, "splits": {"validation": 300, "test": 1500, "seed": 0}})
    stopped = checkout.run("--cores", "1")
    assert stopped.returncode != 0
    assert "offramp: error:" in stopped.stdout + stopped.stderr
    assert not (tmp_path / "artifacts/tiny/data/splits.csv").exists()


def test_text_from_the_registry_to_the_report(tmp_path):
    import pandas as pd

    checkout = Checkout(tmp_path)
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    checkout.write(params["studies"]["reviews_small"], {key: params[key] for key in SHARED})
    done = checkout.run("--cores", "2")
    assert done.returncode == 0, done.stderr
    record = ExitRecord.load(tmp_path / "artifacts/tiny/records/minilm-s0/test.safetensors")
    assert (record.n_samples, record.n_exits, record.sample_cost.shape) == (400, 3, (400, 3))
    assert record.correct[:, -1].mean() > 0.55  # it has learnt something
    assert record.confidence("similarity").max() <= 1 + 1e-6
    tables = tmp_path / "reports/tiny/tables"
    speedup = pd.read_csv(tables / "speedup.csv")
    assert {"beem-a", "beem-c", "patience", "hidden-similarity", "ztw", "pcee"} <= set(speedup["policy"])
    same_samples = speedup[(speedup["choice"] == "per exit, same samples") & (speedup["policy"] != "ztw")]
    assert (same_samples["validation_loss"] >= 0).all()
    assert pd.read_csv(tables / "duels.csv")["policy"].isin(["beem-a", "beem-c", "pcee-ws"]).all()
    page = (tmp_path / "reports/tiny/index.html").read_text()
    assert "BEEM-A" in page
    assert page.count("data:image/png;base64") == len(list((tmp_path / "reports/tiny/figures").glob("*.png")))
