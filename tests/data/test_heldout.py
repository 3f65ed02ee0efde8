"""Which images are held out against Eq. 3 worked out by hand, and augmented copies against brute force."""

import numpy as np
import pytest

from tests.data.made import check_algebra, make_data, make_large_data, rows
from tmu_jax.data import Dataset, forget_indices, forget_subset


@pytest.mark.parametrize(
    ("classes", "num_forget", "each"),
    # |D_f| |D| / |D_r|: 100 * 50000 / 49900 = 100.2; 4000 * 50000 / 46000 = 4347.8; 100 * 50000 / 49000 = 102.04.
    [([3], 100, 100), ([3], 4000, 4348), (range(10), 100, 102), ([5], 1, 1)],
)
def test_eq3_sizes_at_cifar10_scale(classes, num_forget, each):
    problem = forget_subset(make_large_data(), classes, num_forget)
    assert np.bincount(problem.heldout.labels, minlength=10).tolist() == [
        each if c in classes else 0 for c in range(10)
    ]


def test_eq3_over_the_class_alone():
    # 100 * 5000 / 4900 = 102.04 and 4000 * 5000 / 1000 = 20000, which is 19 augmented copies of each of 1000 images.
    data = make_large_data()
    assert len(forget_subset(data, [3], 100, ratio="class").heldout) == 102
    problem = forget_subset(data, [3], 4000, ratio="class")
    assert len(problem.heldout) == 20_000
    assert len(problem.pool) == 60_000 + 19_000


def test_ratio_all_takes_every_test_image_of_the_classes():
    data = make_data()
    problem = forget_subset(data, [1, 4], 3, ratio="all")
    assert rows(problem.heldout) == {1000 + i for i, c in enumerate(data.test_labels.tolist()) if c in (1, 4)}


def test_sizes_are_taken_class_by_class_for_given_indices():
    data = make_large_data()
    indices = [*range(0, 40_000, 10), *range(1, 1000, 10)]  # 4000 of class 0, 100 of class 1
    problem = forget_indices(data, indices)
    # 4000 * 50000 / 45900 = 4357.3 and 100 * 50000 / 45900 = 108.9.
    assert np.bincount(problem.heldout.labels).tolist() == [4357, 109]


@pytest.mark.parametrize("num_classes_asked", [1, 10])
def test_train_heldout_solves_eq3_for_the_smaller_training_set(num_classes_asked):
    data = make_large_data()
    problem = forget_subset(data, range(num_classes_asked), 1000, heldout_source="train")
    kept_out = np.bincount(data.train_labels, minlength=10) - np.bincount(problem.train.labels, minlength=10)
    assert len(set(kept_out.tolist())) == 1
    size, left = kept_out[0], len(problem.train)
    assert left == 50_000 - 10 * size
    assert size == round(1000 * left / (left - 1000 * num_classes_asked))
    smaller = [h for h in range(1, size) if h == round(1000 * (n := 50_000 - 10 * h) / (n - 1000 * num_classes_asked))]
    assert not smaller
    assert np.bincount(problem.heldout.labels).tolist() == [size] * num_classes_asked


def test_every_single_class_request_keeps_the_same_images_out_of_training():
    data = make_data()
    problems = [forget_subset(data, [c], 10, seed=3, heldout_source="train") for c in (2, 8)]
    np.testing.assert_array_equal(problems[0].train.indices, problems[1].train.indices)


def test_small_classes_give_at_most_half_to_a_train_heldout():
    labels = np.array([0] * 50 + [1] * 50 + [2] * 4 + [3], np.int32)
    data = Dataset(
        "d", "arrays", np.zeros((105, 2, 2, 1), np.uint8), labels, np.zeros((4, 2, 2, 1), np.uint8),
        np.arange(4, dtype=np.int32), ("a", "b", "c", "d"),
    )  # fmt: skip
    problem = forget_subset(data, [0], 10, heldout_source="train")
    kept_out = np.bincount(labels) - np.bincount(problem.train.labels, minlength=4)
    assert kept_out.tolist() == [11, 11, 2, 0]  # 105 - 24 = 81 are left; 10 * 81 / 71 = 11.4


def test_pool_is_shared_unless_augmented():
    data = make_data()
    assert forget_subset(data, [1], 5).pool is data.pool
    assert forget_subset(data, [1], 5, heldout_source="train").pool is data.pool
    assert data.pool is data.pool
    np.testing.assert_array_equal(data.pool.images, np.concatenate([data.train_images, data.test_images]))


def test_too_few_test_images_are_augmented_by_flips_and_shifts():
    data = make_data(num_test=30)
    problem = forget_subset(data, [6, 1], 10)  # 10 * 1000 / 980 = 10.2; three test images of each class
    check_algebra(data, problem)
    assert np.bincount(problem.heldout.labels, minlength=10)[[1, 6]].tolist() == [10, 10]
    assert len(problem.pool) == 1030 + 14
    np.testing.assert_array_equal(problem.pool.images[:1030], data.pool.images)
    assert any("14 held-out images" in note for note in problem.notes)
    for c in (1, 6):
        originals = 1000 + np.flatnonzero(data.test_labels == c)
        ours = problem.heldout.indices[problem.heldout.labels == c]
        assert set(ours[:3].tolist()) == set(originals.tolist())
        views = {}
        for row in originals:
            padded = np.pad(data.pool.images[row], ((4, 4), (4, 4), (0, 0)), mode="reflect")
            for top in range(9):
                for left in range(9):
                    window = padded[top : top + 8, left : left + 8]
                    views[window.tobytes()] = views[window[:, ::-1].tobytes()] = row
        sources = [views[problem.pool.images[row].tobytes()] for row in ours[3:]]
        assert np.ptp([sources.count(row) for row in originals]) <= 1


def test_augmented_copies_of_a_class_do_not_depend_on_other_classes():
    data = make_data(num_test=30)
    together, alone = forget_subset(data, [1, 6], 10), forget_subset(data, [6], 10)
    mine = together.heldout.labels == 6
    np.testing.assert_array_equal(together.heldout.images[mine], alone.heldout.images)


def test_twenty_copies_an_image_are_the_most():
    # 1000 training images of 2 classes and one test image of each: 20 * 500 / 480 = 20.8 -> 21 is one and 20 copies.
    data = make_data(num_test=2, num_classes=2)
    assert len(forget_subset(data, [0], 20, ratio="class").heldout) == 21
    with pytest.raises(ValueError, match=r"asks for 22 .*more than 20 augmented copies"):
        forget_subset(data, [0], 21, ratio="class")


@pytest.mark.parametrize("classes", [[3], [7, 2]])
def test_a_tuned_share_is_kept_out_of_training_and_moves_no_forgotten_image(classes):
    """An equal share of every class leaves D; D_f stays, D_test is sized for the smaller D by Eq. 3."""
    data = make_data()
    plain, apart = (forget_subset(data, classes, 10, seed=4, tuned_share=share) for share in (0.0, 0.25))
    assert plain.tuned is None
    np.testing.assert_array_equal(apart.forget.indices, plain.forget.indices)
    gone = np.setdiff1d(np.arange(len(data.train_labels)), apart.train.indices)
    sizes = np.bincount(data.train_labels)
    np.testing.assert_array_equal(np.bincount(data.train_labels[gone], minlength=10), np.round(0.25 * sizes))
    assert rows(apart.tuned) == {i for i in gone.tolist() if data.train_labels[i] in classes}
    assert rows(apart.train) == rows(apart.forget) | rows(apart.retain)
    assert not rows(apart.tuned) & (rows(apart.heldout) | rows(apart.test))
    assert rows(apart.heldout) <= rows(apart.test)
    each = round(10 * len(apart.train) / len(apart.retain))
    np.testing.assert_array_equal(np.bincount(apart.heldout.labels, minlength=10)[classes], each)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tuned_share": 1.0}, "tuned_share=1.0"),
        ({"tuned_share": -0.1}, "tuned_share=-0.1"),
        ({"tuned_share": 0.25, "heldout_source": "train"}, "heldout_source='test'"),
        ({"tuned_share": 0.25, "num_forget": 76}, "num_forget"),
        ({"tuned_share": 0.001}, "tuned_share=0.001"),
    ],
)
def test_a_tuned_share_that_cannot_be_is_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        forget_subset(make_data(), **{"target_classes": [3], "num_forget": 10, **changes})
