"""Corruptions of images and texts in five severities, to test models on inputs that differ from those of training.

To add a corruption, write a function that damages one input by an amount, and list it in `CORRUPTIONS`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from offramp._registry import find

if TYPE_CHECKING:
    from torch import Tensor

SEED = 1  # of all corruptions; our choice


@dataclass(frozen=True)
class Corruption:
    """A kind of corruption with a severity.

    The random numbers of a sample depend on its index alone. Therefore, a sample is corrupted in the same way in every
    batch and order, and a higher severity is more of the same damage.

    Parameters
    ----------
    kind : str
        A key of `CORRUPTIONS`.
    severity : int
        1 (slight) to 5 (severe). 0 changes nothing.

    Raises
    ------
    ValueError
        If the kind is unknown, or if the severity is out of range.
    """

    kind: str
    severity: int

    def __post_init__(self) -> None:
        find(CORRUPTIONS, "corruption", self.kind)
        if self.severity not in range(6):
            raise ValueError(f"corruption {self.kind}: severity is {self.severity}; expected 1 to 5, or 0 for none")

    def images(self, pixels: np.ndarray, index: np.ndarray, highest: int = 255) -> np.ndarray:
        """Return corrupted images.

        Parameters
        ----------
        pixels : ndarray of shape (B, C, H, W), uint8
        index : ndarray of shape (B,)
            Indices of the images in their pool.
        highest : int
            Value of a white pixel.

        Returns
        -------
        ndarray of shape (B, C, H, W), uint8

        Raises
        ------
        ValueError
            If the corruption is for texts.
        """
        self.check("images")
        if not self.severity:
            return pixels
        import torch

        damaged = np.empty_like(pixels)  # (B, C, H, W)
        for place, i in enumerate(index):
            image = torch.from_numpy(pixels[place].astype(np.float32) / np.float32(highest))  # (C, H, W)
            changed = self._damage(image, self._random(i)).clamp(0, 1).numpy()
            damaged[place] = np.rint(changed * np.float32(highest))
        return damaged

    def text(self, text: str, index: int, column: int = 0) -> str:
        """Return a corrupted text. `column` is 1 for the second text of a pair.

        Raises
        ------
        ValueError
            If the corruption is for images.
        """
        self.check("texts")
        if not self.severity:
            return text
        return " ".join(self._damage(text.split(" "), self._random(index, column)))

    def check(self, inputs: Literal["images", "texts"]) -> None:
        """Raise ValueError if the corruption is for other inputs."""
        its = CORRUPTIONS[self.kind].inputs
        if its != inputs:
            known = ", ".join(kind for kind, entry in CORRUPTIONS.items() if entry.inputs == inputs)
            raise ValueError(f"corruption {self.kind} is for {its}, and the dataset has {inputs}: expected {known}")

    def _random(self, index: int, column: int = 0) -> np.random.Generator:
        return np.random.default_rng([SEED, column, index])

    def _damage(self, sample, random: np.random.Generator):
        its = CORRUPTIONS[self.kind]
        return its.damage(sample, its.amounts[self.severity - 1], random)


# Images: float32 tensors (C, H, W) from 0 to 1


def _noise(image: "Tensor", amount: float, random: np.random.Generator) -> "Tensor":
    """Gaussian noise, with this standard deviation."""
    return image + amount * image.new_tensor(random.standard_normal(image.shape))


def _blur(image: "Tensor", amount: float, random: np.random.Generator) -> "Tensor":
    """Gaussian blur, with this standard deviation as a share of the shorter side."""
    from scipy.ndimage import gaussian_filter  # of single images, much faster than that of torchvision

    sigma = amount * min(image.shape[1:])
    return image.new_tensor(gaussian_filter(image.numpy(), (0, sigma, sigma), mode="mirror"))


def _contrast(image: "Tensor", amount: float, random: np.random.Generator) -> "Tensor":
    """Mixture with the mean grey: this share of the contrast is left."""
    from torchvision.transforms.v2.functional import adjust_contrast

    return adjust_contrast(image, amount)


def _brightness(image: "Tensor", amount: float, random: np.random.Generator) -> "Tensor":
    """Overexposure: pixels are multiplied by this factor."""
    from torchvision.transforms.v2.functional import adjust_brightness

    return adjust_brightness(image, amount)


def _rotation(image: "Tensor", amount: float, random: np.random.Generator) -> "Tensor":
    """Rotation by this number of degrees, in either direction. Corners are filled with black."""
    from torchvision.transforms.v2.functional import InterpolationMode, rotate

    return rotate(image, float(random.choice([-amount, amount])), InterpolationMode.BILINEAR)


def _occlusion(image: "Tensor", amount: float, random: np.random.Generator) -> "Tensor":
    """A grey square somewhere in the image, with this share of its shorter side."""
    from torchvision.transforms.v2.functional import erase

    height, width = image.shape[1:]
    side = max(1, round(amount * min(height, width)))
    top, left = (random.random(2) * [height - side + 1, width - side + 1]).astype(int)
    return erase(image, int(top), int(left), side, side, image.new_tensor(0.5))


# Texts: lists of words

ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")  # of a keyboard; each begins a bit further right than the one above
OFFSETS = (0.0, 0.25, 0.75)
_PLACES = {key: (row, x + OFFSETS[row]) for row, keys in enumerate(ROWS) for x, key in enumerate(keys)}
NEIGHBOURS = {
    key: [other for other, (r, x) in _PLACES.items() if other != key and abs(r - row) <= 1 and abs(x - place) <= 1]
    for key, (row, place) in _PLACES.items()
}


def _typos(words: list[str], amount: float, random: np.random.Generator) -> list[str]:
    """One typing error in this share of the words: a neighbouring key, or two letters in the wrong order."""
    draws = random.random((len(words), 4))  # (words, 4), whatever the amount
    return [_misspelt(word, *which) if hit < amount else word for word, (hit, *which) in zip(words, draws)]


def _misspelt(word: str, where: float, way: float, key: float) -> str:
    """Return the word with one error. The arguments, from 0 to 1, choose which. Other characters than a to z stay."""
    swaps = [i for i in range(len(word) - 1) if word[i] != word[i + 1] and word[i : i + 2].isalpha()]
    keys = [i for i, letter in enumerate(word) if letter.lower() in NEIGHBOURS]
    if swaps and (way < 0.5 or not keys):
        i = swaps[int(where * len(swaps))]
        return word[:i] + word[i + 1] + word[i] + word[i + 2 :]
    if not keys:
        return word
    i = keys[int(where * len(keys))]
    near = NEIGHBOURS[word[i].lower()]
    typed = near[int(key * len(near))]
    return word[:i] + (typed.upper() if word[i].isupper() else typed) + word[i + 1 :]


def _dropped(words: list[str], amount: float, random: np.random.Generator) -> list[str]:
    """This share of the words is missing. At least one word is left."""
    draws = random.random(len(words))  # (words,)
    return [word for word, draw in zip(words, draws) if draw >= min(amount, draws.max())]


class Kind(NamedTuple):
    """What a corruption is for, the function that damages an input, and its amount for severities 1 to 5."""

    inputs: Literal["images", "texts"]
    damage: Callable
    amounts: tuple[float, float, float, float, float]


# The amounts are our choice. Those of noise and contrast are of ImageNet-C and CIFAR-10-C (arXiv 1903.12261)
CORRUPTIONS: dict[str, Kind] = {
    "noise": Kind("images", _noise, (0.08, 0.12, 0.18, 0.26, 0.38)),  # of the range from black to white
    "blur": Kind("images", _blur, (0.05, 0.065, 0.08, 0.1, 0.125)),  # of the shorter side
    "contrast": Kind("images", _contrast, (0.75, 0.5, 0.4, 0.3, 0.15)),  # of the contrast
    "brightness": Kind("images", _brightness, (1.3, 1.6, 2.0, 2.5, 3.0)),  # factor
    "rotation": Kind("images", _rotation, (6, 12, 18, 24, 30)),  # degrees
    "occlusion": Kind("images", _occlusion, (0.25, 0.35, 0.45, 0.6, 0.7)),  # of the shorter side
    "typos": Kind("texts", _typos, (0.1, 0.2, 0.3, 0.45, 0.6)),  # of the words
    "dropped-words": Kind("texts", _dropped, (0.1, 0.2, 0.3, 0.4, 0.5)),  # of the words
}
