"""Evaluation of captioners: sweeps of thresholds over written captions, and certified thresholds."""

import time
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
import torch

from offramp._io.progress import progress_bar
from offramp.certification import certify
from offramp.comparison.captions import FULL, RECOMPUTE
from offramp.datasets.captions import CaptionDataset, CaptionVocabulary, plain
from offramp.evaluation.captions import caption_quality, spelled_layers
from offramp.models.captioner import Captioner
from offramp.policies import Policy, make_policy
from offramp.records import ExitRecord
from offramp.runtime.generation import Captions, Fill, Generation
from offramp.tokens import image_batches
from offramp.training.device import torch_settings


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
    batch_size: int = 256,
    threads: int = 1,
    progress: bool = True,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Write captions freely with each setting, and compare them with all references of their images.

    The encoder runs once for all settings, and its time is added to that of each of them.

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
        One row per setting and image: policy, threshold, fill, image, caption, exits (layers of the tokens, as
        `spelled_layers` writes them), tokens (their number), layers (the sum over tokens), macs, and the metrics.
    """
    images = image_batches(dataset, split, n, batch_size)
    references = references_of(dataset, split, sum(map(len, images)))
    runs: list[tuple[str, Policy, float, Fill]] = [(FULL, make_policy("confidence"), np.inf, RECOMPUTE), *settings]
    points, captions = [], []
    with (
        torch_settings(threads),
        progress_bar(len(runs), f"captions of {split}", shown=progress, unit="threshold") as bar,
    ):
        Generation(model, runs[0][1], np.inf)(images[0])  # the first call is slower, and its costs are counted
        begin = time.perf_counter()
        memories = [_encoded(model, batch) for batch in images]
        encoding = time.perf_counter() - begin
        for label, policy, threshold, fill in runs:
            generation = Generation(model, policy, threshold, fill=fill, decay=decay and label != FULL)
            begin = time.perf_counter()
            written = Captions.joined([generation.write(memory) for memory in memories])
            seconds = (encoding + time.perf_counter() - begin) / len(references)
            texts, spelled = spell(written, dataset.vocabulary)
            whole, each = caption_quality(texts, references)
            layers = np.concatenate(written.exits) + 1  # (tokens,)
            about = {"policy": label, "threshold": threshold, "fill": fill}
            paid = {"layers": layers.mean(), "macs": written.cost.mean(), "seconds": seconds}
            points.append(about | whole | paid)
            columns = {"image": range(len(texts)), "caption": texts, "exits": spelled, "macs": written.cost}
            sums = {"tokens": map(len, written.exits), "layers": (int((exits + 1).sum()) for exits in written.exits)}
            captions.append(pd.DataFrame(about | columns | {name: list(each) for name, each in sums.items()} | each))
            bar.update()
    table = pd.DataFrame(points)
    table["layer_speedup"] = model.n_exits / table["layers"]
    for unit in ("mac", "second"):
        table[f"{unit}_speedup"] = table[f"{unit}s"].iloc[0] / table[f"{unit}s"]
    return table, pd.concat(captions, ignore_index=True)


def references_of(dataset: CaptionDataset, split: str, n: int) -> list[list[str]]:
    """Return the captions of the first n images of a split, as words that are separated by spaces."""
    return [[plain(text) for text in dataset.references[split][i]] for i in range(n)]


def spell(written: Captions, vocabulary: CaptionVocabulary) -> tuple[list[str], list[str]]:
    """Return the text of each caption, and the layers of its tokens as `spelled_layers` writes them."""
    words = [vocabulary.words(ids) for ids in written.tokens]
    texts = [" ".join(word for word, _ in own) for own in words]
    return texts, [spelled_layers(exits, own) for exits, own in zip(written.exits, words)]


@torch.inference_mode()
def _encoded(model: Captioner, images: torch.Tensor) -> torch.Tensor:
    """Return the memory of images, when it is there: devices compute on their own."""
    memory = model.encode(images.to(model.device))
    if memory.is_cuda:
        torch.cuda.synchronize(memory.device)
    return memory


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
