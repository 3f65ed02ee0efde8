"""A caller's images as uint8[n, height, width, channels]: what is certain is taken, what is doubtful is asked about."""

import math
import numbers
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from tmu_jax.data.checks import check_integer, say_once
from tmu_jax.data.foreign import is_pillow, pillow_pixels, to_numpy
from tmu_jax.data.pixel_values import Values, certain_range, look_at
from tmu_jax.data.resizing import fit, one_channel_count

Channels = Literal["first", "last"]
Images = np.ndarray | list[np.ndarray]
"""[n, height, width, channels], or a list of [height, width, channels] where the sizes differ."""

_CHUNK = 256
_FEW = 4
"""More channels than that no usual image has."""


class Reading(NamedTuple):
    """How to read images; see `from_arrays` for the meaning of each value."""

    pixel_range: tuple[float, float] | None = None
    channels: Channels | None = None
    image_size: int | None = None


def convert_images(images: Mapping[str, Any], reading: Reading) -> tuple[dict[str, np.ndarray], list[str]]:
    """Images of every split, and a sentence for each thing that was done to them.

    Args:
        images: by the argument's name, what the caller gave.
        reading: how to read them.

    Returns:
        By the same names uint8[n, height, width, channels], all of one shape but for n; and the sentences. What is
        uint8 already is not copied.

    Raises:
        TypeError: floats or booleans whose range is not certain, or what is no array of numbers.
        ValueError: another wrong shape, range or size.
    """
    _check_reading(reading)
    notes: list[str] = []
    gathered = {name: _channels_last(name, _gather(name, value), reading, notes) for name, value in images.items()}
    is_said = reading.pixel_range is not None
    values = {name: look_at(name, _chunks(array), is_said) for name, array in gathered.items()}
    low, high = certain_range(values, reading.pixel_range)
    found = {}
    for name, array in gathered.items():
        found[name] = _to_levels(name, array, values[name], low, high, notes)
        if reading.image_size is not None:
            found[name] = fit(found[name], reading.image_size)
    arrays = {name: _one_array(name, array) for name, array in found.items()}
    if reading.image_size is not None:
        notes.append(f"The central square of each image was resized to {reading.image_size}x{reading.image_size}.")
    check_one_shape(arrays)
    return arrays, notes


def _check_reading(reading: Reading) -> None:
    if reading.channels not in (None, "first", "last"):
        raise ValueError(f'channels must be "first", "last" or None, got {reading.channels!r}')
    if reading.image_size is not None:
        check_integer("image_size", reading.image_size, 8)
    if reading.pixel_range is not None:
        pair = reading.pixel_range
        is_pair = isinstance(pair, Sequence) and len(pair) == 2 and all(isinstance(v, numbers.Real) for v in pair)
        if not is_pair or not -math.inf < pair[0] < pair[1] < math.inf:
            raise ValueError(
                f"pixel_range must be the values of black and of white, such as (0, 1) or (0, 255), got {pair!r}"
            )


def _gather(name: str, value: Any) -> Images:
    """The images in one array, or in a list where their shapes differ."""
    if isinstance(value, np.ndarray) and value.dtype == object and value.ndim == 1:
        value = list(value)
    if isinstance(value, list | tuple) and value and (is_pillow(value[0]) or hasattr(value[0], "shape")):
        parts = [pillow_pixels(name, part) if is_pillow(part) else to_numpy(name, part) for part in value]
        if len(dtypes := {str(part.dtype) for part in parts}) > 1:
            raise TypeError(f"{name} must hold images of one type, got {', '.join(sorted(dtypes))}")
        return np.stack(parts) if len({part.shape for part in parts}) == 1 else parts
    try:
        array = to_numpy(name, value)
    except ValueError as error:
        raise ValueError(f"{name} must be images, [n, height, width, channels], got uneven sequences") from error
    if array.dtype.kind not in "uifb":
        raise TypeError(f"{name} must be uint8, 0..255, got {array.dtype}")
    return array


def _channels_last(name: str, images: Images, reading: Reading, notes: list[str]) -> Images:
    """[n, height, width, channels], or a list of [height, width, channels] with as many channels each."""
    if isinstance(images, list):
        parts = [_channels_last(name, part[None], reading, notes)[0] for part in images]
        return one_channel_count(name, parts, notes)
    shape = list(images.shape)
    if images.ndim == 2 and shape[1] > _FEW:
        raise ValueError(f"{name} must have shape [n, height, width, channels], got {shape}{_flat_remedy(shape[1])}")
    if images.ndim == 3 and min(shape[1:]) > _FEW:
        say_once(notes, "Grey images [n, height, width] got one channel.")
        return images[..., None]
    if images.ndim != 4 or 0 in shape:
        remedy = "; for one image pass images[None], for small grey ones images[..., None]" if images.ndim == 3 else ""
        raise ValueError(f"{name} must have shape [n, height, width, channels], none 0; got {shape}{remedy}")
    return _move_channels(name, images, reading.channels, notes)


def _move_channels(name: str, images: np.ndarray, channels: Channels | None, notes: list[str]) -> np.ndarray:
    first, height, last = images.shape[1:]
    if channels == "first":
        if first > _FEW and last <= _FEW:
            raise ValueError(
                f'channels="first", but {name} of shape {list(images.shape)} have {last} channels in the last place; '
                "leave channels out"
            )
        say_once(notes, "Channels were moved from the first place to the last.")
        return np.moveaxis(images, 1, -1)
    if channels is None and last > _FEW and (first <= _FEW or first < height == last):
        raise ValueError(
            f"{name} of shape {list(images.shape)} look like [n, channels, height, width]; pass "
            'channels="first" if they are, channels="last" if the last place holds the channels'
        )
    return images


def _flat_remedy(size: int) -> str:
    """How rows of so many numbers may be images."""
    side = round(size**0.5)
    if side * side == size:
        return f"; if each row is a grey image, pass them as images.reshape(-1, {side}, {side})"
    side = round((size / 3) ** 0.5)
    if 3 * side * side == size:
        return (
            f"; if each row is a colour image, pass images.reshape(-1, {side}, {side}, 3), or where a row holds all "
            f'red values first, as in CIFAR\'s files, images.reshape(-1, 3, {side}, {side}) with channels="first"'
        )
    return "; reshape each row to its image's height and width"


def _chunks(images: Images) -> Iterator[np.ndarray]:
    if isinstance(images, list):
        yield from images
    else:
        yield from (images[start : start + _CHUNK] for start in range(0, len(images), _CHUNK))


def _to_levels(
    name: str, images: Images, values: Values, low: float, high: float, notes: list[str]
) -> np.ndarray | list[np.ndarray]:
    """uint8, 0 where an image is `low` and 255 where it is `high`."""
    if values.dtype == np.uint8 and (low, high) == (0, 255):
        return images
    if values.low < low or values.high > high:
        raise ValueError(f"pixel_range=({low:g}, {high:g}), but {name} lie within {values.low:g}..{values.high:g}")
    if (low, high) != (0, 255) or not np.issubdtype(values.dtype, np.integer):
        say_once(notes, f"{values.dtype} pixels within {low:g}..{high:g} became uint8, rounded to 256 levels.")

    def levels(part: np.ndarray) -> np.ndarray:
        return np.rint((part.astype(np.float64) - low) * (255 / (high - low))).astype(np.uint8)

    if isinstance(images, list):
        return [levels(part) for part in images]
    made = np.empty(images.shape, np.uint8)
    for start in range(0, len(images), _CHUNK):
        made[start : start + _CHUNK] = levels(images[start : start + _CHUNK])
    return made


def _one_array(name: str, images: Images) -> np.ndarray:
    if isinstance(images, np.ndarray):
        return images
    height, width = images[0].shape[:2]
    other = next((image.shape for image in images if image.shape != images[0].shape), None)
    if other is None:
        return np.stack(images)
    raise ValueError(
        f"{name} must be of one size, got {height}x{width} and {other[0]}x{other[1]} pixels; pass image_size=64, say, "
        "to have the central square of each resized"
    )


def check_one_shape(arrays: Mapping[str, Any]) -> None:
    (first, one), (second, other) = ((name, array.shape[1:]) for name, array in arrays.items())
    if one != other:
        remedy = "; image_size= would resize them" if one[2] == other[2] else ""
        raise ValueError(f"{first} and {second} must have images of one shape, got {one} and {other}{remedy}")
