"""Evaluation of captioners: records of tokens, sweeps of thresholds over written captions, and choices at a quality."""

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
from offramp.comparison.bootstrap import Bootstrap
from offramp.datasets import load_captions
from offramp.datasets.captions import CaptionDataset, following, plain
from offramp.evaluation.captions import caption_quality
from offramp.models.captioner import Captioner
from offramp.policies import Policy, make_policy
from offramp.records import ExitRecord
from offramp.runtime.generation import Fill, Generation
from offramp.training.checkpoints import load_weights, read_parameters
from offramp.training.device import default_device, torch_settings

FULL = "full"  # name of the full model in tables
DROPS = (0.0, 0.01, 0.03)  # acceptable shares of lost CIDEr


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
    settings: Iterable[tuple[str, Policy, float]],
    *,
    fill: Fill = "recompute",
    decay: bool = False,
    n: int | None = None,
    batch_size: int = 32,
    threads: int = 1,
    progress: bool = True,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Write captions freely with each setting, and compare them with all references of their images.

    Parameters
    ----------
    model : Captioner
    dataset : CaptionDataset
    split : {"validation", "test"}
    settings : iterable of (str, Policy, float)
        Label of a policy, the policy, and its threshold. The full model is added, as the policy "full".
    fill, decay
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
        by spaces), macs, and the metrics.
    """
    images = image_batches(dataset, split, n, batch_size)
    references = [[plain(text) for text in dataset.references[split][i]] for i in range(sum(map(len, images)))]
    runs = [(FULL, make_policy("confidence"), np.inf), *settings]
    points, captions = [], []
    with torch_settings(threads), progress_bar(len(runs), f"captions of {split}", shown=progress) as bar:
        Generation(model, runs[0][1], np.inf)(images[0])  # the first call is slower, and its costs are counted
        for label, policy, threshold in runs:
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
            captions.append(pd.DataFrame(about | columns | each))
            bar.update()
    table = pd.DataFrame(points)
    table["layer_speedup"] = model.n_exits / table["layers"]
    for unit in ("mac", "second"):
        table[f"{unit}_speedup"] = table[f"{unit}s"].iloc[0] / table[f"{unit}s"]
    return table, pd.concat(captions, ignore_index=True)


def chosen_points(points: pd.DataFrame, drop: float, *, metric: str = "CIDEr", by: str = "macs") -> pd.DataFrame:
    """Return the cheapest point of each policy whose quality on these captions is at most `drop` below the full model.

    Parameters
    ----------
    points : DataFrame
        From `sweep`, on validation images.
    drop : float
        Acceptable share of the quality of the full model that is lost.
    metric : str
        Column of the quality.
    by : str
        Column of the cost.

    Returns
    -------
    DataFrame
        Rows of `points`, one per policy. If no threshold of a policy is good enough, this is the full model.
    """
    full = points[points["policy"] == FULL].iloc[0]
    rows = []
    for label, of_policy in points[points["policy"] != FULL].groupby("policy", sort=False):
        good = of_policy[of_policy[metric] >= (1 - drop) * full[metric]]
        best = full if good.empty else good.loc[good[by].idxmin()]
        rows.append({**(full if best[by] > full[by] else best), "policy": label})
    return pd.DataFrame(rows).reset_index(drop=True)


def at_matched_quality(
    chosen: pd.DataFrame, points: pd.DataFrame, captions: pd.DataFrame, *, metric: str = "CIDEr", resamples: int = 1000
) -> pd.DataFrame:
    """Return what chosen thresholds do on test images, with 95 % bootstrap intervals over images.

    Parameters
    ----------
    chosen : DataFrame
        From `chosen_points`, on validation images.
    points, captions : DataFrame
        From `sweep`, on test images, with these thresholds.
    metric : str
        A metric whose value is a mean over images: CIDEr or ROUGE-L.
    resamples : int
        Number of resamples.

    Returns
    -------
    DataFrame
        One row per policy: policy, threshold, the metric, drop (share of the metric of the full model that is lost;
        negative if it is better) with drop_low and drop_high, layer_speedup, mac_speedup, second_speedup.

    Raises
    ------
    ValueError
        If the metric of the full model is 0, on these images or on a resampling of them.
    """
    of_full = captions[captions["policy"] == FULL]
    full = of_full[metric].to_numpy()  # (N,)
    bootstrap = Bootstrap.draw(len(full), resamples, 0)
    means, rows = bootstrap.with_means(full), []  # (1 + B,)
    if not means.min() > 0:
        raise ValueError(
            f"the full model has {metric} {means[0]:.3g} on {len(full)} test images, and 0 on a resampling of them, so "
            "a share of it means nothing; train the model longer, or take more images"
        )
    for label, threshold in zip(chosen["policy"], chosen["threshold"]):
        which = FULL if threshold == np.inf else label
        point = points[(points["policy"] == which) & (points["threshold"] == threshold)].iloc[0]
        own = captions[(captions["policy"] == which) & (captions["threshold"] == threshold)][metric].to_numpy()  # (N,)
        drops = 1 - bootstrap.with_means(own) / means  # (1 + B,)
        low, high = bootstrap.interval(drops[1:])
        speedups = {name: point[name] for name in ("layer_speedup", "mac_speedup", "second_speedup")}
        about = {"policy": label, "threshold": threshold, metric: point[metric]}
        rows.append(about | {"drop": drops[0], "drop_low": low, "drop_high": high} | speedups)
    return pd.DataFrame(rows)


def _padded(rows: Sequence[np.ndarray], vocabulary) -> np.ndarray:
    """Return token ids (B, 1 + T) of captions, with the token that starts them, as `Words.encode`."""
    ids = np.full((len(rows), 1 + max(map(len, rows))), vocabulary.pad)  # (B, 1 + T)
    ids[:, 0] = vocabulary.bos
    for row, own in zip(ids, rows):
        row[1 : len(own) + 1] = own
    return ids
