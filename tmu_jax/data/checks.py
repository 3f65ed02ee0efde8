"""Checks of a caller's values."""

import numbers
from typing import Any


def check_integer(argument: str, value: Any, least: int, most: int | None = None) -> int:
    """The value as an int.

    Args:
        argument: its name, for the message.
        value: what the caller gave.
        least: the smallest right value.
        most: the largest, if there is one.

    Raises:
        TypeError: not an integer; True and False are none.
        ValueError: out of range.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{argument} must be an integer, got {value!r}")
    number = int(value)
    if number < least or (most is not None and number > most):
        right = f"{least} or more" if most is None else f"within {least}..{most}"
        raise ValueError(f"{argument} must be {right}, got {number}")
    return number


def check_share(argument: str, value: float) -> float:
    """The value, if it lies in 0..1; else a ValueError."""
    if not 0 <= value <= 1:
        raise ValueError(f"{argument} must lie within 0..1, got {value}")
    return float(value)


def printable(text: str) -> str:
    """The text; what could steer a terminal (ESC) or has no UTF-8 (a lone surrogate) as a backslash escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
