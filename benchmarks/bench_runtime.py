"""Speed of models that stop, compared with the full model, side by side in one run.

Every exit but the last takes an equal share of the samples, by thresholds on the confidence, so that the ratio of MACs
is about the same for all models. Weights are random: the time does not depend on them. Compared are the full model with
all its exits, and `EarlyExit` with samples that are never removed from the batch, always removed, or removed by the
measured table. "never" is also the rule of runtimes in which the whole batch leaves together. On a CPU, image models
are also exported, and run in onnxruntime: `bundle`, and `bundle, nobody leaves`.

Each batch runs through all variants in a random order, and times are medians over repetitions. Machines are noisy, so
only the ratios are meaningful. For each batch size, the table has the ratio of MACs, the measured ratio of the
variants, and where the difference went, as shares of the time of the full model: `heads` (computing the earlier exits,
part of the full model, too), `kernels` (smaller batches take longer per sample), `removal` (selecting the samples that
stay), and `decision` (everything else: the policy, copies to the host, Python).
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from offramp import ExitRecord, make_policy
from offramp.datasets.base import Vocabulary
from offramp.datasets.preparing import ImagePreparation
from offramp.models import build_model
from offramp.models.base import MultiExitModel
from offramp.models.wrapping import CascadeModel
from offramp.runtime import EarlyExit, export_bundle, load
from offramp.runtime.bundle import Bundle
from offramp.runtime.timing import side_by_side

CHOICES = ("never", "always", "measured")

POOL = 512  # samples from which thresholds are computed


@dataclass
class Subject:
    """A model, its inputs, and thresholds at which every exit takes an equal share of the samples."""

    name: str
    model: MultiExitModel
    x: Tensor
    thresholds: np.ndarray
    bundle: tuple[Bundle, Bundle] | None = None


def msdnet(size: int, classes: int, channels: int, **options) -> tuple[MultiExitModel, Tensor]:
    shape = (channels, size, size)
    return build_model("msdnet", classes=classes, image_shape=shape, **options), torch.randn(POOL, *shape)


def fashion(exits: int):
    """An MSDNet of the study fashion_mnist."""
    options = {"step_mode": "even", "base": 1, "step": 2, "first_layer": "half", "head_width": 64, "head_pool": 1}
    return msdnet(28, 10, 1, exits=exits, **options)


def vit():
    """The vision transformer of timm for images of 224 pixels."""
    return build_model("vit", classes=100, image_shape=(3, 224, 224)), torch.randn(POOL // 2, 3, 224, 224)


def minilm():
    """An encoder of the size of MiniLM-L6, on texts of 8 to 48 tokens."""
    from transformers import BertConfig, BertModel

    config = BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
    with tempfile.TemporaryDirectory() as folder:
        BertModel(config).save_pretrained(folder)
        words = Vocabulary(size=config.vocab_size, pad=0, separator=102, tokenizer=folder, max_tokens=48)
        model = build_model("encoder", classes=2, vocabulary=words, backbone=folder)
    ids = torch.randint(1000, 30000, (POOL, 48))
    for row, length in enumerate(torch.randint(8, 49, (POOL,))):
        ids[row, length:] = 0
    return model, ids


def cascade():
    """Two classifiers of timm, one after another."""
    import timm

    models = [timm.create_model(name, num_classes=100) for name in ("lcnet_050", "resnet18")]
    return CascadeModel(models), torch.randn(POOL // 2, 3, 128, 128)


SUBJECTS: dict[str, Callable[[], tuple[MultiExitModel, Tensor]]] = {
    "msdnet-cifar-large": lambda: msdnet(32, 100, 3, preset="cifar-large"),
    "msdnet-fashion-small": lambda: fashion(4),
    "msdnet-fashion-large": lambda: fashion(8),
    "vit-tiny": vit,
    "minilm-l6": minilm,
    "timm-cascade": cascade,
}


@torch.inference_mode()
def subject(name: str, device: str) -> Subject:
    """Build a model, and choose thresholds so that each exit takes 1 / L of the samples."""
    torch.manual_seed(0)
    model, x = SUBJECTS[name]()
    for module in model.modules():
        if isinstance(module, nn.Linear) and module.out_features in (2, 10, 100):
            nn.init.normal_(module.weight, std=0.1)  # otherwise all confidences are about the same
    model = model.eval().to(device)
    parts = [model(part.to(device)).float().cpu().numpy() for part in x.split(64)]
    record = ExitRecord(np.concatenate(parts), None, np.arange(1.0, model.n_exits + 1))
    signal = make_policy("confidence").signal(record)  # (N, L)
    there, thresholds = np.arange(len(signal)), []
    for i in range(model.n_exits - 1):
        descending = np.sort(signal[there, i])[::-1]
        take = len(there) // (model.n_exits - i)
        thresholds.append(descending[take - 1] if take else np.inf)
        there = there[signal[there, i] < thresholds[-1]]
    return Subject(name, model, x, np.array(thresholds))


@torch.inference_mode()
def heads_seconds(subject: Subject, x: Tensor, device: str, repetitions: int) -> float:
    """Return the time of all exits but the last. They are timed by forward hooks."""
    if not hasattr(subject.model, "heads"):
        return 0.0
    spent, begin = [0.0], [0.0]

    def now() -> float:
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    hooks = []
    for head in list(subject.model.heads)[:-1]:
        hooks.append(head.register_forward_pre_hook(lambda *_: begin.__setitem__(0, now())))
        hooks.append(head.register_forward_hook(lambda *_: spent.__setitem__(0, spent[0] + now() - begin[0])))
    each = []
    for _ in range(repetitions):
        spent[0] = 0.0
        subject.model(x)
        each.append(spent[0])
    for hook in hooks:
        hook.remove()
    return float(np.median(each))


def bundles(subject: Subject, x: np.ndarray, threads: int) -> dict[str, Bundle]:
    """Export the model, and return its bundle with the thresholds of the subject and with none."""
    if subject.bundle is None:
        models = list(subject.model.models) if isinstance(subject.model, CascadeModel) else [subject.model]
        prepare = ImagePreparation(shape=x.shape[1:])
        with tempfile.TemporaryDirectory() as parent:
            folder = export_bundle(
                Path(parent, "bundle"), models, make_policy("confidence"), 0.5, [prepare] * len(models)
            )
            subject.bundle = load(folder, threads=threads), load(folder, threads=threads)
    bundle, whole = subject.bundle
    bundle.threshold, whole.threshold = subject.thresholds, np.array(np.inf)
    bundle.profile(x)
    return {"bundle": bundle, "bundle, nobody leaves": whole}


def measure(subject: Subject, batch: int, repetitions: int, device: str, threads: int) -> dict[str, object]:
    """Measure all variants at one batch size."""
    policy, model = make_policy("confidence"), subject.model
    row = 0
    batches = []  # several batches, so that small ones leave at different exits
    for _ in range(max(1, min(16, POOL // batch))):
        batches.append(subject.x[(row + np.arange(batch)) % len(subject.x)].to(device))  # copies are not measured
        row += batch
    exits = {choice: EarlyExit(model, policy, subject.thresholds, regroup=choice) for choice in CHOICES}
    nobody = EarlyExit(model, policy, np.inf, regroup="measured", cost=np.arange(1.0, model.n_exits + 1))
    times = exits["measured"].profile(batches[0])
    nobody.times = times
    exported = {} if device == "cuda" or subject.x.ndim != 4 else bundles(subject, batches[0].numpy(), threads)

    @torch.inference_mode()
    def full(x: Tensor) -> Tensor:
        return model(x).cpu()

    variants = {"full": full, **exits, "nobody leaves": nobody}
    for name, bundle in exported.items():
        variants[name] = lambda x, bundle=bundle: bundle(x.numpy())
    if device == "cuda":
        without = EarlyExit(model, policy, subject.thresholds, regroup="measured")
        without._graphs.largest = 0
        without.times = times
        variants["no graphs"] = without
    seconds = side_by_side(variants, batches, repetitions=repetitions, synchronize=nobody.synchronize)
    found = {name: float(np.median(each)) / len(batches) for name, each in seconds.items()}
    kernels = removal = ideal = 0.0
    costs = [exits["measured"].cost(x) for x in batches]
    paid = whole = 0.0
    for x, cost in zip(batches, costs):
        answers = exits["measured"](x)
        cost = np.broadcast_to(cost, (batch, model.n_exits))
        paid, whole = paid + answers.cost.sum(), whole + cost[:, -1].sum()
        inside = batch
        for i in range(int(answers.exit.max()) + 1):
            there = int((answers.exit >= i).sum())
            if i and there < inside and times.pays(i - 1, inside, there):
                removal += float(np.interp(there, times.sizes, times.removal[i - 1])) / len(batches)
                inside = there
            alone = float(np.interp(inside, times.sizes, times.stages[i]))
            ideal += times.stages[i, -1] * there / batch / len(batches)
            kernels += (alone - times.stages[i, -1] * there / batch) / len(batches)
    reference = found["full"]
    return {
        "model": subject.name,
        "batch": batch,
        "full (ms)": 1e3 * reference,
        "MAC ratio": whole / paid,
        **{name: reference / found[name] for name in variants if name != "full"},
        "reached": reference / found["measured"] / (whole / paid),
        "heads": heads_seconds(subject, batches[0], device, min(repetitions, 5)) / reference,
        "kernels": kernels / reference,
        "removal": removal / reference,
        "decision": (found["measured"] - ideal - kernels - removal) / reference,
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--models", nargs="+", choices=list(SUBJECTS), default=list(SUBJECTS))
    options.add_argument("--batches", nargs="+", type=int, default=[1, 8, 32, 128, 512])
    options.add_argument("--repetitions", type=int, default=9)
    options.add_argument("--threads", type=int, default=torch.get_num_threads())
    options.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    options.add_argument("--seconds", type=float, default=np.inf, help="Start no measurement after this time.")
    options.add_argument("--out", type=Path, help="Output: table, .csv.")
    options = options.parse_args()
    torch.set_num_threads(options.threads)
    begin, rows = time.monotonic(), []
    for name in options.models:
        each = subject(name, options.device)
        for batch in options.batches:
            if time.monotonic() - begin > options.seconds:
                print(f"{name}, batch {batch}: not measured, out of time", flush=True)
                continue
            rows.append(measure(each, batch, options.repetitions, options.device, options.threads))
            print(
                ", ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{v}" for k, v in rows[-1].items()), flush=True
            )
            if options.out:
                pd.DataFrame(rows).to_csv(options.out, index=False)
    machine = torch.cuda.get_device_name() if options.device == "cuda" else f"{options.threads} CPU threads"
    print(f"\n{machine}, torch {torch.__version__}\n")
    print(pd.DataFrame(rows).to_markdown(index=False, floatfmt=".3g"))


if __name__ == "__main__":
    main()
