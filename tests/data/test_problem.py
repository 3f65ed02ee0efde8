"""Forget requests against set algebra and counting."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from tests.data.made import check_algebra, make_data, rows
from tmu_jax.data import Dataset, forget_indices, forget_rows, forget_subset
from tmu_jax.data.copies import copies_note, exact_copies


@pytest.mark.parametrize("heldout_source", ["test", "train"])
@pytest.mark.parametrize("ratio", ["dataset", "class"])
@pytest.mark.parametrize(("classes", "num_forget"), [([3], 10), ([7, 2], 5), (range(10), 20), ([0], 1)])
def test_forget_and_retain_partition_train_and_heldout_is_apart(classes, num_forget, heldout_source, ratio):
    data = make_data()
    problem = forget_subset(data, classes, num_forget, seed=4, heldout_source=heldout_source, ratio=ratio)
    check_algebra(data, problem)
    assert problem.target_classes == tuple(sorted(classes))
    counts = np.bincount(problem.forget.labels, minlength=10)
    np.testing.assert_array_equal(counts, [num_forget if c in classes else 0 for c in range(10)])


def test_draws_depend_on_seed_class_and_number_alone():
    data = make_data()
    for source in ("test", "train"):
        together = forget_subset(data, [5, 2, 9], 10, seed=1, heldout_source=source)
        again = forget_subset(data, [9, 2, 5], 10, seed=1, heldout_source=source)
        alone = forget_subset(data, [2], 10, seed=1, heldout_source=source)
        other = forget_subset(data, [2], 10, seed=2, heldout_source=source)
        for name in ("train", "forget", "retain", "heldout", "test"):
            np.testing.assert_array_equal(getattr(together, name).indices, getattr(again, name).indices)
        assert rows(alone.forget) == {i for i in rows(together.forget) if data.train_labels[i] == 2}
        assert rows(alone.heldout) == {i for i in rows(together.heldout) if data.pool.labels[i] == 2}
        assert rows(alone.forget) != rows(other.forget)
        assert rows(alone.heldout) != rows(other.heldout)


def test_forget_draws_are_uniform_over_the_class():
    data = make_data(num_train=60, num_test=30)
    times = np.zeros(60, int)
    for seed in range(600):
        times[forget_subset(data, [4], 2, seed=seed).forget.indices] += 1
    drawn = times[data.train_labels == 4]
    assert times.sum() == drawn.sum() == 1200
    # Six images, 200 draws expected of each, standard deviation sqrt(600 * 1/3 * 2/3) = 11.5.
    assert np.abs(drawn - 200).max() < 5 * 11.5


def test_a_whole_class_is_named_and_explained():
    data = make_data()
    problem = forget_subset(data, [2, 3], "all")
    check_algebra(data, problem)
    assert problem.whole_classes == (2, 3)
    assert not set(problem.retain.labels.tolist()) & {2, 3}
    assert any("2 (c2), 3 (c3)" in note and "hard by definition" in note for note in problem.notes)
    assert forget_subset(data, [2], 100).whole_classes == (2,)
    assert forget_subset(data, [2], 99).whole_classes == ()


def test_a_class_is_whole_when_the_rest_of_it_is_held_out():
    labels = np.array([0] * 10 + [1 + i % 9 for i in range(990)], np.int32)
    data = Dataset(
        "d", "arrays", np.zeros((1000, 1, 1, 1), np.uint8), labels, np.zeros((10, 1, 1, 1), np.uint8),
        np.arange(10, dtype=np.int32), tuple("abcdefghij"),
    )  # fmt: skip
    problem = forget_subset(data, [0], 5, heldout_source="train")
    assert (len(problem.forget), len(problem.heldout), problem.whole_classes) == (5, 5, (0,))
    assert 0 not in problem.retain.labels


def test_given_indices_keep_their_order():
    data = make_data()
    indices = [17, 3, 999, 500]
    for source in ("test", "train"):
        problem = forget_indices(data, indices, seed=2, heldout_source=source)
        check_algebra(data, problem)
        assert problem.forget.indices.tolist() == indices
        assert problem.target_classes == tuple(sorted(set(data.train_labels[indices].tolist())))
    assert len(forget_indices(data, np.array([7])).heldout) == 1


@pytest.mark.parametrize("make", [tuple, np.array, pd.Series, lambda rows: range(rows[0], rows[-1] + 1)])
def test_given_indices_may_be_any_sequence(make):
    rows = [5, 6, 7]
    assert forget_indices(make_data(), make(rows)).forget.indices.tolist() == rows


def test_given_indices_agree_with_a_drawn_request():
    data = make_data()
    drawn = forget_subset(data, [4, 5], 10, seed=3)
    given = forget_indices(data, drawn.forget.indices, seed=3)
    for name in ("train", "forget", "retain", "heldout", "test"):
        np.testing.assert_array_equal(getattr(drawn, name).indices, getattr(given, name).indices)


def test_repr_is_short_and_names_the_request():
    text = repr(forget_subset(make_data(), [3], 10))
    assert len(text) < 200
    assert "forget 10 of 1000" in text


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (dict(target_classes=[10]), ValueError, r"target_classes must be within 0\.\.9, got 10"),
        (dict(target_classes=[-1]), ValueError, "got -1"),
        (dict(target_classes=[]), ValueError, "at least one class"),
        (dict(target_classes=[1, 1]), ValueError, r"not repeat a class, got \[1, 1\]"),
        (dict(target_classes=3), TypeError, "sequence of integers"),
        (dict(target_classes="3"), TypeError, "sequence of integers"),
        (dict(target_classes=[1.0]), TypeError, "must be an integer, got 1.0"),
        (dict(target_classes=[True]), TypeError, "must be an integer, got True"),
        (dict(num_forget=0), ValueError, r"within 1\.\.100, got 0"),
        (dict(num_forget=101), ValueError, r"of class 3 must be within 1\.\.100, got 101"),
        (dict(num_forget=2.0), TypeError, "num_forget.*must be an integer, got 2.0"),
        (dict(num_forget="some"), TypeError, "unless 'all'.*got 'some'"),
        (dict(target_classes=range(10), num_forget="all"), ValueError, "at least one must stay"),
        (dict(seed=-1), ValueError, "seed must be 0 or more, got -1"),
        (dict(seed=0.5), TypeError, "seed=0.5 must be an integer"),
        (dict(heldout_source="valid"), ValueError, "heldout_source must be one of .*got 'valid'"),
        (dict(ratio="paper"), ValueError, "ratio must be one of .*got 'paper'"),
        (dict(ratio="all", heldout_source="train"), ValueError, "needs heldout_source='test'"),
        (dict(ratio="class", num_forget="all"), ValueError, "infinitely many .*use ratio='all' or 'dataset'"),
        # 99 * 100 / 1 = 9900 images from 20.
        (dict(ratio="class", num_forget=99), ValueError, "asks for 9900 held-out images of class 3, which has 20"),
        (dict(num_forget="all", heldout_source="train"), ValueError, "use heldout_source='test'"),
        (dict(num_forget=60, heldout_source="train"), ValueError, "has 100, and 60 are forgotten"),
    ],
)
def test_wrong_requests_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        forget_subset(make_data(), **(dict(target_classes=[3], num_forget=10) | arguments))


@pytest.mark.parametrize(
    ("indices", "error", "message"),
    [
        ([], ValueError, "at least one training image"),
        ([1000], ValueError, r"lie in 0\.\.999, the training images; got 1000"),
        ([-1], ValueError, "got -1"),
        ([4, 5, 4], ValueError, "4 occurs more than once"),
        ([1.0], TypeError, "integers, got float64"),
        ([[1, 2]], TypeError, "one-dimensional"),
        (np.array(7), TypeError, r"one-dimensional sequence .*, got a ndarray\[\]"),
        (pd.DataFrame([5, 6, 7]), TypeError, r"sequence of integers such as \[5, 6, 7\], got a DataFrame\[3, 1\]"),
        ({5: 1.0}, TypeError, "got a dict"),
        ("567", TypeError, "got a str"),
        (7, TypeError, "got a int"),
        ([True, False], TypeError, "integers, got bool"),
        (range(1000), ValueError, "at least one must stay"),
    ],
)
def test_wrong_indices_are_refused(indices, error, message):
    with pytest.raises(error, match=message):
        forget_indices(make_data(), indices)


def test_classes_without_images_are_refused():
    data = make_data()
    no_test = Dataset(
        "d",
        "arrays",
        data.train_images,
        data.train_labels,
        data.test_images[:0],
        data.test_labels[:0],
        data.class_names,
    )
    with pytest.raises(ValueError, match="test images of class 3, but there are none"):
        forget_subset(no_test, [3], 1)
    assert len(forget_subset(no_test, [3], 1, heldout_source="train").heldout) == 1
    extra = Dataset(
        "d",
        "arrays",
        data.train_images,
        data.train_labels,
        data.test_images,
        data.test_labels,
        (*data.class_names, "e"),
    )
    with pytest.raises(ValueError, match="no training image of class 10"):
        forget_subset(extra, [10], 1)


def test_forget_rows_are_those_of_forget_subset():
    data = make_data()
    for c, num_forget in ((2, 7), (5, 60)):
        expected = forget_subset(data, [c], num_forget, seed=3).forget.indices
        np.testing.assert_array_equal(forget_rows(data, c, num_forget, seed=3), expected)
    assert len(forget_rows(data, 2, 10**6)) == (data.train_labels == 2).sum()


@pytest.mark.parametrize("source", ["test", "train"])
def test_the_removed_are_in_no_set(source):
    data = make_data()
    gone = np.array([5, 6, 7, 30, len(data.train_labels), len(data.train_labels) + 3])
    asked = np.setdiff1d(np.flatnonzero(data.train_labels == 3), gone)[:4]
    problem = forget_indices(data, asked, seed=2, heldout_source=source, removed=gone)
    for name in ("train", "forget", "retain", "heldout"):
        assert not np.isin(getattr(problem, name).indices, gone).any(), name
    whole = forget_indices(data, asked, seed=2, heldout_source=source)
    if source == "test":
        np.testing.assert_array_equal(problem.train.indices, np.setdiff1d(whole.train.indices, gone))
    np.testing.assert_array_equal(problem.forget.indices, whole.forget.indices)
    everything = np.setdiff1d(np.arange(len(data.train_labels)), gone)
    with pytest.raises(ValueError, match=f"forgets all {len(everything)} training images"):
        forget_indices(data, everything, removed=gone)
    with pytest.raises(ValueError, match="indices holds 5, which is among the removed"):
        forget_indices(data, [1, 5], removed=gone)


def test_a_class_whose_rest_was_removed_leaves_whole():
    data = make_data()
    own = np.flatnonzero(data.train_labels == 3)
    assert forget_indices(data, own[:5], removed=own[5:], ratio="all").whole_classes == (3,)


@pytest.mark.parametrize(
    ("removed", "error", "said"),
    [
        ([0.5], TypeError, "removed must be a one-dimensional"),
        (pd.DataFrame([5, 6]), TypeError, "got a DataFrame"),
        ([-1], ValueError, "removed must lie in 0"),
        ([10**6], ValueError, "got 1000000"),
    ],
)
def test_rows_that_cannot_have_been_removed(removed, error, said):
    with pytest.raises(error, match=said):
        forget_indices(make_data(), [1], removed=removed)


def test_exact_copies_are_found_whatever_their_labels_and_in_the_order_of_the_request():
    data = make_data()
    images = data.train_images.copy()
    images[[20, 31]], images[40] = images[4], images[9]
    images[50] = images[4]
    images[50, 0, 0, 0] ^= 1
    problem = forget_indices(dataclasses.replace(data, train_images=images), [9, 4])
    np.testing.assert_array_equal(exact_copies(problem), [[9, 40], [4, 20], [4, 31]])
    (note,) = copies_note(exact_copies(problem))
    assert note.startswith("3 images that stay are equal to forgotten ones (40 of 9, 20 of 4, 31 of 4)")
    assert exact_copies(forget_indices(data, [9, 4])).shape == (0, 2)
    assert copies_note(np.zeros((0, 2), np.int32)) == ()
    assert "(1 of 0, 1 of 0" in copies_note(np.tile([[0, 1]], (14, 1)))[0]
    assert "and 4 more)" in copies_note(np.tile([[0, 1]], (14, 1)))[0]
