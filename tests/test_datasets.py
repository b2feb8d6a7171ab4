"""Datasets and splits: determined by the seed, complete, disjoint, and augmented only for training."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from offramp.datasets import load_dataset
from offramp.datasets.base import InMemoryDataset, shift_and_flip
from offramp.datasets.batches import SeededSamples, ShuffledBatches, batch_loader, batches_in_order
from offramp.datasets.splits import load_splits, make_splits, save_splits


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits")


@pytest.fixture(scope="module")
def with_test_pool():
    """Colour images whose source has a test pool."""
    random = np.random.default_rng(0)
    sizes = {"train": 90, "test": 30}
    return InMemoryDataset(
        name="coloured",
        classes=3,
        image_shape=(3, 6, 5),
        labels={pool: np.arange(n) % 3 for pool, n in sizes.items()},
        pixels={pool: torch.from_numpy(random.integers(0, 256, (n, 3, 6, 5), np.uint8)) for pool, n in sizes.items()},
        mean=(100.0, 120.0, 140.0),
        std=(50.0, 60.0, 70.0),
        shift=2,
        flip=True,
    )


def places(splits, split):
    return splits[splits["split"] == split]["index"].to_numpy()


def test_digits_are_the_images_of_scikit_learn(digits):
    from sklearn.datasets import load_digits

    source = load_digits()
    index = np.array([5, 0, 1796])
    images = digits.inputs("all", index, augment=False)
    assert images.dtype == torch.float32
    np.testing.assert_array_equal(images[:, 0] * 8 + 8, source.images[index])
    np.testing.assert_array_equal(digits.labels["all"], source.target)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("digit", {}, "unknown dataset 'digit': expected one of digits"),
        ("digits", {"flip": True}, "digits: unknown option 'flip': expected some of shift"),
    ],
)
def test_unknown_names_list_the_known(name, options, message):
    with pytest.raises(ValueError, match=message):
        load_dataset(name, **options)


@given(validation=st.integers(10, 400), test=st.integers(10, 400), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_splits_cover_the_pool_once_in_its_proportions(digits, validation, test, seed):
    splits = make_splits(digits, validation=validation, test=test, seed=seed)
    pd.testing.assert_frame_equal(splits, make_splits(digits, validation=validation, test=test, seed=seed))
    np.testing.assert_array_equal(np.sort(splits["index"]), np.arange(1797))
    labels = digits.labels["all"]
    share = np.bincount(labels) / len(labels)
    for split, size in {"train": 1797 - validation - test, "validation": validation, "test": test}.items():
        counts = np.bincount(labels[places(splits, split)], minlength=10)
        assert counts.sum() == size
        assert np.abs(counts - share * size).max() <= 2  # rounding to whole samples, in two steps


def test_another_seed_gives_other_splits(digits):
    first, second = (make_splits(digits, validation=100, test=100, seed=seed) for seed in (0, 1))
    assert not first.equals(second)


def test_a_test_pool_is_the_test_split(with_test_pool):
    splits = make_splits(with_test_pool, validation=15, seed=0)
    assert splits.groupby("split")["pool"].unique().map(list).to_dict() == {
        "train": ["train"],
        "validation": ["train"],
        "test": ["test"],
    }
    np.testing.assert_array_equal(places(splits, "test"), np.arange(30))
    held = np.concatenate([places(splits, "train"), places(splits, "validation")])
    np.testing.assert_array_equal(np.sort(held), np.arange(90))


def test_fewer_may_train_and_nothing_else_changes(digits):
    whole, part = (make_splits(digits, validation=100, test=100, train=train, seed=0) for train in (None, 50))
    for split in ("validation", "test"):
        np.testing.assert_array_equal(places(part, split), places(whole, split))
    assert len(places(part, "train")) == 50
    assert set(places(part, "train")) < set(places(whole, "train"))
    assert np.bincount(digits.labels["all"][places(part, "train")], minlength=10).min() >= 4


def test_sizes_that_do_not_fit_are_refused(digits, with_test_pool):
    with pytest.raises(ValueError, match=r"validation: 9 samples, expected 10 .* to 1687"):
        make_splits(digits, validation=9, test=100, seed=0)
    with pytest.raises(ValueError, match="test: 1790 samples"):
        make_splits(digits, validation=10, test=1790, seed=0)
    with pytest.raises(ValueError, match="digits has no test pool"):
        make_splits(digits, validation=100, seed=0)
    with pytest.raises(ValueError, match="coloured has a test pool"):
        make_splits(with_test_pool, validation=10, test=10, seed=0)


def test_splits_survive_their_file(digits, with_test_pool, tmp_path):
    for dataset, test in (digits, 100), (with_test_pool, None):
        splits = make_splits(dataset, validation=20, test=test, seed=3)
        save_splits(splits, tmp_path / "splits.csv", dataset)
        pd.testing.assert_frame_equal(load_splits(tmp_path / "splits.csv", dataset), splits)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["train,all,0", "valid,all,1"], r"line 3 \(valid,all,1\): expected a split from train, validation, test"),
        (["train,train,0"], "line 2 .*: expected a pool of digits: all"),
        (["train,all,0", "test,all,1797"], "line 3 .*: expected an index from 0 .* all 1797"),
        (["train,all,-1"], "line 2 .*: expected an index from 0"),
        (["train,all,7", "test,all,8", "validation,all,7"], "line 4 .*: expected each sample once"),
        (["train,all,1.5"], "not a table of split,pool,index"),
        (["train,all"], "not a table of split,pool,index"),
        (["train,all,1,2", "train,all,2,3,4"], "not a table of split,pool,index"),
    ],
)
def test_wrong_tables_are_refused_with_their_line(digits, tmp_path, lines, message):
    path = tmp_path / "splits.csv"
    path.write_text("\n".join(["split,pool,index", *lines]))
    with pytest.raises(ValueError, match=message) as error:
        load_splits(path, digits)
    assert "\n" not in str(error.value)


def test_a_split_from_two_pools_and_other_columns_are_refused(with_test_pool, tmp_path):
    path = tmp_path / "splits.csv"
    path.write_text("split,pool,index\ntrain,train,0\ntrain,test,0\n")
    with pytest.raises(ValueError, match=r"line 3 .*: expected all samples of a split from one pool"):
        load_splits(path, with_test_pool)
    path.write_text("split,index,pool\ntrain,0,train\n")
    with pytest.raises(ValueError, match="columns split,index,pool, expected split,pool,index"):
        load_splits(path, with_test_pool)


def test_a_split_without_samples_is_refused(digits):
    splits = make_splits(digits, validation=100, test=100, seed=0)
    with pytest.raises(ValueError, match="no 'tests' samples in the splits: only train, validation, test"):
        digits.samples(splits, "tests")


def test_batches_are_the_samples_one_by_one(with_test_pool):
    splits = make_splits(with_test_pool, validation=15, seed=0)
    samples = with_test_pool.samples(splits, "test")
    images, labels = samples[np.array([4, 2])]
    for i, position in enumerate([4, 2]):
        image, label = samples[position]
        assert torch.equal(images[i], image)
        assert labels[i] == label == with_test_pool.labels["test"][position]
        pixels = with_test_pool.pixels["test"][position].double()
        expected = torch.stack([(pixels[0] - 100) / 50, (pixels[1] - 120) / 60, (pixels[2] - 140) / 70])
        torch.testing.assert_close(image.double(), expected, atol=1e-6, rtol=1e-6)


def test_each_image_moves_and_flips_on_its_own():
    torch.manual_seed(0)
    pixels = torch.arange(1, 31, dtype=torch.uint8).reshape(1, 1, 6, 5).repeat(4000, 1, 1, 1)
    augmented = shift_and_flip(pixels, 1, True)
    padded = torch.nn.functional.pad(pixels[0, 0], [1] * 4)
    crops = [padded[t : t + 6, l : l + 5] for t in range(3) for l in range(3)]
    crops += [crop.flip(1) for crop in crops]
    counts = torch.stack([(augmented[:, 0] == crop).flatten(1).all(1).sum() for crop in crops])
    assert counts.sum() == 4000  # only crops and their mirror images
    assert ((counts - 4000 / 18).abs() < 5 * (4000 / 18) ** 0.5).all()


def test_without_augmentation_the_generator_is_not_touched(with_test_pool):
    splits = make_splits(with_test_pool, validation=15, seed=0)
    before = torch.random.get_rng_state()
    plain = [with_test_pool.samples(splits, split)[np.arange(15)][0] for split in ("validation", "test")]
    assert torch.equal(torch.random.get_rng_state(), before)
    again = [with_test_pool.samples(splits, split)[np.arange(15)][0] for split in ("validation", "test")]
    assert all(map(torch.equal, plain, again))


def test_batches_are_equal_and_cover_all():
    assert [list(b) for b in batches_in_order(7, 3)] == [[0, 1, 2], [3, 4], [5, 6]]
    order = ShuffledBatches(1197, 64, seed=0)
    batches = list(order)
    assert len(batches) == len(order) == 19
    assert {len(positions) for positions, _ in batches} == {63}
    np.testing.assert_array_equal(np.sort(np.concatenate([p for p, _ in batches])), np.arange(1197))


def test_seed_and_epoch_alone_decide_the_order():
    def draw(seed, epoch):
        order = ShuffledBatches(100, 10, seed)
        order.epoch = epoch
        return [(positions.tolist(), draw) for positions, draw in order]

    assert draw(3, 5) == draw(3, 5)
    assert draw(3, 5) != draw(3, 6)
    assert draw(3, 5) != draw(4, 5)


def test_worker_processes_make_the_same_batches(with_test_pool):
    splits = make_splits(with_test_pool, validation=15, seed=0)
    samples = SeededSamples(with_test_pool.samples(splits, "train", augment=True))

    def two_epochs(workers):
        order = ShuffledBatches(75, 20, seed=0)
        loader = batch_loader(samples, order, workers, torch.device("cpu"))
        batches = []
        for order.epoch in range(2):
            batches += loader
        return batches

    torch.manual_seed(0)
    here = two_epochs(0)
    torch.manual_seed(1)  # has no effect
    there = two_epochs(2)
    assert len(here) == len(there) == 8
    for (images, labels), (images_there, labels_there) in zip(here, there, strict=True):
        assert torch.equal(images, images_there)
        assert torch.equal(labels, labels_there)
