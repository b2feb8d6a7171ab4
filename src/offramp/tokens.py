"""Trained captioners, and exit records of the tokens of their captions."""

import os
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
from torch.nn.functional import cosine_similarity

from offramp._io.progress import progress_bar
from offramp.datasets import load_captions
from offramp.datasets.captions import CaptionDataset, following
from offramp.models.captioner import Captioner
from offramp.records import ExitRecord
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
    progress: bool = True,
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
    progress : bool
        Show a progress bar on stderr.

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
    batches, title = image_batches(dataset, split, n, batch_size), f"{system} seed {seed} {split}, {text}"
    with (
        torch_settings(threads),
        torch.inference_mode(),
        progress_bar(len(batches), title, shown=progress) as bar,
    ):
        for images in batches:
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
            bar.update()
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


def _padded(rows: Sequence[np.ndarray], vocabulary) -> np.ndarray:
    """Return token ids (B, 1 + T) of captions, with the token that starts them, as `CaptionVocabulary.encode`."""
    ids = np.full((len(rows), 1 + max(map(len, rows))), vocabulary.pad)  # (B, 1 + T)
    ids[:, 0] = vocabulary.bos
    for row, own in zip(ids, rows):
        row[1 : len(own) + 1] = own
    return ids
