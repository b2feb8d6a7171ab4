"""The commands of captioning: `offramp train-captioner`, `record-tokens`, `sweep-captions` and `generate`."""

import math
from pathlib import Path

import click
import numpy as np

from offramp.cli.options import (
    EXISTING,
    OUT,
    TABLE,
    Grid,
    PolicySpec,
    Spec,
    Threshold,
    Verb,
    labelled,
    write_all,
)
from offramp.policies import load_policies
from offramp.records import ExitRecord

SPLIT = click.Choice(["train", "validation", "test"])
FILL = click.Choice(["recompute", "copy"])
_FILL = click.option(
    "--fill",
    type=FILL,
    default="recompute",
    show_default=True,
    help="Where keys and values come from in layers that earlier tokens did not reach: the layers run for them "
    "(recompute), or their last state is projected (copy).",
)
_DECAY = click.option(
    "--decay", is_flag=True, help="Lower the threshold with the position of the token, as in CALM, for signals up to 1."
)
_THREADS = click.option(
    "--threads", type=click.IntRange(1), default=1, show_default=True, help="Number of CPU threads of torch."
)
_N = click.option("--images", "n", type=click.IntRange(1), help="Number of images, from the first. Default: all.")


@click.command("train-captioner", cls=Verb)
@click.option(
    "--dataset", type=Spec(), required=True, help="Images with captions, for example scenes or coco:root=coco."
)
@click.option(
    "--model",
    "options",
    type=Spec(),
    default="captioner",
    help="The model and its options, for example captioner:backbone=resnet18,layers=6,width=256.",
)
@click.option("--system", default="captioner", show_default=True, help="Name of the model.")
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the weights and of the batches."
)
@click.option(
    "--epochs", type=click.IntRange(0), default=20, show_default=True, help="Number of epochs of the backbone."
)
@click.option(
    "--exit-epochs", type=click.IntRange(0), default=5, show_default=True, help="Number of epochs of the exits."
)
@click.option("--batch-size", type=click.IntRange(1), default=64, show_default=True, help="Number of images per batch.")
@click.option("--learning-rate", type=float, default=1e-3, show_default=True, help="Initial learning rate of AdamW.")
@click.option("--weight-decay", type=float, default=0.01, show_default=True, help="Weight decay.")
@_THREADS
@click.option("--out", type=OUT, required=True, help="Output: weights, .safetensors.")
@click.option("--history", type=OUT, required=True, help="Output: CSV file with one row per epoch.")
def train_captioner(
    dataset, options, system, seed, epochs, exit_epochs, batch_size, learning_rate, weight_decay, threads, out, history
) -> None:
    """Train a model that writes captions of images, with an exit after every layer of its decoder.

    The encoder and the decoder are trained first. Then they are frozen, and the exits are trained with 0.5 times the
    cross-entropy plus 0.5 times the divergence from the last exit. The learning rate decreases linearly in both stages.

    A checkpoint is saved after every epoch, next to the weights. If training is interrupted, the same command continues
    from the last epoch. Checkpoints are deleted at the end.

    \b
    For example:
      offramp train-captioner --dataset scenes:train=2000 --epochs 10 --out weights.safetensors \\
          --history history.csv --model captioner:patch_size=8,encoder_layers=2,encoder_width=64,encoder_heads=2
    """
    import torch

    from offramp._registry import check_options
    from offramp.datasets import load_captions
    from offramp.models.captioner import Captioner
    from offramp.training.captioning import train_captioner
    from offramp.training.device import default_device
    from offramp.training.options import TrainingOptions

    (data_name, data_options), (model_name, model_options) = dataset, options
    if model_name != "captioner":
        raise click.UsageError(f"--model: {model_name!r}, expected captioner and its options")
    check_options("captioner", model_options, Captioner.options())
    source = load_captions(data_name, **data_options)
    torch.manual_seed(seed)
    model = Captioner(image_shape=source.preparation.shape, vocabulary=source.vocabulary, **model_options)
    training = TrainingOptions(
        epochs=epochs,
        batch_size=batch_size,
        optimizer="adamw",
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        schedule="linear",
    )
    train_captioner(
        model.to(default_device()),
        source,
        training,
        exit_epochs=exit_epochs,
        seed=seed,
        out=out,
        history=history,
        parameters={
            "system": system,
            "dataset": data_name,
            "dataset_options": data_options,
            "model": model_name,
            "model_options": model_options,
        },
        threads=threads,
        label=f"{system} seed {seed}",
    )


@click.command("record-tokens", cls=Verb)
@click.argument("weights", type=EXISTING)
@click.option(
    "--split",
    type=SPLIT,
    default="validation",
    show_default=True,
    help="Images.",
)
@click.option(
    "--text",
    type=click.Choice(["reference", "generated"]),
    default="reference",
    show_default=True,
    help="What the model reads: the first reference caption, or the caption that the full model writes.",
)
@_N
@click.option(
    "--no-logits", is_flag=True, help="Leave out the logits, which ZTW and F-PABEE need. For large vocabularies."
)
@_THREADS
@click.option("--out", type=OUT, required=True, help="Output: record with one row per token, .safetensors.")
def record_tokens(weights, split, text, n, no_logits, threads, out) -> None:
    """Record what every exit of a captioner says of every token, for `offramp calibrate`.

    With `--text reference`, labels are the next words of the reference captions. With `--text generated`, they are the
    next words of the full model.
    """
    from offramp.captioning import load_captioner, token_record

    model, dataset, made = load_captioner(weights)
    options = {"n": n, "threads": threads, "logits": not no_logits, "parameters": made}
    token_record(model, dataset, split, text, system=made["system"], seed=made["seed"], **options).save(out)


@click.command("sweep-captions", cls=Verb)
@click.argument("weights", type=EXISTING)
@click.argument("tokens", type=EXISTING)
@click.option(
    "--policy",
    "specs",
    type=PolicySpec(),
    multiple=True,
    required=True,
    callback=labelled,
    help="Policy, for example pcee or beem-a. Repeat this option for several policies. They are fitted on TOKENS.",
)
@click.option("--thresholds", type=Grid(), help="Thresholds of all policies. Default: up to 10 for each of them.")
@_FILL
@_DECAY
@_N
@_THREADS
@click.option("--validation", type=TABLE, required=True, help="Output: one row per policy and threshold on validation.")
@click.option("--matched", type=TABLE, help="Output: the chosen thresholds on test images, at three drops of CIDEr.")
@click.option("--captions", type=TABLE, help="Output: the captions of the test images with the chosen thresholds.")
def sweep_captions(weights, tokens, specs, thresholds, fill, decay, n, threads, validation, matched, captions) -> None:
    """Write captions of validation images with many thresholds, and test the best ones on test images.

    TOKENS is a record of validation tokens from `offramp record-tokens`. The thresholds of a policy are spread evenly
    over the cost of these tokens. For drops of CIDEr of at most 0, 1 and 3 %, the cheapest threshold on the validation
    images is chosen, and evaluated on the test images.
    """
    import pandas as pd

    from offramp.captioning import DROPS, at_matched_quality, chosen_points, load_captioner, sweep, thresholds_of

    model, dataset, _ = load_captioner(weights)
    record = ExitRecord.load(tokens)
    grids = {
        label: (policy.fit(record), thresholds_of(policy, record) if thresholds is None else thresholds)
        for label, policy in specs.items()
    }
    options = {"fill": fill, "decay": decay, "n": n, "threads": threads}
    settings = [(label, policy, delta) for label, (policy, grid) in grids.items() for delta in grid]
    points, _ = sweep(model, dataset, "validation", settings, **options)
    tables = {validation: points}
    if matched or captions:
        chosen = {drop: chosen_points(points, drop) for drop in DROPS}
        pairs = {pair for table in chosen.values() for pair in zip(table["policy"], table["threshold"])}
        used = [(label, specs[label], delta) for label, delta in sorted(pairs) if delta < math.inf]
        of_test, written = sweep(model, dataset, "test", used, **options)
        rows = [at_matched_quality(table, of_test, written).assign(at_most=drop) for drop, table in chosen.items()]
        tables |= {matched: pd.concat(rows, ignore_index=True), captions: written}
    write_all({path: table for path, table in tables.items() if path})


@click.command(cls=Verb)
@click.argument("weights", type=EXISTING)
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path), required=False)
@click.option("--split", type=SPLIT, help="Images of the dataset, without FOLDER.")
@_N
@click.option("--policies", type=EXISTING, help="File of fitted policies from `offramp calibrate` or this command.")
@click.option("--policy", "label", default=None, help="Label of the policy. Not needed if the file has one policy.")
@click.option("--threshold", type=Threshold(), help="Threshold δ, or one per exit: δ,δ,… Default: the full model.")
@_FILL
@_DECAY
@click.option("--beams", type=click.IntRange(1), help="Write with the full model by a beam search, without exits.")
@_THREADS
@click.option("--out", type=TABLE, required=True, help="Output: one row per image, .parquet or .csv.")
@click.option(
    "--figure",
    type=click.Path(path_type=Path),
    metavar="STEM",
    help="Output: STEM.pdf and STEM.png, the first 12 images, with words coloured by their layer.",
)
def generate(weights, folder, split, n, policies, label, threshold, fill, decay, beams, threads, out, figure) -> None:
    """Write captions of images with a fitted policy. FOLDER has images; otherwise, they are those of a --split.

    The table has the caption of each image, the layer at which each token left (the last one ends the caption), and the
    multiply-accumulates.

    \b
    For example:
      offramp generate weights.safetensors photos/ --policies policies.safetensors --policy pcee --threshold 0.8 \\
          --out captions.csv --figure captions
    """
    import pandas as pd

    from offramp.captioning import load_captioner
    from offramp.policies import make_policy
    from offramp.runtime.generation import Captions, Generation
    from offramp.training.device import torch_settings

    if (folder is None) == (split is None):
        raise click.UsageError("expected either FOLDER or --split")
    if (policies is None) != (threshold is None):
        raise click.UsageError("expected --policies and --threshold together, or none of them for the full model")
    if beams and (policies or figure):
        raise click.UsageError("--beams is for the full model: expected no --policies and no --figure")
    model, dataset, _ = load_captioner(weights)
    names, read = _sources(dataset, folder, split, n)
    policy = make_policy("confidence") if policies is None else _policy(policies, label)
    generation = Generation(model, policy, np.inf if threshold is None else threshold, fill=fill, decay=decay)
    pixels, parts = [], []
    with torch_settings(threads):
        for first in range(0, len(names), 32):
            some = read(range(first, min(first + 32, len(names))))  # (B, C, H, W)
            inputs = _tensor(dataset.preparation(some))
            if beams:
                tokens = model.reference(inputs, beams=beams)
                layers = [np.full(len(ids), model.n_exits - 1) for ids in tokens]
                parts.append(Captions(tokens, layers, [], np.full(len(tokens), np.nan)))
            else:
                parts.append(generation(inputs))
            pixels.append(some)
    written = Captions.joined(parts)
    table = pd.DataFrame(
        {
            "image": names,
            "caption": [dataset.vocabulary.decode(ids) for ids in written.tokens],
            "layers": [" ".join(map(str, exits + 1)) for exits in written.exits],
            "macs": written.cost,
        }
    )
    if figure:
        from offramp.reports.figures.captions import draw_captions
        from offramp.reports.figures.style import save, settings

        shown = np.concatenate(pixels)[:12].transpose(0, 2, 3, 1)  # (B, H, W, C)
        words = [caption.split() for caption in table["caption"][:12]]
        layers = [exits + 1 for exits in written.exits[:12]]
        with settings():
            save(draw_captions(shown, words, layers, model.n_exits), figure)
    write_all({out: table})


def _sources(dataset, folder, split, n):
    """Return the names of the images, and the function that reads the pixels (B, C, H, W) in given positions."""
    if folder is None:
        names = list(range(len(dataset.references[split])))[:n]
        return names, lambda rows: dataset.pixels(split, np.array(rows))
    from offramp.runtime.inputs import read_inputs

    found = read_inputs(folder, [dataset.preparation])
    names = found.names[:n]
    return names, lambda rows: np.stack([dataset.preparation.read(path) for path in found.take(np.array(rows))])


def _policy(path: Path, label: str | None):
    fitted = load_policies(path)[0]
    if label is None and len(fitted) == 1:
        return next(iter(fitted.values()))
    if label not in fitted:
        raise ValueError(f"{path}: {label or 'no --policy'}; expected --policy with one of {', '.join(fitted)}")
    return fitted[label]


def _tensor(inputs: np.ndarray):
    import torch

    return torch.from_numpy(inputs)
