"""Studies of stored outputs: their datasets, records without a model, and the search on other random splits."""

import hashlib
import io
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import yaml

from checkout import ENVIRONMENT, ROOT, SHARED, STORED, Checkout
from offramp import ExitRecord, make_policy
from offramp.comparison.cascades import Variant, reduction_tables
from offramp.comparison.resplitting import joined, resplit_table
from offramp.comparison.runs import Run
from offramp.datasets import OUTPUTS, load_dataset, outputs
from offramp.policies import POLICIES
from offramp.records.splitting import stratified_order
from offramp.reports.tables.resplits import TABLE
from offramp.stored import public_model, stored_outputs

COSTS = str(ROOT / "data/timm/timm_pareto.csv")
PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def put(folder, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def tables(n: int, classes: int) -> dict[str, pd.DataFrame]:
    """Predictions of three models of increasing accuracy, sorted by class, as in the real files."""
    random = np.random.default_rng(0)
    labels = np.sort(np.arange(n) % classes)
    made = {}
    for name, accuracy in (("a/small", 0.6), ("a/middle", 0.7), ("b/large", 0.8)):
        right = random.random(n) < accuracy
        sure = np.where(right, random.beta(5, 1, n), random.beta(2, 2, n)).astype(np.float32)
        columns = {"true_label": labels, "pred_label": np.where(right, labels, (labels + 1) % classes)}
        made[f"{name}.csv"] = pd.DataFrame({**columns, "confidence": sure.astype(np.float64)})
    return made


def as_csv(table: pd.DataFrame) -> bytes:
    return table.to_csv(index=False).encode()


@pytest.fixture
def data(tmp_path, monkeypatch):
    """The folder of datasets."""
    monkeypatch.setenv("OFFRAMP_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def imagenet(data, monkeypatch):
    """Small files of the same shape as the real ones, in the folder of datasets: two images per class."""
    made = tables(2000, 1000)
    files = {name: as_csv(table) for name, table in made.items()}
    monkeypatch.setattr(outputs, "IMAGENET_FILES", {name: [sha256(content)] for name, content in files.items()})
    put(data / "imagenet_outputs", files)
    return made


# The dataset


def test_outputs_are_what_the_files_hold(imagenet):
    dataset = load_dataset("imagenet_outputs")
    for name, table in imagenet.items():
        made = dataset.outputs(name)
        assert made["prediction"].tolist() == table["pred_label"].tolist()
        assert made["max_softmax"].tolist() == table["confidence"].tolist()  # float32 numbers, unchanged
    assert dataset.labels["all"].tolist() == table["true_label"].tolist()


def test_probabilities_become_logits_with_the_same_softmax(data, monkeypatch):
    p = np.random.default_rng(0).dirichlet(np.full(100, 0.02), 300).astype(np.float32)  # many of them are 0
    assert (p == 0).any()
    buffer = io.BytesIO()
    np.savez(buffer, ground_truth=np.arange(300) % 100, predictions=p)
    monkeypatch.setattr(outputs, "CIFAR100_FILES", {"net.npz": [sha256(buffer.getvalue())]})
    put(data / "cifar100_outputs", {"net.npz": buffer.getvalue()})
    logits = load_dataset("cifar100_outputs").outputs("net.npz")["logits"]
    exact = np.exp(logits.astype(np.float64))
    np.testing.assert_allclose(exact / exact.sum(1, keepdims=True), p / p.sum(1, keepdims=True), atol=1e-6)
    record = ExitRecord(logits[:, None], np.arange(300) % 100, [1.0])
    np.testing.assert_allclose(record.confidence()[:, 0], p.max(1), rtol=1e-5)


def test_missing_files_are_named_with_their_folder(imagenet, data, monkeypatch):
    monkeypatch.setattr(outputs, "IMAGENET_URL", "http://127.0.0.1:9/")  # nobody listens
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name in ("a/middle.csv", "b/large.csv"):
        (data / "imagenet_outputs" / name).unlink()
    with pytest.raises(ValueError, match="by hand") as error:
        load_dataset("imagenet_outputs")
    said = str(error.value)
    assert "\n" not in said
    assert f"put into {data / 'imagenet_outputs'}, by hand: a/middle.csv (sha256 " in said
    assert "b/large.csv" in said
    assert "a/small.csv" not in said


def test_another_file_is_refused(imagenet, data):
    path = data / "imagenet_outputs/b/large.csv"
    path.write_bytes(path.read_bytes()[:-2] + b"9\n")
    with pytest.raises(ValueError, match=r"large\.csv: damaged or another file .* delete it and run again"):
        load_dataset("imagenet_outputs").outputs("b/large.csv")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda table: table.iloc[:-1], "1999 samples; expected 2000"),
        (
            lambda table: table.assign(true_label=table["true_label"].replace(3, 4)),
            "sample 7 has the label 4; expected 3",
        ),
    ],
)
def test_files_of_other_samples_are_refused(imagenet, data, monkeypatch, change, said):
    other = as_csv(change(imagenet["b/large.csv"]))
    monkeypatch.setitem(outputs.IMAGENET_FILES, "b/large.csv", [sha256(other)])
    put(data / "imagenet_outputs", {"b/large.csv": other})
    with pytest.raises(ValueError, match=rf"large\.csv: {said}, as in the other files"):
        load_dataset("imagenet_outputs").outputs("b/large.csv")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"file": "c.csv", "macs": 1.0}, "unknown file of imagenet_outputs 'c.csv': expected one of a/small.csv"),
        ({"file": "a/small.csv"}, "small: expected its cost as one of macs, macs_per_token and price, or as timm and"),
        ({"file": "a/small.csv", "macs": 1.0, "price": 2.0}, "small: expected its cost as one of"),
        ({"file": "a/small.csv", "column": "small", "macs": 1.0}, "expected either file or column"),
        ({"file": "a/small.csv", "price": 2.0}, "small: the costs of imagenet_outputs are MACs; expected them as macs"),
        (
            {"file": "a/small.csv", "macs_per_token": 2.0},
            "small: imagenet_outputs has no tokens; expected its cost",
        ),
        ({"file": "a/small.csv", "timm": "resnet34.bt_in1k"}, "small: expected its cost"),
        (
            {"file": "a/small.csv", "timm": "resnet35", "image_size": 224},
            "no model resnet35; expected one of its names",
        ),
        (
            {"file": "a/small.csv", "timm": "resnet34.bt_in1k", "image_size": 240},
            "no cost of resnet34.bt_in1k at 240 pixels; expected one of 224, 288",
        ),
        ({"macs": 1.0}, "outputs: expected either file or column"),
    ],
)
def test_mistakes_in_the_options_of_stored_outputs(imagenet, options, said):
    splits = pd.DataFrame({"split": ["validation", "test"], "pool": "all", "index": [0, 1]})
    with pytest.raises(ValueError, match=said):
        stored_outputs(("imagenet_outputs", {"costs": COSTS}), options).records(splits)


def test_a_dataset_without_stored_outputs():
    with pytest.raises(ValueError, match="digits has no stored outputs; expected one of imagenet_outputs"):
        stored_outputs(("digits", {}), {"file": "a.csv", "macs": 1.0})


def test_no_times_without_a_row_of_the_table(imagenet):
    stored = stored_outputs(("imagenet_outputs", {}), {"file": "a/small.csv", "macs": 3.0}, "mine")
    with pytest.raises(ValueError, match="mine: no published time"):
        stored.seconds()


# The studies in params.yaml


def test_costs_of_the_imagenet_study():
    """Names and sizes are rows of the table, and models of equal architecture and size have equal costs there."""
    study = PARAMS["studies"]["imagenet_outputs"]
    assert {options["file"] for options in study["models"].values()} == set(outputs.IMAGENET_FILES)
    gmacs = {
        system: float(public_model(COSTS, options["timm"], options["image_size"])["gmacs"])
        for system, options in study["models"].items()
    }
    assert gmacs["mobilenetv3-large"] == 0.23
    assert gmacs["efficientnet-b1"] == public_model(COSTS, "tf_efficientnet_b1.in1k", 240)["gmacs"] == 0.71
    assert gmacs["efficientnet-b3"] == 2.01
    assert gmacs["inception-v3-tf"] == gmacs["inception-v3-tv"] == 5.73
    assert gmacs["senet154"] == 20.77


def convolution(channels, filters, size, side):
    return channels * filters * size**2 * side**2


def lenet():
    return convolution(3, 6, 5, 28) + convolution(6, 16, 5, 10) + 400 * 120 + 120 * 84 + 84 * 100


def densenet():
    channels, side = 24, 32
    macs = convolution(3, channels, 3, side)
    for block in range(3):
        for _ in range(16):
            macs += convolution(channels, 48, 1, side) + convolution(48, 12, 3, side)
            channels += 12
        if block < 2:  # a transition: half the channels, half the side
            macs += convolution(channels, channels // 2, 1, side)
            channels, side = channels // 2, side // 2
    return macs + channels * 100


def wide_resnet():
    channels, side = 16, 32
    macs = convolution(3, channels, 3, side)
    for width in (64, 128, 256):
        side = side if width == 64 else side // 2
        macs += convolution(channels, width, 1, side)  # the shortcut
        macs += convolution(channels, width, 3, side) + 3 * convolution(width, width, 3, side)
        channels = width
    return macs + channels * 100


def test_costs_of_the_cifar_study():
    models = PARAMS["studies"]["cifar100_outputs"]["models"]
    assert {options["file"] for options in models.values()} == set(outputs.CIFAR100_FILES)
    counted = {"lenet-5": lenet(), "densenet-bc-100": densenet(), "wideresnet-16-4": wide_resnet()}
    assert {system: options["macs"] for system, options in models.items()} == counted


@pytest.mark.parametrize("label", PARAMS["policies"])
def test_policies_need_what_they_say(label):
    """They run on records that contain it, and on no record that lacks it."""
    options = {key: value for key, value in PARAMS["policies"][label].items() if key != "models"}
    policy = make_policy(options.pop("policy"), **options)
    random = np.random.default_rng(0)
    logits, labels = random.normal(size=(400, 2, 3)), random.integers(0, 3, 400)
    full = ExitRecord(logits, labels, [1, 2], similarity=random.random((400, 2)))
    provided = ("logits", *full.measures)
    if policy.needs == ("prediction",):
        return  # which every record of classes contains; see test_policies_say_what_is_missing

    def record(*kept: str) -> ExitRecord:
        measures = {name: full.measure(name) for name in kept if name != "logits"} or {
            "similarity": full.measure("margin")
        }
        read = (lambda: logits) if "logits" in kept else None
        return ExitRecord.from_outputs(full.prediction, measures, labels, [1, 2], metadata={"classes": 3}, logits=read)

    assert set(policy.needs) <= set(provided)
    assert policy.fit(record(*policy.needs)).signal(record(*policy.needs)).shape == (400, 2)
    for missing in policy.needs:
        less = record(*(name for name in provided if name not in (missing, "similarity")))
        with pytest.raises(ValueError, match=r"logits|no (max_softmax|margin|entropy|similarity)"):
            policy.fit(less).signal(less)


def test_every_policy_says_what_it_needs():
    assert all(isinstance(make_policy(name).needs, tuple) for name in POLICIES)


# Other random splits


def runs(n=300, classes=5, seed=0):
    """Runs of three models whose validation and test samples are a random split of one pool."""
    order = stratified_order(np.sort(np.arange(n) % classes), np.random.default_rng(seed))
    made = []
    for k, (name, table) in enumerate(tables(n, classes).items()):
        about = {"system": name, "seed": 0, "dataset": "made", "classes": classes, "unit": "MAC"}
        columns = [table[column].to_numpy() for column in ("pred_label", "confidence", "true_label")]
        whole = ExitRecord.from_outputs(columns[0][:, None], columns[1][:, None], columns[2], [10.0**k], metadata=about)
        made.append(Run(name, 0, whole[np.sort(order[: n // 3])], whole[np.sort(order[n // 3 :])]))
    return made


BANDS, STEP = [(0.6, 0.8)], 0.02


def test_a_joined_record_is_the_pool():
    for run in runs():
        whole = joined(run)
        order = np.argsort(whole.index)
        assert whole.index[order].tolist() == list(range(300))
        table = tables(300, 5)[run.system]
        assert whole.labels[order].tolist() == table["true_label"].tolist()
        assert whole.prediction[order, 0].tolist() == table["pred_label"].tolist()
        assert whole.confidence()[order, 0].tolist() == table["confidence"].tolist()


def test_splits_are_searched_one_by_one():
    """Against the search on records that are cut by hand, sample by sample, with MACs and with seconds as the cost."""
    variants = {"max-softmax": Variant()}
    seconds = {"a device": {"a/small.csv": 3.0, "a/middle.csv": 1.0, "b/large.csv": 5.0}}
    made = resplit_table(runs(), variants, BANDS, STEP, 2, seconds)
    assert set(zip(made["cost"], made["split"])) == {(cost, split) for cost in ("MAC", "a device") for split in (1, 2)}
    pool = {run.system: joined(run) for run in runs()}
    for (cost, split), rows in made.groupby(["cost", "split"]):
        labels = next(iter(pool.values())).labels
        order = stratified_order(labels, np.random.default_rng([0, split]))
        cut = []
        for k, (name, record) in enumerate(pool.items()):
            price = 10.0**k if cost == "MAC" else seconds[cost][name]
            parts = []
            for chosen in (order[:100], order[100:]):
                rows_of = sorted(int(i) for i in chosen)
                one = [[record.prediction[i, 0]] for i in rows_of], [[record.confidence()[i, 0]] for i in rows_of]
                about = {**record.metadata, "unit": "any"}
                parts.append(ExitRecord.from_outputs(*map(np.array, one), labels[rows_of], [price], metadata=about))
            cut.append(Run(name, 0, *parts))
        expected = reduction_tables(cut, variants, BANDS, STEP, 0)
        bands = expected["reductions"].query("scored_on == 'test' and low < high").set_index(["kind", "front", "mean"])
        found = rows[rows["quantity"] == "reduction"].set_index(["kind", "front", "mean"])["value"]
        assert found.to_dict() == pytest.approx(bands["reduction"].to_dict())
        measures = expected["measures"].fillna({"to_kind": ""}).set_index(["quantity", "kind", "to_kind"])["value"]
        others = rows[rows["quantity"] != "reduction"].fillna({"to_kind": ""})
        assert others.set_index(["quantity", "kind", "to_kind"])["value"].to_dict() == pytest.approx(measures.to_dict())


def scored(system, right, cost):
    """A run whose answers have qualities and features, from labelled ones."""
    features = np.arange(len(right))[:, None]
    whole = ExitRecord.from_scores(right[:, None], right[:, None] / 2, [cost], features=features)
    whole.metadata["system"] = system
    return Run(system, 0, whole[:100], whole[100:])


def test_qualities_and_features_are_split_again():
    """Qualities of 0 and 1 are those of classes, up to the random split, which is by class for these."""
    random = np.random.default_rng(0)
    made = [scored(f"m{k}", random.random(300) < 0.5 + 0.2 * k, 10.0**k) for k in range(3)]
    whole = joined(made[0])
    assert whole.features[:, 0].tolist() == whole.index.tolist() == list(range(300))
    assert whole.quality.tolist() == [*made[0].validation.quality.tolist(), *made[0].test.quality.tolist()]
    seconds = {"a device": {"m0": 1.0, "m1": 2.0, "m2": 3.0}}
    table = resplit_table(made, {"max-softmax": Variant()}, [(0.5, 0.8)], STEP, 2, seconds)
    assert set(table["split"]) == {1, 2}
    assert table.query("quantity == 'reduction' and kind == 'oracle'")["value"].notna().any()


def test_the_table_is_of_all_splits(tmp_path):
    made = resplit_table(runs(), {"max-softmax": Variant()}, BANDS, STEP, 4)
    made.to_parquet(tmp_path / "resplits.parquet")
    numbers = TABLE.numbers([tmp_path / "resplits.parquet"])
    row = numbers[numbers["part"] == "pairs, step front"].iloc[0]
    of_pairs = made.query("quantity == 'reduction' and kind == 'pair' and front == 'step' and mean == 'arithmetic'")[
        "value"
    ]
    assert len(of_pairs) == row["splits"] == 4
    expected = of_pairs.mean(), of_pairs.std(), of_pairs.min(), of_pairs.max(), (of_pairs > 1).sum()
    assert tuple(row[["estimate", "estimate_sd", "estimate_low", "estimate_high", "agrees"]]) == pytest.approx(expected)
    assert "of 4" in TABLE.readable(numbers)["MACs"].iloc[0]
    TABLE.write(numbers, tmp_path / "resplits")
    assert all((tmp_path / f"resplits.{ending}").stat().st_size for ending in ("csv", "md", "tex"))


def test_samples_of_two_pools_are_not_split_again():
    made = runs()
    made[0].test.index[3] = made[0].validation.index[5]
    with pytest.raises(ValueError, match="is a validation and a test sample, so they are from different pools"):
        resplit_table(made, {"max-softmax": Variant()}, BANDS, STEP, 2)


def test_a_model_without_seconds():
    with pytest.raises(ValueError, match=r"b/large\.csv: no seconds on a phone; expected them for all models"):
        resplit_table(
            runs(), {"max-softmax": Variant()}, BANDS, STEP, 2, {"a phone": {"a/small.csv": 1.0, "a/middle.csv": 1.0}}
        )


# The workflow


def test_a_tiny_study(imagenet, tmp_path):
    """From files in the data folder to the tables of the search and of the policies, without training."""
    pytest.importorskip("snakemake")
    checkout = Checkout(tmp_path / "checkout")
    policies = {
        **SHARED["policies"],
        "margin": {"policy": "confidence", "score": "margin"},
        "beem-a": {"policy": "beem-a"},
    }
    checkout.write(STORED, {**SHARED, "policies": policies, "duels": [["beem-a", "pcee"], ["margin", "pcee"]]})
    checkout.run_here("curves", "reports/tiny/tables/resplits.md", "reports/tiny/tables/seconds.md")
    made = checkout.folder / "artifacts/tiny"
    record = ExitRecord.load(made / "records/small-s0/test.safetensors")
    assert (record.n_samples, record.cost.tolist()) == (1000, [0.23e9])
    table = imagenet["a/small.csv"].iloc[record.index]
    assert record.prediction[:, 0].tolist() == table["pred_label"].tolist()
    validation = ExitRecord.load(made / "records/small-s0/validation.safetensors")
    assert sorted([*record.index, *validation.index]) == list(range(2000))
    assert np.bincount(record.labels).tolist() == [1] * 1000
    assert ExitRecord.load(made / "records/three-s0/test.safetensors").cost.tolist() == [0.23e9, 0.94e9, 2.95e9]
    curve = pd.read_parquet(checkout.folder / "reports/tiny/curves/two-s0.parquet")
    assert set(curve["policy"]) == {"confidence", "pcee", "pcee-ws", "oracle", "beem-a"}  # nothing that needs more
    assert set(pd.read_parquet(made / "evaluate/duels.parquet")["rival"]) == {"pcee"}
    resplits = pd.read_parquet(made / "evaluate/resplits.parquet")
    assert set(resplits["cost"]) == {"MAC", "RTX 3090, large batches", "Core i7-12700H, one image at a time"}
    assert (checkout.folder / "reports/tiny/tables/seconds.md").read_text().count("RTX 3090") == 3
    assert not (made / "train").exists()


def test_torch_is_not_imported():
    """Neither by the commands that make the records, nor by those that come after."""
    code = (
        "import sys, offramp.stored, offramp.datasets.splits, offramp.datasets.outputs, "
        "offramp.comparison.resplitting, offramp.acceleration.evaluating"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; sys.exit('torch' in sys.modules)"], env=ENVIRONMENT, check=False
    )
    assert done.returncode == 0


def test_what_outputs_provide_is_registered():
    assert set(OUTPUTS) == {
        study["dataset"]["name"] for study in PARAMS["studies"].values() if study["training"] == {"epochs": 0}
    }
