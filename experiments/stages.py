"""Models and predictions as stages on disk, and back."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from tmu_jax import twin
from tmu_jax.checkpoint import Stage
from tmu_jax.training import Normalization, Recipe, TrainedModel


@dataclasses.dataclass(frozen=True, eq=False)
class StagedModel(TrainedModel):
    """A trained model that knows the hash of its stage, so that later stages can name what they came from."""

    stage: str = ""


def to_stage(model: TrainedModel) -> Stage:
    arrays = {"variables": model.variables, "normalization": model.normalization._asdict()}
    metadata = {
        "seconds": model.seconds,
        "compile_seconds": model.compile_seconds,
        "losses": list(model.losses),
    }
    return Stage(arrays, metadata)


def from_stage(stage: Stage, module: nn.Module, recipe: Recipe, name: str) -> StagedModel:
    return StagedModel(
        module=module,
        variables=jax.tree.map(jnp.asarray, stage.arrays["variables"]),
        normalization=Normalization(**stage.arrays["normalization"]),
        recipe=recipe,
        seconds=stage.metadata["seconds"],
        compile_seconds=stage.metadata["compile_seconds"],
        losses=tuple(stage.metadata["losses"]),
        stage=name,
    )


_PREDICTION_METADATA = ("eps", "seconds_by_part", "compile_seconds", "notes")


def prediction_to_stage(prediction: twin.TwinPrediction) -> Stage:
    fields = {field.name: getattr(prediction, field.name) for field in dataclasses.fields(prediction)}
    metadata = {name: fields.pop(name) for name in _PREDICTION_METADATA}
    return Stage(fields, metadata)


def prediction_from_stage(stage: Stage) -> twin.TwinPrediction:
    metadata = {name: stage.metadata[name] for name in _PREDICTION_METADATA}
    metadata["notes"] = tuple(metadata["notes"])
    return twin.TwinPrediction(**stage.arrays, **metadata)
