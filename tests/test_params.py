"""params.yaml is valid, and a mistake in it gives a one-line message with its position."""

from copy import deepcopy
from pathlib import Path

import pytest

from offramp.study.params import policies_of, read_params, select_study

yaml = pytest.importorskip("yaml")
pytest.importorskip("jsonschema")

ROOT = Path(__file__).parents[1]
SCHEMA = ROOT / "workflow" / "schemas" / "params.schema.yaml"
PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
STUDY = "digits"
MSDNET = next(label for label, model in PARAMS["studies"][STUDY]["models"].items() if model["model"] == "msdnet")
VIT = next(label for label, model in PARAMS["studies"][STUDY]["models"].items() if model["model"] == "vit")
SHARED = ("policies", "deltas", "duels")
GONE = object()


def one_factor(**variant):
    return "sensitivity", {"draws": 2, "factors": {"bins": [{"setting": 10} | variant]}}


def only(name):
    """Return the parameters with one study: all are checked each time."""
    return {**PARAMS, "study": name, "studies": {name: PARAMS["studies"][name]}}


def changed(*path_and_value):
    """Return the parameters with one entry of the study or of the shared part changed or removed."""
    *path, key, value = path_and_value
    params = deepcopy(only(STUDY))
    entry = params if [*path, key][0] in SHARED else params["studies"][STUDY]
    for part in path:
        entry = entry[part]
    if value is GONE:
        del entry[key]
    else:
        entry[key] = value
    return params


def check_refused(params, *pieces):
    with pytest.raises(ValueError, match=r"^params\.yaml: ") as caught:
        select_study(params, SCHEMA)
    message = str(caught.value)
    assert "\n" not in message
    for piece in pieces:
        assert piece in message


@pytest.mark.parametrize("name", PARAMS["studies"])
def test_every_study_passes(name):
    study = select_study(only(name), SCHEMA)
    duels = study.pop("duels")  # those of policies that the study has
    own = PARAMS["studies"][name]
    assert study == own | {"policies": PARAMS["policies"] | own["own_policies"], "deltas": PARAMS["deltas"]}
    assert all(duel in [*PARAMS["duels"], *own["comparison"].get("duels", [])] for duel in duels)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("study: [", r"params\.yaml: not YAML \("),
        ("- digits", r"params\.yaml: \['digits'\]; expected settings"),
        ("study: &a {b: *a}", r"^params\.yaml: study\.b\.b[.b]* is in more than 20 levels"),
        (
            "a: &a [1, 1, 1]\nb: &b [*a, *a, *a]\n"
            + "".join(f"{y}: &{y} [{', '.join([f'*{x}'] * 9)}]\n" for x, y in zip("bcdefg", "cdefgh")),
            r"after 100,000 other values",
        ),
        ("study: digits\n5: 6", r"^params\.yaml: top level has the key 5: expected text"),
        ("study: .nan", r"^params\.yaml: study is nan: expected a finite number"),
    ],
)
def test_what_yaml_allows_but_settings_are_not(text, message, tmp_path):
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        select_study(read_params(tmp_path / "params.yaml"), SCHEMA)


def test_a_grid_of_thresholds_is_bounded():
    check_refused(changed("delta", "step", 1e-9), "studies.digits.delta has the step 1e-09", "at most 1,000,000")


def test_a_policy_may_have_its_own_grid():
    grid = {"start": -2.0, "stop": 0.0, "step": 0.5}
    params = changed("deltas", "margin", grid)
    assert select_study(params, SCHEMA)["deltas"]["margin"] == grid


def test_an_unknown_study_lists_the_known():
    check_refused({**PARAMS, "study": "cifra"}, "no study 'cifra'", "expected one of", *PARAMS["studies"])


@pytest.mark.parametrize(("key", "value"), [("study", 3), ("studies", GONE), ("studies", {}), ("studys", {})])
def test_the_top_level(key, value):
    params = deepcopy(PARAMS)
    params[key] = value
    if value is GONE:
        del params[key]
    check_refused(params, key)


SHIFTS = {"systems": ["vit"], "kinds": ["noise"], "severities": [1]}
ACCELERATE = {"models": {"vit": []}, "levels": [0.1], "draws": 2}
MISTAKES = {
    # shifts
    "shifted system": (("shifts", SHIFTS | {"systems": ["resnet"]}), ("shifts.systems", "'resnet'", "vit")),
    "shifted kind": (("shifts", SHIFTS | {"kinds": ["fog"]}), ("shifts.kinds", "'fog'", "noise, blur")),
    "shifted texts": (
        ("shifts", SHIFTS | {"kinds": ["noise", "typos"]}),
        ("shifts.kinds", "'noise' for images and 'typos' for others: expected kinds for one of them"),
    ),
    "severity": (("shifts", SHIFTS | {"severities": [6]}), ("shifts.severities", "6")),
    # accelerate
    "accelerated model": (
        ("accelerate", ACCELERATE | {"models": {"vit": []}}),
        ("accelerate.models names 'vit'", "expected models that answer once and run"),
    ),
    "level of agreement": (("accelerate", ACCELERATE | {"levels": [1.5]}), ("accelerate.levels", "1.5")),
    "no draws": (("accelerate", {"models": {"vit": []}}), ("accelerate", "levels", "models")),
    # unknown keys
    "study": (("epochs", 3), ("'epochs'", "expected")),
    "splits": (("splits", "valid", 3), ("splits", "'valid'", "validation")),
    "training": (("training", "lr", 0.1), ("training", "'lr'", "learning_rate")),
    "dataset": (("dataset", "shfit", 1), ("dataset", "'shfit'")),
    "model": (("models", MSDNET, "width", 3), (f"models.{MSDNET}", "'width'")),
    "key of another model": (("models", VIT, "growth", 4), (f"models.{VIT}", "'growth'")),
    "training of a model": (("models", VIT, "training", {"rate": 3}), (f"models.{VIT}.training", "'rate'")),
    "calibration": (("calibration", "bin", 3), ("calibration", "'bin'", "bins")),
    "a share of 0": (("calibration", "fit_share", 0), ("calibration.fit_share", "0")),
    "no share": (("calibration", "fit_share", GONE), ("calibration", "fit_share")),
    "a share that leaves too few samples": (
        ("calibration", "fit_share", 0.99),
        (
            "calibration.fit_share",
            "356 of 360 validation samples are for fitting and 4 for choosing",
            "expected at least 10",
        ),
    ),
    "a split and folds": (
        one_factor(policy="pcee", fit_share=0.5, folds=3),
        ("bins, setting 10", "fit_share and folds"),
    ),
    "delta": (("delta", "by", 3), ("delta", "'by'", "step")),
    "comparison": (("comparison", "target", 3), ("comparison", "'target'", "targets")),
    "option of a variant": (one_factor(policy="pcee", bin=3), ("sensitivity.factors.bins, setting 10", "'bin'")),
    "variant twice": (
        ("sensitivity", {"draws": 2, "factors": {"bins": [{"setting": s, "policy": "pcee"} for s in (10, "10")]}}),
        ("sensitivity.factors.bins", "'10'", "twice"),
    ),
    "setting with an equals sign": (one_factor(setting="bins=3", policy="pcee"), ("bins.0.setting", "bins=3")),
    "variant without a policy": (one_factor(bins=3), ("sensitivity.factors.bins.0", "policy")),
    "variant whose δ is no accuracy": (one_factor(policy="oracle"), ("bins, setting 10", "oracle")),
    "variant of more samples than there are": (
        one_factor(policy="pcee", validation=361),
        ("bins, setting 10", "361", "splits.validation"),
    ),
    # wrong types and values
    "seeds in words": (("seeds", "three"), ("seeds", "'three'", "array")),
    "no seed": (("seeds", []), ("seeds",)),
    "a seed twice": (("seeds", [0, 0]), ("seeds",)),
    "a seed below 0": (("seeds", [0, -1]), ("seeds.1",)),
    "half a seed": (("seeds", [0.5]), ("seeds.0", "0.5", "integer")),
    "epochs in words": (("training", "epochs", "many"), ("training.epochs", "'many'", "integer")),
    "no epochs": (("training", "epochs", GONE), ("training", "epochs")),
    "fewer than 0 epochs": (("training", "epochs", -1), ("training.epochs",)),
    "true epochs": (("training", "epochs", True), ("training.epochs", "True", "integer")),
    "an exponent that YAML reads as text": (
        ("training", "weight_decay", "1e-4"),
        ("training.weight_decay", "'1e-4'", "number"),
    ),
    "a rate of 0": (("training", "learning_rate", 0), ("training.learning_rate",)),
    "unknown optimizer": (("training", "optimizer", "adam"), ("training.optimizer", "'adam'", "sgd, adamw")),
    "exits in words": (("models", MSDNET, "exits", "four"), (f"models.{MSDNET}.exits", "'four'", "integer")),
    "unknown model": (("models", MSDNET, "model", "resnet"), (f"models.{MSDNET}.model", "'resnet'", "msdnet")),
    "no model": (("models", MSDNET, "model", GONE), (f"models.{MSDNET}", "model")),
    "no models": (("models", {}), ("models",)),
    "a label that is no file name": (("models", "MSDNet/1", {"model": "msdnet"}), ("models", "MSDNet/1")),
    "unknown dataset": (("dataset", "name", "mnits"), ("dataset.name", "'mnits'", "digits")),
    "no policies": (("policies", {}), ("policies",)),
    "no policy": (("policies", "mine", {"bins": 3}), ("policies.mine", "policy")),
    "a step of 0": (("delta", "step", 0), ("delta.step",)),
    "a target above 1": (("comparison", "targets", [0.9, 95]), ("comparison.targets.1", "95")),
    "too few resamples": (("comparison", "resamples", 10), ("comparison.resamples",)),
    "half a pair": (("comparison", "pairs", [[MSDNET]]), ("comparison.pairs.0",)),
    "exit 0": (("report", "reliability_exits", [0]), ("report.reliability_exits.0",)),
    "a grid that falls": (
        ("delta", {"start": 1.0, "stop": 0.5, "step": 0.1}),
        ("delta", "starts at 1.0", "stops at 0.5"),
    ),
    "a policy's grid that falls": (
        ("deltas", "oracle", {"start": 1, "stop": 0, "step": 0.1}),
        ("deltas.oracle", "starts at 1", "stops at 0"),
    ),
    "half a grid of a policy": (
        ("deltas", "oracle", {"start": 1}),
        ("deltas.oracle", "stop"),
    ),
    "a grid of no policy": (
        ("deltas", "pece", {"start": 0, "stop": 1, "step": 0.1}),
        ("deltas names 'pece'", "pcee-ws"),
    ),
    "no sensitivity": (("sensitivity", GONE), ("sensitivity",)),
    "factors without draws": (("sensitivity", {"factors": {}}), ("sensitivity", "draws")),
    "a pair of one": (("comparison", "pairs", [[MSDNET, MSDNET]]), ("comparison.pairs", f"'{MSDNET}'", "two models")),
    # names that refer to nothing, and options of policies
    "unknown policy": (
        ("policies", "mine", {"policy": "pceee"}),
        ("policies.mine", "unknown policy 'pceee'", "expected one of oracle"),
    ),
    "unknown option": (
        ("policies", "mine", {"policy": "pcee", "bin": 3}),
        ("policies.mine", "pcee: unknown option 'bin'", "expected some of bins"),
    ),
    "option called name": (
        ("policies", "mine", {"policy": "pcee", "name": "pcee"}),
        ("policies.mine", "pcee: unknown option 'name'"),
    ),
    "option out of range": (
        ("policies", "mine", {"policy": "pcee", "bins": 0}),
        ("policies.mine", "option bins is 0", "expected a whole number"),
    ),
    "option of a wrong type": (
        ("policies", "mine", {"policy": "pcee", "bins": [50]}),
        ("policies.mine", "option bins is [50]", "expected a whole number"),
    ),
    "a pair without a model": (
        ("comparison", "pairs", [[MSDNET, "huge"]]),
        ("comparison.pairs", "'huge'", "expected one of", MSDNET),
    ),
    "a cascade of nothing": (("cascades", "mine", [MSDNET, "huge"]), ("cascades.mine", "'huge'", MSDNET)),
    "a cascade of one": (("cascades", "mine", [MSDNET]), ("cascades.mine",)),
    "a cascade with a model's name": (("cascades", MSDNET, [MSDNET, VIT]), (f"cascades.{MSDNET}", "model's name")),
    "a router of nothing": (("routers", "mine", [MSDNET, "huge"]), ("routers.mine", "'huge'", MSDNET)),
    "a router of models with several exits": (
        ("routers", "mine", [MSDNET, VIT]),
        ("routers.mine", MSDNET, "expected models that answer once"),
    ),
    "an option of a policy of the study": (
        ("own_policies", "mine", {"policy": "pcee", "bins": 0}),
        ("own_policies.mine", "option bins is 0"),
    ),
    "a duel of the study with no policy": (
        ("comparison", "duels", [["pcee", "nothing"]]),
        ("comparison.duels", "'nothing'", "pcee"),
    ),
    "a search without models": (
        ("search", {"bands": [[0.5, 0.6]], "step": 0.01}),
        ("search", "expected two models of one exit at least, not 0"),
    ),
    "a search without steps": (("search", {"bands": [[0.5, 0.6]]}), ("search", "'step'")),
    "models that answer once alone": (
        ("models", {"a": {"model": "timm", "backbone": "lcnet_035"}}),
        ("models answer once", "expected a model of several exits, or cascades"),
    ),
    "a baseline that is no policy": (
        ("comparison", "baseline", "nothing"),
        ("comparison.baseline", "'nothing'", "pcee"),
    ),
    "a baseline that claims no accuracy": (
        ("comparison", "baseline", "oracle"),
        ("comparison.baseline", "'oracle'", "pcee"),
    ),
    "stored outputs of a dataset that has none": (
        ("models", "mine", {"model": "outputs", "file": "a.csv", "macs": 1}),
        ("models.mine.model is 'outputs'", "the dataset digits has none"),
    ),
    "stored outputs without a cost": (("models", "mine", {"model": "outputs", "file": "a.csv"}), ("models.mine",)),
    "a model of a dataset of outputs": (
        ("dataset", {"name": "imagenet_outputs"}),
        (f"models.{MSDNET}.model is 'msdnet'", "the dataset imagenet_outputs has stored outputs"),
    ),
    "captions of images that have none": (
        ("captions", {"policies": ["pcee"], "thresholds": 2, "at_most": [0], "beams": 2}),
        ("captions", "expected {}, as the dataset is digits"),
    ),
    "a captioner of images without captions": (
        ("models", "mine", {"model": "captioner"}),
        ("models.mine.model is 'captioner'", "the dataset digits has none"),
    ),
    "no splits": (("splits", {}), ("splits is {}", "expected validation and seed")),
    "a report of no model": (("report", "oracle", "huge"), ("report.oracle", "'huge'", MSDNET)),
    "a diagram of no model": (("report", "reliability", "huge"), ("report.reliability", "'huge'", MSDNET)),
}


@pytest.mark.parametrize(("change", "pieces"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_named_by_its_place(change, pieces):
    where = change[0] if change[0] in SHARED else f"studies.{STUDY}"
    check_refused(changed(*change), where, *pieces)


@pytest.mark.parametrize(
    ("mistake", "place"),
    [
        (("training", "epochs", -1), "training.epochs"),
        (("comparison", "baseline", "nothing"), "comparison.baseline"),
    ],
)
def test_studies_that_do_not_run_now_are_checked_too(mistake, place):
    params = changed(*mistake)
    params["studies"]["other"] = deepcopy(PARAMS["studies"][STUDY])
    params["study"] = "other"
    check_refused(params, f"studies.{STUDY}.{place}")


def test_duels_of_a_policy_that_no_model_of_the_study_has_are_left_out():
    params = changed("policies", "mine", {"policy": "hidden-similarity", "models": ["encoder"]})
    params["duels"] = [["mine", "pcee"], ["pcee-ws", "pcee"]]
    assert select_study(params, SCHEMA)["duels"] == [["pcee-ws", "pcee"]]


def test_a_baseline_that_no_model_of_the_study_has():
    params = changed("comparison", "baseline", "mine")
    params["policies"]["mine"] = {"policy": "pcee", "models": ["encoder"]}
    check_refused(params, f"studies.{STUDY}.comparison.baseline", "'mine'", "pcee-ws")


def test_stored_outputs_are_of_one_run():
    params = deepcopy(PARAMS)
    params["studies"]["imagenet_outputs"]["seeds"] = [0, 1]
    check_refused(params, "studies.imagenet_outputs.seeds are [0, 1]", "expected [0]")


@pytest.mark.parametrize(
    ("key", "value", "pieces"),
    [
        ("captions", {}, ("captions is {}", "expected policies, thresholds, at_most and beams")),
        ("splits", {"validation": 5, "seed": 0}, ("splits is", "expected {}, as scenes has splits of its own")),
        ("times", {"systems": ["captioner"], "batch_sizes": [1]}, ("times is set", "expected {}")),
        (
            "captions",
            {"policies": ["agreement"], "thresholds": 2, "at_most": [0], "beams": 2},
            ("captions.policies names 'agreement'", "pcee"),
        ),
        ("models", {"vit": {"model": "vit"}}, ("models.vit.model is 'vit'", "the dataset scenes has captions")),
    ],
)
def test_mistakes_in_a_study_of_captions(key, value, pieces):
    params = deepcopy(PARAMS)
    params["studies"]["scenes"][key] = value
    check_refused(params, "studies.scenes", *pieces)


def test_captions_with_the_tokens_of_a_pretrained_decoder_have_no_logits():
    params = deepcopy(only("coco"))
    assert "ztw" not in policies_of(select_study(params, SCHEMA), "captioner")
    params["studies"]["coco"]["captions"]["policies"] = ["pcee", "ztw"]
    check_refused(params, "studies.coco.captions.policies names 'ztw': expected some of")


def test_policies_that_need_what_stored_outputs_lack_are_left_out():
    studies = {name: select_study(only(name), SCHEMA) for name in ("imagenet_outputs", "cifar100_outputs")}
    kept = {name: set(policies_of(study, next(iter(study["cascades"])))) for name, study in studies.items()}
    lacking = {"margin", "entropy", "normalized-entropy", "temperature", "patient-confident", "f-pabee", "ztw"}
    own = studies["cifar100_outputs"]["own_policies"].keys()
    assert kept["cifar100_outputs"] - kept["imagenet_outputs"] == lacking | own
    assert ["beem-a", "ztw"] not in studies["imagenet_outputs"]["duels"]


def test_policies_of_answers_and_routers():
    """Routers have those that do not read the outputs of models, and answers that are not stored no policy that reads
    them."""
    gsm8k, mmlu = (select_study(only(name), SCHEMA) for name in ("llm_gsm8k", "llm_mmlu"))
    chosen = {"oracle", "random", "router"}
    voting = {"patience", "agreement", "learned-deferral", "stopping"}
    assert set(policies_of(gsm8k, "four-models")) == chosen | voting
    assert set(policies_of(gsm8k, "four-models-router")) == chosen
    assert set(policies_of(mmlu, "cascade-x10")) == set(policies_of(mmlu, "router-x10")) == chosen
    assert policies_of(mmlu, "router-x10")["oracle"]["target"] == "label"  # that of the study, not of all studies
    shared = [["stopping", "patience"], ["stopping", "learned-deferral"]]  # of policies that are all there
    assert gsm8k["duels"] == [*shared, *gsm8k["comparison"]["duels"]]


@pytest.mark.parametrize(
    ("change", "pieces"),
    [
        ({"comparison": {"baseline": "random"}}, ("comparison.baseline is 'random'", "expected none")),
        (
            {"report": {"oracle": "four-models", "reliability": "four-models", "reliability_exits": [1]}},
            ("report", "no max softmax"),
        ),
        ({"routers": {"three-models": ["6b-finetuned", "6b-verified"]}}, ("routers.three-models", "a cascade's name")),
        ({"models": {"6b-finetuned": {"model": "outputs", "column": "a", "price": 1, "macs": 1}}}, ("6b-finetuned",)),
    ],
)
def test_mistakes_in_a_study_of_answers(change, pieces):
    params = deepcopy(PARAMS)
    for key, entries in change.items():
        params["studies"]["llm_gsm8k"][key] |= entries
    check_refused(params, *pieces)


def test_the_parameters_are_left_as_they_were():
    params = deepcopy(PARAMS)
    select_study(params, SCHEMA)
    assert params == PARAMS


def test_a_policy_may_be_for_some_models_only():
    params = changed("policies", "mine", {"policy": "hidden-similarity", "models": ["vit"]})
    assert select_study(params, SCHEMA)["policies"]["mine"]["models"] == ["vit"]


@pytest.mark.parametrize(
    ("path", "value", "pieces"),
    [
        (("policies", "mine"), {"policy": "beem-a", "models": ["vti"]}, ["policies.mine.models", "'vti'", "msdnet"]),
        (("policies", "mine"), {"policy": "beem-a", "models": []}, ["policies.mine.models"]),
        (("policies", "mine"), {"policy": "beem-a", "on_disagree": "two"}, ["policies.mine", "own", "zero"]),
        (("duels",), [["pcee", "beem-z"]], ["duels", "'beem-z'", "beem-a"]),
        (("duels",), [["pcee", "pcee"]], ["duels", "beside itself"]),
        (("duels",), [["pcee"]], ["duels"]),
        (("training", "distillation"), -1, ["training.distillation"]),
        (("training", "schedule"), "line", ["training.schedule", "linear"]),
        (("dataset",), {"name": "glue", "task": "stsb"}, ["dataset"]),
        (("dataset",), {"name": "reviews", "min_rating": 0}, ["dataset.min_rating"]),
        (("models", "text"), {"model": "encoder", "layer": 3}, ["models.text", "'layer'", "layers"]),
    ],
)
def test_what_texts_and_duels_need(path, value, pieces):
    check_refused(changed(*path, value), *pieces)
