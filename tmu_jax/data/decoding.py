"""Encoded images to pixels, and what is wrong with those that are damaged."""

import contextlib
import io
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

MAX_PIXELS = 50_000_000

# No other reader of Pillow's is admitted: some of them start programs.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
_ORIENTATION_TAG = 0x0112
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
