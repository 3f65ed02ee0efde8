"""Data sets in one `.npz` file of NumPy's."""

import os
import pathlib
import zipfile
from collections.abc import Sequence

import numpy as np

from tmu_jax.boundary import checked
from tmu_jax.data.arrays import from_arrays
from tmu_jax.data.checks import name_some
from tmu_jax.data.pixels import Channels
from tmu_jax.data.types import Dataset

# By argument of `from_arrays`, what the arrays are called, compared without regard to case.
_KEYS = {
    "train_images": ("train_images", "x_train", "train_x", "images_train", "train_data"),
    "train_labels": ("train_labels", "y_train", "train_y", "labels_train"),
    "test_images": ("test_images", "x_test", "test_x", "images_test", "test_data"),
    "test_labels": ("test_labels", "y_test", "test_y", "labels_test"),
}
_IDS = ("train_ids", "ids_train", "ids")


@checked
def from_npz(
    path: str | os.PathLike[str],
    class_names: Sequence[str] | None = None,
    name: str | None = None,
    *,
    pixel_range: tuple[float, float] | None = None,
    channels: Channels | None = None,
    image_size: int | None = None,
) -> Dataset:
    """Reads a data set from a `.npz` file.

    Args:
        path: the file. Its arrays are called x_train, y_train, x_test and y_test; train_images, train_labels,
            test_images and test_labels (as in MedMNIST's files); or alike. Ids are taken from train_ids or ids. Other
            arrays are left alone.
        class_names: as in `from_arrays`, as are all that follow.
        name: a name for reports; None: the file's.
        pixel_range: the values of black and white.
        channels: "first" or "last".
        image_size: height and width to give every image.

    Returns:
        The data set, all of it in memory: a `.npz` file cannot be mapped.

    Raises:
        FileNotFoundError: no such file.
        TypeError: as in `from_arrays`.
        ValueError: no `.npz` file, no or several arrays of a kind (the message lists all), arrays of Python objects,
            or as in `from_arrays`.
    """
    place = pathlib.Path(path).expanduser()
    if not place.exists():
        raise FileNotFoundError(f"path={str(path)!r} does not exist")
    if not zipfile.is_zipfile(place):
        raise ValueError(f"path={str(path)!r} must be a file that numpy.savez wrote")
    with np.load(place, allow_pickle=False) as archive:
        chosen = {argument: _find(str(path), archive.files, argument, names) for argument, names in _KEYS.items()}
        ids = next((key for key in archive.files if key.lower() in _IDS), None)
        try:
            arrays = {argument: archive[key] for argument, key in chosen.items()}
            values = None if ids is None else archive[ids]
        except ValueError as error:
            raise ValueError(
                f"path={str(path)!r} holds arrays of Python objects, which could run code of others; save plain arrays"
            ) from error
    return from_arrays(
        **arrays,
        class_names=class_names,
        name=place.stem if name is None else name,
        ids=values,
        pixel_range=pixel_range,
        channels=channels,
        image_size=image_size,
    )


def _find(path: str, keys: Sequence[str], argument: str, names: Sequence[str]) -> str:
    found = [key for key in keys if key.lower() in names]
    if len(found) == 1:
        return found[0]
    fault = "two arrays" if found else "no array"
    raise ValueError(
        f"path={path!r} holds {fault} of {argument} by name ({', '.join(names)}); it holds {name_some(keys, 20)}. Read "
        "it by numpy.load and pass its arrays to tmu_jax.data.from_arrays"
    )
