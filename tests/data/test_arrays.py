"""The checks on a caller's arrays, and smaller sets against the shares of the classes."""

import time

import numpy as np
import pytest

from tmu_jax.data import from_arrays, subset


def arrays(**changes):
    rng = np.random.default_rng(0)
    given = {
        "train_images": rng.integers(0, 256, (6, 4, 5, 1), np.uint8),
        "train_labels": np.array([0, 1, 2, 0, 1, 2]),
        "test_images": rng.integers(0, 256, (3, 4, 5, 1), np.uint8),
        "test_labels": [2, 1, 0],
    }
    return given | changes


def test_from_arrays_keeps_values_and_makes_the_types():
    given = arrays()
    data = from_arrays(**given, class_names=["a", "b", "c", "d"], name="mine")
    assert (data.name, data.source, data.class_names, data.num_classes) == ("mine", "arrays", ("a", "b", "c", "d"), 4)
    assert data.train_images is given["train_images"]
    assert data.train_labels.dtype == data.test_labels.dtype == np.int32
    np.testing.assert_array_equal(data.test_labels, [2, 1, 0])
    as_integers = from_arrays(**{**given, "train_images": given["train_images"].astype(np.int64)})
    np.testing.assert_array_equal(as_integers.train_images, given["train_images"])
    assert as_integers.train_images.dtype == np.uint8
    assert as_integers.class_names == ("class_0", "class_1", "class_2")


IMAGES = arrays()["train_images"]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"train_images": IMAGES[0]}, ValueError, r"train_images must have shape \[n, height.*got \[4, 5, 1\]"),
        ({"test_images": IMAGES[:0]}, ValueError, r"test_images .*got \[0, 4, 5, 1\]"),
        (
            {"train_images": IMAGES / 255},
            TypeError,
            r"train_images must be uint8.*float64 within .*rint\(255 \* im",
        ),
        ({"train_images": IMAGES / 1.0}, TypeError, r"within .*\.\.2\d\d\.0; .* 255, by numpy\.rint\(images\)"),
        ({"train_images": IMAGES / 64 - 2}, TypeError, r"within -2\.0.*; undo their normalization first$"),
        ({"train_images": np.where(IMAGES > 200, np.nan, 0.5)}, TypeError, r"float64 with \d+ values .*not a number"),
        ({"train_images": np.full(IMAGES.shape, np.inf)}, TypeError, "with 120 values that"),
        ({"train_images": IMAGES.astype(np.int32) - 1000}, ValueError, r"train_images must lie in 0\.\.255, got -"),
        ({"train_images": IMAGES.astype(np.int32) * 2}, ValueError, "train_images must lie in"),
        ({"train_images": IMAGES > 3}, TypeError, "train_images must be uint8.*got bool"),
        ({"test_images": IMAGES[:3, :, :4]}, ValueError, r"one shape, got \(4, 5, 1\) and \(4, 4, 1\)"),
        ({"train_labels": [0.0] * 6}, TypeError, "train_labels must be integers, got float64"),
        (
            {"train_labels": np.eye(6, dtype=int)},
            ValueError,
            r"got \[6, 6\]; .*one-hot rows, .*argmax\(axis=1\)$",
        ),
        (
            {"train_labels": np.ones((6, 1), int)},
            ValueError,
            r"shape \[n\], got \[6, 1\]; take labels\[:, 0\]$",
        ),
        ({"train_labels": np.ones((6, 2), int)}, ValueError, r"must have shape \[n\], got \[6, 2\]$"),
        (
            {"train_labels": [0, 1, 2**31, 2**32 + 1, 0, 1]},
            ValueError,
            "classes than the 9 images, got 4294967297;",
        ),
        (
            {"train_labels": [0, 1, 9, 0, 1, 2]},
            ValueError,
            r"must be 0\.\.classes-1, .*the 9 images, got 9; number",
        ),
        ({"test_labels": [0, 1, 10**9]}, ValueError, "test_labels .* got 1000000000; .*anew from 0, .*numpy.unique$"),
        ({"train_labels": [2**32] * 6, "class_names": "abc"}, ValueError, "below the 3 class_names, got 4294967296"),
        ({"train_labels": [0, 1, 2, 0, 1]}, ValueError, "one label for each of 6 images, got 5"),
        ({"test_labels": [0, -1, 2]}, ValueError, "test_labels must be 0 or more, got -1"),
        ({"class_names": ["a", "b"]}, ValueError, "train_labels must lie below the 2 class_names, got 2"),
        ({"train_labels": [0] * 6, "test_labels": [0] * 3}, ValueError, "at least 2 classes, got 1"),
    ],
)
def test_from_arrays_refuses_wrong_arrays(changes, error, message):
    with pytest.raises(error, match=message):
        from_arrays(**arrays(**changes))


def test_the_largest_label_that_the_images_admit_is_taken():
    assert from_arrays(**arrays(train_labels=[0, 1, 8, 0, 1, 2])).num_classes == 9


def test_labels_beyond_reason_are_refused_before_any_work():
    start = time.process_time()
    with pytest.raises(ValueError, match="got 1000000000"):
        from_arrays(**arrays(train_labels=[0, 1, 2, 0, 1, 10**9]))
    assert time.process_time() - start < 1


def test_names_cannot_steer_a_terminal_nor_break_an_encoding():
    names = ["\x1b]0;title\x07\x1b[31mred", "a\nb", "\udcff\u202e", "Müller 猫"]
    data = from_arrays(**arrays(), class_names=names, name="\x1b[2J")
    assert data.class_names == ("\\x1b]0;title\\x07\\x1b[31mred", "a\\nb", "\\udcff\\u202e", "Müller 猫")
    assert data.name == "\\x1b[2J"
    assert len(data.fingerprint) == 64


def test_subset_keeps_the_shares_of_the_classes():
    rng = np.random.default_rng(0)
    labels = rng.choice(4, size=501, p=[0.1, 0.2, 0.3, 0.4]).astype(np.int32)
    images = rng.integers(0, 256, (501, 3, 3, 1), np.uint8)
    data = from_arrays(images, labels, images[:9], labels[:9])
    for num_train in (1, 50, 333, 501):
        part = subset(data, num_train, seed=5)
        assert len(part.train_labels) == num_train
        shares = np.bincount(labels) * num_train / 501
        assert np.abs(np.bincount(part.train_labels, minlength=4) - shares).max() < 1
        kept = {image.tobytes() for image in part.train_images}
        assert len(kept) == num_train
        assert kept <= {image.tobytes() for image in images}
        assert part.test_images is data.test_images
        again, other = subset(data, num_train, seed=5), subset(data, num_train, seed=6)
        assert again.fingerprint == part.fingerprint
        assert (other.fingerprint == part.fingerprint) == (num_train == 501)
    assert subset(data, 501).fingerprint == data.fingerprint
    assert "50 of 501 training images" in subset(data, 50).source


@pytest.mark.parametrize(
    ("num_train", "seed", "error"), [(0, 0, ValueError), (7, 0, ValueError), (2.0, 0, TypeError), (2, -1, ValueError)]
)
def test_subset_refuses_wrong_numbers(num_train, seed, error):
    with pytest.raises(error, match=r"num_train|seed"):
        subset(from_arrays(**arrays()), num_train, seed)


def test_reprs_hold_no_arrays():
    data = from_arrays(**arrays())
    for value in (data, data.pool):
        assert len(repr(value)) < 150
    assert "6 training and 3 test images" in repr(data)
