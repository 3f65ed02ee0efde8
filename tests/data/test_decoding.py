"""Decoded images against Pillow by hand."""

import io

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest

from tests.data.pictures import QUIET, SIZE, by_hand, encode, identities, picture, rows, write
from tmu_jax.data import from_image_folder


def check_single(tmp_path, content: bytes, expected: np.ndarray, name: str = "0009.png") -> None:
    """The one file of interest lies among others; its pixels must be in the data set."""
    folder = write(tmp_path / "images", {**identities(a=3, b=3), f"a/{name}": content})
    result = from_image_folder(folder, **QUIET)
    data = result.data
    assert result.skipped == ()
    assert np.bincount(data.pool.labels).tolist() == [4, 3]
    assert expected.tobytes() in rows(data.pool.images[data.pool.labels == 0])


@pytest.mark.parametrize(("width", "height"), [(24, 20), (20, 25), (16, 16), (7, 9), (300, 11)])
@pytest.mark.parametrize("file_format", ["png", "jpeg", "webp", "bmp"])
def test_values_are_those_of_pillow_by_hand(width, height, file_format, tmp_path):
    content = encode(picture(7, width, height), file_format)
    expected = by_hand(PIL.Image.open(io.BytesIO(content)))
    suffix = {"png": "PNG", "jpeg": "Jpg", "webp": "webp", "bmp": "bmp"}[file_format]
    check_single(tmp_path, content, expected, f"0009.{suffix}")


def test_square_image_of_the_right_size_is_kept_bit_by_bit(tmp_path):
    image = picture(7, SIZE, SIZE)
    check_single(tmp_path, encode(image), np.asarray(image))


@pytest.mark.parametrize("mode", ["L", "LA", "1", "P", "RGBA"])
def test_other_png_modes_become_rgb(mode, tmp_path):
    image = picture(7, mode="L").convert("LA") if mode == "LA" else picture(7, mode=mode)
    check_single(tmp_path, encode(image), by_hand(image))


def test_transparency_is_dropped(tmp_path):
    opaque = picture(7)
    image = opaque.copy()
    image.putalpha(PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 24), np.uint8)))
    check_single(tmp_path, encode(image), by_hand(opaque))


def test_palette_with_transparency_raises_no_warning(tmp_path):
    image = picture(7, mode="P")
    check_single(tmp_path, encode(image, transparency=bytes(range(256))), by_hand(image))


def test_cmyk_jpeg_becomes_rgb(tmp_path):
    content = encode(picture(7, mode="CMYK"), "jpeg")
    image = PIL.Image.open(io.BytesIO(content))
    assert image.mode == "CMYK"
    check_single(tmp_path, content, by_hand(image), "0009.jpeg")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_honoured(orientation, tmp_path):
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    content = encode(picture(7, 30, 20), "jpeg", exif=exif)
    upright = PIL.ImageOps.exif_transpose(PIL.Image.open(io.BytesIO(content)))
    assert upright.size == ((30, 20) if orientation < 5 else (20, 30))
    check_single(tmp_path, content, by_hand(upright), "0009.jpg")


TEXT_ORIENTATION = b"Exif\0\0MM\0*\0\0\0\x08\0\1\x01\x12\0\2\0\0\0\2A\0\0\0\0\0\0\0"


@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", TEXT_ORIENTATION])
@pytest.mark.parametrize("file_format", ["jpeg", "png", "webp"])
def test_damaged_exif_does_not_make_an_image_bad(exif, file_format, tmp_path):
    content = encode(picture(7), file_format, exif=exif)
    expected = by_hand(PIL.Image.open(io.BytesIO(encode(picture(7), file_format))))
    check_single(tmp_path, content, expected, f"0009.{file_format}")
