"""Models and predictions as stages on disk, and back."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tmu_jax import twin
from tmu_jax.store import Stage
from tmu_jax.timing import Stopwatch
from tmu_jax.training import Normalization, Recipe, TrainedModel


@dataclasses.dataclass(frozen=True, eq=False)
class StagedModel(TrainedModel):
    """A trained model that knows the hash of its stage, so that later stages can name what they came from."""

    stage: str = ""


def to_stage(model: TrainedModel, other: TrainedModel | None = None) -> Stage:
    """A model, or two that share their module and normalisation; the seconds are those of both."""
    models = [model] if other is None or other is model else [model, other]
    arrays = {"variables": model.variables, "normalization": model.normalization._asdict()}
    if len(models) > 1:
        arrays["other_variables"] = models[1].variables
    metadata = {
        "seconds": sum(m.seconds for m in models),
        "compile_seconds": sum(m.compile_seconds for m in models),
        "losses": list(model.losses),
    }
    return Stage(arrays, metadata)


def from_stage(stage: Stage, module: nn.Module, recipe: Recipe, name: str, which: int = 0) -> StagedModel:
    """The model of a stage; `which` = 1: the other one of a stage with two, or the same where there is one."""
    held = "other_variables" if which and "other_variables" in stage.arrays else "variables"
    return StagedModel(
        module=module,
        variables=jax.tree.map(jnp.asarray, stage.arrays[held]),
        normalization=Normalization(**stage.arrays["normalization"]),
        recipe=recipe,
        seconds=stage.metadata["seconds"],
        compile_seconds=stage.metadata["compile_seconds"],
        losses=tuple(stage.metadata["losses"]),
        stage=name,
    )


def features_to_stage(features: twin.ProblemFeatures, watch: Stopwatch) -> Stage:
    """Both problems' features, with what measuring them took."""
    arrays = {"twin": features.twin, "original": features.original, "easy": features.easy}
    metadata = {
        "eps": features.eps,
        "success_shares": list(features.success_shares),
        "notes": list(features.notes),
        "seconds": watch.seconds,
        "compile_seconds": watch.compile_seconds,
    }
    return Stage(arrays, metadata)


def features_from_stage(stage: Stage) -> twin.ProblemFeatures:
    """The features of a stage."""
    metadata = stage.metadata
    return twin.ProblemFeatures(
        **stage.arrays,
        eps=metadata["eps"],
        success_shares=tuple(metadata["success_shares"]),
        notes=tuple(metadata["notes"]),
    )


_PREDICTION_METADATA = ("eps", "seconds_by_part", "compile_seconds", "notes")


_EMPTY = {
    "heldout_probability": np.zeros(0, np.float32),
    "heldout_easy_predicted": np.zeros(0, bool),
    "heldout_easy": np.zeros(0, bool),
    "twin_features": np.zeros((0, 3), np.float32),
    "original_features": np.zeros((0, 3), np.float32),
}
"""What a prediction for whole classes has of these: a checkpoint holds no empty arrays."""


def prediction_to_stage(prediction: twin.TwinPrediction) -> Stage:
    """Predicted labels, with what they were made from."""
    fields = {field.name: getattr(prediction, field.name) for field in dataclasses.fields(prediction)}
    metadata = {name: fields.pop(name) for name in _PREDICTION_METADATA}
    return Stage({name: array for name, array in fields.items() if array.size}, metadata)


def prediction_from_stage(stage: Stage) -> twin.TwinPrediction:
    """The predicted labels of a stage."""
    metadata = {name: stage.metadata[name] for name in _PREDICTION_METADATA}
    metadata["notes"] = tuple(metadata["notes"])
    return twin.TwinPrediction(**{**_EMPTY, **stage.arrays}, **metadata)
