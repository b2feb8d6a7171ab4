"""Datasets by name. To add one, write a loader in a module of this package and register it in `DATASETS`."""

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING

from offramp._registry import check_options, find, load

if TYPE_CHECKING:
    from offramp.datasets.captions import CaptionDataset
    from offramp.datasets.labelled import Labelled

__all__ = ["CAPTIONED", "DATASETS", "OUTPUTS", "RECORDED", "load_captions", "load_dataset"]

# Module and loader of each dataset. They are imported when they are loaded: this module itself needs no torch.
DATASETS: dict[str, "str | Callable[..., Labelled]"] = {
    "digits": "digits:load_digits",
    "fashion_mnist": "fashion_mnist:load_fashion_mnist",
    "cifar10": "cifar:load_cifar10",
    "cifar100": "cifar:load_cifar100",
    "imagenet": "imagenet:load_imagenet",
    "reviews": "reviews:load_reviews",
    "glue": "glue:load_glue",
    "text_files": "text_files:load_text_files",
    "imagenet_outputs": "outputs:load_imagenet_outputs",
    "cifar100_outputs": "outputs:load_cifar100_outputs",
    "gsm8k_outputs": "answers:load_gsm8k_outputs",
    "mmlu_outputs": "answers:load_mmlu_outputs",
}
# Images with captions, which have no classes
CAPTIONED: dict[str, "str | Callable[..., CaptionDataset]"] = {
    "coco": "coco:load_coco",
    "scenes": "scenes:load_scenes",
}
# Datasets of the stored outputs of models, and what records made from them contain (`Policy.needs`). "quality": answers
# that are not classes
OUTPUTS: dict[str, tuple[str, ...]] = {
    "imagenet_outputs": ("prediction", "max_softmax"),
    "cifar100_outputs": ("prediction", "logits", "max_softmax", "margin", "entropy"),
    "gsm8k_outputs": ("quality", "prediction", "features"),
    "mmlu_outputs": ("quality", "features"),
}
# What records of the models of all other datasets contain
RECORDED = ("prediction", "logits", "max_softmax", "margin", "entropy", "similarity")


def load_dataset(name: str, **options) -> "Labelled":
    """Load the dataset called `name`. Its options are the parameters of its loader in `DATASETS`.

    Raises
    ------
    ValueError
        If the name or an option is unknown, or a required option is missing. The message lists the known ones.
    """
    return _load(DATASETS, name, options)


def load_captions(name: str, **options) -> "CaptionDataset":
    """Load the images with captions called `name`. Its options are the parameters of its loader in `CAPTIONED`.

    Raises
    ------
    ValueError
        As for `load_dataset`.
    """
    return _load(CAPTIONED, name, options)


def _load(registry, name: str, options):
    loader = load(find(registry, "dataset", name), __name__)
    known = inspect.signature(loader).parameters
    check_options(name, options, known, [key for key, option in known.items() if option.default is option.empty])
    return loader(**options)
