"""Evaluation of captioners: records of tokens, sweeps of thresholds over written captions, and certified thresholds."""

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch.nn.functional import cosine_similarity

from offramp._io.progress import progress_bar
from offramp.certification import certify
from offramp.comparison.captions import FULL, RECOMPUTE
from offramp.datasets import load_captions
from offramp.datasets.captions import CaptionDataset, following, plain
from offramp.evaluation.captions import caption_quality
from offramp.models.captioner import Captioner
from offramp.policies import Policy, make_policy
from offramp.records import ExitRecord
from offramp.runtime.generation import Fill, Generation
from offramp.training.checkpoints import load_weights, read_parameters
from offramp.training.device import default_device, torch_settings


def load_captioner(weights: str | os.PathLike) -> tuple[Captioner, CaptionDataset, dict[str, Any]]:
    """Load a trained captioner. Return it with its dataset and the parameters of its training.

    Raises
    ------
    ValueError
        If the file has no weights of a captioner, or if its dataset cannot be loaded.
    """
    made = read_parameters(weights)
    if made.get("model") != "captioner":
        raise ValueError(f"{weights}: weights of {made.get('model')}; expected what `offramp train-captioner` wrote")
    dataset = load_captions(made["dataset"], **made["dataset_options"])
    options = {key: value for key, value in made["model_options"].items() if key != "pretrained"}
    model = Captioner(image_shape=dataset.preparation.shape, vocabulary=dataset.vocabulary, **options)
    load_weights(weights, model)
    return model.to(default_device()), dataset, made


def image_batches(dataset: CaptionDataset, split: str, n: int | None = None, size: int = 32) -> list[torch.Tensor]:
    """Return the first n images of a split (all by default) in batches (B, C, H, W), as inputs of a model."""
    every = len(dataset.references[split])
    index = np.arange(every if n is None else min(n, every))
    return [dataset.images(split, index[first : first + size]) for first in range(0, len(index), size)]


def token_record(
    model: Captioner,
    dataset: CaptionDataset,
    split: str,
    text: Literal["reference", "generated"] = "reference",
    *,
    system: str = "captioner",
    seed: int = 0,
    n: int | None = None,
    batch_size: int = 32,
    threads: int = 1,
    logits: bool = True,
    parameters: Mapping[str, Any] | None = None,
) -> ExitRecord:
    """Record what every exit says of every token of captions. Policies are fitted on such a record.

    With "reference", the model reads the first reference caption of each image (teacher forcing), and the label of a
    token is the next word of this caption. With "generated", it reads the caption that the full model writes, and the
    label is the word that the full model writes next, because there is no other truth: the last exit is always right.

    Parameters
    ----------
    model : Captioner
    dataset : CaptionDataset
    split : {"train", "validation", "test"}
    text : {"reference", "generated"}
    system, seed, parameters
        As for `recording.record`.
    n : int, optional
        Number of images, from the first of the split. All by default.
    batch_size, threads : int
    logits : bool
        Whether the record has logits, of size L times the vocabulary for each token.

    Returns
    -------
    ExitRecord
        One row per token. Its index is the image times the maximum number of tokens, plus the position. The cost is
        that of the layers and exits for a token in this position, in MACs, if all earlier tokens have keys and values
        in them; the encoder, which is paid once for each image, is not included. `metadata["text"]` is `text`.

    Raises
    ------
    ValueError
        If `text` is unknown.
    """
    if text not in ("reference", "generated"):
        raise ValueError(f"text is {text!r}; expected 'reference' or 'generated'")
    vocabulary, parts, first = dataset.vocabulary, [], 0
    model.eval()
    with torch_settings(threads), torch.inference_mode():
        for images in image_batches(dataset, split, n, batch_size):
            if text == "generated":
                ids = _padded(model.reference(images), vocabulary)  # (B, 1 + T)
            else:
                ids = vocabulary.encode([dataset.references[split][first + i][0] for i in range(len(images))])
            tokens, labels, there = following(ids, vocabulary.eos)  # (B, T) each
            states = list(model.states(model.encode(images.to(model.device)), torch.from_numpy(tokens)))
            rows = [hidden[torch.from_numpy(there)] for hidden in states]  # (P, D) each
            said = torch.stack([model.head(i, hidden) for i, hidden in enumerate(rows[1:])], dim=1)  # (P, L, V)
            similar = torch.stack([cosine_similarity(*pair) for pair in pairwise(rows)], dim=1)  # (P, L)
            image, position = there.nonzero()  # (P,) each
            part = ExitRecord(
                said.float().cpu().numpy(),
                labels[there],
                cost=token_costs(model)[position],
                index=(first + image) * vocabulary.max_tokens + position,
                similarity=similar.float().cpu().numpy(),
            )
            parts.append(part if logits else part.replace(logits=None))
            first += len(images)
    fields = {name: np.concatenate([part.by_sample[name] for part in parts]) for name in parts[0].by_sample}
    measures = {name: np.concatenate([part.measure(name) for part in parts]) for name in parts[0].measures}
    return ExitRecord.from_outputs(
        **fields,
        confidence=measures,
        logits=(lambda: np.concatenate([part.logits for part in parts])) if logits else None,
        metadata={
            "dataset": dataset.name,
            "split": split,
            "system": system,
            "seed": seed,
            "classes": vocabulary.size,
            "unit": "MAC",
            "text": text,
            "parameters": dict(parameters or {}),
        },
    )


def token_costs(model: Captioner) -> np.ndarray:
    """Return the cumulative cost of the exits for a token in each position, (T, L), without the encoder, in MACs."""
    costs, positions = model.costs, np.arange(1, model.vocabulary.max_tokens + 1)  # (T,)
    each = [costs.layer(i, 1, 1, positions) + costs.head[i] for i in range(model.n_exits)]  # L × (T,)
    return np.cumsum(each, axis=0).T


def thresholds_of(policy: Policy, record: ExitRecord, n: int = 10) -> list[float]:
    """Return up to n thresholds of a policy, ascending, that spread the average cost of tokens evenly over a record.

    The full model, +∞, is not among them.
    """
    low, high = record.cost[[0, -1]]
    chosen = {policy.choose_threshold(record, cost=cost) for cost in np.linspace(low, high, n + 2)[1:-1]}
    return sorted(chosen - {-np.inf, np.inf})


def sweep(
    model: Captioner,
    dataset: CaptionDataset,
    split: str,
    settings: Iterable[tuple[str, Policy, float, Fill]],
    *,
    decay: bool = False,
    n: int | None = None,
    batch_size: int = 128,
    threads: int = 1,
    progress: bool = True,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Write captions freely with each setting, and compare them with all references of their images.

    Parameters
    ----------
    model : Captioner
    dataset : CaptionDataset
    split : {"validation", "test"}
    settings : iterable of (str, Policy, float, str)
        Label of a policy, the policy, its threshold, and `fill` of `Generation`. The full model is added, as the policy
        "full".
    decay
        As for `Generation`.
    n, batch_size, threads
        As for `token_record`.
    progress : bool
        Show a progress bar on stderr.

    Returns
    -------
    points : DataFrame
        One row per setting: policy, threshold, fill, the metrics of `evaluation.captions.METRICS`, layers (mean layers
        of a token), macs and seconds (mean of an image, with the encoder), and the speed-ups over the full model:
        layer_speedup (of the tokens that were written: L · N / Σ i · n_i), mac_speedup and second_speedup.
    captions : DataFrame
        One row per setting and image: policy, threshold, fill, image, caption, exits (layers of each token, separated
        by spaces), tokens (their number), layers (the sum over tokens), macs, and the metrics.
    """
    images = image_batches(dataset, split, n, batch_size)
    references = [[plain(text) for text in dataset.references[split][i]] for i in range(sum(map(len, images)))]
    runs = [(FULL, make_policy("confidence"), np.inf, RECOMPUTE), *settings]
    points, captions = [], []
    with torch_settings(threads), progress_bar(len(runs), f"captions of {split}", shown=progress) as bar:
        Generation(model, runs[0][1], np.inf)(images[0])  # the first call is slower, and its costs are counted
        for label, policy, threshold, fill in runs:
            generation = Generation(model, policy, threshold, fill=fill, decay=decay and label != FULL)
            begin = time.perf_counter()
            written = generation.in_batches(images)
            seconds = (time.perf_counter() - begin) / len(references)
            texts = [dataset.vocabulary.decode(ids) for ids in written.tokens]
            whole, each = caption_quality(texts, references)
            layers = np.concatenate(written.exits) + 1  # (tokens,)
            about = {"policy": label, "threshold": threshold, "fill": fill}
            paid = {"layers": layers.mean(), "macs": written.cost.mean(), "seconds": seconds}
            points.append(about | whole | paid)
            spelled = [" ".join(map(str, exits + 1)) for exits in written.exits]
            columns = {"image": range(len(texts)), "caption": texts, "exits": spelled, "macs": written.cost}
            sums = {"tokens": map(len, written.exits), "layers": (int((exits + 1).sum()) for exits in written.exits)}
            captions.append(pd.DataFrame(about | columns | {name: list(each) for name, each in sums.items()} | each))
            bar.update()
    table = pd.DataFrame(points)
    table["layer_speedup"] = model.n_exits / table["layers"]
    for unit in ("mac", "second"):
        table[f"{unit}_speedup"] = table[f"{unit}s"].iloc[0] / table[f"{unit}s"]
    return table, pd.concat(captions, ignore_index=True)


def certified_threshold(
    losses: np.ndarray, thresholds: Sequence[float], level: float, confidence: float = 0.9
) -> tuple[float, float]:
    """Certify the lowest threshold whose risk over captions is at most a level, by Learn then Test (CALM, section 4.2).

    The thresholds are tested in a fixed sequence from the highest on, until the first failure. They must have been
    chosen without these captions, and the policy must not have been fitted on them.

    Parameters
    ----------
    losses : ndarray of shape (N, T)
        Loss of each caption at each threshold, from 0 to 1, for example from `caption_losses`.
    thresholds : sequence of T floats
        Ascending.
    level, confidence : float
        As for `certification.certify`.

    Returns
    -------
    threshold : float
        One of the given ones, or +∞ (the full model), which loses nothing.
    risk : float
        Mean loss of these captions at this threshold.

    Raises
    ------
    ValueError
        If a loss is not from 0 to 1, if the thresholds do not ascend, or as for `certify`.
    """
    steps = np.append(np.asarray(thresholds, np.float64), np.inf)  # (T + 1,)
    if not (np.diff(steps) > 0).all():
        raise ValueError(f"thresholds are {', '.join(f'{x:g}' for x in steps[:-1])}; expected them to ascend")
    # A record of captions whose exits are the thresholds, so that all captions leave at the exit of a threshold
    shape = (len(losses), len(steps))
    places = np.arange(len(steps)) / len(steps)  # (T + 1,)
    record = ExitRecord.from_outputs(np.zeros(shape, int), np.broadcast_to(places, shape), None, places + 1)
    of_full = np.zeros((len(losses), 1))
    found = certify(make_policy("confidence"), record, np.hstack([losses, of_full]), level, confidence)
    certified = places >= (np.inf if found.threshold is None else found.threshold)  # (T + 1,)
    certified[-1] = True  # the full model loses nothing
    place = int(certified.argmax())
    return float(steps[place]), float(np.append(losses.mean(0), 0)[place])


def caption_losses(captions: pd.DataFrame, full: pd.DataFrame) -> dict[str, np.ndarray]:
    """Return the losses of captions (N,) from 0 to 1, by name.

    "rouge_drop" is by how much ROUGE-L is below that of the full model, and 0 if it is not (risk of quality in CALM,
    equation 3). "changed" is 1 if the caption differs from that of the full model (risk of consistency, equation 2,
    with equality as the similarity).
    """
    drop = np.maximum(full["ROUGE-L"].to_numpy() - captions["ROUGE-L"].to_numpy(), 0)  # (N,)
    return {"rouge_drop": drop, "changed": (captions["caption"].to_numpy() != full["caption"].to_numpy()) * 1.0}


def _padded(rows: Sequence[np.ndarray], vocabulary) -> np.ndarray:
    """Return token ids (B, 1 + T) of captions, with the token that starts them, as `Words.encode`."""
    ids = np.full((len(rows), 1 + max(map(len, rows))), vocabulary.pad)  # (B, 1 + T)
    ids[:, 0] = vocabulary.bos
    for row, own in zip(ids, rows):
        row[1 : len(own) + 1] = own
    return ids
