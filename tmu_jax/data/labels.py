"""A caller's labels as classes 0..K-1, and what was made of them in words."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tmu_jax.data.checks import name_some, printable
from tmu_jax.data.label_values import plain_labels

_WHOLE_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.0+)?")
_TOO_MANY = 20


def convert_labels(
    labels: Mapping[str, Any], class_names: Sequence[str] | None = None
) -> tuple[dict[str, np.ndarray], tuple[str, ...], list[str]]:
    """Labels of the training and of the test images as classes.

    Integers 0..K-1 stay as they are. Other integers, strings and truth values become 0..K-1 in their order, numbers by
    size and strings by spelling; strings that are all whole numbers count as these. With `class_names` an integer c
    is the class that `class_names[c]` names, and a string is the class of that name.

    Args:
        labels: by the argument's name, training labels first: [n] or [n, 1] integers, floats that are whole numbers,
            truth values or strings.
        class_names: a name for each class.

    Returns:
        By the same names int32[n]; the classes' names, without control characters; and a sentence for each thing that
        was done.

    Raises:
        TypeError: what is no such label.
        ValueError: a wrong shape, missing labels, labels beyond int32 or outside `class_names`, or fewer than 2
            classes.
    """
    notes: list[str] = []
    plain = _of_one_type({name: plain_labels(name, value, notes) for name, value in labels.items()}, class_names)
    if class_names is not None:
        names = tuple(map(str, class_names))
        found = {name: _named(name, array, names) for name, array in plain.items()}
        shown = tuple(map(printable, names))
    else:
        found, shown = _numbered(plain, notes)
    if len(shown) < 2:
        raise ValueError(f"{' and '.join(labels)} must have at least 2 classes, got {len(shown)}")
    _say_classes_without_training(found, shown, notes)
    return found, shown, notes


def _of_one_type(plain: dict[str, np.ndarray], class_names: Sequence[str] | None) -> dict[str, np.ndarray]:
    """All of them strings, or all of them numbers."""
    strings = {name: array for name, array in plain.items() if array.dtype.kind == "U"}
    if not strings:
        return plain
    distinct = {text for array in strings.values() for text in np.unique(array).tolist()}
    if class_names is not None and distinct <= set(map(str, class_names)):
        numbers = len(strings) < len(plain)
    else:
        numbers = all(map(_WHOLE_NUMBER.fullmatch, distinct))
    if not numbers and len(strings) < len(plain):
        other = next(name for name in plain if name not in strings)
        raise TypeError(
            f"labels must be all strings or all numbers, but {next(iter(strings))} has {sorted(distinct)[0]!r} and "
            f"{other} {plain[other][0]}"
        )
    if not numbers:
        return plain
    return plain | {name: _as_numbers(name, array) for name, array in strings.items()}


def _as_numbers(name: str, array: np.ndarray) -> np.ndarray:
    texts, places = np.unique(array, return_inverse=True)
    numbers = [int(text.split(".")[0]) for text in texts.tolist()]
    return plain_labels(name, np.asarray(numbers, object), [])[places]


def _named(name: str, array: np.ndarray, class_names: tuple[str, ...]) -> np.ndarray:
    if array.dtype.kind != "U":
        _check_not_negative(name, array)
        if array.size and array.max() >= len(class_names):
            one_based = array.min() == 1 and array.max() == len(class_names)
            remedy = "; they seem to count from 1: pass labels - 1" if one_based else ""
            raise ValueError(f"{name} must lie below the {len(class_names)} class_names, got {array.max()}{remedy}")
        return array.astype(np.int32, copy=False)
    texts, places = np.unique(array, return_inverse=True)
    if unknown := [text for text in texts.tolist() if text not in class_names]:
        raise ValueError(f"{name} must be among class_names, got {name_some(unknown)}")
    if twice := sorted({text for text in texts.tolist() if class_names.count(text) > 1}):
        raise ValueError(f"class_names must not name a class of {name} twice, got {name_some(twice)}")
    return np.asarray([class_names.index(text) for text in texts.tolist()], np.int32)[places]


def _numbered(plain: Mapping[str, np.ndarray], notes: list[str]) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Classes 0..K-1 of all labels that occur."""
    (first, train), (second, test) = plain.items()
    values, counts = np.unique(train, return_counts=True)
    if len(train) >= _TOO_MANY and counts.max() == 1:
        raise ValueError(f"{first} must name classes, but all {len(train)} labels differ; are they ids?")
    is_text = values.dtype.kind == "U"
    if not is_text:
        for name, array in plain.items():
            _check_not_negative(name, array)
    all_values = np.union1d(values, test)
    if not is_text and len(all_values) and len(all_values) == all_values[-1] + 1:
        names = tuple(f"class_{c}" for c in range(len(all_values)))
        return {name: array.astype(np.int32, copy=False) for name, array in plain.items()}, names
    if len(untrained := np.setdiff1d(test, values)):
        raise ValueError(
            f"{second} holds {name_some(map(str, untrained.tolist()))}, which {first} lacks: a model trained on these "
            "does not know that class; leave such test images out, or pass class_names with a name for each class"
        )
    shown = [str(value) for value in values.tolist()]
    kept = "" if is_text else "; pass class_names, one for each output of your model, to keep the numbers"
    notes.append(f"Labels {name_some(shown)} became the classes 0..{len(values) - 1} in this order{kept}.")
    names = tuple(printable(text if is_text else f"class_{text}") for text in shown)
    return {name: np.searchsorted(values, array).astype(np.int32) for name, array in plain.items()}, names


def _check_not_negative(name: str, array: np.ndarray) -> None:
    if array.size and array.min() < 0:
        raise ValueError(
            f"{name} must be 0 or more, got {array.min()}; if that marks images without a label, leave them out, and "
            "if it is a class, pass the labels as words"
        )


def _say_classes_without_training(
    found: Mapping[str, np.ndarray], class_names: Sequence[str], notes: list[str]
) -> None:
    train, test = (np.unique(array) for array in found.values())
    if len(untrained := np.setdiff1d(test, train)):
        named = name_some([class_names[c] for c in untrained.tolist()])
        notes.append(f"There are test images, but no training images, of {named}.")
