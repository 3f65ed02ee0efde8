"""Arrays of other libraries as NumPy's, none of which is imported here: JAX, PyTorch, pandas, TensorFlow, Pillow."""

from typing import Any

import numpy as np

# Of the modes of Pillow's images these are arrays of pixels as they are; a palette's are numbers of colours.
_PLAIN_MODES = ("L", "RGB", "RGBA")


def to_numpy(argument: str, value: Any) -> np.ndarray:
    """The values as an array of NumPy's own types, without a copy where there need be none.

    Args:
        argument: its name, for the message.
        value: a NumPy array (also one mapped from a file), a jax array, a torch tensor on any device, a pandas series
            or frame, whatever else has `__array__` or `__dlpack__`, or nested sequences.

    Raises:
        TypeError: what its own library cannot turn into an array.
        ValueError: nested sequences of differing lengths.
    """
    if hasattr(value, "detach") and hasattr(value, "cpu"):
        value = value.detach().cpu()
        if str(value.dtype) in ("torch.bfloat16", "torch.float8_e4m3fn", "torch.float8_e5m2"):
            value = value.float()
    try:
        has_array = hasattr(value, "__array__") or not hasattr(value, "__dlpack__")
        array = np.asarray(value) if has_array else np.from_dlpack(value)
    except ValueError:
        raise
    except Exception as error:
        raise TypeError(
            f"{argument} cannot be made a NumPy array: {type(value).__name__} says {type(error).__name__} ({error})"
        ) from error
    return array.astype(np.float32) if array.dtype.name.startswith(("bfloat16", "float8")) else array


def is_pillow(value: Any) -> bool:
    """Whether the value is an image of Pillow's."""
    return hasattr(value, "getbands") and hasattr(value, "convert")


def pillow_pixels(argument: str, image: Any) -> np.ndarray:
    """The pixels of an image of Pillow's: uint8[h, w] if it is grey, [h, w, 4] if RGBA, else [h, w, 3].

    Raises:
        TypeError: more than 8 bits a pixel and channel.
    """
    if image.mode.startswith(("I", "F")):
        raise TypeError(f"{argument} holds an image of mode {image.mode}, which has more than 8 bits a channel")
    return np.asarray(image if image.mode in _PLAIN_MODES else image.convert("L" if image.mode == "1" else "RGB"))


def is_missing(value: Any) -> bool:
    """Whether the value is None, a float that is not a number, or pandas' NA or NaT."""
    return (
        value is None or type(value).__name__ in ("NAType", "NaTType") or (isinstance(value, float) and value != value)
    )
