"""Records of the same samples are joined by their index, and doubtful orders are reported."""

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offramp import ExitRecord, cascade
from offramp.cascades.search import Zoo
from offramp.comparison.cascades import Split, Variant
from offramp.comparison.runs import load_runs
from offramp.records.joining import same_samples
from strategies import quick, records
from test_records import assert_same


@quick
@given(records(sample_costs=True, unlabelled=True), st.data())
def test_samples_are_joined_by_their_index(record, data):
    index = data.draw(st.lists(st.integers(0, 99), min_size=len(record), max_size=len(record), unique=True))
    record.index = np.array(index)
    order = data.draw(st.permutations(range(len(record))))
    first, second = same_samples([record, record.take(order)], ["a", "b"], "test")
    assert first is record
    assert_same(second, record)


def models(n=600, seed=0):
    """Two models that err on the same difficult samples, with names and costs."""
    random = np.random.default_rng(seed)
    labels, difficulty = np.arange(n) * 3 // n, random.random(n)  # sorted by class
    made = []
    for system, cost, skill in (("small", 1, 0.6), ("large", 5, 0.8)):
        right = difficulty + random.normal(0, 0.1, n) < skill
        about = {"system": system, "seed": 0, "source": f"{system}.csv"}
        confidence = np.where(right, 0.9, 0.6)[:, None]
        made.append(ExitRecord.from_outputs((labels + ~right)[:, None] % 3, confidence, labels, [cost], None, about))
    return made


def indexed(record, order):
    """Return the record as imported from a file with an index, with its samples in this order."""
    record = record.take(order)
    record.metadata = record.metadata | {"index": "id"}
    return record


def shuffled_in_classes(n=600):
    parts = np.random.default_rng(1).permuted(np.arange(n).reshape(3, -1), axis=1)
    return parts.ravel()


def test_the_order_of_files_does_not_matter_with_an_index(tmp_path):
    small, large = models()
    here, there = np.arange(600), np.random.default_rng(1).permutation(600)
    small, large, other = indexed(small, here), indexed(large, here), indexed(large, there)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_same(cascade([small, other]), cascade([small, large]))
        np.testing.assert_array_equal(Zoo.of([small, other]).correct, Zoo.of([small, large]).correct)
        ensemble = Variant(ensemble=None)
        np.testing.assert_array_equal(
            Split.of([other, small], ensemble, {}).zoo.correct[:, np.argsort(there)],
            Split.of([large, small], ensemble, {}).zoo.correct,
        )
        files = []
        for record in (small, other):
            for split in ("validation", "test"):
                record.metadata = record.metadata | {"split": split}
                files.append(tmp_path / f"{record.metadata['system']}-{split}")
                record.save(files[-1])
        one, two = load_runs(files, fitted=False)
    np.testing.assert_array_equal(one.test.index, two.test.index)
    np.testing.assert_array_equal(two.test.prediction, large.prediction)


def test_pairs_of_models_in_another_order():
    """Ensembles of pairs are correct about the samples of the zoo, in whichever order the files are."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 50)
    small, large = (
        ExitRecord(random.normal(size=(50, 1, 3)), labels, [cost], random.permutation(50) + 1, {"system": system})
        for system, cost in (("small", 1), ("large", 5))
    )
    large.index = small.index
    order, variant = random.permutation(50), Variant(ensemble="mean_probability")
    zoos = [Split.of([large, other], variant, {}).answers(0) for other in (small, small.take(order))]
    np.testing.assert_array_equal(*zoos)


def test_an_order_that_nothing_verifies():
    with pytest.warns(UserWarning, match="cascade: stage 2 and stage 1 were imported without an index, so it is not"):
        cascade(models())


def test_an_order_that_looks_wrong():
    small, large = models()
    large = large.take(shuffled_in_classes())
    large.index = small.index
    with pytest.warns(UserWarning, match="stage 2 and stage 1 err on different samples, as if their samples were not"):
        cascade([small, large])
    large.metadata = large.metadata | {"index": "id"}
    small.metadata = small.metadata | {"index": "id"}
    with warnings.catch_warnings():  # what the index says is believed
        warnings.simplefilter("error")
        cascade([small, large])


def test_labels_of_another_order():
    small, large = models()
    large = large.take(np.arange(600)[::-1])
    large.index = small.index
    with pytest.raises(ValueError, match=r"has 2 as label of sample 0, .* in the same order, or an index in both"):
        cascade([small, large])


def with_names(names, prediction, labels, **metadata):
    names = {"names": names} | metadata
    return ExitRecord.from_outputs(np.array(prediction)[:, None], None, labels, [1], [7, 8, 9], names)


def test_classes_with_names_are_joined_by_name():
    one = with_names(["cat", "dog"], [0, 1, 1], [0, 1, 1])
    two = with_names(["ant", "cat", "dog", "eel"], [3, 0, 2], [1, 2, 2])
    joined = cascade([one, two])
    assert joined.metadata["names"] == ["ant", "cat", "dog", "eel"]
    assert joined.labels.tolist() == [1, 2, 2]
    assert joined.prediction.tolist() == [[1, 3], [2, 0], [2, 2]]


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ({"names": None}, "stage 2 has no names of classes, stage 1 has"),
        ({"names": ["dog", "cat"], "classes": 2}, "different names of classes; import them with the same ones"),
    ],
)
def test_classes_that_cannot_be_joined(about, message):
    one = with_names(["cat", "dog"], [0, 1, 1], [0, 1, 1], classes=2)
    two = with_names(about["names"], [0, 1, 1], [0, 1, 1], classes=2)
    if about["names"] is None:
        del two.metadata["names"]
    with pytest.raises(ValueError, match=message):
        cascade([one, two])
