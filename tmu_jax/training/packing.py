"""Values of stages as arrays and JSON, and back."""

import dataclasses
import sys
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from tmu_jax.stages import function_name
from tmu_jax.store import Saved
from tmu_jax.training.adapter import ModuleLike
from tmu_jax.training.recipe import Normalization, Recipe, TrainedModel
from tmu_jax.training.updates import Updates


def pack(value: Any) -> Saved:
    """A value as arrays and JSON; modules and parents are not part of it.

    Args:
      value: a `TrainedModel`, or a dataclass or NamedTuple of arrays and JSON values.
    """
    fields = {field: getattr(value, field) for field in _fields(value)}
    arrays: dict[str, Any] = {}
    metadata: dict[str, Any] = {}
    if isinstance(value, TrainedModel):
        arrays["variables"] = jax.device_get(fields.pop("variables"))
        arrays["normalization"] = fields.pop("normalization")._asdict()
        metadata["recipe"] = pack_recipe(fields.pop("recipe"))
        updates = fields.pop("updates")
        if updates is not None:
            arrays["updates"] = updates.packed()
        for name in ("module", "original", "method"):
            fields.pop(name, None)
        prediction = fields.pop("prediction", None)
        if prediction is not None:
            arrays["prediction"], metadata["prediction"] = pack(prediction)
    for name, field in fields.items():
        (arrays if hasattr(field, "shape") else metadata)[name] = field if hasattr(field, "shape") else _plain(field)
    return Saved(arrays, metadata)


def pack_recipe(recipe: Recipe | None) -> dict[str, Any] | None:
    """A recipe as JSON, its functions by their names."""
    if recipe is None:
        return None
    return {name: function_name(value, name) if callable(value) else value for name, value in vars(recipe).items()}


def unpack_recipe(packed: dict[str, Any] | None) -> Recipe | None:
    """The recipe that `pack_recipe` had.

    Raises:
      ValueError: where one of its functions is in no module that is imported.
    """
    if packed is None:
        return None
    functions = {name: _function(name, packed[name]) for name in ("optimizer", "augment")}
    return Recipe(**{**packed, **functions, "drops": tuple(packed["drops"])})


def _function(field: str, value: Any) -> Any:
    """The function of a name; a name without a dot, or what is no name, is no function. Nothing is imported for it."""
    if not isinstance(value, str) or "." not in value:
        return value
    parts = value.split(".")
    for end in range(len(parts) - 1, 0, -1):
        found: Any = sys.modules.get(".".join(parts[:end]))
        if found is not None:
            for part in parts[end:]:
                found = getattr(found, part, None)
            if callable(found):
                return found
    raise ValueError(f"{field}={value!r} of the recipe is in no module that is imported; import it first")


def _fields(value: Any) -> tuple[str, ...]:
    if dataclasses.is_dataclass(value):
        return tuple(field.name for field in dataclasses.fields(value))
    return value._fields


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else value


def unpack_model(saved: Saved, module: ModuleLike) -> TrainedModel:
    """A trained model from what `pack` made of it, and its module."""
    metadata = saved.metadata
    return TrainedModel(
        module=module,
        variables=jax.tree.map(jnp.asarray, saved.arrays["variables"]),
        normalization=Normalization(**saved.arrays["normalization"]),
        recipe=unpack_recipe(metadata["recipe"]),
        seconds=metadata["seconds"],
        compile_seconds=metadata["compile_seconds"],
        losses=tuple(metadata["losses"]),
        updates=Updates.of(saved.arrays.get("updates")),
    )


def unpack_plain(kind: Callable[..., Any], saved: Saved) -> Any:
    """A value of another `kind` from what `pack` made of it: arrays, numbers and tuples; what else is kept is left."""
    own = {name: value for name, value in saved.metadata.items() if name in _fields(kind)}
    return kind(**saved.arrays, **{name: tuple(one) if isinstance(one, list) else one for name, one in own.items()})
