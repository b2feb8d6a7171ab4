"""The commands of captioning: `train-captioner`, `record-tokens`, `sweep-captions`, `compare-captions`, `generate`."""

import math
from pathlib import Path

import click
import numpy as np

from offramp.cli.options import (
    CONFIDENCE,
    EXISTING,
    OUT,
    RESAMPLES,
    TABLE,
    THREADS,
    Grid,
    PolicySpec,
    Spec,
    Threshold,
    Verb,
    about,
    labelled,
    write_all,
)
from offramp.evaluation.captions import DROPS
from offramp.policies import Policy, load_policies
from offramp.records import ExitRecord

SPLIT = click.Choice(["train", "validation", "test"])
FILL = click.Choice(["recompute", "copy"])
_FILLS = (
    "Where keys and values come from in layers that earlier tokens did not reach: the layers run for them (recompute), "
    "or their last state is projected (copy)."
)
_FILL = click.option("--fill", type=FILL, default="recompute", show_default=True, help=_FILLS)
_AT_MOST = click.option(
    "--at-most",
    "drops",
    type=click.FloatRange(0, 1, max_open=True),
    multiple=True,
    default=DROPS,
    show_default=True,
    help="Acceptable share of the CIDEr of the full model that is lost. Repeat this option.",
)
_DECAY = click.option(
    "--decay", is_flag=True, help="Lower the threshold with the position of the token, as in CALM, for signals up to 1."
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
@THREADS
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
@_N
@click.option(
    "--no-logits", is_flag=True, help="Leave out the logits, which ZTW and F-PABEE need. For large vocabularies."
)
@THREADS
@click.option("--validation", type=OUT, help="Output: record of the words of validation captions, .safetensors.")
@click.option("--test", type=OUT, help="Output: record of the words of test captions.")
@click.option(
    "--generated", type=OUT, help="Output: record of the words that the full model writes for validation images."
)
def record_tokens(weights, n, no_logits, threads, validation, test, generated) -> None:
    """Record what every exit of a captioner says of every token, for `offramp calibrate` and `sweep-captions`.

    For --validation and --test, the model reads the first reference caption of each image (teacher forcing), and labels
    are its next words. For --generated, it reads the captions that the full model writes, and labels are the words that
    the full model writes next.
    """
    from offramp.tokens import load_captioner, token_record

    if not (validation or test or generated):
        raise click.UsageError("nothing to record: expected --validation, --test or --generated")
    model, dataset, made = load_captioner(weights)
    options = {"n": n, "threads": threads, "logits": not no_logits, "parameters": made}
    for out, split, text in (
        (validation, "validation", "reference"),
        (test, "test", "reference"),
        (generated, "validation", "generated"),
    ):
        if out:
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
@click.option("--thresholds", type=Grid(), help="Thresholds of all policies. Default: spread over the cost of TOKENS.")
@click.option(
    "--number",
    type=click.IntRange(1),
    default=10,
    show_default=True,
    help="Highest number of thresholds of each policy, without --thresholds.",
)
@_AT_MOST
@click.option("--fill", "fills", type=FILL, multiple=True, default=["recompute"], show_default=True, help=_FILLS)
@_DECAY
@click.option(
    "--level",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="Also certify the lowest of --thresholds whose risks over captions are at most this level.",
)
@CONFIDENCE
@_N
@THREADS
@click.option("--points", type=TABLE, required=True, help="Output: one row per policy, threshold and split.")
@click.option("--captions", type=TABLE, required=True, help="Output: the test captions with the chosen thresholds.")
@click.option("--seconds", type=TABLE, help="Output: measured seconds of all rows of --points.")
@click.option("--certified", type=TABLE, help="Output: the certified thresholds, one row per policy and risk.")
def sweep_captions(
    weights, tokens, specs, thresholds, number, drops, fills, decay, level, confidence, n, threads, points, captions,
    seconds, certified,
) -> None:  # fmt: skip
    """Write captions of validation images with many thresholds, and test the best ones on test images.

    TOKENS is a record of validation tokens from `offramp record-tokens`. For each drop of CIDEr in --at-most, the
    cheapest threshold on the validation images is chosen, and captions of the test images are written with it.
    Validation captions are written with the first --fill, and test captions with each of them. `offramp
    compare-captions` reads the outputs of all runs.

    With --level, thresholds are certified by Learn then Test, as in CALM. Two risks are bounded: by how much ROUGE-L is
    below that of the full model (rouge_drop), and how many captions differ from it (changed). Policies that learn from
    data cannot be certified, because they are fitted on the same images.

    \b
    For example:
      offramp sweep-captions weights.safetensors tokens.safetensors --policy pcee --policy beem-a \\
          --points points.csv --captions captions.csv
    """
    import pandas as pd

    from offramp.captioning import caption_losses, certified_threshold, sweep, thresholds_of
    from offramp.comparison.captions import FULL, chosen_points
    from offramp.tokens import load_captioner

    if (level is None) != (certified is None):
        raise click.UsageError("expected --level and --certified together, or none of them")
    if level and (thresholds is None or any(policy.learns for policy in specs.values())):
        raise click.UsageError("--level needs --thresholds, and policies that do not learn from data")
    model, dataset, _ = load_captioner(weights)
    record = ExitRecord.load(tokens)
    grids = {
        label: (policy.fit(record), thresholds_of(policy, record, number) if thresholds is None else thresholds)
        for label, policy in specs.items()
    }
    options = {"decay": decay, "n": n, "threads": threads}
    settings = [(label, policy, float(delta), fills[0]) for label, (policy, grid) in grids.items() for delta in grid]
    of_validation, written = sweep(model, dataset, "validation", settings, **options)
    chosen = pd.concat([chosen_points(of_validation, drop) for drop in drops])
    used = set(zip(chosen["policy"], chosen["threshold"]))
    promises = []
    if level:
        of = dict(list(written.groupby(["policy", "threshold"])))
        full = of[FULL, math.inf]
        for label in specs:
            losses = [caption_losses(of[label, float(delta)], full) for delta in thresholds]
            for risk in losses[0]:
                values = np.stack([each[risk] for each in losses], axis=1)  # (N, T)
                delta, estimate = certified_threshold(values, thresholds, level, confidence)
                promises.append((label, risk, level, confidence, delta, estimate))
                used.add((label, delta))
    settings = [
        (label, specs[label], delta, fill) for label, delta in sorted(used) if delta < math.inf for fill in fills
    ]
    of_test, written = sweep(model, dataset, "test", settings, **options)
    both = pd.concat([of_validation.assign(split="validation"), of_test.assign(split="test")], ignore_index=True)
    measured = [name for name in both if name.startswith("second")]
    tables = {points: both.drop(columns=measured), captions: written}
    if seconds:
        keys = ["split", "policy", "threshold", "fill", "layers", "layer_speedup", "mac_speedup"]
        tables[seconds] = both[[*keys, *measured]].assign(device=model.device.type)
    if certified:
        tables[certified] = _on_test(pd.DataFrame(promises, columns=CERTIFIED), of_test, written)
    text = record.metadata.get("text")
    write_all({path: about(record, tokens, table.assign(text=text)) for path, table in tables.items()})


CERTIFIED = ["policy", "risk", "level", "confidence", "threshold", "estimate"]


def _on_test(certified, points, captions):
    """Add the risk and the speed-ups of certified thresholds on test images."""
    import pandas as pd

    from offramp.captioning import caption_losses
    from offramp.comparison.captions import FULL, RECOMPUTE

    of = dict(list(captions[captions["fill"] == RECOMPUTE].groupby(["policy", "threshold"])))
    rows = []
    for row in certified.to_dict("records"):
        policy = FULL if math.isinf(row["threshold"]) else row["policy"]
        its = of[policy, row["threshold"]]
        losses = caption_losses(its, of[FULL, math.inf])[row["risk"]]  # (N,)
        where = (points["policy"] == policy) & (points["threshold"] == row["threshold"]) & (points["fill"] == RECOMPUTE)
        point = points[where].iloc[0]
        speedups = {name: point[name] for name in ("CIDEr", "layer_speedup", "mac_speedup")}
        rows.append(row | {"test_risk": losses.mean(), "images": len(losses)} | speedups)
    return pd.DataFrame(rows)


@click.command("compare-captions", cls=Verb)
@click.argument("files", type=EXISTING, nargs=-1, required=True)
@_AT_MOST
@RESAMPLES
@click.option(
    "--matched", type=TABLE, required=True, help="Output: each policy at each acceptable drop, on test images."
)
@click.option(
    "--pairs", type=TABLE, required=True, help="Output: both ways to fill in, and both records to fit policies on."
)
@click.option("--words", type=TABLE, required=True, help="Output: layers of words by their position and kind.")
def compare_captions(files, drops, resamples, matched, pairs, words) -> None:
    """Compare the sweeps of all runs of a study. Results are means over seeds, with 95 % intervals over images.

    FILES are the outputs --points and --captions of `offramp sweep-captions`. Their order does not matter.

    \b
    For example:
      offramp compare-captions points.csv captions.csv --matched matched.csv --pairs pairs.csv --words words.csv
    """
    from offramp.comparison.captions import Sweeps
    from offramp.reports.loading import read_tables

    sweeps = Sweeps(*read_tables(files, "caption points", "captions"), drops, resamples)
    write_all({matched: sweeps.matched(), pairs: sweeps.pairs(), words: sweeps.words()})


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
@THREADS
@click.option("--out", type=TABLE, required=True, help="Output: one row per image, .parquet or .csv.")
@click.option(
    "--quality", type=TABLE, help="Output, for --split: BLEU, ROUGE-L and CIDEr of all these captions, one row."
)
@click.option(
    "--figure",
    type=click.Path(path_type=Path),
    metavar="STEM",
    help="Output: STEM.pdf and STEM.png, the first 12 images, with words coloured by their layer.",
)
def generate(
    weights, folder, split, n, policies, label, threshold, fill, decay, beams, threads, out, quality, figure
) -> None:
    """Write captions of images with a fitted policy. FOLDER has images; otherwise, they are those of a --split.

    The table has the caption of each image, the layer at which each token left, and the multiply-accumulates. Layers of
    words are separated by spaces, those of the tokens of one word by "+", and the last one ends the caption.

    \b
    For example:
      offramp generate weights.safetensors photos/ --policies policies.safetensors --policy pcee --threshold 0.8 \\
          --out captions.csv --figure captions
    """
    import pandas as pd

    from offramp._io.progress import progress_bar
    from offramp.captioning import references_of, spell
    from offramp.evaluation.captions import caption_quality
    from offramp.policies import make_policy
    from offramp.runtime.generation import Captions, Generation
    from offramp.tokens import load_captioner
    from offramp.training.device import torch_settings

    if (folder is None) == (split is None):
        raise click.UsageError("expected either FOLDER or --split")
    if (policies is None) != (threshold is None):
        raise click.UsageError("expected --policies and --threshold together, or none of them for the full model")
    if beams and (policies or figure):
        raise click.UsageError("--beams is for the full model: expected no --policies and no --figure")
    if quality and split is None:
        raise click.UsageError("--quality needs --split, whose images have captions to compare with")
    model, dataset, made = load_captioner(weights)
    names, read = _sources(dataset, folder, split, n)
    label, policy = (None, make_policy("confidence")) if policies is None else _policy(policies, label)
    generation = Generation(model, policy, np.inf if threshold is None else threshold, fill=fill, decay=decay)
    pixels, parts = [], []
    with torch_settings(threads), progress_bar(len(names), "captions", shown=True, unit="image") as bar:
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
            bar.update(len(some))
    written = Captions.joined(parts)
    captions, layers = spell(written, dataset.vocabulary)
    tables = {out: pd.DataFrame({"image": names, "caption": captions, "layers": layers, "macs": written.cost})}
    if quality:
        whole, _ = caption_quality(captions, references_of(dataset, split, len(names)))
        own = {"beams": beams or 1}
        if policies:
            own = {"policy": label, "threshold": ",".join(f"{each:g}" for each in np.atleast_1d(threshold))}
        about = {key: made[key] for key in ("dataset", "system", "seed")} | {"split": split} | own
        length = np.mean([len(ids) for ids in written.tokens])
        tables[quality] = pd.DataFrame([about | {"images": len(names), "tokens": length} | whole])
    if figure:
        from offramp.reports.figures.captions import draw_captions
        from offramp.reports.figures.style import save, settings

        shown = np.concatenate(pixels)[:12].transpose(0, 2, 3, 1)  # (B, H, W, C)
        with settings():
            save(draw_captions(shown, captions[:12], layers[:12], model.n_exits), figure)
    write_all(tables)


def _sources(dataset, folder, split, n):
    """Return the names of the images, and the function that reads the pixels (B, C, H, W) in given positions."""
    if folder is None:
        names = list(range(len(dataset.references[split])))[:n]
        return names, lambda rows: dataset.pixels(split, np.array(rows))
    from offramp.runtime.inputs import read_inputs

    found = read_inputs(folder, [dataset.preparation])
    names = found.names[:n]
    return names, lambda rows: np.stack([dataset.preparation.read(path) for path in found.take(np.array(rows))])


def _policy(path: Path, label: str | None) -> tuple[str, Policy]:
    """Return a policy of a file, with its label. Without a label, it is the only one of the file."""
    fitted = load_policies(path)[0]
    if label is None and len(fitted) == 1:
        return next(iter(fitted.items()))
    if label is None or label not in fitted:
        raise ValueError(f"{path}: {label or 'no --policy'}; expected --policy with one of {', '.join(fitted)}")
    return label, fitted[label]


def _tensor(inputs: np.ndarray):
    import torch

    return torch.from_numpy(inputs)
