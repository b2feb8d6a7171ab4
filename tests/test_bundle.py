"""Bundles answer as the torch models from which they were exported, without torch, and refuse what is wrong."""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

from offramp import ExitRecord, cascade, certify, decide, load_policies, make_policy
from offramp.cascades.settings import CascadeSettings
from offramp.cli import cli
from offramp.datasets import load_dataset
from offramp.datasets.base import Vocabulary
from offramp.datasets.preparing import ImagePreparation, TextPreparation
from offramp.datasets.text import tokenize
from offramp.models import build_model
from offramp.models.base import MultiExitModel
from offramp.models.costs import exit_costs
from offramp.models.wrapping import Staged
from offramp.runtime import Bundle, EarlyExit, export_bundle, load, write_single_file
from offramp.runtime.inputs import read_inputs
from offramp.runtime.manifest import Combined, read_manifest
from offramp.runtime.messages import responses
from test_encoder import config_of

torch.set_num_threads(1)

N = 60
TOLERANCE = 1e-4  # of signals: onnxruntime adds in another order
SMALL = {"exits": 3, "channels": 4, "growth": 2, "growth_factors": [1, 2], "bottleneck_factors": [1, 2]}
SMALL |= {"head_strides": [], "head_pool": 4}
GREY = ImagePreparation(shape=(1, 8, 8), mean=(8.0,), std=(8.0,))
POLICIES = [
    *(("confidence", {}), ("confidence", {"score": "entropy"}), ("pcee", {"bins": 5}), ("ztw", {})),
    *(("patience", {}), ("beem-c", {}), ("hidden-similarity", {})),
]


@dataclass
class System:
    """A model, its inputs, and what it computes for them in torch."""

    model: MultiExitModel
    x: torch.Tensor  # (N, …)
    torch: EarlyExit
    bundle: Bundle
    record: ExitRecord


def system_of(name, folder):
    torch.manual_seed(1)
    if name == "encoder":
        config_of("Bert", vocab_size=30522, max_position_embeddings=40).save_pretrained(folder / "backbone")
        words = Vocabulary(30522, 0, 102, "minilm-l6", 12)
        options = {"backbone": str(folder / "backbone"), "layers": 3, "pooling": "mean"}
        model = build_model("encoder", classes=3, vocabulary=words, **options).eval()
        preparation = TextPreparation(tokenizer="minilm-l6", max_tokens=12, pad=0)
        x = torch.randint(1, 30522, (N, 12))
        x[torch.arange(12) >= torch.randint(2, 13, (N, 1))] = 0
        cost = np.stack([exit_costs(model, (int(n),)).macs for n in (x != 0).sum(1)])  # (N, L)
    else:
        options = {"patch_size": 4, "embed_dim": 16, "depth": 3, "num_heads": 2} if name == "vit" else SMALL
        model = build_model(name, classes=4, image_shape=(1, 8, 8), **options).eval()
        preparation, x = GREY, torch.randn(N, 1, 8, 8)
        cost = exit_costs(model, (1, 8, 8)).macs  # (L,)
    with torch.no_grad():
        for head in getattr(model, "heads", []):  # untrained exits are never sure
            for layer in head.modules():
                if isinstance(layer, nn.Linear):
                    layer.weight *= 1 if name == "encoder" else 20
        outputs = list(model.outputs(x))
    logits = torch.stack([output.logits for output in outputs], dim=1)  # (N, L, C)
    similarity = None
    if outputs[0].similarity is not None:
        similarity = torch.stack([output.similarity for output in outputs], dim=1).numpy()  # (N, L)
    labels = torch.randint(logits.shape[2], (N,)).numpy()
    record = ExitRecord(logits.numpy(), labels, cost, similarity=similarity)
    bundle = load(export_bundle(folder / "bundle", model, make_policy("confidence"), 0.5, preparation))
    return System(model, x, EarlyExit(model, make_policy("confidence"), 0.5), bundle, record)


@pytest.fixture(scope="module", params=["msdnet", pytest.param("vit", marks=pytest.mark.nightly), "encoder"])
def system(request, tmp_path_factory):
    return system_of(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """An exported model of images, with one policy."""
    torch.manual_seed(0)
    model = Staged([nn.Flatten(), nn.Linear(64, 8)], [nn.Linear(64, 4), nn.Linear(8, 4)])
    folder = tmp_path_factory.mktemp("images") / "bundle"
    names = ("ant", "bee", "cat", "dog")
    return export_bundle(folder, model, make_policy("confidence"), [0.4], GREY, names=names, label="sure")


def assert_answers(found, expected, exits, signal, thresholds):
    """Exits may differ only for samples that have a signal closest to a threshold."""
    near = (np.abs(signal[:, :-1] - thresholds) <= TOLERANCE).any(axis=1)  # (N,)
    for answers in (found, expected):
        assert not (answers["exit"] != exits)[~near].any()
    same = found["exit"] == expected["exit"]
    assert (same | near).all()
    assert near.mean() < 0.2
    for key in ("prediction", "cost"):
        np.testing.assert_array_equal(found[key][same & ~near], expected[key][same & ~near])
    for key in ("signal", "confidence", "logits"):
        np.testing.assert_allclose(found[key][same & ~near], expected[key][same & ~near], atol=1e-3, rtol=1e-4)


def in_batches(stop, x, size):
    answers = [stop(x[first : first + size]) for first in range(0, len(x), size)]
    keys = ("prediction", "exit", "signal", "confidence", "cost", "logits")
    return {key: np.concatenate([getattr(each, key) for each in answers]) for key in keys}


@pytest.mark.parametrize(("name", "options"), POLICIES, ids=str)
def test_a_bundle_answers_as_torch_and_as_the_record(system, name, options):
    record = system.record
    if name == "hidden-similarity" and "similarity" not in record.measures:
        return
    policy = make_policy(name, **options).fit(record)
    signal = policy.signal(record)  # (N, L)
    finite = signal[np.isfinite(signal)]
    shared = np.median(finite) + 1e-3
    each = [np.quantile(signal[:, i], 0.7) + 1e-3 for i in range(record.n_exits - 1)]
    few, more = (("always", 7), ("never", N)), (("always", 1), ("always", N), ("never", 7), (4, N))
    for threshold, ways in ((shared, few + more), (each, few), (np.inf, few), (-np.inf, few)):
        (exits,), (answers,) = decide(policy, record, [threshold])
        for regroup, size in ways:
            for stop in (system.bundle, system.torch):
                stop.policy, stop.threshold, stop.regroup = policy, np.asarray(threshold), regroup
            found = in_batches(system.bundle, system.x.numpy(), size)
            assert_answers(found, in_batches(system.torch, system.x, size), exits, signal, threshold)
            costs = record.cost if record.sample_cost is None else record.sample_cost
            expected = costs[found["exit"]] if costs.ndim == 1 else costs[np.arange(N), found["exit"]]
            np.testing.assert_array_equal(found["cost"], expected)
            assert (found["prediction"] != answers).sum() <= (found["exit"] != exits).sum()


def test_times_are_measured(system):
    bundle = system.bundle
    bundle.policy, bundle.threshold, bundle.regroup = make_policy("confidence"), np.asarray(0.5), "measured"
    times = bundle.profile(system.x.numpy())
    assert times.stages.shape == times.removal.shape == (bundle.n_exits, len(times.sizes))
    assert (times.stages > 0).all()
    assert bundle(system.x.numpy()).exit.shape == (N,)


def test_one_file_for_single_samples(system, tmp_path):
    import onnxruntime

    bundle = system.bundle
    bundle.policy, bundle.regroup = make_policy("confidence"), "always"
    signal = bundle.policy.signal(system.record)  # (N, L)
    folder, exits = shutil.copytree(bundle.folder, tmp_path / "bundle"), set()
    for threshold in (float(np.median(signal)) + 1e-3, (np.median(signal[:, :-1], axis=0) + 1e-3).tolist()):
        edited(folder, threshold=threshold)
        bundle.threshold = np.asarray(threshold)
        write_single_file(folder, tmp_path / "whole.onnx")
        session = onnxruntime.InferenceSession(tmp_path / "whole.onnx")
        for x in system.x.numpy()[:, None]:
            if x.dtype == np.int64:
                x = x[:, x[0] != 0]
            logits, exit_ = session.run(["logits", "exit"], {"input": x})
            expected = bundle(x)
            assert exit_ == expected.exit[0]
            np.testing.assert_allclose(logits, expected.logits, atol=1e-4)
            exits.add(int(exit_))
    assert len(exits) > 1


def test_one_file_is_for_one_policy(images, tmp_path):
    export_bundle(tmp_path / "b", Staged([nn.Flatten()], [nn.Linear(64, 4)]), make_policy("patience"), 1, GREY)
    with pytest.raises(ValueError, match="policy 'patience'; expected confidence with max_softmax"):
        write_single_file(tmp_path / "b", tmp_path / "whole.onnx")


def test_rejected_answers(tmp_path):
    """They are −1, without a class in JSON and in tables. The file for single samples cannot say so."""
    torch.manual_seed(0)
    model = Staged([nn.Flatten(), nn.Linear(64, 8)], [nn.Linear(64, 2), nn.Linear(8, 2)])
    folder = tmp_path / "bundle"
    x = np.random.default_rng(0).normal(size=(9, 1, 8, 8)).astype(np.float32)
    sure = np.sort(EarlyExit(model, make_policy("confidence"), np.inf)(torch.from_numpy(x)).confidence)
    below = float(sure[3:5].mean())
    export_bundle(folder, model, make_policy("confidence"), np.inf, GREY, names=("no", "yes"), reject_below=below)
    assert read_manifest(folder).reject_below == below
    answers = load(folder)(x)
    assert ((answers.prediction == -1) == (answers.confidence < below)).all()
    assert (answers.prediction == -1).sum() == 4
    for response in responses(answers, ("no", "yes")):
        assert (response["class"] is None) == (response["prediction"] == -1)
    np.save(tmp_path / "x.npy", x)
    cli(["run", str(folder), str(tmp_path / "x.npy"), "--out", str(tmp_path / "a.csv")], standalone_mode=False)
    table = pd.read_csv(tmp_path / "a.csv")
    assert (table["class"].isna() == (table["prediction"] == -1)).all()
    with pytest.raises(ValueError, match=r"bundle: reject_below is .*; expected a bundle without rejection"):
        write_single_file(folder, tmp_path / "whole.onnx")
    for abstain_below in (below, [below]):
        export_bundle(folder, model, make_policy("confidence"), np.inf, GREY, abstain_below=abstain_below)
        answers = load(folder)(x)
        early = answers.exit == 0
        assert 0 < early.sum() < len(x)
        assert ((answers.prediction == -1) == early).all()
        assert (early == (load(folder, threshold=-np.inf)(x).confidence < below)).all()
    with pytest.raises(ValueError, match=r"bundle: abstain_below is \(.*\); expected a bundle without rejection"):
        write_single_file(folder, tmp_path / "whole.onnx")
    with pytest.raises(ValueError, match=r"abstain_below: expected a number or 1 of them .*; got \[0.5, 0.5\]"):
        export_bundle(folder, model, make_policy("confidence"), np.inf, GREY, abstain_below=[0.5, 0.5])
    assert read_manifest(folder).abstain_below == (below,)  # the failed export changed nothing
    with pytest.raises(ValueError, match="reject_below: expected one number, not NaN"):
        EarlyExit(model, make_policy("confidence"), 0.5, reject_below=np.nan)


# Cascades


class Single(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(64, 4)

    def forward(self, x):
        return 3 * self.head(x.flatten(1))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperatures": ((0.5,), (2.0, 1.5))},
        {"ensemble": "mean_probability"},
        {"ensemble": "geometric", "confidence": "ensemble", "temperatures": ((2.0,), (2.0, 1.0))},
        {"ensemble": "accuracy_weighted", "weights": (0.5, 0.25, 0.75)},
    ],
    ids=str,
)
def test_a_cascade_of_models_with_their_own_preparation(options, tmp_path):
    torch.manual_seed(0)
    small, large = Single(), Staged([nn.Flatten(), nn.Linear(64, 32)], [nn.Linear(64, 4), nn.Linear(32, 4)])
    plain = ImagePreparation(shape=(1, 8, 8), divisor=16.0)
    pixels = torch.randint(17, (N, 1, 8, 8), dtype=torch.uint8)
    inputs = [torch.from_numpy(each(pixels.numpy())) for each in (plain, GREY)]
    with torch.no_grad():
        logits = [small(inputs[0])[:, None], large(inputs[1])]  # (N, Lₖ, C)
    labels = torch.randint(4, (N,)).numpy()
    parts = [ExitRecord(each.numpy(), labels, cost) for each, cost in zip(logits, ([256.0], [256.0, 2432.0]))]
    known = {key: list(map(list, value)) if key == "temperatures" else value for key, value in options.items()}
    record = cascade(parts, **known)
    policy = make_policy("pcee", bins=5).fit(record)
    threshold = policy.signal(record)[:, 1].mean()
    combined = Combined(**options) if options else None
    folder = export_bundle(tmp_path / "b", [small, large], policy, threshold, [plain, GREY], combined=combined)
    (exits,), (answers,) = decide(policy, record, [threshold])
    assert len(set(exits)) > 1
    steps = [lambda x, each=each: torch.from_numpy(each(x.numpy())) for each in (plain, GREY)]
    whole = EarlyExit.cascade([small, large], policy, threshold, preparations=steps, **options)(pixels.float())
    for regroup in ("always", "never"):
        bundle = load(folder, regroup=regroup)
        found = bundle(bundle.prepare(pixels.numpy()))
        np.testing.assert_array_equal(found.exit, exits)
        np.testing.assert_array_equal(found.prediction, answers)
        np.testing.assert_array_equal(found.exit, whole.exit)
        np.testing.assert_allclose(found.cost, record.cost[exits])
        np.testing.assert_allclose(found.confidence, whole.confidence, atol=1e-5)
    with pytest.raises(ValueError, match="read different inputs"):
        bundle(inputs[0].numpy())


def test_a_cascade_of_texts(tmp_path):
    words = Vocabulary(30522, 0, 102, "minilm-l6", 8)
    options = {"classes": 2, "vocabulary": words, "backbone": str(saved_config(tmp_path / "backbone")), "layers": 1}
    models = [build_model(name, **options).eval() for name in ("huggingface", "encoder")]
    prepare = TextPreparation(tokenizer="minilm-l6", max_tokens=8, pad=0)
    texts = ["a film", "", "it was long, and nobody cared", "good " * 20]
    folder = export_bundle(tmp_path / "b", models, make_policy("confidence"), 0.5, [prepare, prepare])
    assert [file.name for file in sorted(folder.glob("tokenizer*"))] == ["tokenizer.json"]
    bundle = load(folder)
    x = bundle.prepare(texts)
    with torch.no_grad():
        first = models[0](torch.from_numpy(x.arrays[0]))[:, 0].softmax(1).amax(1)  # (B,)
    threshold = float(first.sort().values[1:3].mean())
    whole = EarlyExit.cascade(models, make_policy("confidence"), threshold)(torch.from_numpy(x.arrays[0]))
    for regroup in ("always", "never"):
        answers = load(folder, threshold=threshold, regroup=regroup)(x)
        assert sorted(answers.exit) == [0, 0, 1, 1]
        np.testing.assert_array_equal(answers.exit, whole.exit)
        np.testing.assert_array_equal(answers.cost, whole.cost)
        np.testing.assert_allclose(answers.logits, whole.logits, atol=1e-5)


def test_texts_are_tokenized_as_in_training(tmp_path):
    texts = ["", "A film.", "[SEP] is a word here", "long " * 30, "naïve café — 日本"]
    model = build_model(
        "encoder",
        classes=2,
        vocabulary=Vocabulary(30522, 0, 102, "minilm-l6", 10),
        backbone=str(saved_config(tmp_path / "backbone")),
        layers=1,
    )
    for columns, pairs in ((("text",), None), (("a", "b"), texts[::-1])):
        prepare = TextPreparation(tokenizer="minilm-l6", max_tokens=10, pad=0, columns=columns)
        export_bundle(tmp_path / "b", model, make_policy("confidence"), 0.5, prepare)
        bundle = load(tmp_path / "b")
        _, tokens, offsets = tokenize(texts, pairs, "minilm-l6", 10)
        samples = [(text,) for text in texts] if pairs is None else list(zip(texts, pairs))
        x = bundle.prepare(samples).arrays[0]  # (B, T)
        for row, ids in zip(x, np.split(tokens, offsets[1:-1])):
            np.testing.assert_array_equal(row[row != 0], ids)
        costs = np.stack([exit_costs(model, (int(n),)).macs for n in np.diff(offsets)])  # (B, 1)
        np.testing.assert_array_equal(bundle.cost(x), costs)


def saved_config(folder):
    config_of("Bert", vocab_size=30522).save_pretrained(folder)
    return folder


# Export


def test_a_bundle_replaces_only_a_bundle(images, tmp_path):
    model = Staged([nn.Flatten()], [nn.Linear(64, 4)])
    export = partial(export_bundle, model=model, policy=make_policy("confidence"), threshold=0.5, preparation=GREY)
    copied = shutil.copytree(images, tmp_path / "bundle")
    assert sorted(file.name for file in export(copied).iterdir()) == [
        *("manifest.json", "policy.safetensors", "stage-1.onnx")
    ]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="other: exists and is not a bundle"):
        export(tmp_path / "other")
    before = {file.name: file.read_bytes() for file in copied.iterdir()}
    with pytest.raises(ValueError, match="threshold: expected a number or 0 of them"):
        export(copied, threshold=[0.5, 0.4])
    assert {file.name: file.read_bytes() for file in copied.iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "other"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"policy": make_policy("pcee")}, "pcee .*not fitted|pcee learns"),
        ({"names": ("a", "b")}, r"classes \[4\] and 2 names|\[4\] classes and 2 names"),
        ({"preparation": [GREY, GREY]}, "1 models and 2 preparations"),
        ({"threshold": np.nan}, "none NaN"),
    ],
)
def test_exports_that_are_refused(change, message, tmp_path):
    model = Staged([nn.Flatten()], [nn.Linear(64, 4)])
    given = {"model": model, "policy": make_policy("confidence"), "threshold": 0.5, "preparation": GREY}
    with pytest.raises(ValueError, match=message):
        export_bundle(tmp_path / "b", **(given | change))
    assert list(tmp_path.iterdir()) == []


class Counting(nn.Module):
    """A layer whose computation depends on the number of samples, which an export fixes."""

    def forward(self, x):
        return x.flatten(1) * len(list(x))


def test_what_an_export_fixes_is_found(tmp_path):
    with pytest.raises(ValueError, match=r"stage 1: (torch cannot export it|logits differs in onnxruntime)") as refused:
        export_bundle(tmp_path / "b", Staged([Counting()], [nn.Linear(64, 4)]), make_policy("confidence"), 0.5, GREY)
    assert "\n" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_costs_that_are_no_quadratic_function_of_the_length(monkeypatch):
    from offramp.runtime import exporting

    class Costs:
        def __init__(self, macs):
            self.macs = np.array([macs], float)

    monkeypatch.setattr(exporting, "exit_costs", lambda model, shape: Costs(shape[0] ** 3))
    prepare = TextPreparation(tokenizer="none", max_tokens=9, pad=0)
    with pytest.raises(ValueError, match=r"cost: \[729.0\] MACs for a text of 9 tokens; expected"):
        exporting.cost_coefficients(None, prepare)


# Loading


def test_no_torch_is_imported(images, tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((3, 1, 8, 8), np.uint8))
    code = f"""
import sys
for name in ("torch", "snakemake", "sklearn", "transformers", "torchvision", "timm"):
    sys.modules[name] = None
import numpy as np
from offramp.runtime import load
from offramp.cascades.settings import CascadeSettings
from offramp.cli import cli
bundle = load({str(images)!r})
bundle.profile(np.zeros((4, 1, 8, 8), np.float32))
assert bundle(bundle.prepare(np.zeros((4, 1, 8, 8), np.uint8))).exit.shape == (4,)
cli(["run", {str(images)!r}, {str(tmp_path / "x.npy")!r}, "--out", {str(tmp_path / "a.csv")!r}], standalone_mode=False)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    assert list(pd.read_csv(tmp_path / "a.csv")) == [
        *("sample", "prediction", "class", "exit", "signal", "confidence", "cost")
    ]


def edited(folder, **changes):
    """Change the manifest and write it with a fitting checksum."""
    from offramp.runtime.manifest import MANIFEST, _checksum

    values = json.loads((folder / MANIFEST).read_text()) | changes
    values = {key: value for key, value in values.items() if value != "missing" and key != "checksum"}
    (folder / MANIFEST).write_text(json.dumps(values | {"checksum": _checksum(values)}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda b: (b / "manifest.json").unlink(), "no manifest.json; expected a folder that `offramp export` wrote"),
        (lambda b: (b / "manifest.json").write_text("{"), r"manifest.json: not readable \(.*delete it and run again"),
        (lambda b: (b / "manifest.json").write_text("[]"), "manifest.json: not readable"),
        (
            lambda b: (b / "manifest.json").write_text((b / "manifest.json").read_text().replace("0.4", "0.3")),
            r"manifest.json: damaged or edited \(checksum differs\)",
        ),
        (lambda b: edited(b, format="offramp-bundle/2"), "format is 'offramp-bundle/2'; expected 'offramp-bundle/1'"),
        (lambda b: edited(b, colour="red"), "manifest.json: unknown or missing key 'colour'; expected abstain_below, "),
        (lambda b: edited(b, unit="missing"), "manifest.json: unknown or missing key 'unit'"),
        (lambda b: edited(b, classes="4"), "classes: '4'; expected a value of type int"),
        (lambda b: edited(b, policy="other"), r"policy.safetensors: no policy 'other'; only sure"),
        (lambda b: edited(b, files={}), "files: no 'policy.safetensors'"),
        (lambda b: (b / "stage-2.onnx").unlink(), "stage-2.onnx: missing; delete it and run again"),
        (
            lambda b: (b / "stage-1.onnx").write_bytes((b / "stage-1.onnx").read_bytes()[:-9]),
            r"stage-1.onnx: damaged \(checksum differs\); delete it and run again",
        ),
        (lambda b: (b / "policy.safetensors").write_bytes(b""), "policy.safetensors: damaged"),
    ],
)
def test_damaged_bundles(images, damage, message, tmp_path):
    bundle = shutil.copytree(images, tmp_path / "bundle")
    assert read_manifest(bundle).names == ("ant", "bee", "cat", "dog")
    assert read_manifest(bundle).combined == Combined()
    damage(bundle)
    with pytest.raises(ValueError, match=message) as refused:
        load(bundle)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((2, 1, 8, 8)), r"inputs: float64 \(2, 1, 8, 8\); expected float32 \(B, 1, 8, 8\)"),
        (np.zeros((2, 3, 8, 8), np.float32), r"inputs: float32 \(2, 3, 8, 8\)"),
        (np.zeros((0, 1, 8, 8), np.float32), "expected at least one sample"),
        (np.full((1, 1, 8, 8), np.nan, np.float32), "logits must be finite"),
    ],
)
def test_batches_that_are_refused(images, x, message):
    with pytest.raises(ValueError, match=message):
        load(images)(x)


# Inputs from files


def offramp(*words):
    cli([str(word) for word in words], standalone_mode=False)


def test_a_folder_of_images_and_its_array(images, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 17, (5, 1, 8, 8), np.uint8)
    (tmp_path / "in" / "sub").mkdir(parents=True)
    for i, each in enumerate(pixels):
        Image.fromarray(each[0]).save(tmp_path / "in" / ("sub" if i == 4 else "") / f"{i}.png")
    np.save(tmp_path / "stored.npy", pixels)
    np.save(tmp_path / "prepared.npy", GREY(pixels))
    for source in ("in", "stored.npy", "prepared.npy"):
        offramp("run", images, tmp_path / source, "--out", tmp_path / f"{source}.csv", "--batch-size", 2)
    tables = {source: pd.read_csv(tmp_path / f"{source}.csv") for source in ("in", "stored.npy", "prepared.npy")}
    assert tables["in"]["sample"].tolist() == ["0.png", "1.png", "2.png", "3.png", "sub/4.png"]
    assert tables["stored.npy"]["sample"].tolist() == [0, 1, 2, 3, 4]
    for source in ("in", "prepared.npy"):
        pd.testing.assert_frame_equal(tables[source].iloc[:, 1:], tables["stored.npy"].iloc[:, 1:])


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        (
            "x.npy",
            lambda p: np.save(p, np.zeros((2, 3, 8, 8))),
            r"x.npy: shape .2, 3, 8, 8.; expected .N, 1, 8, 8.",
        ),
        ("x.npy", lambda p: np.save(p, np.zeros((2, 1, 8, 8), bool)), "x.npy: bool; expected integers"),
        ("x.npy", lambda p: np.save(p, np.zeros((0, 1, 8, 8))), "x.npy: no samples in it"),
        ("x.npy", lambda p: np.save(p, np.array([{}])), "x.npy: not a readable .npy file"),
        ("x.npy", lambda p: p.write_bytes(b""), "x.npy: not a readable .npy file"),
        (
            "x.npy",
            lambda p: np.save(p, np.full((2, 1, 8, 8), [[[[0]]], [[[np.nan]]]])),
            "x.npy: row 1 has a value that is not finite",
        ),
        ("x", lambda p: p.mkdir(), "x: no images in it; expected at least one"),
        ("x.txt", lambda p: p.write_text("text"), r"x.txt: expected a .npy file or a folder of images"),
        ("x.npy", lambda p: None, "x.npy: no such file or folder"),
    ],
)
def test_inputs_that_are_refused(name, write, message, tmp_path):
    write(tmp_path / name)
    with pytest.raises(ValueError, match=message) as refused:
        read_inputs(tmp_path / name, [GREY])
    assert "\n" not in str(refused.value)


def test_images_that_are_refused(images, tmp_path):
    bundle = load(images)
    (tmp_path / "bad.png").write_bytes(b"\x89PNG")
    Image.new("L", (9, 8)).save(tmp_path / "large.png")
    with pytest.raises(ValueError, match=r"bad.png: unreadable image"):
        bundle.prepare([tmp_path / "bad.png"])
    with pytest.raises(ValueError, match=r"large.png: 9 × 8 pixels; expected 8 × 8"):
        bundle.prepare([tmp_path / "large.png"])


def test_texts_in_files(tmp_path):
    text, pair = (TextPreparation(tokenizer="t", max_tokens=9, pad=0, columns=c) for c in (("text",), ("a", "b")))
    (tmp_path / "x.txt").write_text("one\n\nthree, four\n", encoding="utf-8")
    (tmp_path / "x.csv").write_text('b,a,other\n"x, y",1,2\n', encoding="utf-8")
    (tmp_path / "x.tsv").write_text('a\tb\n"x\ty\n', encoding="utf-8")
    found = read_inputs(tmp_path / "x.txt", [text])
    assert (found.names, found.samples) == ([1, 2, 3], [("one",), ("",), ("three, four",)])
    assert [rows.tolist() for rows in found.batches(2)] == [[1, 0], [2]]
    assert read_inputs(tmp_path / "x.csv", [pair]).samples == [("1", "x, y")]
    assert read_inputs(tmp_path / "x.tsv", [pair]).samples == [('"x', "y")]
    (tmp_path / "latin.txt").write_bytes("a\ncafé".encode("latin-1"))
    (tmp_path / "empty.txt").write_text("")
    for name, preparation, message in (
        ("x.txt", pair, "x.txt: expected .csv or .tsv with the columns a, b"),
        ("x.csv", text, "x.csv, line 1: no column 'text'"),
        ("latin.txt", text, "latin.txt: not UTF-8 at line 2"),
        ("empty.txt", text, "empty.txt: no samples in it"),
    ):
        with pytest.raises(ValueError, match=message):
            read_inputs(tmp_path / name, [preparation])


# From training to answers


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A tiny model of digits, with its splits, records and policies."""
    folder = tmp_path_factory.mktemp("study")
    offramp("data", "digits", "--validation", 300, "--test", 900, "--out", folder / "splits.csv")
    options = ",".join(f"{key}={json.dumps(value, separators=(',', ':'))}" for key, value in SMALL.items())
    train = ("--dataset", "digits", "--model", f"msdnet:{options}", "--splits", folder / "splits.csv")
    outs = ("--out", folder / "weights", "--history", folder / "history.csv")
    offramp("train", *train, "--system", "net", "--epochs", 6, *outs)
    records = ("--validation", folder / "validation", "--test", folder / "test")
    offramp("record", folder / "weights", "--splits", folder / "splits.csv", *records)
    chosen = ("--policy", "pcee", "--policy", "sure=confidence")
    offramp("calibrate", folder / "validation", *chosen, "--out", folder / "policies")
    return folder


@pytest.mark.parametrize("label", ["pcee", pytest.param("sure", marks=pytest.mark.nightly)])
def test_from_weights_to_answers(study, label, tmp_path):
    validation, record = (ExitRecord.load(study / split) for split in ("validation", "test"))
    policy = load_policies(study / "policies")[0][label]
    if label == "pcee":
        chosen = ("--cost", validation.cost.mean())
        threshold = policy.choose_threshold(validation, cost=validation.cost.mean())
    else:
        threshold = np.median(validation.confidence()[:, :-1].astype(float), axis=0)
        chosen = ("--threshold", ",".join(map(str, threshold)))
    given = ("--policies", study / "policies", "--policy", label, "--validation", study / "validation")
    offramp("export", study / "weights", *given, *chosen, "--out", tmp_path / "bundle")
    manifest = read_manifest(tmp_path / "bundle")
    np.testing.assert_array_equal(manifest.threshold, threshold)
    np.save(tmp_path / "x.npy", load_dataset("digits").pixels["all"].numpy()[record.index])
    (exits,), (answers,) = decide(policy, record, [threshold])
    assert label == "pcee" or len(set(exits)) == 3
    for regroup in ("always", "never", "measured", "8"):
        words = ("--regroup", regroup, "--batch-size", 128, "--out", tmp_path / "answers.parquet")
        offramp("run", tmp_path / "bundle", tmp_path / "x.npy", *words)
        table = pd.read_parquet(tmp_path / "answers.parquet")
        assert (table["exit"] - 1 != exits).mean() < 0.01
        same = table["exit"].to_numpy() - 1 == exits
        np.testing.assert_array_equal(table["prediction"][same], answers[same])
        np.testing.assert_array_equal(table["cost"][same], record.cost[exits][same])
    assert manifest.models[0].source["system"] == "net"


@pytest.mark.nightly
def test_a_cascade_from_weights_to_answers(study, tmp_path):
    both = (study / "validation", study / "validation")
    options = ("--ensemble", "mean_logit", "--confidence", "ensemble", "--temperature")
    with pytest.warns(UserWarning, match="no more than stage 1"):
        offramp("cascade", *both, *options, "--out", tmp_path / "validation")
    offramp("calibrate", tmp_path / "validation", "--policy", "confidence", "--out", tmp_path / "policies")
    record = ExitRecord.load(tmp_path / "validation")
    threshold = float(np.median(record.confidence()[:, :-1]))
    given = ("--policies", tmp_path / "policies", "--threshold", threshold, "--out", tmp_path / "bundle")
    with pytest.raises(Exception, match="fitted on a cascade with an ensemble or temperatures; give --validation"):
        offramp("export", study / "weights", study / "weights", *given)
    offramp("export", study / "weights", study / "weights", *given, "--validation", tmp_path / "validation")
    np.save(tmp_path / "x.npy", load_dataset("digits").pixels["all"].numpy()[record.index])
    offramp("run", tmp_path / "bundle", tmp_path / "x.npy", "--out", tmp_path / "a.csv")
    (exits,), (answers,) = decide(make_policy("confidence"), record, [threshold])
    table = pd.read_csv(tmp_path / "a.csv")
    assert len(set(exits)) > 1
    assert (table["exit"] - 1 != exits).mean() < 0.01
    assert (table["prediction"] != answers).mean() < 0.01


@pytest.mark.nightly
def test_a_chosen_cascade_from_weights_to_answers(study, tmp_path):
    """The settings of a cascade have its policy, thresholds, ensemble and temperatures."""
    validation, test = (ExitRecord.load(study / split) for split in ("validation", "test"))
    settings = CascadeSettings(
        stages=("net", "net"),
        measure="margin",
        combined=Combined(ensemble="mean_logit", temperatures=((2.0, 2.0, 1.0), (1.0, 1.0, 1.0))),
        thresholds=(*np.median(validation.confidence("margin")[:, :2], axis=0).tolist(), 0.9, np.inf, 0.5),
        origin={"seed": validation.metadata["seed"]},
    )
    settings.save(tmp_path / "c.json")
    given = ("--policies", tmp_path / "c.json", "--out", tmp_path / "bundle")
    offramp("export", study / "weights", study / "weights", *given)
    assert read_manifest(tmp_path / "bundle").threshold == settings.thresholds
    np.save(tmp_path / "x.npy", load_dataset("digits").pixels["all"].numpy()[test.index])
    offramp("run", tmp_path / "bundle", tmp_path / "x.npy", "--out", tmp_path / "a.csv")
    with pytest.warns(UserWarning, match="no more than stage 1"):
        record = settings.build([test, test])
    (exits,), (answers,) = decide(settings.policy, record, [np.array(settings.thresholds)])
    table = pd.read_csv(tmp_path / "a.csv")
    assert len(set(exits)) > 2
    assert (table["exit"] - 1 != exits).mean() < 0.01
    assert (table["prediction"] != answers).mean() < 0.01
    for change in ({"stages": ("net",)}, {"stages": ("net", "other")}, {"origin": {"seed": 9}}):
        replace(settings, **change).save(tmp_path / "c.json")
        with pytest.raises(Exception, match=r"c\.json: a cascade of .*, but WEIGHTS are of net seed"):
            offramp("export", study / "weights", study / "weights", *given)


def test_a_certified_threshold(study, tmp_path):
    given = ("--policies", study / "policies", "--policy", "pcee", "--validation", study / "validation")
    chosen = ("--risk", "disagreement", "--level", 0.4, "--confidence", 0.8)
    with pytest.warns(UserWarning, match="fitted on a record with the same origin"):
        offramp("export", study / "weights", *given, *chosen, "--out", tmp_path / "bundle")
    policy = load_policies(study / "policies")[0]["pcee"]
    result = certify(policy, ExitRecord.load(study / "validation"), "disagreement", 0.4, 0.8)
    assert read_manifest(tmp_path / "bundle").threshold == result.threshold < np.inf
    with pytest.raises(ValueError, match="pcee: no threshold is certified: error is"):
        offramp("export", study / "weights", *given, "--level", 0.02, "--out", tmp_path / "other")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--threshold", 0.5, "--accuracy", 0.9), "expected one of --threshold, --accuracy, --cost and --level"),
        ((), "expected one of --threshold, --accuracy, --cost and --level"),
        (("--accuracy", 0.9), "need --validation"),
        (("--threshold", 0.5), "None is not in .*; expected one of pcee, sure"),
        (("--threshold", 0.5, "--policy", "x"), "'x' is not in"),
    ],
)
def test_commands_that_are_refused(study, words, message, tmp_path):
    with pytest.raises(Exception, match=message):
        offramp("export", study / "weights", "--policies", study / "policies", *words, "--out", tmp_path / "b")
    assert list(tmp_path.iterdir()) == []
