"""Data sets in one file, by what their arrays are called."""

import numpy as np
import pytest

from tmu_jax.data import from_arrays, from_npz

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (6, 5, 6, 3), np.uint8)
LABELS = np.arange(6) % 3
ARRAYS = (IMAGES, LABELS, IMAGES[:3], LABELS[:3])
PLAIN = from_arrays(*ARRAYS, name="set")


@pytest.mark.parametrize(
    "names",
    [
        ("x_train", "y_train", "x_test", "y_test"),
        ("X_train", "Y_train", "X_test", "y_test"),
        ("train_images", "train_labels", "test_images", "test_labels"),
        ("train_x", "train_y", "test_x", "test_y"),
    ],
)
def test_arrays_are_known_by_their_names(names, tmp_path):
    np.savez(tmp_path / "set.npz", **dict(zip(names, ARRAYS, strict=True)), val_images=IMAGES)
    data = from_npz(tmp_path / "set.npz")
    assert data.fingerprint == PLAIN.fingerprint
    assert data.train_ids is None


def test_ids_and_options(tmp_path):
    arrays = dict(zip(("x_train", "y_train", "x_test", "y_test"), ARRAYS, strict=True))
    arrays["x_train"], arrays["x_test"] = (arrays[key].transpose(0, 3, 1, 2) / 255 for key in ("x_train", "x_test"))
    np.savez_compressed(tmp_path / "file.npz", **arrays, ids=np.array(list("uvwxyz")))
    options = {"class_names": ["a", "b", "c"], "pixel_range": (0, 1), "channels": "first"}
    data = from_npz(tmp_path / "file.npz", name="set", **options)
    assert data.fingerprint == from_arrays(*ARRAYS, ["a", "b", "c"], "set").fingerprint
    assert data.rows_of(["z"]).tolist() == [5]
    assert from_npz(tmp_path / "file.npz", image_size=8, **options).train_images.shape == (6, 8, 8, 3)
    assert from_npz(tmp_path / "file.npz", **options).name == "file"


def test_other_names_are_listed(tmp_path):
    np.savez(tmp_path / "set.npz", a=IMAGES, b=LABELS)
    with pytest.raises(
        ValueError,
        match=r"holds no array of train_images by name \(train_images, x_train, .*\); it holds a, b\. Read it",
    ):
        from_npz(tmp_path / "set.npz")
    np.savez(tmp_path / "set.npz", x_train=IMAGES, train_images=IMAGES, y_train=LABELS)
    with pytest.raises(
        ValueError, match=r"holds two arrays of train_images .* it holds x_train, train_images, y_train\."
    ):
        from_npz(tmp_path / "set.npz")


class Planted:
    """Its unpickling would be seen."""

    def __reduce__(self):
        return pytest.fail, ("it was unpickled",)


def test_what_is_no_such_file_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"path='.*none\.npz' does not exist"):
        from_npz(tmp_path / "none.npz")
    np.save(tmp_path / "one.npy", IMAGES)
    with pytest.raises(ValueError, match=r"must be a file that numpy\.savez wrote"):
        from_npz(tmp_path / "one.npy")
    arrays = dict(zip(("x_train", "y_train", "x_test", "y_test"), ARRAYS, strict=True))
    np.savez(tmp_path / "bad.npz", **{**arrays, "y_train": np.array([Planted()] * 6, object)})
    with pytest.raises(ValueError, match="holds arrays of Python objects"):
        from_npz(tmp_path / "bad.npz")
