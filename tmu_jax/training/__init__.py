"""Training: the recipe, the compiled step, the loop around it, and prediction."""

from tmu_jax.training.images import device_images, normalize, one_hot, pixel_statistics, random_flip_and_crop
from tmu_jax.training.inference import Blocks, evaluation_blocks, first_rows, over_blocks, predict, predict_rows
from tmu_jax.training.loop import STEPS_PER_CALL, Stream, fit, train
from tmu_jax.training.module import apply, init_variables
from tmu_jax.training.recipe import Normalization, Recipe, TrainedModel, Variables
from tmu_jax.training.step import TrainState, make_optimizer, train_step, train_steps, weighted_cross_entropy

__all__ = [
    "STEPS_PER_CALL",
    "Blocks",
    "Normalization",
    "Recipe",
    "Stream",
    "TrainState",
    "TrainedModel",
    "Variables",
    "apply",
    "device_images",
    "evaluation_blocks",
    "first_rows",
    "fit",
    "init_variables",
    "make_optimizer",
    "normalize",
    "one_hot",
    "over_blocks",
    "pixel_statistics",
    "predict",
    "predict_rows",
    "random_flip_and_crop",
    "train",
    "train_step",
    "train_steps",
    "weighted_cross_entropy",
]
