"""Images of every kind against the levels that they must become, and advice that gives them back when followed."""

import numpy as np
import PIL.Image
import pytest

from tests.data.pictures import picture
from tmu_jax.data import from_arrays
from tmu_jax.data.pixel_values import look_at
from tmu_jax.data.pixels import Reading, convert_images

RNG = np.random.default_rng(0)
LEVELS = RNG.integers(0, 256, (6, 8, 9, 3), np.uint8)


def convert(train, test=None, **reading):
    images = {"train_images": train, "test_images": train if test is None else test}
    found, notes = convert_images(images, Reading(**reading))
    assert all(array.dtype == np.uint8 for array in found.values())
    return found["train_images"], notes


def test_levels_are_taken_as_they_are():
    found, notes = convert(LEVELS)
    assert found is LEVELS
    assert notes == []
    for dtype in (np.int16, np.uint64):
        found, notes = convert(LEVELS.astype(dtype))
        np.testing.assert_array_equal(found, LEVELS)
        assert notes == []
    found, notes = convert(LEVELS.tolist())
    np.testing.assert_array_equal(found, LEVELS)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_whole_floats_of_levels_are_certain(dtype):
    found, notes = convert(LEVELS.astype(dtype), LEVELS[:1] // 255)
    np.testing.assert_array_equal(found, LEVELS)
    assert notes == [f"{np.dtype(dtype)} pixels within 0..255 became uint8, rounded to 256 levels."]


@pytest.mark.parametrize(
    ("images", "pixel_range"),
    [
        (LEVELS / 255, (0, 1)),
        ((LEVELS / 255).astype(np.float32), (0, 1)),
        ((LEVELS / 255).astype(np.float16), (0, 1)),
        (LEVELS + RNG.uniform(0, 0.49, LEVELS.shape) * (LEVELS < 255), (0, 255)),
        (LEVELS / 127.5 - 1, (-1, 1)),
        (LEVELS.astype(np.uint16) * 257, (0, 65535)),
        (LEVELS.astype(np.float64) * 257, (0, 65535)),
    ],
)
def test_advice_that_is_followed_gives_the_levels_back(images, pixel_range):
    advice = rf"pass pixel_range=\({pixel_range[0]}, {pixel_range[1]}\)"
    with pytest.raises((TypeError, ValueError), match=rf"train_images must .*got .*\.\..*; {advice}"):
        convert(images)
    found, notes = convert(images, pixel_range=pixel_range)
    np.testing.assert_array_equal(found, LEVELS)
    assert len(notes) == 1
    assert f"within {pixel_range[0]}..{pixel_range[1]} became uint8" in notes[0]


BINARY = (LEVELS > 99).astype(np.uint8)


@pytest.mark.parametrize("images", [BINARY, BINARY.astype(np.int64), BINARY.astype(np.float32), BINARY > 0])
def test_zeros_and_ones_are_asked_about(images):
    with pytest.raises((TypeError, ValueError), match=r"pass pixel_range=\(0, 1\) if (1|True) is white"):
        convert(images)
    np.testing.assert_array_equal(convert(images, pixel_range=(0, 1))[0], BINARY * 255)
    np.testing.assert_array_equal(convert(images, pixel_range=(0, 255))[0], BINARY)


def test_a_dark_split_beside_a_certain_one_is_certain():
    for train, test in ((LEVELS, BINARY), (BINARY, LEVELS), (LEVELS, np.zeros_like(LEVELS)), (LEVELS / 1.0, BINARY)):
        np.testing.assert_array_equal(convert(train, test)[0], train)
    assert convert(np.zeros_like(LEVELS))[0].max() == 0


def test_all_of_levels_are_read_where_a_range_is_said():
    """A later image is beyond it; without a range the first images are enough."""
    late = np.concatenate([np.full((300, 5, 5, 1), 2, np.uint8), np.full((1, 5, 5, 1), 9, np.uint8)])
    with pytest.raises(ValueError, match=r"pixel_range=\(0, 8\), but train_images lie within 2\.\.9"):
        convert(late, pixel_range=(0, 8))


def test_no_more_of_levels_are_read_than_it_takes():
    def chunks():
        yield BINARY
        yield LEVELS
        pytest.fail("a third part was read")

    assert look_at("train_images", chunks(), at_all=False).certain


@pytest.mark.parametrize(
    ("train", "test", "error", "message"),
    [
        (LEVELS / 64 - 2, None, TypeError, r"float64 within -2\.0\.\..*; undo their normalization first$"),
        (LEVELS.astype(int) * 999, None, ValueError, r"must lie in 0\.\.255, got 0\.\.254745; undo their normal"),
        (LEVELS.astype(int) - 1000, None, ValueError, r"must lie in 0\.\.255, got -1000\.\.-745; undo"),
        (np.where(LEVELS > 200, np.nan, 0.5), None, TypeError, r"float64 with \d+ values .*not a number; mend"),
        (np.full(LEVELS.shape, np.inf), None, TypeError, "with 1296 values that"),
        (
            LEVELS,
            LEVELS / 255,
            TypeError,
            r"test_images .*but train_images lie within 0\.\.255: bring both to one range",
        ),
        (LEVELS / 255, LEVELS / 1.0, TypeError, r"train_images .*but test_images lie within 0\.\.255: bring both"),
        (LEVELS * 1j, None, TypeError, "train_images must be uint8.*got complex128"),
        (LEVELS.astype(str), None, TypeError, "train_images must be uint8"),
        ([[1, 2], [3]], None, ValueError, r"must be images, \[n, height, width, channels\], got uneven sequences"),
    ],
)
def test_other_values_are_refused(train, test, error, message):
    with pytest.raises(error, match=message):
        convert(train, test)


@pytest.mark.parametrize(
    "pixel_range", [(1, 0), (0, 0), (0,), "01", 255, (0, np.inf), (np.nan, 1), ("0", "1"), {"low": 0, "high": 1}]
)
def test_no_ranges(pixel_range):
    with pytest.raises(ValueError, match="pixel_range must be the values of black and of white"):
        convert(LEVELS, pixel_range=pixel_range)


@pytest.mark.parametrize("shape", [(6, 3, 8, 9), (6, 1, 28, 28), (6, 4, 5, 7), (6, 13, 64, 64), (6, 3, 8, 8)])
def test_channels_first_are_asked_about_and_moved(shape):
    images = RNG.integers(0, 256, shape, np.uint8)
    with pytest.raises(ValueError, match=r'look like \[n, channels, height, width\]; pass channels="first" if'):
        convert(images)
    found, notes = convert(images, channels="first")
    np.testing.assert_array_equal(found, images.transpose(0, 2, 3, 1))
    assert notes == ["Channels were moved from the first place to the last."]
    assert convert(images, channels="last")[0] is images


@pytest.mark.parametrize(
    "shape", [(6, 4, 5, 1), (6, 3, 3, 3), (6, 1, 1, 3), (6, 64, 64, 13), (6, 8, 9, 4), (6, 2, 2, 1)]
)
def test_channels_last_are_not_asked_about(shape):
    images = RNG.integers(0, 256, shape, np.uint8)
    assert convert(images)[0] is images


def test_wrong_channels_are_refused():
    with pytest.raises(
        ValueError, match=r'channels="first", but train_images of shape \[6, 8, 9, 3\] have 3 channels in'
    ):
        convert(LEVELS, channels="first")
    with pytest.raises(ValueError, match=r'channels must be "first", "last" or None, got \'NCHW\''):
        convert(LEVELS, channels="NCHW")


def test_grey_images_get_a_channel():
    found, notes = convert(LEVELS[..., 0])
    np.testing.assert_array_equal(found, LEVELS[..., :1])
    assert notes == ["Grey images [n, height, width] got one channel."]


@pytest.mark.parametrize(
    ("size", "remedy"),
    [
        (784, r"got \[2, 784\]; .* grey image, pass them as images\.reshape\(-1, 28, 28\)$"),
        (3072, r"images\.reshape\(-1, 32, 32, 3\), or .* images\.reshape\(-1, 3, 32, 32\) with channels=\"first\"$"),
        (1000, r"reshape each row to its image's height and width$"),
    ],
)
def test_flat_rows_are_refused_with_a_shape_that_fits(size, remedy):
    with pytest.raises(ValueError, match=remedy):
        convert(np.zeros((2, size), np.uint8))


def test_one_image_alone_is_refused():
    with pytest.raises(ValueError, match=r"got \[8, 9, 3\]; for one image pass images\[None\], for small grey ones"):
        convert(LEVELS[0])


def test_images_of_differing_sizes_need_a_size():
    images = [np.asarray(picture(n, 20 + n, 18)) for n in range(3)]
    for given in (images, np.array([*images, None], object)[:3]):
        with pytest.raises(
            ValueError, match="train_images must be of one size, got 18x20 and 18x21 pixels; pass image_s"
        ):
            convert(given)
        found, notes = convert(given, image_size=10)
        assert notes == ["The central square of each image was resized to 10x10."]
        for n in range(3):
            image = picture(n, 20 + n, 18)
            left = (image.width - 18) / 2
            expected = image.resize((10, 10), PIL.Image.Resampling.BILINEAR, (left, 0, left + 18, 18))
            np.testing.assert_array_equal(found[n], np.asarray(expected))
    floats, _ = convert([image / 255 for image in images], pixel_range=(0, 1), image_size=10)
    np.testing.assert_array_equal(floats, found)
    first, _ = convert([image.transpose(2, 0, 1) for image in images], channels="first", image_size=10)
    np.testing.assert_array_equal(first, found)


def test_all_images_are_resized_where_a_size_is_given():
    found, _ = convert(LEVELS, LEVELS[:, :, :8], image_size=8)
    assert found.shape == (6, 8, 8, 3)
    with pytest.raises(ValueError, match="image_size must be 8 or more, got 7"):
        convert(LEVELS, image_size=7)


def test_grey_and_transparent_images_among_coloured_ones():
    grey, colour, clear = (np.asarray(picture(n, mode=mode)) for n, mode in enumerate(("L", "RGB", "RGBA")))
    found, notes = convert([grey[..., None], colour, clear])
    np.testing.assert_array_equal(found, [np.stack([grey] * 3, -1), colour, clear[..., :3]])
    assert notes == ["Grey images among coloured ones got three channels; transparency was dropped."]
    with pytest.raises(ValueError, match=r"train_images must have as many channels each, got \[2, 3\]"):
        convert([colour[..., :2], colour])
    with pytest.raises(TypeError, match="train_images must hold images of one type, got float64, uint8"):
        convert([colour, colour / 255])


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGB", "CMYK", "LA"])
def test_pillows_images(mode):
    images = [picture(n).convert("L").convert("LA") if mode == "LA" else picture(n, mode=mode) for n in range(3)]
    found, _ = convert(images)
    converted = [image.convert("L" if mode in ("L", "1") else "RGB") for image in images]
    np.testing.assert_array_equal(found.squeeze(), [np.asarray(image) for image in converted])
    with pytest.raises(TypeError, match="an image of mode I;16, which has more than 8 bits"):
        convert([PIL.Image.new("I;16", (20, 20), 500)])


def test_what_was_done_is_said_in_the_data_set():
    labels = np.arange(6) % 2
    data = from_arrays(LEVELS.transpose(0, 3, 1, 2) / 255, labels, LEVELS.transpose(0, 3, 1, 2) / 255, labels,
                       pixel_range=(0, 1), channels="first")  # fmt: skip
    assert data.fingerprint == from_arrays(LEVELS, labels, LEVELS, labels).fingerprint
    assert data.notes == (
        "Channels were moved from the first place to the last.",
        "float64 pixels within 0..1 became uint8, rounded to 256 levels.",
    )
