"""The public boundary: arguments of the kinds that a function's annotations name, or one line that names the argument.

What a value of the right kind may be (a range, a choice, a shape) is each function's own to check.
"""

import collections.abc
import errno
import functools
import inspect
import numbers
import os
import pathlib
import types
import typing
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import numpy as np

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

_WORDS = {int: "an integer", float: "a number", str: "a text", bool: "True or False", pathlib.Path: "a path"}
_WORDS |= {type(None): "None"}


def checked(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """A function that refuses arguments of another kind than its annotations name: a TypeError before anything else."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        given = signature.bind(*args, **kwargs).arguments
        _check(given, _hints(function))
        return function(*args, **kwargs)

    return call


def check_fields(instance: Any) -> None:
    """The same for a dataclass, in its `__post_init__`."""
    kind: Callable[..., Any] = type(instance)
    _check(vars(instance), _hints(kind))


def shown(value: object) -> str:
    """A value as a message shows it: one line, not too long, nothing that steers a terminal."""
    text = " ".join(ascii(value).split())
    return text if len(text) <= 80 else f"{text[:77]}..."


@functools.cache
def _hints(of: Callable[..., Any]) -> dict[str, Any]:
    return typing.get_type_hints(of)


def _check(given: typing.Mapping[str, Any], hints: typing.Mapping[str, Any]) -> None:
    for name, value in given.items():
        hint = hints.get(name, Any)
        if not _fits(value, hint):
            advice = "; give its .data" if type(value).__name__ == "FolderData" else ""
            raise TypeError(f"{name}={shown(value)} must be {_words(hint)}, not {_a(type(value).__name__)}{advice}")
        if isinstance(value, str | os.PathLike) and _is_path(hint):
            _check_path(name, value)


def _is_path(hint: Any) -> bool:
    return any(one is pathlib.Path or typing.get_origin(one) is os.PathLike for one in (hint, *typing.get_args(hint)))


def _check_path(name: str, path: str | os.PathLike[str]) -> None:
    """Raises ValueError for what no path can be: a null character, a lone surrogate, too many characters."""
    try:
        os.lstat(path)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise ValueError(f"{name}={shown(os.fspath(path))} cannot be a path: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(f"{name}={shown(os.fspath(path))} cannot be a path: {error}") from error


def _fits(value: Any, hint: Any) -> bool:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        # Of rows and of choices each function says itself what they must be; an array is no choice.
        is_choice = any(typing.get_origin(one) is typing.Literal for one in inner) and not hasattr(value, "shape")
        return np.ndarray in inner or is_choice or any(_fits(value, one) for one in inner)
    if origin is typing.Literal:  # Which of the texts is the function's own matter.
        return isinstance(value, tuple({type(one) for one in inner}))
    if origin is tuple:
        kinds = inner[:1] * len(value) if inner[1:] == (...,) and isinstance(value, tuple | list) else ()
        is_array = getattr(value, "shape", ()) != () and inner[0] is Any
        return is_array or (isinstance(value, tuple | list) and all(map(_fits, value, kinds)))
    if origin is collections.abc.Sequence:  # A column or a tensor is one too, as far as can be told here.
        return isinstance(value, collections.abc.Iterable) and getattr(value, "shape", None) != ()
    if hint is int or hint is float:
        kind: type = numbers.Integral if hint is int else numbers.Real
        return isinstance(value, kind) and not isinstance(value, bool | np.bool_)
    if hint is bool:
        return isinstance(value, bool | np.bool_)
    if hint is pathlib.Path or origin is os.PathLike:
        return isinstance(value, str | os.PathLike)
    kind = origin or hint
    return hint is Any or kind is collections.abc.Iterable or not isinstance(kind, type) or isinstance(value, kind)


def _words(hint: Any) -> str:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(_words(one) for one in inner if one is not pathlib.Path or str not in inner))
    if origin is typing.Literal:
        return f"{'one of ' if inner[1:] else ''}{', '.join(map(repr, inner))}"
    if origin in (tuple, collections.abc.Sequence):
        return f"a sequence, each {_words(inner[0])}" if inner and inner[0] is not Any else "a sequence"
    if origin is collections.abc.Callable:
        return "a function"
    kind = origin or hint
    return _WORDS.get(kind) or _a(getattr(kind, "__name__", str(kind)))


def _a(noun: str) -> str:
    return f"{'an' if noun[:1] in 'AEIOUaeiou' else 'a'} {noun}"
