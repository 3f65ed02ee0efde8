"""The checks on a caller's arrays, and smaller sets against the shares of the classes."""

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from tmu_jax.data import forget_indices, from_arrays, subset


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
        ({"test_images": IMAGES[:3, :, :4]}, ValueError, r"one shape, got \(4, 5, 1\) and \(4, 4, 1\); image_size="),
        ({"train_labels": [0, 1, 2, 0, 1]}, ValueError, "one label for each of 6 images, got 5"),
        ({"class_names": ["a", "b"]}, ValueError, "train_labels must lie below the 2 class_names, got 2"),
        ({"train_labels": [0] * 6, "test_labels": [0] * 3}, ValueError, "at least 2 classes, got 1"),
        ({"ids": range(5)}, ValueError, "ids must have one id for each of 6 training images, got 5"),
        ({"ids": [1, 2, 3, 1, "2", 4]}, ValueError, "^ids must be unique, but 2 occur more than once: 1, 2$"),
    ],
)
def test_from_arrays_refuses_wrong_arrays(changes, error, message):
    with pytest.raises(error, match=message):
        from_arrays(**arrays(**changes))


def test_ids_and_notes_leave_the_fingerprint_alone():
    plain = from_arrays(**arrays())
    given = from_arrays(**arrays(train_labels=[[0], [1], [2], [0], [1], [2]]), ids=list("abcdef"))
    assert plain.notes == ()
    assert given.notes == ("Labels [n, 1] were taken as [n].",)
    assert given.fingerprint == plain.fingerprint
    assert str(given) == repr(given) + "\n" + given.notes[0]
    assert str(plain) == repr(plain)


def test_arrays_mapped_from_a_file_are_not_copied(tmp_path):
    given = arrays()
    np.save(tmp_path / "images.npy", given["train_images"])
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    data = from_arrays(**{**given, "train_images": mapped})
    assert np.shares_memory(data.train_images, mapped)
    np.testing.assert_array_equal(data.pool.images[:6], given["train_images"])


def test_columns_of_a_frame_are_labels_and_ids():
    frame = pd.DataFrame(
        {"class": ["b", "a", "c", "b", "a", "c"], "id": [16, 15, 14, 13, 12, 11]}, index=range(6, 0, -1)
    )
    data = from_arrays(**arrays(train_labels=frame["class"], test_labels=frame[["class"]][:3]), ids=frame["id"])
    assert data.train_labels.tolist() == [1, 0, 2, 1, 0, 2]
    assert data.test_labels.tolist() == [1, 0, 2]
    assert data.class_names == ("a", "b", "c")
    assert data.rows_of(frame["id"][frame["class"] == "a"]).tolist() == [1, 4]
    assert data.rows_of(frame[["id"]][::-1]).tolist() == [5, 4, 3, 2, 1, 0]
    by_number = from_arrays(**arrays())
    assert forget_indices(by_number, pd.Series([5, 1], index=[0, 9])).forget.indices.tolist() == [5, 1]
    with pytest.raises(TypeError, match=r"one-dimensional sequence .* got a DataFrame\[3, 1\]"):
        forget_indices(by_number, pd.DataFrame([5, 6, 7]))


def test_arrays_of_jax_are_taken():
    given = arrays()
    data = from_arrays(
        jnp.asarray(given["train_images"]), jnp.asarray(given["train_labels"]), given["test_images"], jnp.arange(3)
    )
    assert data.fingerprint == from_arrays(**{**given, "test_labels": [0, 1, 2]}).fingerprint
    halves = jnp.asarray(given["train_images"] / 255, jnp.bfloat16)
    assert halves.dtype == jnp.bfloat16
    data = from_arrays(halves, given["train_labels"], given["test_images"] / 255, [0, 1, 2], pixel_range=(0, 1))
    assert np.abs(data.train_images.astype(int) - given["train_images"]).max() <= 1


class Tensor:
    """What is asked of a tensor of PyTorch: its own `__array__` refuses where gradients flow or it lies on a GPU."""

    def __init__(self, array, steps=()):
        self._array, self._steps = array, steps
        self.shape, self.dtype = array.shape, f"torch.{array.dtype}"

    def detach(self):
        return Tensor(self._array, (*self._steps, "detach"))

    def cpu(self):
        return Tensor(self._array, (*self._steps, "cpu"))

    def __array__(self, dtype=None, copy=None):
        if self._steps != ("detach", "cpu"):
            raise RuntimeError("Can't call numpy() on Tensor that requires grad.")
        return self._array


def test_tensors_of_torch_are_taken():
    given = {name: np.asarray(value) for name, value in arrays().items()}
    data = from_arrays(**{name: Tensor(array) for name, array in given.items()}, ids=Tensor(np.arange(10, 16)))
    assert data.fingerprint == from_arrays(**given).fingerprint
    assert data.rows_of(Tensor(np.asarray([12, 10]))).tolist() == [2, 0]


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


def test_subset_keeps_ids_and_notes():
    data = from_arrays(**arrays(train_labels=list("abcabc"), test_labels=list("abc")), ids=list("uvwxyz"))
    part = subset(data, 3, seed=1)
    assert part.notes == data.notes != ()
    rows = data.rows_of(part.ids)
    np.testing.assert_array_equal(data.train_images[rows], part.train_images)


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


def test_what_is_printed_is_ascii():
    images, labels = np.zeros((4, 2, 2, 3), np.uint8), ["été", "日", "été", "日"]
    data = from_arrays(images, labels, images, labels)
    assert data.class_names == ("été", "日")
    assert str(data).isascii()
