"""A caller's labels, of whatever type, as integers or strings [n]: missing, soft and one-hot ones are found here."""

import numbers
from typing import Any

import numpy as np

from tmu_jax.boundary import shown
from tmu_jax.data.checks import name_some, say_once
from tmu_jax.data.foreign import is_missing, to_numpy

_MOST = np.iinfo(np.int32).max


def plain_labels(name: str, value: Any, notes: list[str]) -> np.ndarray:
    """Labels as an array of integers within int32, or of strings.

    Args:
        name: the argument's name, for the message.
        value: [n] or [n, 1] integers, floats that are whole numbers, truth values or strings.
        notes: a sentence is appended for each thing that was done.

    Raises:
        TypeError: what is no such label.
        ValueError: a wrong shape, one-hot or soft rows, missing labels, or labels beyond int32.
    """
    try:
        # NumPy would write the numbers among strings, and what is missing there, as strings.
        is_mixed = isinstance(value, list | tuple) and any(v is None or isinstance(v, str | bytes) for v in value)
        array = np.asarray(value, object) if is_mixed else to_numpy(name, value)
    except ValueError as error:
        raise ValueError(f"{name} must have shape [n], got uneven sequences") from error
    array = _one_column(name, array, notes)
    if array.dtype.kind in "SOT":
        array = _of_objects(name, array.tolist(), array.dtype)
    if array.dtype.kind == "b":
        say_once(notes, "Labels False and True became the classes 0 and 1.")
        return array.astype(np.int64)
    if array.dtype.kind == "f":
        array = _whole(name, array, notes)
    if array.dtype.kind == "U":
        _check_texts(name, array)
    elif array.dtype.kind not in "iu":
        raise TypeError(f"{name} must be integers or strings, got {array.dtype}")
    elif array.size and array.max() > _MOST:
        raise ValueError(f"{name} must be at most {_MOST}, the largest int32, got {array.max()}")
    return array


def _one_column(name: str, array: np.ndarray, notes: list[str]) -> np.ndarray:
    if array.ndim == 2 and array.shape[1] == 1:
        say_once(notes, "Labels [n, 1] were taken as [n].")
        return array[:, 0]
    if array.ndim != 1:
        raise ValueError(f"{name} must have shape [n], got {list(array.shape)}{_rows_remedy(array)}")
    return array


def _rows_remedy(array: np.ndarray) -> str:
    """What rows of labels seem to be."""
    if array.ndim != 2 or array.dtype.kind not in "biuf" or 0 in array.shape:
        return ""
    sums = array.sum(axis=1, dtype=np.float64)
    if np.isin(array, (0, 1)).all():
        if (sums == 1).all():
            return "; these look like one-hot rows, so take labels.argmax(axis=1)"
        return "; these look like several labels an image, and each image must have one"
    if array.min() >= 0 and np.allclose(sums, 1, atol=1e-3):
        return "; these look like soft labels, shares of the classes, and each image must be of one class"
    return "; pass the one column that holds the classes"


def _of_objects(name: str, values: list[Any], dtype: np.dtype) -> np.ndarray:
    """Values of Python's own types, as pandas and CSV files give them."""
    if missing := [row for row, value in enumerate(values) if is_missing(value)]:
        raise ValueError(
            f"{name} must have a label for each image, but {len(missing)} are missing, the first in row {missing[0]}; "
            "leave these images out"
        )
    if all(isinstance(value, str | bytes) for value in values):
        return np.asarray([value.decode() if isinstance(value, bytes) else value for value in values], np.str_)
    if all(isinstance(value, bool | np.bool_) for value in values):
        return np.asarray(values, bool)
    if all(isinstance(value, numbers.Real) and not isinstance(value, bool | np.bool_) for value in values):
        # Floats that are larger are infinite, or are named with their array.
        exact: list[Any] = [value for value in values if isinstance(value, numbers.Rational)]
        extreme = [value for value in exact if not -_MOST <= value <= _MOST]
        if extreme:
            raise ValueError(f"{name} must be at most {_MOST}, the largest int32, got {shown(max(extreme))}")
        if all(isinstance(value, numbers.Integral) for value in values):
            return np.asarray(values, np.int64)
        return np.asarray(values, np.float64)
    kinds = sorted({type(value).__name__ for value in values})
    raise TypeError(f"{name} must be integers or strings, got {dtype} with values of type {', '.join(kinds)}")


def _whole(name: str, array: np.ndarray, notes: list[str]) -> np.ndarray:
    if num_bad := int((~np.isfinite(array)).sum()):
        raise ValueError(
            f"{name} must have a label for each image, but {num_bad} are infinite or not a number; leave these out"
        )
    fractions = array[array != np.rint(array)]
    if fractions.size:
        raise TypeError(f"{name} must be integers or strings, got {array.dtype} such as {fractions[0]}")
    if array.size and float(array.max()) > _MOST:
        raise ValueError(f"{name} must be at most {_MOST}, the largest int32, got {array.max():.0f}")
    say_once(notes, f"Labels of type {array.dtype} were taken as whole numbers.")
    return array.astype(np.int64)


def _check_texts(name: str, array: np.ndarray) -> None:
    distinct = np.unique(array).tolist()
    if any(not text.strip() for text in distinct):
        raise ValueError(f"{name} must have a label for each image, but some are empty; leave these images out")
    if len({text.strip() for text in distinct}) < len(distinct):
        spaced = [repr(text) for text in distinct if text != text.strip()]
        raise ValueError(f"{name} must not differ by spaces alone, got {name_some(spaced)}; strip them first")
