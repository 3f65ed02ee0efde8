"""Any image classification set that TensorFlow Datasets prepared, read without TensorFlow."""

import os
import pathlib
from collections.abc import Sequence
from typing import Any

from tmu_jax.boundary import checked
from tmu_jax.data import tfds_folder
from tmu_jax.data.pairs import Keys, feature_names, from_elements
from tmu_jax.data.pixels import Channels, Reading
from tmu_jax.data.types import Dataset

_TEST_SPLITS = ("test", "validation")
_ID_KEYS = ("id", "file_name")


@checked
def from_tfds(
    builder: Any,
    class_names: Sequence[str] | None = None,
    name: str | None = None,
    *,
    train_split: str = "train",
    test_split: str | None = None,
    ids: Any = None,
    image_key: str | None = None,
    label_key: str | None = None,
    id_key: str | None = None,
    pixel_range: tuple[float, float] | None = None,
    channels: Channels | None = None,
    image_size: int | None = None,
    progress: bool = True,
) -> Dataset:
    """Reads a data set that TensorFlow Datasets prepared, all of it into memory.

    Args:
        builder: what `tfds.builder(...)` gave, prepared, or a prepared folder such as `mnist/3.0.1`.
        class_names: as in `from_arrays`; None: those of the set's label.
        name: a name for reports; None: the set's.
        train_split: the split to train on.
        test_split: the split of test images; None: "test", or else "validation".
        ids: as in `from_arrays`.
        image_key: as in `from_source`, as are all that follow.
        label_key: what the label is called.
        id_key: what the id is called; None: "id" or "file_name" where there is one, else an image's id is its place in
            the order in which the set was prepared.
        pixel_range: the values of black and white.
        channels: "first" or "last".
        image_size: height and width to give every image.
        progress: show a progress bar.

    Returns:
        The data set, its rows in the order in which they were prepared.

    Raises:
        FileNotFoundError: no prepared set.
        ImportError: a folder, and TensorFlow Datasets is not installed.
        TypeError: as in `from_source`.
        ValueError: a split that is not there, or as in `from_source`.
    """
    if isinstance(builder, str | os.PathLike):
        folder = pathlib.Path(builder).expanduser()
        if not (folder / "dataset_info.json").is_file():
            raise FileNotFoundError(f"builder={str(builder)!r} holds no dataset_info.json")
        builder = tfds_folder.import_tfds().builder_from_directory(folder)
    info = builder.info
    if not info.splits:
        raise FileNotFoundError(f"{info.name} is not prepared; builder.download_and_prepare() does it (by TensorFlow)")
    test_split = test_split or next((split for split in _TEST_SPLITS if split in info.splits), _TEST_SPLITS[0])
    for argument, split in (("train_split", train_split), ("test_split", test_split)):
        if split not in info.splits:
            raise ValueError(
                f"{argument} must be one of {sorted(info.splits)}, the splits of {info.name}, got {split!r}"
            )
    if id_key is None and ids is None:
        id_key = next((key for key in _ID_KEYS if key in info.features), None)
    return from_elements(
        tfds_folder.examples(builder, train_split),
        tfds_folder.examples(builder, test_split),
        class_names,
        info.name if name is None else name,
        ids,
        Keys(image_key, label_key, id_key),
        feature_names(info.features, label_key),
        Reading(pixel_range, channels, image_size),
        progress,
    )
