"""Training: the recipe, the compiled step, the loop around it, and prediction."""

from tmu_jax.training.adapter import Adapter, Keys, ModuleLike, Variables
from tmu_jax.training.calls import STEPS_PER_CALL
from tmu_jax.training.checking import Check, check
from tmu_jax.training.images import (
    Call,
    NoisyImages,
    device_images,
    in_calls,
    normalize,
    one_hot,
    pixel_statistics,
    random_flip_and_crop,
    unit_pixels,
)
from tmu_jax.training.inference import Blocks, evaluation_blocks, first_rows, over_blocks, predict, predict_rows
from tmu_jax.training.linen import in_float32
from tmu_jax.training.loop import fit, train
from tmu_jax.training.module import apply, init_variables, step_keys
from tmu_jax.training.recipe import Normalization, Recipe, Schedule, TrainedModel
from tmu_jax.training.step import (
    Loss,
    TrainState,
    are_finite,
    but_frozen,
    make_optimizer,
    train_step,
    train_steps,
    weighted_cross_entropy,
)
from tmu_jax.training.stream import Stream
from tmu_jax.training.updates import Updates
from tmu_jax.training.wrapping import wrap

__all__ = [
    "STEPS_PER_CALL",
    "Adapter",
    "Blocks",
    "Call",
    "Check",
    "Keys",
    "Loss",
    "ModuleLike",
    "NoisyImages",
    "Normalization",
    "Recipe",
    "Schedule",
    "Stream",
    "TrainState",
    "TrainedModel",
    "Updates",
    "Variables",
    "apply",
    "are_finite",
    "but_frozen",
    "check",
    "device_images",
    "evaluation_blocks",
    "first_rows",
    "fit",
    "in_calls",
    "in_float32",
    "init_variables",
    "make_optimizer",
    "normalize",
    "one_hot",
    "over_blocks",
    "pixel_statistics",
    "predict",
    "predict_rows",
    "random_flip_and_crop",
    "step_keys",
    "train",
    "train_step",
    "train_steps",
    "unit_pixels",
    "weighted_cross_entropy",
    "wrap",
]
