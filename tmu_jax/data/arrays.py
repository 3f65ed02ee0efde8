"""Data sets from the caller's own arrays, and smaller ones from larger ones."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tmu_jax.boundary import checked
from tmu_jax.data.checks import check_integer, printable
from tmu_jax.data.demand import ImagesOnDemand
from tmu_jax.data.ids import as_ids, check_unique
from tmu_jax.data.labels import convert_labels
from tmu_jax.data.pixels import Channels, Reading, check_one_shape, convert_images
from tmu_jax.data.types import Dataset


@checked
def from_arrays(
    train_images: Any,
    train_labels: Any,
    test_images: Any,
    test_labels: Any,
    class_names: Sequence[str] | None = None,
    name: str = "arrays",
    *,
    ids: Any = None,
    pixel_range: tuple[float, float] | None = None,
    channels: Channels | None = None,
    image_size: int | None = None,
) -> Dataset:
    """Makes a data set from arrays: NumPy's (also mapped from a file), jax arrays, torch tensors, pandas columns.

    What is certain is taken, and `Dataset.notes` say what was made of it; what is doubtful is asked about in the error.

    Args:
        train_images: [n, height, width, channels], or grey [n, height, width], or a list of images; integers or whole
            floats 0..255, of other ranges with `pixel_range`. Or what `on_demand` or `image_files` gives.
        train_labels: [n] or [n, 1] integers, whole floats, truth values or strings. Integers 0..K-1 stay as they are;
            others become 0..K-1 in their order, strings in that of their spelling (that of their numbers where all are
            whole numbers).
        test_images: as the training images, and of their shape.
        test_labels: as the training labels, and of their type.
        class_names: a name for each class, in which control characters are escaped. With them label c is the class
            `class_names[c]`, whether all occur or not; labels that are strings are looked up in them.
        name: a name for reports.
        ids: what each training image is asked for by: n strings or integers, no two equal; None: the row's number.
        pixel_range: the values of black and white, such as (0, 1): for floats, which become uint8 by rounding, and for
            other images whose range is not certain.
        channels: "first" for [n, channels, height, width], "last" where an image only looks like that.
        image_size: height and width to give every image, 8 or more, by resizing its central square; needed where the
            images differ in size.

    Returns:
        The data set. Images that are uint8 and labels that are int32 are not copied; arrays mapped from a file stay on
        disk until `Dataset.pool` puts all images into one array in memory, which every request needs.

    Raises:
        TypeError: images or labels of a type whose meaning is not certain, or ids that are no strings or integers.
        ValueError: a wrong shape, length or range, missing labels, or ids that occur more than once.
    """
    given = {"train_images": train_images, "test_images": test_images}
    reading = Reading(pixel_range, channels, image_size)
    images, of_images = convert_images(given, reading) if not _is_on_demand(given, reading) else (given, [])
    labels, names, of_labels = convert_labels({"train_labels": train_labels, "test_labels": test_labels}, class_names)
    for split in ("train", "test"):
        num_images, num_labels = len(images[f"{split}_images"]), len(labels[f"{split}_labels"])
        if num_images != num_labels:
            raise ValueError(f"{split}_labels must have one label for each of {num_images} images, got {num_labels}")
    return Dataset(
        name=printable(name),
        source="arrays",
        class_names=names,
        train_ids=None if ids is None else _check_ids(ids, len(images["train_images"])),
        notes=(*of_images, *of_labels),
        **images,
        **labels,
    )


def _is_on_demand(images: dict[str, Any], reading: Reading) -> bool:
    """Whether any images are read on demand; they are what they must be, and nothing more can be asked of them."""
    if not any(isinstance(one, ImagesOnDemand) for one in images.values()):
        return False
    if reading != Reading():
        raise ValueError(
            "pixel_range, channels and image_size are for images in memory; source must give what is meant"
        )
    for name, one in images.items():
        if not isinstance(one, ImagesOnDemand) and not (isinstance(one, np.ndarray) and one.dtype == np.uint8):
            raise TypeError(f"{name} must be uint8[n, height, width, channels] or on demand where the others are")
    check_one_shape(images)
    return True


@checked
def subset(data: Dataset, num_train: int, seed: int = 0) -> Dataset:
    """A random part of the training images, every class in its share to within one image; the test images stay.

    Args:
        data: the data set.
        num_train: the number of training images to keep, 1..all.
        seed: seed of the draw, 0 or more.

    Returns:
        The smaller data set, its rows in their former order and with their ids; row numbers as ids count anew.

    Raises:
        TypeError: `num_train` or `seed` is not an integer.
        ValueError: `num_train` or `seed` is out of range.
    """
    size = len(data.train_labels)
    num_train = check_integer("num_train", num_train, 1, size)
    rng = np.random.default_rng(check_integer("seed", seed, 0))
    quotas = np.bincount(data.train_labels, minlength=data.num_classes) * num_train / size
    counts = np.floor(quotas + 1e-9).astype(int)
    missing = num_train - counts.sum()
    # The largest fractions are rounded up, ties at random.
    by_fraction = np.lexsort((rng.random(len(quotas)), np.round(counts - quotas, 9)))
    counts[by_fraction[:missing]] += 1
    rows = [rng.permutation(np.flatnonzero(data.train_labels == c))[: counts[c]] for c in range(data.num_classes)]
    kept = np.sort(np.concatenate(rows))
    return Dataset(
        name=data.name,
        source=f"{data.source}, {num_train} of {size} training images drawn with seed {seed}",
        train_images=data.train_images[kept],
        train_labels=data.train_labels[kept],
        test_images=data.test_images,
        test_labels=data.test_labels,
        class_names=data.class_names,
        train_ids=None if data.train_ids is None else data.train_ids[kept],
        notes=data.notes,
    )


def _check_ids(ids: Any, num_train: int) -> np.ndarray:
    texts = as_ids("ids", ids)
    if len(texts) != num_train:
        raise ValueError(f"ids must have one id for each of {num_train} training images, got {len(texts)}")
    check_unique("ids", texts)
    return texts
