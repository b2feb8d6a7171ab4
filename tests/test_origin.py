"""What metadata say of the origin of records: nothing is fitted on test data, or used elsewhere, without a word."""

import re
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from offramp import ExitRecord, cascade, choose_threshold, evaluate, load_policies, make_policy, save_policies
from offramp.calibration import fit_temperatures
from offramp.cascades.settings import CascadeSettings
from offramp.policies import POLICIES
from offramp.records.origin import system_of
from offramp.reports.figures import error_cost
from offramp.reports.judging import judge
from offramp.reports.tables.writing import costs

PAIR = ("small", "large")
SEARCH = (
    "search {} --variant base --band 0.5 0.6 --resamples 100 --models-out {} --relations-out {} --choices-out {} "
    "--reductions-out {} --replacements-out {} --measures-out {}"
)


def made(split, system="small", scale=1.0, cost=1.0, exits=1, **metadata):
    random = np.random.default_rng([split == "test", len(system), exits])
    labels = np.random.default_rng(split == "test").integers(0, 3, 60)
    logits = random.normal(size=(60, exits, 3))
    logits[np.arange(60), :, labels] += 1.5
    about = {"system": system, "seed": 0, "split": split, "dataset": "d", "unit": "MAC"} | metadata
    about = {key: value for key, value in about.items() if value is not None}
    return ExitRecord((scale * logits).astype(np.float32), labels, cost * np.arange(1, exits + 1), metadata=about)


def pair(split, **metadata):
    return [made(split, "small", **metadata), made(split, "large", scale=4, cost=3, **metadata)]


@pytest.fixture
def offramp(tmp_path, monkeypatch, run):
    """Return a function that runs a command in a folder with records of two models and returns (exit code, stderr)."""
    monkeypatch.chdir(tmp_path)
    for split in ("validation", "test"):
        for record in pair(split):
            record.save(Path(record.metadata["system"], f"{split}.safetensors"))

    def call(line):
        code, _, err = run(line)
        return code, err

    return call


# Fitting

FITS = {
    "cascade: temperatures": lambda records: cascade(records, temperatures="fit"),
    "cascade: weights": lambda records: cascade(records, "accuracy_weighted"),
    "temperatures": lambda records: fit_temperatures(records[0]),
    "threshold": lambda records: choose_threshold(make_policy("confidence"), cascade(records), accuracy=0.5),
    "method threshold": lambda records: make_policy("confidence").choose_threshold(cascade(records), cost=2),
    "thresholds": lambda records: make_policy("confidence").choose_thresholds(cascade(records)),
    "settings": lambda records: CascadeSettings.of(cascade(records, temperatures=[[2.0], [3.0]])),
    "per exit": lambda records: make_policy("confidence", temperature="per_exit").fit(cascade(records)),
    **{
        name: lambda records, name=name: make_policy(name).fit(cascade(records))
        for name, policy in POLICIES.items()
        if policy().learns and name != "router"  # which needs features
    },
}


@pytest.mark.parametrize("fit", FITS)
def test_what_is_fitted_on_test_data_warns(fit):
    with pytest.warns(UserWarning, match=r"uses a record whose split is test: .* use validation data"):
        FITS[fit](pair("test"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        FITS[fit](pair("validation"))
        FITS[fit](pair(None))  # not known


def test_fitting_what_learns_nothing_does_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_policy("confidence").fit(cascade(pair("test")))


def test_judge_on_test_data_warns(unrendered, tmp_path):
    with pytest.warns(UserWarning, match="fitting a policy uses a record whose split is test"):
        judge(cascade(pair("test")), cascade(pair("test")), tmp_path / "out", resamples=100)


# Cascades like one on validation data

STAGES = "small/{0}.safetensors large/{0}.safetensors"


@pytest.mark.parametrize("options", ["--temperature", "--ensemble accuracy_weighted", "--ensemble mean_logit"])
@pytest.mark.parametrize("confidence", ["", " --confidence ensemble"])
@pytest.mark.parametrize("again", [False, True])
def test_a_cascade_like_another_takes_everything_from_it(offramp, options, confidence, again):
    if options == "--temperature":
        options += " --ensemble accuracy_weighted"
    assert offramp(f"cascade {STAGES.format('validation')} {options}{confidence} --out v.safetensors") == (0, "")
    words = f" {options}{confidence}" if again else ""
    assert offramp(f"cascade {STAGES.format('test')} --like v.safetensors{words} --out t.safetensors") == (0, "")
    validation, test = (ExitRecord.load(f"{name}.safetensors") for name in "vt")
    about = validation.metadata
    expected = cascade(
        pair("test"),
        about["ensemble"],
        weights=about.get("weights"),
        confidence="ensemble" if confidence else "own",
        temperatures=about.get("temperatures"),
    )
    np.testing.assert_array_equal(test.prediction, expected.prediction)
    np.testing.assert_array_equal(test.confidence(), expected.confidence())
    assert test.metadata == about | {"split": "test"}


@pytest.mark.parametrize(
    ("like", "line", "message"),
    [
        ("", "--temperature", "--temperature: v.safetensors has another"),
        ("--temperature", "--ensemble mean_logit", "--ensemble: v.safetensors has another"),
        ("--ensemble geometric", "--confidence ensemble", "--confidence: v.safetensors has another"),
    ],
)
def test_a_cascade_unlike_the_other_is_refused(offramp, like, line, message, tmp_path):
    assert offramp(f"cascade {STAGES.format('validation')} {like} --out v.safetensors")[0] == 0
    code, err = offramp(f"cascade {STAGES.format('test')} --like v.safetensors {line} --out t.safetensors")
    assert code != 0
    assert message in err
    assert not (tmp_path / "t.safetensors").exists()


def test_other_stages_samples_and_records_are_refused(offramp):
    assert offramp(f"cascade {STAGES.format('validation')} --temperature --out v.safetensors")[0] == 0
    line = "cascade {} --like {} --out t.safetensors"
    stages = "large/test.safetensors small/test.safetensors"
    assert "stages are large, small; expected small, large" in offramp(line.format(stages, "v.safetensors"))[1]
    for record in pair("test", seed=1):
        record.save(Path(record.metadata["system"], "again.safetensors"))
    assert "seed 0, not 1; expected the same" in offramp(line.format(STAGES.format("again"), "v.safetensors"))[1]
    code, err = offramp(line.format(STAGES.format("test"), "small/validation.safetensors"))
    assert (code, err.count("\n")) == (1, 0)
    assert err.startswith("offramp: error: small/validation.safetensors: expected the record of a cascade")


def test_a_warning_is_one_line(offramp):
    """Also if two stages give the same one."""
    assert offramp(f"cascade {STAGES.format('test')} --temperature --out t.safetensors") == (
        0,
        "offramp: warning: fitting temperatures uses a record whose split is test: results on the same samples are too "
        "good; use validation data\n",
    )


# Policies of another record


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"system": "other"}, "system small + large, not other"),
        ({"dataset": "e"}, "dataset d, not e"),
        ({"unit": "s"}, "unit MAC, not s"),
        ({"seed": 7}, "seed 0, not 7"),
        ({"dataset": "e", "unit": "USD"}, "dataset d, not e; unit MAC, not USD"),
    ],
)
def test_a_policy_of_another_record_warns(other, said, tmp_path):
    policy = make_policy("pcee").fit(cascade(pair("validation")))
    test = cascade(pair("test"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluate(policy, test, [0.5])
        evaluate(make_policy("confidence").fit(cascade(pair("validation"))), made("test", "x", exits=2), [0.5])
    test.metadata |= other
    save_policies({"pcee": policy}, tmp_path / "p")
    for each in (policy, load_policies(tmp_path / "p")[0]["pcee"]):
        with pytest.warns(UserWarning, match=re.escape(f"fitted on another record than this one: {said}") + "$"):
            evaluate(each, test, [0.5])


def test_the_command_warns_once(offramp):
    assert offramp(f"cascade {STAGES.format('validation')} --out v.safetensors")[0] == 0
    assert offramp("calibrate v.safetensors --policy pcee --out p.safetensors")[0] == 0
    assert offramp(f"cascade {STAGES.format('test')} --system mine --out t.safetensors")[0] == 0
    code, err = offramp("evaluate --policies p.safetensors --test t.safetensors --out c.csv --frontier f.csv")
    assert code == 0
    assert err == (
        "offramp: warning: pcee was fitted on another record than this one: system small + large, not mine\n"
    )


# Units of costs


def test_costs_of_two_units_are_not_added():
    money = made("validation", "large", cost=3, unit="USD")
    with pytest.raises(ValueError, match="cascade: stage 2 costs USD, stage 1 MAC; expected one unit"):
        cascade([made("validation"), money])
    bare = made("validation", "large", cost=3, unit=None)
    for records in ([bare, made("validation", "larger", cost=4)], [made("validation"), bare]):
        with pytest.warns(UserWarning, match=r"cascade: stage \d has no unit of its costs, stage \d costs MAC"):
            assert cascade(records).metadata["unit"] == "MAC"


@pytest.mark.parametrize(
    "command", ["compare {} --target 0.5 --targets-out {} --pairs-out {} --control-out {}", SEARCH]
)
def test_runs_of_two_units_are_not_compared(offramp, command):
    files = []
    for system, unit in (("small", "USD"), ("large", None)):
        for split in ("validation", "test"):
            files.append(f"{system}/{split}.safetensors")
            made(split, system, cost=len(system), unit=unit).save(files[-1])
        if command.startswith("compare"):
            files.append(f"{system}/policies.safetensors")
            assert offramp(f"calibrate {system}/validation.safetensors --policy confidence --out {files[-1]}")[0] == 0
    outs = [f"{i}.csv" for i in range(6)]
    line = command.format(" ".join(files), *outs)
    code, err = offramp(line)
    assert code == 0
    assert err.startswith(
        "offramp: warning: runs: large/validation.safetensors has no unit of its costs, small/validation.safetensors "
        "costs USD; the same unit is assumed\n"
    )
    assert set(pd.read_csv("0.csv")["unit"]) == {"USD"}
    made("test", "large", cost=5, unit="MAC").save("large/test.safetensors")
    code, err = offramp(line)
    assert (code, err.count("\n")) == (1, 0)
    assert "large/test.safetensors costs MAC, small/validation.safetensors USD; expected one unit" in err


def test_judge_names_the_unit_and_refuses_two(unrendered, tmp_path):
    validation, test = (cascade(pair(split, unit="USD")) for split in ("validation", "test"))
    assert "a mean cost of 2 USD" in str(judge(validation, test, tmp_path, cost=2, resamples=100))
    assert "Cost (USD)" in (tmp_path / "tables/exits.md").read_text()
    test.metadata["unit"] = "s"
    with pytest.raises(ValueError, match="judge: the test record costs s, the validation record USD"):
        judge(validation, test, tmp_path, resamples=100)


def test_every_table_and_figure_shows_the_unit(offramp):
    """Costs of thousandths of a dollar, from records to tables and figures."""
    files = []
    for system, cost in (("small", 0.0021), ("large", 0.01234)):
        for split in ("validation", "test"):
            files.append(f"{system}/{split}.safetensors")
            made(split, system, scale=len(system), cost=cost, exits=2, unit="USD").save(files[-1])
        line = f"--policies {system}/policies.safetensors --test {files[-1]} --out {system}/curve.csv"
        calibrated = f"calibrate {files[-2]} --policy confidence --out {system}/policies.safetensors"
        assert offramp(calibrated) == offramp(f"evaluate {line} --exits {system}/exits.csv") == (0, "")
        files.append(f"{system}/policies.safetensors")
    outs = "--targets-out targets.csv --pairs-out pairs.csv --control-out control.csv"
    assert offramp(f"compare {' '.join(files)} --target 0.5 --pair small large --resamples 100 {outs}") == (0, "")
    for name, inputs, headers in (
        ("exits", "small/exits.csv large/exits.csv", ["Cost (USD)"]),
        ("targets", "targets.csv", ["Cost (USD)"]),
        ("equal-cost", "pairs.csv", ["Small cost (USD)", "Large cost (USD)"]),
    ):
        assert offramp(f"table {name} {inputs} --out {name}") == (0, "")
        text = Path(f"{name}.md").read_text()
        assert all(f" {header} " in text for header in headers)
        assert "MAC" not in text
        assert "0.00 " not in text
    assert all(cost in Path("exits.md").read_text() for cost in ("0.00210", "0.00420", "0.0123", "0.0247"))
    figure = error_cost.draw([Path(f"{s}/{t}.csv") for s in ("small", "large") for t in ("curve", "exits")], [PAIR])
    assert figure.axes[0].get_xlabel() == "Average cost (USD)"
    pd.read_csv("small/exits.csv").assign(unit="MAC").to_csv("small/exits.csv", index=False)
    assert "costs USD, small/exits.csv MAC" in offramp("table exits small/exits.csv large/exits.csv --out exits")[1]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0021, "0.00210"), (0.0999, "0.0999"), (0.1, "0.10"), (12.345, "12.35"), (0, "0.00"), (np.nan, "–")],
)
def test_digits_of_costs(value, text):
    assert costs(pd.DataFrame({"cost": [2 * value]}), "cost", 2) == [text]


# Names


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("resnet/test.safetensors", "resnet"),
        ("a/resnet-test.safetensors", "resnet"),
        ("resnet_validation.safetensors", "resnet"),
        ("resnet_val.safetensors", "resnet"),
        ("a/interval.safetensors", "interval"),
        ("resnet.policies.safetensors", "resnet"),
        ("a/latest.safetensors", "latest"),
        ("test.safetensors", "test"),
    ],
)
def test_a_system_without_a_name_has_that_of_its_file(path, name):
    assert system_of({}, Path(path)) == name
    assert system_of({"system": "mine"}, Path(path)) == "mine"
