"""Twin Machine Unlearning in JAX: forget images of a trained classifier so that it agrees with retraining.

References:
  Ji et al., Towards Aligned Data Removal via Twin Machine Unlearning, 2024 (arXiv 2408.11433).
"""

from tmu_jax import data, models
from tmu_jax.auditing import Audit, Verification, audit, verify
from tmu_jax.cache import use_compilation_cache
from tmu_jax.devices import use_devices
from tmu_jax.evaluation import Evaluation, evaluate
from tmu_jax.preparation import (
    Findings,
    Forgotten,
    Prepared,
    Rehearsal,
    Tuned,
    forget,
    load_prepared,
    look,
    prepare,
    refresh,
    rehearse,
    save_prepared,
    tune,
)
from tmu_jax.requests import Copies, Ledger, find_copies
from tmu_jax.resuming import resumable
from tmu_jax.training import Check, Recipe, Stream, TrainedModel, check, predict, train, wrap
from tmu_jax.twin import TwinPrediction, TwinSettings, predict_generalization
from tmu_jax.unlearning import (
    METHODS,
    Method,
    MethodName,
    Range,
    Relabelling,
    UnlearnedModel,
    equal_weights,
    load,
    true_targets,
    tuned,
    unlearn,
    wrong_targets,
)

__version__ = "0.1.0"

__all__ = [
    "METHODS",
    "Audit",
    "Check",
    "Copies",
    "Evaluation",
    "Findings",
    "Forgotten",
    "Ledger",
    "Method",
    "MethodName",
    "Prepared",
    "Range",
    "Recipe",
    "Rehearsal",
    "Relabelling",
    "Stream",
    "TrainedModel",
    "Tuned",
    "TwinPrediction",
    "TwinSettings",
    "UnlearnedModel",
    "Verification",
    "audit",
    "check",
    "data",
    "equal_weights",
    "evaluate",
    "find_copies",
    "forget",
    "load",
    "load_prepared",
    "look",
    "models",
    "predict",
    "predict_generalization",
    "prepare",
    "refresh",
    "rehearse",
    "resumable",
    "save_prepared",
    "train",
    "true_targets",
    "tune",
    "tuned",
    "unlearn",
    "use_compilation_cache",
    "use_devices",
    "verify",
    "wrap",
    "wrong_targets",
]
