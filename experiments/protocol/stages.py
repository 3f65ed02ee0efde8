"""Stages of a run: found on disk by name, else computed, shown and kept."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from experiments.protocol import environment
from experiments.protocol.progress import Display
from tmu_jax.stages import Stage
from tmu_jax.store import Saved, StageStore
from tmu_jax.training import Normalization, Recipe, TrainedModel
from tmu_jax.twin import ProblemFeatures, TwinPrediction
from tmu_jax.unlearning.unlearned import as_unlearned


class Stages:
    """The stages of one request, computed at most once."""

    def __init__(self, store: StageStore, module: nn.Module, display: Display, where: str) -> None:
        """Args: store: where they lie; module: of every model; display: shows them; where: the request, for people."""
        self._store, self._module, self._display, self._where = store, module, display, where
        self._values: dict[str, Any] = {}

    def value(self, stage: Stage) -> Any:
        """A stage's value, with that of every stage it needs."""
        description = f"{stage.label}, {self._where}"
        saved = self._store.load(stage.name)
        if saved is not None:
            self._display.found(description)
        else:
            parents = {argument: self.kept(parent) for argument, parent in stage.parents.items()}
            made = stage.make(**parents, progress=self._display.start(description))
            if getattr(made, "module", self._module) != self._module:
                raise ValueError(f"method {stage.kind!r} returned another module; the experiments keep the original's")
            saved = _pack(made)
            made_by = {"device": environment.device(), "versions": environment.versions()}
            saved.metadata["made_by"] = {**made_by, "git_revision": environment.git_revision()}
            self._store.save(stage.name, saved)
        return self._unpack(stage, saved)

    def kept(self, stage: Stage) -> Any:
        """The value of a stage that others need: it stays in memory as long as the request is at work."""
        if stage.name not in self._values:
            self._values[stage.name] = self.value(stage)
        return self._values[stage.name]

    def _unpack(self, stage: Stage, saved: Saved) -> Any:
        if stage.value is ProblemFeatures or stage.value is TwinPrediction:
            return _unpack_plain(stage.value, saved)
        model = _unpack_model(saved, self._module)
        if stage.value is TrainedModel:
            return model
        prediction = None
        if "prediction" in stage.parents:
            prediction = self.kept(stage.parents["prediction"])
        elif "prediction" in saved.metadata:
            of_method = Saved(saved.arrays["prediction"], saved.metadata["prediction"])
            prediction = _unpack_plain(TwinPrediction, of_method)
        return as_unlearned(
            model,
            method=stage.kind,
            original=self.kept(stage.parents["original"]),
            forget_indices=saved.arrays["forget_indices"],
            prediction=prediction,
            seconds_by_part=saved.metadata["seconds_by_part"],
            notes=tuple(saved.metadata["notes"]),
        )


def _pack(value: Any) -> Saved:
    """A value as arrays and JSON; modules and parents are not part of it."""
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
            arrays["prediction"], metadata["prediction"] = _pack(prediction)
    for name, field in fields.items():
        (arrays if hasattr(field, "shape") else metadata)[name] = field if hasattr(field, "shape") else _plain(field)
    return Saved(arrays, metadata)


def _fields(value: Any) -> tuple[str, ...]:
    if dataclasses.is_dataclass(value):
        return tuple(field.name for field in dataclasses.fields(value))
    return value._fields


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else value


def _unpack_model(saved: Saved, module: nn.Module) -> TrainedModel:
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


def _unpack_plain(kind: Callable[..., Any], saved: Saved) -> Any:
    """A value of arrays, numbers and tuples."""
    known = {name: tuple(value) if isinstance(value, list) else value for name, value in saved.metadata.items()}
    known.pop("made_by", None)
    return kind(**saved.arrays, **known)
