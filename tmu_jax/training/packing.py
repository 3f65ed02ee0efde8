"""Values of stages as arrays and JSON, and back."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from tmu_jax.store import Saved
from tmu_jax.training.recipe import Normalization, Recipe, TrainedModel


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
        metadata["recipe"] = dataclasses.asdict(fields.pop("recipe"))
        for name in ("module", "original", "method"):
            fields.pop(name, None)
        prediction = fields.pop("prediction", None)
        if prediction is not None:
            arrays["prediction"], metadata["prediction"] = pack(prediction)
    for name, field in fields.items():
        (arrays if hasattr(field, "shape") else metadata)[name] = field if hasattr(field, "shape") else _plain(field)
    return Saved(arrays, metadata)


def _fields(value: Any) -> tuple[str, ...]:
    if dataclasses.is_dataclass(value):
        return tuple(field.name for field in dataclasses.fields(value))
    return value._fields


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else value


def unpack_model(saved: Saved, module: nn.Module) -> TrainedModel:
    """A trained model from what `pack` made of it, and its module."""
    metadata, recipe = saved.metadata, saved.metadata["recipe"]
    return TrainedModel(
        module=module,
        variables=jax.tree.map(jnp.asarray, saved.arrays["variables"]),
        normalization=Normalization(**saved.arrays["normalization"]),
        recipe=Recipe(**{**recipe, "drops": tuple(recipe["drops"])}),
        seconds=metadata["seconds"],
        compile_seconds=metadata["compile_seconds"],
        losses=tuple(metadata["losses"]),
    )


def unpack_plain(kind: Callable[..., Any], saved: Saved) -> Any:
    """A value of another `kind` from what `pack` made of it: arrays, numbers and tuples."""
    known = {name: tuple(value) if isinstance(value, list) else value for name, value in saved.metadata.items()}
    known.pop("made_by", None)
    return kind(**saved.arrays, **known)
