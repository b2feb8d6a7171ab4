"""Synthetic images of two to four items, with captions from a small grammar, for captioning without a download."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Literal, NamedTuple

import numpy as np

from offramp.datasets import load_dataset
from offramp.datasets.captions import CaptionDataset, Words
from offramp.datasets.preparing import ImagePreparation

# Names of each class: synonyms, each in the singular and in the plural
NOUNS: dict[str, list[list[tuple[str, str]]]] = {
    "digits": [
        [("zero", "zeros"), ("nought", "noughts")],
        [("one", "ones")],
        [("two", "twos")],
        [("three", "threes")],
        [("four", "fours")],
        [("five", "fives")],
        [("six", "sixes")],
        [("seven", "sevens")],
        [("eight", "eights")],
        [("nine", "nines")],
    ],
    "fashion_mnist": [
        [("t-shirt", "t-shirts"), ("top", "tops")],
        [("trouser", "trousers")],
        [("pullover", "pullovers"), ("sweater", "sweaters")],
        [("dress", "dresses"), ("gown", "gowns")],
        [("coat", "coats"), ("jacket", "jackets")],
        [("sandal", "sandals")],
        [("shirt", "shirts"), ("blouse", "blouses")],
        [("sneaker", "sneakers"), ("trainer", "trainers")],
        [("bag", "bags"), ("handbag", "handbags")],
        [("boot", "boots"), ("ankle boot", "ankle boots")],
    ],
}
RELATIONS = {
    "left": ("to the left of", "left of", "on the left of"),
    "right": ("to the right of", "right of", "on the right of"),
    "above": ("above", "over"),
    "below": ("below", "under", "beneath"),
}
OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}
# {0}: one group of items, {1}: how it stands to the other, {2}: the other. The last one tells no relation.
PATTERNS = ("{0} {1} {2}", "{0} {1} {2}", "there is {0} {1} {2}", "an image of {0} {1} {2}", "{0} and {2}")
CELLS = {"left": (0, 2), "right": (1, 3), "above": (0, 1), "below": (2, 3)}  # of a canvas of 2 × 2, row by row
CAPTIONS = 5  # of each image
SPLITS = ("train", "validation", "test")


class Item(NamedTuple):
    """An item of a scene: its class, its number among all items, and its square in pixels."""

    kind: int
    source: int
    top: int
    left: int
    size: int


class Scene(NamedTuple):
    """Items in two groups, where the first stands in a relation (a key of `RELATIONS`) to the second."""

    items: list[Item]
    groups: tuple[tuple[int, int], tuple[int, int]]  # class and number of items of each
    relation: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Scenes(CaptionDataset):
    """Scenes that are drawn when they are accessed. Scene i of a split depends on seed, split and i only.

    Parameters
    ----------
    items : str
        Dataset of the items, a key of `NOUNS`.
    stock : ndarray of shape (M, H, W)
        uint8 pictures of all items.
    places : mapping of str to list of ndarray
        For each split: the positions of the items of each class in `stock`.
    seed : int
    """

    items: str
    stock: np.ndarray = field(repr=False)
    places: Mapping[str, Sequence[np.ndarray]] = field(repr=False)
    seed: int

    def scene(self, split: str, i: int) -> Scene:
        """Draw the scene in position i of a split."""
        rng = np.random.default_rng([self.seed, SPLITS.index(split), i])
        kinds = rng.choice(10, 2, replace=False)  # (2,)
        numbers = rng.integers(1, 3, 2)  # (2,)
        relation = _one_of(rng, list(RELATIONS))
        cell = self.stock.shape[1] if self.items != "digits" else 2 * self.stock.shape[1]
        items = []
        for kind, number, side in zip(kinds, numbers, (relation, OPPOSITE[relation])):
            for place in rng.permutation(CELLS[side])[:number]:
                size = int(rng.integers(2 * cell // 3, cell + 1))
                top, left = rng.integers(0, cell - size + 1, 2) + cell * np.array(divmod(place, 2))
                items.append(Item(int(kind), int(_one_of(rng, self.places[split][kind])), int(top), int(left), size))
        groups = tuple((int(kind), int(number)) for kind, number in zip(kinds, numbers))
        return Scene(items, groups, relation)

    def captions(self, split: str, i: int) -> tuple[str, ...]:
        """Draw the captions of the scene in position i of a split."""
        rng = np.random.default_rng([self.seed, SPLITS.index(split), i, 1])
        _, groups, relation = self.scene(split, i)
        return tuple(_caption(rng, self.items, groups, relation) for _ in range(CAPTIONS))

    def pixels(self, split: str, index: np.ndarray) -> np.ndarray:
        from PIL import Image

        canvas = np.zeros((len(index), *self.preparation.shape), np.uint8)  # (B, 1, H, W)
        for i, each in zip(index, canvas):
            for item in self.scene(split, int(i)).items:
                picture = Image.fromarray(self.stock[item.source]).resize((item.size, item.size), Image.BILINEAR)
                each[0, item.top : item.top + item.size, item.left : item.left + item.size] = picture
        return canvas


class _Captions(Sequence):
    """The captions of all scenes of a split, drawn when they are accessed."""

    def __init__(self, scenes: Scenes, split: str, n: int) -> None:
        self.scenes, self.split, self.n = scenes, split, n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> tuple[str, ...]:
        return self.scenes.captions(self.split, range(self.n)[i])


def load_scenes(
    items: Literal["digits", "fashion_mnist"] = "digits",
    train: int = 20_000,
    validation: int = 2_000,
    test: int = 2_000,
    seed: int = 0,
) -> Scenes:
    """Load synthetic scenes: two groups of one or two items each, for example "a boot to the left of two bags".

    The canvas has 2 × 2 cells, of 16 pixels for digits and 28 for Fashion-MNIST. A group has a side of the canvas (left
    and right, or above and below), and each of its items a cell there, with a random size and position in it. The five
    captions of an image draw synonyms, one of several patterns and the order of the groups, so that a caption can be
    partly right. The items of the splits are different ones. Grammar and layout are our choice.

    Parameters
    ----------
    items : {"digits", "fashion_mnist"}
        Dataset of the items: the digits of scikit-learn, or Fashion-MNIST, which is downloaded if needed.
    train, validation, test : int
        Number of images in each split.
    seed : int
        Seed of all scenes.

    Raises
    ------
    ValueError
        If the items are unknown, if they cannot be fetched, or if a number is smaller than 1.
    """
    if items not in NOUNS:
        raise ValueError(f"scenes: items={items!r}, expected {' or '.join(NOUNS)}")
    sizes = dict(zip(SPLITS, (train, validation, test)))
    if wrong := [split for split, n in sizes.items() if not isinstance(n, int) or n < 1]:
        raise ValueError(f"scenes: {wrong[0]}={sizes[wrong[0]]!r}, expected a whole number from 1")
    source = load_dataset(items)
    stock = np.concatenate([source.pixels[pool][:, 0].numpy() for pool in source.pixels])  # (M, H, W)
    labels = np.concatenate([source.labels[pool] for pool in source.pixels])  # (M,)
    parts = _parts(labels, held_out=len(source.labels.get("test", ())))  # (M,)
    cell = 16 if items == "digits" else 28
    references: dict[str, Sequence[tuple[str, ...]]] = {}
    scenes = Scenes(
        name="scenes",
        preparation=ImagePreparation(shape=(1, 2 * cell, 2 * cell), mean=(127.5,), std=(127.5,)),
        vocabulary=Words.of(_sentences(items), max_tokens=16),
        references=references,
        items=items,
        stock=(stock.astype(np.uint16) * 255 // source.highest).astype(np.uint8),
        places={split: [np.flatnonzero((parts == split) & (labels == kind)) for kind in range(10)] for split in SPLITS},
        seed=seed,
    )
    references |= {split: _Captions(scenes, split, n) for split, n in sizes.items()}
    return scenes


def _parts(labels: np.ndarray, held_out: int) -> np.ndarray:
    """Return the split of each item, (M,). The last `held_out` items are the test set of the source, if it has one."""
    turn = np.arange(len(labels)) % 10  # (M,)
    if held_out:
        parts = np.where(turn < 8, "train", "validation")
        parts[-held_out:] = "test"
        return parts
    return np.select([turn < 6, turn < 8], ["train", "validation"], "test")


def _group(nouns: Sequence[tuple[str, str]], number: int) -> list[str]:
    """Return all names of a group of one or two items."""
    if number == 1:
        return [f"{'an' if one[0] in 'aeiou' and one != 'one' else 'a'} {one}" for one, _ in nouns]
    return [f"{count} {many}" for _, many in nouns for count in ("two", "a pair of")]


def _caption(rng: np.random.Generator, items: str, groups, relation: str) -> str:
    if rng.random() < 0.5:
        groups, relation = groups[::-1], OPPOSITE[relation]
    one, other = (_one_of(rng, _group(NOUNS[items][kind], number)) for kind, number in groups)
    return _one_of(rng, PATTERNS).format(one, _one_of(rng, RELATIONS[relation]), other)


def _one_of(rng: np.random.Generator, values: Sequence):
    return values[rng.integers(len(values))]


def _sentences(items: str) -> list[str]:
    """Return sentences that together have all words of the grammar."""
    groups = [name for nouns, number in product(NOUNS[items], (1, 2)) for name in _group(nouns, number)]
    return [
        *groups,
        *(pattern.format("", "", "") for pattern in PATTERNS),
        *(name for names in RELATIONS.values() for name in names),
    ]
