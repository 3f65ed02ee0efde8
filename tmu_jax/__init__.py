"""Twin Machine Unlearning in JAX: forget images of a trained classifier so that it agrees with retraining.

References:
  Ji et al., Towards Aligned Data Removal via Twin Machine Unlearning, 2024 (arXiv 2408.11433).
"""

from tmu_jax import data, models
from tmu_jax.cache import use_compilation_cache
from tmu_jax.evaluation import Evaluation, evaluate
from tmu_jax.preparation import (
    Forgotten,
    Prepared,
    Rehearsal,
    forget,
    load_prepared,
    prepare,
    refresh,
    rehearse,
    save_prepared,
)
from tmu_jax.training import Recipe, Stream, TrainedModel, predict, train
from tmu_jax.twin import TwinPrediction, TwinSettings, predict_generalization
from tmu_jax.unlearning import (
    METHODS,
    Method,
    Relabelling,
    UnlearnedModel,
    equal_weights,
    true_targets,
    unlearn,
    wrong_targets,
)

__version__ = "0.1.0"

__all__ = [
    "METHODS",
    "Evaluation",
    "Forgotten",
    "Method",
    "Prepared",
    "Recipe",
    "Rehearsal",
    "Relabelling",
    "Stream",
    "TrainedModel",
    "TwinPrediction",
    "TwinSettings",
    "UnlearnedModel",
    "data",
    "equal_weights",
    "evaluate",
    "forget",
    "load_prepared",
    "models",
    "predict",
    "predict_generalization",
    "prepare",
    "refresh",
    "rehearse",
    "save_prepared",
    "train",
    "true_targets",
    "unlearn",
    "use_compilation_cache",
    "wrong_targets",
]
