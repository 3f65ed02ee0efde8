"""Small images and folders of them."""

import io
import pathlib

import numpy as np
import PIL.Image

SIZE = 16
QUIET = {"image_size": SIZE, "progress": False}


def picture(seed: int, width: int = 24, height: int = 20, mode: str = "RGB") -> PIL.Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return PIL.Image.fromarray(pixels).convert(mode)


def encode(image: PIL.Image.Image, file_format: str = "png", **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, file_format, **options)
    return stream.getvalue()


def by_hand(image: PIL.Image.Image, size: int = SIZE) -> np.ndarray:
    """The central square, resized."""
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    box = (left, top, left + side, top + side)
    return np.asarray(image.convert("RGB").resize((size, size), PIL.Image.Resampling.BILINEAR, box))


def write(folder: pathlib.Path, files: dict[str, bytes]) -> pathlib.Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def identities(**counts: int) -> dict[str, bytes]:
    """PNG files of different images, as many for each identity as is said."""
    return {
        f"{identity}/{number:04d}_01.png": encode(picture(1000 * row + number))
        for row, (identity, count) in enumerate(counts.items())
        for number in range(count)
    }


def rows(images: np.ndarray) -> set[bytes]:
    return {image.tobytes() for image in images}
