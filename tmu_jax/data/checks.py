"""Checks of a caller's values."""

import numbers
import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from tmu_jax.boundary import shown


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
        raise TypeError(f"{argument} must be an integer, got {shown(value)}")
    number = int(value)
    if number < least or (most is not None and number > most):
        right = f"{least} or more" if most is None else f"within {least}..{most}"
        raise ValueError(f"{argument} must be {right}, got {number}")
    return number


LARGEST_SEED = 2**32 - 1
"""Of a `jax.random.key`: it takes the lower 32 bits of a larger one, which is then another seed's key."""


def check_seed(argument: str, value: Any) -> int:
    """A seed that gives a key of its own; errors as `check_integer`."""
    return check_integer(argument, value, 0, LARGEST_SEED)


def check_rows(argument: str, values: Any, what: str, end: int | None = None, repeated: bool = False) -> np.ndarray:
    """Rows that a caller names, int64[n], in their order.

    Args:
        argument: its name, for the message.
        values: a one-dimensional sequence or array of integers; it may be empty.
        what: what the rows are of, for the message, such as "the training images".
        end: how many rows there are; None: not checked.
        repeated: whether a row may be named more than once.

    Raises:
        TypeError: for anything else. What is no sequence may iterate over something other than its values, as a table
            does over the names of its columns.
        ValueError: for a row that is repeated or out of range.
    """
    shape = getattr(values, "shape", None)
    is_sequence = isinstance(values, Sequence) and not isinstance(values, str | bytes)
    if not is_sequence and (shape is None or len(shape) != 1):
        found = type(values).__name__ + ("" if shape is None else str(list(shape)))
        raise TypeError(f"{argument} must be a one-dimensional sequence of integers such as [5, 6, 7], got a {found}")
    try:
        rows = np.asarray(values)
    except ValueError as error:  # Sequences of differing lengths.
        raise TypeError(f"{argument} must be a one-dimensional sequence of integers such as [5, 6, 7]") from error
    if rows.size == 0:
        return np.zeros(0, np.int64)
    if rows.ndim != 1 or not np.issubdtype(rows.dtype, np.integer):
        raise TypeError(
            f"{argument} must be a one-dimensional sequence of integers, got {rows.dtype}{list(rows.shape)}; they are "
            f"rows of {what}"
        )
    outside = rows[(rows < 0) | (rows >= end)] if end is not None else rows[:0]
    if len(outside):
        raise ValueError(f"{argument} must lie in 0..{end - 1}, {what}; got {outside[0]}")  # type: ignore[operator]
    distinct, counts = np.unique(rows, return_counts=True)
    if not repeated and len(distinct) < len(rows):
        raise ValueError(f"{argument} must name each row once; {distinct[counts > 1][0]} occurs more than once")
    return rows.astype(np.int64)


def check_memory(argument: str, value: Any, num_bytes: int) -> None:
    """Raises ValueError where so many bytes are more than this machine has, as far as it tells."""
    try:
        there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # No POSIX system.
        return
    if num_bytes > there > 0:
        raise ValueError(
            f"{argument}={shown(value)} takes {num_bytes / 1e9:,.0f} GB, more than the {there / 1e9:,.0f} of memory of "
            "this machine; give a smaller one"
        )


def check_share(argument: str, value: float) -> float:
    """The value, if it lies in 0..1; else a ValueError."""
    if not 0 <= value <= 1:
        raise ValueError(f"{argument} must lie within 0..1, got {value}")
    return float(value)


def printable(text: str) -> str:
    """The text; what could steer a terminal (ESC) or has no UTF-8 (a lone surrogate) as a backslash escape."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def name_some(names: Iterable[str], most: int = 10) -> str:
    """The first names in a row, and how many more there are; what could steer a terminal is escaped."""
    listed = [printable(name) for name in names]
    more = f" and {len(listed) - most:,} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more


def say_once(notes: list[str], sentence: str) -> None:
    """Appends the sentence if it is not there yet."""
    if sentence not in notes:
        notes.append(sentence)
