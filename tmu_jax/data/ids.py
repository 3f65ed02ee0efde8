"""Ids of training images: what they may be, and which rows a list of them asks for."""

import collections
import numbers
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from tmu_jax.data.checks import name_some, printable
from tmu_jax.data.foreign import is_missing, to_numpy


def as_ids(argument: str, ids: Any) -> np.ndarray:
    """Ids as strings.

    Args:
        argument: its name, for the message.
        ids: a sequence, an array, or a table of one column, of strings, integers or paths.

    Returns:
        str[n]; control characters, and what has no UTF-8, as backslash escapes.

    Raises:
        TypeError: no such ids.
        ValueError: missing ids, or several columns.
    """
    values = _values(argument, ids)
    if missing := [row for row, value in enumerate(values) if is_missing(value) or value in ("", b"")]:
        raise ValueError(f"{argument} must have no gaps, but {len(missing)} are missing, the first in row {missing[0]}")
    return np.asarray([printable(_as_text(argument, value)) for value in values], np.str_)


def check_unique(argument: str, ids: np.ndarray) -> None:
    """Refuses ids that occur more than once: a ValueError that names ten of them and counts the rest."""
    if len(set(ids.tolist())) < len(ids):
        texts, counts = np.unique(ids, return_counts=True)
        twice = texts[counts > 1].tolist()
        raise ValueError(f"{argument} must be unique, but {len(twice)} occur more than once: {name_some(twice)}")


class Register:
    """Finds rows by ids; made once for a data set.

    Where ids are paths, such as "ann/0001.jpg", the bare file name serves too if no other image has it.

    Args:
        ids: str[n], no two equal.
    """

    def __init__(self, ids: np.ndarray):
        self._rows = {name: row for row, name in enumerate(ids.tolist())}
        self._by_file_name: dict[str, list[str]] = collections.defaultdict(list)
        for name in self._rows:
            if "/" in name:
                self._by_file_name[name.rpartition("/")[2]].append(name)

    def rows_of(self, argument: str, ids: Any) -> np.ndarray:
        """Rows of ids, in their order: int64[k].

        Raises:
            TypeError: what are no ids.
            ValueError: none, or unknown, repeated or ambiguous ones, of which up to ten are named and all counted.
        """
        asked = as_ids(argument, ids).tolist()
        if not asked:
            raise ValueError(f"{argument} must name at least one image, got none")
        unknown, ambiguous, resolved = [], [], []
        for name in dict.fromkeys(asked):
            fits = [name] if name in self._rows else self._by_file_name.get(name, [])
            if len(fits) == 1:
                resolved.append(fits[0])
            elif fits:
                ambiguous.append(f"{name} ({name_some(fits, 3)})")
            else:
                unknown.append(name)
        times = collections.Counter(asked)
        repeated = [name for name, count in times.items() if count > 1]
        repeated += [name for name, count in collections.Counter(resolved).items() if count > 1]
        faults = [
            f"{_are(unknown)} unknown: {name_some(unknown)} (the data has ids such as {next(iter(self._rows))})",
            f"{_are(repeated)} asked for more than once: {name_some(repeated)}",
            f"{_are(ambiguous)} the file name of several images: {name_some(ambiguous)}",
        ]
        found = [fault for fault, names in zip(faults, (unknown, repeated, ambiguous), strict=True) if names]
        if found:
            raise ValueError(f"{argument} must each name one training image; {'; '.join(found)}")
        return np.asarray([self._rows[name] for name in resolved], np.int64)


def _are(names: Sequence[str]) -> str:
    return f"{len(names):,} {'is' if len(names) == 1 else 'are'}"


def _values(argument: str, ids: Any) -> list[Any]:
    # What is not a sequence may have no order, or iterate over something else than its values.
    if getattr(ids, "shape", None) is None:
        if not isinstance(ids, Sequence) or isinstance(ids, str | bytes):
            remedy = "; sorted(ids) gives a set an order" if isinstance(ids, set | frozenset) else ""
            raise TypeError(f"{argument} must be a sequence of strings or integers, got a {type(ids).__name__}{remedy}")
        return list(ids)
    array = to_numpy(argument, ids)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise ValueError(f"{argument} must have shape [n], got {list(array.shape)}; pass the one column with the ids")
    return array.tolist()


def _as_text(argument: str, value: Any) -> str:
    if isinstance(value, os.PathLike):
        return pathlib.PurePath(value).as_posix()
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, str):
        return str(value)
    if isinstance(value, numbers.Integral) and not isinstance(value, bool | np.bool_):
        return str(int(value))
    whole = isinstance(value, float | np.floating) and value == np.rint(value)
    remedy = "; if all are whole numbers, pass them as integers" if whole else ""
    raise TypeError(f"{argument} must be strings or integers, got {value!r}, a {type(value).__name__}{remedy}")
