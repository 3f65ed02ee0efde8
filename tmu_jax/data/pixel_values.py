"""Which values of a caller's images are black and white: said, certain, or asked about with advice that fits."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple, NoReturn

import numpy as np

_WHITE = 255
_LEVELS = ("within 0..255", "within 0..65535")


class Values(NamedTuple):
    """What the values of some images are like.

    Attributes:
        dtype: their type.
        low: the smallest.
        high: the largest.
        whole: whether all are whole numbers.
    """

    dtype: np.dtype
    low: float
    high: float
    whole: bool

    @property
    def kind(self) -> str:
        """In words that an error can use."""
        if self.low >= 0 and self.high <= 1:
            return "black" if self.high == 0 else "only 0 and 1" if self.whole else "fractions within 0..1"
        if self.low >= 0 and self.high <= _WHITE:
            return "within 0..255"
        if self.low >= -1 and self.high <= 1:
            return "within -1..1"
        return "within 0..65535" if self.low >= 0 and self.high <= 65535 and self.whole else "elsewhere"

    @property
    def certain(self) -> bool:
        """Whether they can be nothing but levels 0..255."""
        return self.kind == "within 0..255" and self.whole and self.dtype.kind != "b"


def look_at(name: str, chunks: Iterable[np.ndarray], at_all: bool) -> Values:
    """The range of the images of one split.

    Args:
        name: the argument's name, for the message.
        chunks: the images in parts.
        at_all: whether to read all parts of uint8 images, too; else no more of them than it takes to see a level.

    Raises:
        TypeError: floats that are infinite or not a number.
    """
    lows, highs, whole, num_bad = [], [], True, 0
    for chunk in chunks:
        dtype = chunk.dtype
        if dtype.kind == "f":
            finite = np.isfinite(chunk)
            num_bad += chunk.size - int(finite.sum())
            chunk = chunk[finite]
            whole = whole and bool((chunk == np.rint(chunk)).all())
        if chunk.size:
            lows.append(chunk.min())
            highs.append(chunk.max())
        if dtype == np.uint8 and highs[-1] > 1 and not at_all:
            break
    if num_bad:
        raise TypeError(
            f"{name} must be uint8 within 0..255, got {dtype} with {num_bad} values that are infinite or not a number; "
            "mend them first"
        )
    return Values(dtype, min(lows).item(), max(highs).item(), whole)


def certain_range(values: Mapping[str, Values], said: tuple[float, float] | None) -> tuple[float, float]:
    """The values of black and white.

    Args:
        values: what the images of each split are like, by the argument's name.
        said: what the user says they are.

    Raises:
        TypeError: floats or booleans, of which it is not certain.
        ValueError: integers of which it is not, or splits that seem to differ.
    """
    if said is not None:
        return said
    levels = [name for name, found in values.items() if found.kind in _LEVELS]
    for name, found in values.items():
        is_number = found.dtype.kind != "b"
        if found.certain or (is_number and found.kind == "black"):
            continue
        if is_number and found.kind == "only 0 and 1" and any(other.certain for other in values.values()):
            continue
        if levels and found.kind not in _LEVELS and found.kind != "elsewhere":
            _refuse(name, found, f"but {levels[0]} lie {values[levels[0]].kind}: bring both to one range first")
        _refuse(name, found, _advice(found))
    return 0, _WHITE


def _advice(found: Values) -> str:
    if found.dtype.kind == "b":
        return "pass pixel_range=(0, 1) if True is white"
    return {
        "only 0 and 1": "pass pixel_range=(0, 1) if 1 is white, (0, 255) if the images are nearly black",
        "fractions within 0..1": "pass pixel_range=(0, 1) if 1 is white, as it is where uint8 was divided by 255",
        "within 0..255": "pass pixel_range=(0, 255) if 255 is white; they will be rounded to whole levels",
        "within -1..1": "pass pixel_range=(-1, 1) if -1 is black and 1 is white; if channels were normalized "
        "by means and deviations, undo that first",
        "within 0..65535": "pass pixel_range=(0, 65535) if these are 16-bit images",
        "elsewhere": "undo their normalization first",
    }[found.kind]


def _refuse(name: str, found: Values, advice: str) -> NoReturn:
    span = "0..1, with nothing between" if found.kind == "only 0 and 1" else f"{found.low}..{found.high}"
    if found.dtype.kind in "ui":
        raise ValueError(f"{name} must lie in 0..255, got {span}; {advice}")
    raise TypeError(f"{name} must be uint8 within 0..255, got {found.dtype} within {span}; {advice}")
