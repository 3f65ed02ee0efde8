"""Sources that give images and labels one by one: torchvision's, Hugging Face's and TFDS's data sets, or a list."""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tmu_jax.boundary import checked
from tmu_jax.data.arrays import from_arrays
from tmu_jax.data.checks import name_some
from tmu_jax.data.foreign import is_pillow, pillow_pixels, to_numpy
from tmu_jax.data.pixels import Channels, Reading
from tmu_jax.data.types import Dataset

_IMAGE_KEYS = ("image", "img", "pixel_values")
_LABEL_KEYS = ("label", "labels", "fine_label", "class")
_READ_TWICE = 8
"""So many images are read again: a flip in one of two reads is missed once in 256 sources."""


class Keys(NamedTuple):
    """What image, label and id are called where elements are mappings; None: as usual, and no id."""

    image: str | None = None
    label: str | None = None
    id: str | None = None


class _Split(NamedTuple):
    images: list[np.ndarray]
    labels: list[Any]
    ids: list[Any]
    unread: list[int]
    """How many further parts each element had."""


@checked
def from_source(
    train: Any,
    test: Any,
    class_names: Sequence[str] | None = None,
    name: str = "source",
    *,
    ids: Any = None,
    image_key: str | None = None,
    label_key: str | None = None,
    id_key: str | None = None,
    pixel_range: tuple[float, float] | None = None,
    channels: Channels | None = None,
    image_size: int | None = None,
    progress: bool = True,
) -> Dataset:
    """Reads sources of images and labels, all of them into memory.

    Args:
        train: what has a length and gives, by number, pairs (image, label) or mappings: a list, or a data set of
            torchvision, Hugging Face or TFDS (`as_data_source`); or a `tf.data.Dataset`. Images are arrays, tensors or
            Pillow's. Nothing in it may be random: the first images are read twice, and must be equal.
        test: the same for the test images.
        class_names: as in `from_arrays`; None: those that `train` names (`classes`, or the names of its label feature),
            if it does.
        name: a name for reports.
        ids: as in `from_arrays`.
        image_key: where elements are mappings, what the image is called; None: "image", "img" or "pixel_values".
        label_key: what the label is called; None: "label", "labels", "fine_label" or "class".
        id_key: what the id is called; None: no ids but `ids`.
        pixel_range: as in `from_arrays`, as are `channels` and `image_size`.
        channels: "first" or "last".
        image_size: height and width to give every image.
        progress: show a progress bar.

    Returns:
        The data set, its rows in the order of the sources.

    Raises:
        TypeError: no such source, or as in `from_arrays`.
        ValueError: elements of another kind, other pixels at a second reading, or as in `from_arrays`.
    """
    reading = Reading(pixel_range, channels, image_size)
    elements = _elements("train", train), _elements("test", test)
    suggested = getattr(train, "classes", None) or feature_names(getattr(train, "features", None), label_key)
    return from_elements(
        *elements, class_names, name, ids, Keys(image_key, label_key, id_key), suggested, reading, progress
    )


def from_elements(
    train: Iterable[Any],
    test: Iterable[Any],
    class_names: Sequence[str] | None,
    name: str,
    ids: Any,
    keys: Keys,
    suggested: Any,
    reading: Reading,
    progress: bool,
) -> Dataset:
    """Reads iterables of what `from_source` describes; `suggested` are the source's own names of its classes."""
    train_part, test_part = _read("train", train, keys, progress), _read("test", test, keys, progress)
    labels = train_part.labels + test_part.labels
    if class_names is None and _name_all(suggested, labels):
        class_names = suggested
    data = from_arrays(
        train_part.images,
        train_part.labels,
        test_part.images,
        test_part.labels,
        class_names,
        name,
        ids=train_part.ids if keys.id is not None and ids is None else ids,
        **reading._asdict(),
    )
    if not max(train_part.unread):
        return data
    note = f"of {2 + max(train_part.unread)} parts an element image and label were read alone; ids go in by ids="
    return dataclasses.replace(data, notes=(*data.notes, note))


def feature_names(features: Any, label_key: str | None) -> Any:
    """The names of the classes by the label's feature of a data set of Hugging Face or TFDS; None where it has none."""
    if features is None or not hasattr(features, "__getitem__"):
        return None
    key = next((key for key in (_LABEL_KEYS if label_key is None else (label_key,)) if key in features), None)
    return None if key is None else getattr(features[key], "names", None)


def _name_all(names: Any, labels: Sequence[Any]) -> bool:
    """Whether these are names for the integers that are the labels."""
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        return False
    return all(isinstance(c, int) and 0 <= c < len(names) for c in labels)


def _elements(argument: str, source: Any) -> Iterable[Any]:
    """The elements, where they can be read at random after a look at whether they stay the same."""
    if hasattr(source, "as_numpy_iterator"):
        return source.as_numpy_iterator()
    is_numbered = hasattr(source, "__len__") and hasattr(source, "__getitem__") and not hasattr(source, "iloc")
    is_numbered = is_numbered and getattr(source, "shape", None) != ()
    if isinstance(source, str | bytes | Mapping) or not is_numbered:
        raise TypeError(
            f"{argument} must have a length and give (image, label) by number, got a {type(source).__name__}"
            f"{_source_remedy(source)}"
        )
    if not len(source):
        raise ValueError(f"{argument} must hold at least one image, got none")
    return _Numbered(source)


def _source_remedy(source: Any) -> str:
    if isinstance(source, Mapping):
        return f"; pass one of its splits, {name_some(map(str, source))}"
    if hasattr(source, "iloc"):
        return "; tmu_jax.data.from_csv takes a frame that lists images"
    return "; this one gives batches: pass its .dataset" if hasattr(source, "batch_size") else ""


class _Numbered:
    """A source by the numbers 0..length-1; some sources never end when they are iterated over."""

    def __init__(self, source: Any):
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __iter__(self) -> Iterator[Any]:
        return (self._source[row] for row in range(len(self._source)))


def _read(argument: str, elements: Iterable[Any], keys: Keys, progress: bool) -> _Split:
    import tqdm

    split = _Split([], [], [], [])
    for element in tqdm.tqdm(elements, f"reading {argument}", unit=" images", disable=not progress):
        image, label, found, unread = _parts(argument, element, keys)
        split.images.append(image)
        split.labels.append(label)
        split.ids.append(found)
        split.unread.append(unread)
    if isinstance(elements, _Numbered):
        for row, element in enumerate(itertools.islice(elements, _READ_TWICE)):
            again = _parts(argument, element, keys)[0]
            if again.shape != split.images[row].shape or not np.array_equal(again, split.images[row]):
                raise ValueError(
                    f"{argument} gives other pixels each time image {row} is read; pass a source without random "
                    "transforms, as what is kept must be the images themselves (a recipe can augment them)"
                )
    return split


def _parts(argument: str, element: Any, keys: Keys) -> tuple[np.ndarray, Any, Any, int]:
    """Image, label and id (or None) of an element, and how many parts beside."""
    unread = 0
    if isinstance(element, Mapping):
        image = element[_key(argument, element, "image_key", keys.image, _IMAGE_KEYS)]
        label = element[_key(argument, element, "label_key", keys.label, _LABEL_KEYS)]
        found = None if keys.id is None else element[_key(argument, element, "id_key", keys.id, ())]
    elif isinstance(element, tuple | list) and len(element) >= 2:
        image, label, found, unread = element[0], element[1], None, len(element) - 2
        if keys.id is not None:
            raise ValueError(
                f"id_key={keys.id!r} needs elements that are mappings, but {argument} gives pairs; use ids="
            )
    else:
        raise ValueError(f"{argument} must give pairs (image, label) or mappings, got a {type(element).__name__}")
    pixels = pillow_pixels(argument, image) if is_pillow(image) else to_numpy(argument, image)
    return pixels, _scalar(label), _scalar(found), unread


def _key(argument: str, element: Mapping[str, Any], option: str, said: str | None, usual: Sequence[str]) -> str:
    found = [key for key in (usual if said is None else (said,)) if key in element]
    if not found:
        wanted = f"{option}={said!r}" if said is not None else f"one of {', '.join(usual)}; pass {option}"
        raise ValueError(f"{argument} must give mappings with {wanted}, got the keys {name_some(map(str, element))}")
    return found[0]


def _scalar(value: Any) -> Any:
    return value.item() if getattr(value, "shape", None) in ((), (1,)) else value
