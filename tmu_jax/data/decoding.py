"""Encoded images to pixels, and what is wrong with those that are damaged."""

import concurrent.futures
import contextlib
import io
import os
import pathlib
import stat
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from tmu_jax.data.checks import check_memory

MAX_PIXELS = 50_000_000

# No other reader of Pillow's is admitted: some of them start programs.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
_ORIENTATION_TAG = 0x0112
_MOST_BYTES = 1 << 30
# What makes an image upright again, by its EXIF orientation from 2 on.
_TURNS = "FLIP_LEFT_RIGHT ROTATE_180 FLIP_TOP_BOTTOM TRANSPOSE ROTATE_270 TRANSVERSE ROTATE_90".split()


def decode(encoded: bytes, image_size: int) -> np.ndarray:
    """Decodes an image as `from_image_folder` describes.

    Args:
        encoded: the content of a JPEG, PNG, WebP or BMP file.
        image_size: height and width of the result.

    Returns:
        uint8[image_size, image_size, 3].

    Raises:
        Exception: the content is no such image, or is damaged; Pillow raises almost any type.
    """
    import PIL.Image
    import PIL.ImageOps

    if not encoded:
        raise ValueError("it is empty")
    with PIL.Image.open(io.BytesIO(encoded), formats=_FORMATS) as image:
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f"{image.width}x{image.height} pixels are more than {MAX_PIXELS:,}")
        if image.mode.startswith(("I", "F")):
            raise ValueError(f"its mode {image.mode} has more than 8 bits a pixel and channel")
        image.load()
        turn = _orientation(image) - 2
        upright = image.transpose(PIL.Image.Transpose[_TURNS[turn]]) if turn in range(len(_TURNS)) else image
        square = PIL.ImageOps.fit(upright.convert("RGB"), (image_size, image_size), PIL.Image.Resampling.BILINEAR)
    return np.asarray(square)


def decode_all(reads: Sequence[Callable[[], bytes]], image_size: int, progress: bool) -> list[np.ndarray | str]:
    """Decodes many images on several threads.

    Args:
        reads: for each image a function that gives its encoded content.
        image_size: height and width of the results.
        progress: show a progress bar.

    Returns:
        For each image its pixels, or what is wrong with it in words.

    Raises:
        ValueError: for a size at which they do not fit into memory.
    """
    import tqdm

    check_memory("image_size", image_size, len(reads) * 3 * image_size**2)

    def attempt(read: Callable[[], bytes]) -> np.ndarray | str:
        try:
            return decode(read(), image_size)
        except MemoryError:
            raise
        except Exception as error:
            return fault(error)

    with strict_pillow(), concurrent.futures.ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        results = pool.map(attempt, reads)
        return list(tqdm.tqdm(results, "decoding", total=len(reads), unit=" images", disable=not progress))


def read_file(path: pathlib.Path) -> bytes:
    """The content of a regular file; of anything else a ValueError, as a pipe would be waited for without end."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise ValueError("it is no regular file")
    if found.st_size > _MOST_BYTES:
        raise ValueError(f"its {found.st_size / 1e9:,.0f} GB are no image's")
    return path.read_bytes()


def _orientation(image: Any) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # Damaged EXIF does not make the pixels bad.
        return 1


@contextlib.contextmanager
def strict_pillow() -> Iterator[None]:
    """Truncated images are errors, whatever the caller's setting; Pillow's warnings on odd files are not shown."""
    import PIL.Image
    import PIL.ImageFile

    PIL.Image.init()  # Loads all readers, which several threads would otherwise do at once.
    setting = PIL.ImageFile.LOAD_TRUNCATED_IMAGES
    PIL.ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        PIL.ImageFile.LOAD_TRUNCATED_IMAGES = setting


def fault(error: Exception) -> str:
    """What is wrong with a file, without its path and the same at every run."""
    import PIL

    if isinstance(error, PIL.UnidentifiedImageError):
        return "not a JPEG, PNG, WebP or BMP image"
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be read ({error.strerror})"
    return f"{'truncated' if 'truncated' in str(error).lower() else 'damaged'} ({error})"
