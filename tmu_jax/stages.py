"""A computation as stages: each says what it needs and what else determines it, so that it has a name before it is run.

`compute` runs a stage with all that it needs. Whoever keeps stages (the experiments) walks the same stages and looks
each up by its name first. Keys are derived by purpose, so both ways give the same numbers.
"""

import dataclasses
import functools
import hashlib
import json
import zlib
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import numpy as np

Progress = Callable[[int, int], None]
"""Called with (steps done, steps in all)."""

VERSIONS = {"training": 1, "twin_model": 1, "curriculum": 1, "features": 1, "prediction": 1}
VERSIONS |= {"bank": 1, "bank_prediction": 1, "rehearsal": 4, "foretelling": 1}
"""Versions of the code behind each kind of stage, part of its name: raise one when its numbers change. A method carries
its own (`Method.version`). `tests/test_golden.py` fails where numbers change and the version does not."""

PASS_WORK = 1 / 3
"""Work of running a model on an image, where training on it is 1 (one pass forward; two more go backward)."""
ATTACK_WORK = 2 / 3
"""The same of an attack's step (forward, and backward to the pixels)."""

GIVEN = "given"
_HASH_LENGTH = 16


@dataclasses.dataclass(frozen=True, eq=False)
class Stage:
    """One step of a computation, before it is run.

    Attributes:
      kind: a short name, such as "twin_model".
      label: for people.
      make: called with the parents' values by name and `progress`; returns the stage's value.
      value: the type of that value.
      version: of the code that makes it.
      parents: the stages that it needs, by the name of `make`'s argument.
      made_from: whatever else determines the value: JSON values, NumPy arrays and keys.
      work: about how long it takes, in images trained on.
      is_kept: False where it takes seconds and is made anew from its parents rather than kept.
    """

    kind: str
    label: str
    make: Callable[..., Any]
    value: type
    version: int = 1
    parents: Mapping[str, "Stage"] = dataclasses.field(default_factory=dict)
    made_from: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    work: float = 0.0
    is_kept: bool = True

    @functools.cached_property
    def name(self) -> str:
        """`kind-hash`, the hash being of the version, of the parents' names and of all that determines the value."""
        parents = {argument: parent.name for argument, parent in self.parents.items()}
        everything = {"version": self.version, "parents": parents, "made_from": dict(self.made_from)}
        return f"{self.kind}-{stage_hash(everything)}"

    @property
    def is_given(self) -> bool:
        """Whether its value was there already."""
        return self.kind == GIVEN

    def with_ancestors(self) -> list["Stage"]:
        """This stage and all that it needs, parents first, each once."""
        found = [stage for parent in self.parents.values() for stage in parent.with_ancestors()]
        return list({id(stage): stage for stage in [*found, self]}.values())


class Keeper(Protocol):
    """Where stages' values are kept between runs."""

    def value(self, stage: Stage, make: Callable[[], Any]) -> Any:
        """The value of a stage: found, or made and kept."""


def given(value: Any, made_from: Mapping[str, Any] | None = None) -> Stage:
    """A stage whose value is there already.

    Args:
      value: the value.
      made_from: what it is known by; without it neither it nor what is made from it has a name to be looked up.
    """
    return Stage(
        GIVEN, GIVEN, lambda progress: value, type(value), made_from=made_from or {"given": object()}, is_kept=False
    )


def compute(stage: Stage, progress: Callable[[str], Progress] | None = None, keeper: Keeper | None = None) -> Any:
    """The value of a stage, with all that it needs computed before it, each once.

    Args:
      stage: what to compute.
      progress: makes the progress function of each stage, from its kind.
      keeper: finds what was computed before, and keeps what is computed now.

    Returns:
      Its value.
    """
    values: dict[int, Any] = {}
    for one in stage.with_ancestors():

        def make(one: Stage = one) -> Any:
            needed = {argument: values[id(parent)] for argument, parent in one.parents.items()}
            report = ignore_progress if progress is None or one.is_given else progress(one.kind)
            return one.make(**needed, progress=report)

        values[id(one)] = make() if keeper is None or not one.is_kept else keeper.value(one, make)
    return values[id(stage)]


def ignore_progress(done: int, total: int) -> None:
    """A progress function that shows nothing."""


def key_for(key: jax.Array, purpose: str) -> jax.Array:
    """A key of its own for each purpose: what one part draws does not depend on which other parts are run."""
    return jax.random.fold_in(key, zlib.crc32(purpose.encode()))


def typed_key(key: jax.Array) -> jax.Array:
    """A PRNG key as `jax.random.key` makes it; one of `jax.random.PRNGKey` as the key that it is.

    Raises:
      ValueError: for no key, or several.
    """
    if jax.dtypes.issubdtype(key.dtype, jax.dtypes.prng_key) and key.shape == ():
        return key
    if key.dtype == np.uint32 and key.ndim == 1:
        return jax.random.wrap_key_data(key)
    raise ValueError(f"key of type {key.dtype} and shape {key.shape} must be one key, such as jax.random.key(0)")


def stage_hash(made_from: Mapping[str, Any]) -> str:
    """A hash of everything that determines a stage; the order of the names does not matter.

    Args:
      made_from: JSON values; NumPy arrays, which count by shape, dtype and content; `jax.random` keys; functions, by
        their names; and what says by a method `made_from` what it is made from.

    Returns:
      16 hexadecimal digits.

    Raises:
      TypeError: for another value.
      ValueError: for a function without a name of its own.
    """

    def plain(value: Any) -> Any:
        if isinstance(value, jax.Array) and jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
            return [str(jax.random.key_impl(value)), np.asarray(jax.random.key_data(value)).tolist()]
        if isinstance(value, np.ndarray):
            return [str(value.dtype), value.shape, hashlib.sha256(np.ascontiguousarray(value).data).hexdigest()]
        if hasattr(value, "made_from"):
            return value.made_from()
        if callable(value):
            return function_name(value)
        raise TypeError(f"a stage's settings hold {value!r} of {type(value).__name__}, which is no JSON value or array")

    text = json.dumps(made_from, sort_keys=True, default=plain)
    return hashlib.sha256(text.encode()).hexdigest()[:_HASH_LENGTH]


def function_name(function: Callable[..., Any], argument: str = "") -> str:
    """What a function is known by in a stage's name and in what is kept: "module.name".

    Args:
      function: the function.
      argument: that it was given as, for the error.

    Raises:
      ValueError: for a lambda, a function made inside another one, or an object: two of them may share a name.
    """
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    if module is None or name is None or "<" in name:
        raise ValueError(
            f"{argument}{'=' if argument else ''}{function!r} has no name that it could be found by again where models "
            "are kept; define it by `def` at the top of a module"
        )
    return f"{module}.{name}"
