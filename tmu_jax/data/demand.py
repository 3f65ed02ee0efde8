"""Images that are read when they are needed, for sets that no memory holds; and passes over images of either kind."""

import hashlib
import math
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from tmu_jax.boundary import checked
from tmu_jax.data.checks import check_integer, check_memory
from tmu_jax.data.decoding import decode, fault, read_file

_CHUNK = 512
"""Images of a pass that are in memory together."""
_PIECE = 32
"""Images that one thread reads after another."""


class RandomAccess(Protocol):
    """What gives element i, to several threads at once: a list, a Grain `MapDataset`, a data set of torch."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any, /) -> Any: ...


class ImagesOnDemand:
    """Images uint8[n, height, width, channels] by their rows, as an array has them; each is read when it is asked for.

    Attributes:
        shape: (n, height, width, channels).
        dtype: uint8.
        nbytes: of all, if they were in memory.
    """

    ndim = 4
    dtype = np.dtype(np.uint8)

    def __init__(self, source: RandomAccess, image_shape: tuple[int, ...], count: int | None = None) -> None:
        """Args: source: gives uint8[height, width, channels]; image_shape: of each; count: the first so many alone."""
        self._source = source
        self.shape = (len(source) if count is None else count, *image_shape)
        self.nbytes = math.prod(self.shape)

    def made_from(self) -> list[Any]:
        """What names of stages say of them: as of an array."""
        digest = hashlib.sha256()
        add_to(digest, self)
        return ["uint8", self.shape, digest.hexdigest()]

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[np.ndarray]:
        for chunk in chunks(self):
            yield from chunk

    def __getitem__(self, rows: Any) -> np.ndarray:
        """The images of a row, or of several, in memory."""
        chosen = np.arange(len(self))[rows] if isinstance(rows, slice) else np.asarray(rows)
        if chosen.dtype == bool:
            chosen = np.flatnonzero(chosen)
        if chosen.ndim == 0:
            return self._image(int(chosen))
        read = [self._image(row) for row in chosen.ravel().tolist()]
        return np.array(read, np.uint8).reshape(*chosen.shape, *self.shape[1:])

    def first(self, count: int) -> "ImagesOnDemand":
        """The first so many."""
        return ImagesOnDemand(self._source, self.shape[1:], count)

    def _image(self, row: int) -> np.ndarray:
        image = np.asarray(self._source[row])
        if image.shape != self.shape[1:] or image.dtype != np.uint8:
            raise ValueError(
                f"image {row} must be uint8{list(self.shape[1:])} as the first one is, got "
                f"{image.dtype}{list(image.shape)}"
            )
        return image


Images = np.ndarray | ImagesOnDemand


def on_demand(source: RandomAccess) -> ImagesOnDemand:
    """Images that are read, and decoded, when they are needed, for `from_arrays`: the set may be larger than memory.

    Grain reads ahead of what computes (`pip install 'tmu-jax[grain]'`). Numbers are those of the same images in memory.
    A request for such images reads all of them once to look for copies, and once more for each name of a stage.

    Args:
        source: gives image i as uint8[height, width, channels], 0..255, all of one shape, by `source[i]`; called by
            several threads at once. Such as `image_files(...)`, an array mapped from a file,
            `grain.MapDataset.source(grain.sources.ArrayRecordDataSource(paths)).map(decode)`, or any object with
            `__len__` and `__getitem__`.

    Returns:
        What `from_arrays` takes as `train_images` or `test_images`.

    Raises:
        ImportError: Grain is not installed.
        TypeError: what is no such source, or gives no uint8 images.
        ValueError: there are none.
    """
    _grain()
    if not (hasattr(source, "__len__") and hasattr(source, "__getitem__")) or getattr(source, "shape", None) == ():
        raise TypeError(f"source must have a length and give source[i], got {type(source).__name__}")
    if not len(source):
        raise ValueError("source must hold at least one image, got none")
    first = np.asarray(source[0])
    if first.ndim != 3 or first.dtype != np.uint8:
        raise TypeError(f"source must give uint8[height, width, channels], got {first.dtype}{list(first.shape)}")
    return ImagesOnDemand(source, first.shape)


@checked
def image_files(paths: Sequence[str | os.PathLike[str]], image_size: int) -> ImagesOnDemand:
    """Image files, decoded when they are needed as `from_image_folder` decodes them; errors as `on_demand`.

    Args:
        paths: of JPEG, PNG, WebP or BMP files.
        image_size: height and width to give every image, 8 or more, by resizing its central square.
    """
    check_memory("image_size", check_integer("image_size", image_size, 8), 3 * image_size**2)
    paths = list(paths) if not isinstance(paths, str | bytes) else []
    if not paths or not all(isinstance(path, str | os.PathLike) for path in paths):
        raise TypeError("paths must be a sequence of paths of image files, at least one")
    return on_demand(_Files([pathlib.Path(path) for path in paths], image_size))


class _Files:
    def __init__(self, paths: list[pathlib.Path], image_size: int) -> None:
        self._paths, self._size = paths, image_size

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, row: int) -> np.ndarray:
        try:
            return decode(read_file(self._paths[row]), self._size)
        except Exception as error:  # Pillow raises almost any type.
            raise ValueError(f"image {row}, {str(self._paths[row])!r}: {fault(error)}") from error


class _Joined:
    def __init__(self, parts: Sequence[Images]) -> None:
        self._parts = parts
        self._ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, row: int) -> np.ndarray:
        which = int(np.searchsorted(self._ends, row, side="right"))
        part = self._parts[which]
        return part[row - int(self._ends[which]) + len(part)]


def join(parts: Sequence[Images]) -> Images:
    """Images of one shape behind one another; on demand where any of them are."""
    arrays = [part for part in parts if isinstance(part, np.ndarray)]
    return np.concatenate(arrays) if len(arrays) == len(parts) else ImagesOnDemand(_Joined(parts), parts[0].shape[1:])


def head(images: Images, count: int) -> Images:
    """The first so many images."""
    return images[:count] if isinstance(images, np.ndarray) else images.first(count)


def chunks(images: Images, rows: np.ndarray | None = None) -> Iterator[np.ndarray]:
    """All images in their order, or those of int[n] rows, uint8[some, height, width, channels] at a time."""
    rows = np.arange(len(images)) if rows is None else rows
    parts = [rows[start : start + _CHUNK] for start in range(0, len(rows), _CHUNK)]
    return (images[part] for part in parts) if isinstance(images, np.ndarray) else read_ahead(images, parts)


def add_to(digest: Any, array: Images) -> None:
    """Puts the bytes of an array, or of images on demand, into a hash of `hashlib`."""
    for part in [array] if isinstance(array, np.ndarray) else chunks(array):
        digest.update(np.ascontiguousarray(part).data)


def equal(one: Images, other: Images) -> bool:
    """Whether images are the same, pixel by pixel."""
    same = one.shape == other.shape
    return same and all(np.array_equal(a, b) for a, b in zip(chunks(one), chunks(other), strict=True))


def read_ahead(images: Images, calls: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
    """Images of one array of rows after another, read by Grain's threads before they are asked for.

    Args:
        images: which.
        calls: int[...] each, rows in any number and order; a row that occurs more than once is read once.

    Yields:
        uint8[..., height, width, channels] for each.
    """
    grain = _grain()
    unique = [np.unique(rows, return_inverse=True) for rows in calls]
    pieces = [np.array_split(rows, math.ceil(len(rows) / _PIECE)) for rows, _ in unique]
    threads = min(16, 2 * (os.cpu_count() or 1))
    source = grain.MapDataset.source(_Pieces(images, [piece for several in pieces for piece in several]))
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=4 * threads)
    found = iter(source.to_iter_dataset(options))
    for rows, (_, inverse), several in zip(calls, unique, pieces, strict=True):
        read = np.concatenate([next(found) for _ in several])
        yield read[inverse.reshape(rows.shape)]


class _Pieces:
    def __init__(self, images: Images, pieces: list[np.ndarray]) -> None:
        self._images, self._pieces = images, pieces

    def __len__(self) -> int:
        return len(self._pieces)

    def __getitem__(self, index: int) -> np.ndarray:
        return self._images[self._pieces[index]]


def _grain() -> Any:
    try:
        import grain
    except ImportError as error:
        raise ImportError(
            "images that are read on demand need Grain, which is not installed: pip install 'tmu-jax[grain]'"
        ) from error
    return grain
