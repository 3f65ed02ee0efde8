"""Data sets from the caller's own arrays, and smaller ones from larger ones."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from tmu_jax.data.checks import check_integer, printable
from tmu_jax.data.types import Dataset


def from_arrays(
    train_images: ArrayLike,
    train_labels: ArrayLike,
    test_images: ArrayLike,
    test_labels: ArrayLike,
    class_names: Sequence[str] | None = None,
    name: str = "arrays",
) -> Dataset:
    """Makes a data set from arrays.

    Args:
        train_images: [n, height, width, channels], uint8 or other integers within 0..255; floats are refused, as their
            range is a guess.
        train_labels: integers [n], 0..classes-1.
        test_images: [m, height, width, channels], of the shape of the training images.
        test_labels: integers [m].
        class_names: a name for each class, in which control characters are escaped; without them the largest label says
            how many classes there are, at most as many as images.
        name: a name for reports.

    Returns:
        The data set; uint8 images and int32 labels are not copied.

    Raises:
        TypeError: images or labels that are not integers.
        ValueError: a wrong shape, length or range.
    """
    images = {"train_images": np.asarray(train_images), "test_images": np.asarray(test_images)}
    labels = {"train_labels": np.asarray(train_labels), "test_labels": np.asarray(test_labels)}
    images = {argument: _check_images(argument, array) for argument, array in images.items()}
    if images["train_images"].shape[1:] != images["test_images"].shape[1:]:
        raise ValueError(
            f"train_images and test_images must have images of one shape, got {images['train_images'].shape[1:]} and "
            f"{images['test_images'].shape[1:]}"
        )
    names = None if class_names is None else tuple(printable(str(class_name)) for class_name in class_names)
    most = sum(map(len, images.values())) if names is None else len(names)
    labels = {argument: _check_labels(argument, array, most, names is not None) for argument, array in labels.items()}
    for split in ("train", "test"):
        num_images, num_labels = len(images[f"{split}_images"]), len(labels[f"{split}_labels"])
        if num_images != num_labels:
            raise ValueError(f"{split}_labels must have one label for each of {num_images} images, got {num_labels}")
    num_classes = 1 + max(int(array.max()) for array in labels.values()) if names is None else len(names)
    if num_classes < 2:
        raise ValueError(f"train_labels and test_labels must have at least 2 classes, got {num_classes}")
    return Dataset(
        name=printable(name),
        source="arrays",
        class_names=tuple(f"class_{c}" for c in range(num_classes)) if names is None else names,
        **images,
        **labels,
    )


def subset(data: Dataset, num_train: int, seed: int = 0) -> Dataset:
    """A random part of the training images, every class in its share to within one image; the test images stay.

    Args:
        data: the data set.
        num_train: the number of training images to keep, 1..all.
        seed: seed of the draw, 0 or more.

    Returns:
        The smaller data set, its rows in their former order.

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
    )


def _check_images(argument: str, images: np.ndarray) -> np.ndarray:
    if images.ndim != 4 or 0 in images.shape:
        raise ValueError(f"{argument} must have shape [n, height, width, channels], none 0; got {list(images.shape)}")
    if images.dtype == np.uint8:
        return images
    if np.issubdtype(images.dtype, np.floating):
        raise TypeError(f"{argument} must be uint8 within 0..255, got {images.dtype} {_range_and_remedy(images)}")
    if not np.issubdtype(images.dtype, np.integer):
        raise TypeError(f"{argument} must be uint8, 0..255, got {images.dtype}")
    if images.min() < 0 or images.max() > 255:
        raise ValueError(f"{argument} must lie in 0..255, got {images.min()}..{images.max()}")
    return images.astype(np.uint8)


def _range_and_remedy(images: np.ndarray) -> str:
    """Where the values of float images lie, and how to make pixels of values that lie there."""
    finite = images[np.isfinite(images)]
    if finite.size < images.size:
        return f"with {images.size - finite.size} values that are infinite or not a number; mend them first"
    low, high = finite.min(), finite.max()
    if low >= 0 and high <= 1:
        remedy = "convert them, if white is 1, by numpy.rint(255 * images).astype('uint8')"
    elif low >= 0 and high <= 255:
        remedy = "convert them, if white is 255, by numpy.rint(images).astype('uint8')"
    else:
        remedy = "undo their normalization first"
    return f"within {low}..{high}; {remedy}"


def _check_labels(argument: str, labels: np.ndarray, num_classes: int, named: bool) -> np.ndarray:
    """The labels as int32, if they lie below the number of classes: that of the names, else the most there may be."""
    if not np.issubdtype(labels.dtype, np.integer):
        raise TypeError(f"{argument} must be integers, got {labels.dtype}; class c is the integer c")
    if labels.ndim != 1:
        is_one_hot = labels.ndim == 2 and np.isin(labels, (0, 1)).all() and (labels.sum(axis=1) == 1).all()
        remedy = "; take labels[:, 0]" if labels.ndim == 2 and labels.shape[1] == 1 else ""
        if is_one_hot and not remedy:
            remedy = "; these look like one-hot rows, so take labels.argmax(axis=1)"
        raise ValueError(f"{argument} must have shape [n], got {list(labels.shape)}{remedy}")
    if labels.size and labels.min() < 0:
        raise ValueError(f"{argument} must be 0 or more, got {labels.min()}")
    if labels.size and labels.max() >= num_classes:
        if named:
            raise ValueError(f"{argument} must lie below the {num_classes} class_names, got {labels.max()}")
        raise ValueError(
            f"{argument} must be 0..classes-1, with no more classes than the {num_classes} images, got "
            f"{labels.max()}; number the classes of all labels anew from 0, for example by numpy.unique"
        )
    return labels.astype(np.int32, copy=False)
