"""Datamodel matching: a short fine-tuning on the logits that datamodels predict of a model trained without D_f.

    L = mean over the batch and the classes of (f_θ(x) − q(x))²,   q(x) = f_θo(x) − Σ_{z ∈ D_f} β_xz

over D_f and `replay` retained images for each of it. The coefficients β are of linear regressions on a bank's models,
see `tmu_jax.preparation.datamodels`: R trainings an image, where the paper has 1,000 to 20,000 models of random halves
of the training set in all. Of two halves' models (the default bank) the prediction on a forgotten image is all but the
mean of their logits, and that on a retained image all but the original's own; nothing is calibrated against held-out
images, as `soft_twin`'s targets are.

Of the two losses in the authors' code, squared error and cross-entropy, this is the default one. Its other defaults are
these too, but for the learning rate's 5 percent from epoch to epoch, which are left out.

References:
  Georgiev et al., Attribute-to-Delete: Machine Unlearning via Datamodel Matching, 2024 (arXiv 2410.23232); the formulas
  and settings are those of the authors' code.
"""

import jax
import jax.numpy as jnp
import numpy as np

from tmu_jax.data import ForgetProblem, Split
from tmu_jax.stages import PASS_WORK, Progress
from tmu_jax.training import Recipe, Stream, TrainedModel, fit, predict
from tmu_jax.unlearning.method import Method
from tmu_jax.unlearning.needs import PredictLogits
from tmu_jax.unlearning.ranges import Range
from tmu_jax.unlearning.relabelling import draw_retained, equal_weights
from tmu_jax.unlearning.unlearned import UnlearnedModel, with_variables

RECIPE = Recipe(epochs=5, batch_size=512, learning_rate=5e-4, optimizer="adam", weight_decay=0.0, schedule="constant")


def squared_error(logits: jax.Array, targets: jax.Array, weights: jax.Array) -> jax.Array:
    """Mean over the batch and the classes, of float32[n, classes] and weights float32[n]."""
    return jnp.mean(weights * jnp.mean(jnp.square(logits - targets), axis=-1))


def run(
    problem: ForgetProblem,
    original: TrainedModel,
    key: jax.Array,
    *,
    recipe: Recipe,
    prediction: PredictLogits,
    progress: Progress | None,
    replay: float,
    ridge: float,
) -> UnlearnedModel:
    """Predicts the logits and fine-tunes on them.

    Args:
      problem: the request.
      original: the model that is to forget.
      key: a PRNG key.
      recipe: of the fine-tuning.
      prediction: the datamodels.
      progress: called with (steps done, steps in all).
      replay: images of D_r for each of D_f.
      ridge: weight of the squared coefficients.
    """
    draw_key, fit_key = jax.random.split(key)
    retained = draw_retained(problem, max(1, round(replay * len(problem.forget))), draw_key)
    rows = np.concatenate([problem.forget.indices, retained])
    targets = np.zeros((len(problem.pool.labels), problem.num_classes), np.float32)
    targets[rows] = prediction(problem, rows, predict(original, Split(problem.pool, rows))[0], ridge)
    variables, losses = fit(
        original.module,
        original.variables,
        original.normalization,
        problem.pool,
        Stream((rows,)),
        targets,
        equal_weights(problem),
        recipe,
        fit_key,
        progress=progress,
        loss=squared_error,
    )
    notes = [f"each image's datamodel rests on {prediction.trainings} trainings that never saw it"]
    if problem.whole_classes:
        notes.append("the datamodels' trainings saw the rest of a class that is to go as a whole, and still know it")
    return with_variables(original, variables, losses, notes)


def check(replay: float, ridge: float) -> None:
    """Raises ValueError for options out of range."""
    for name, value in (("replay", replay), ("ridge", ridge)):
        if not value > 0:
            raise ValueError(f"{name}={value} must be above 0")


def draws(problem: ForgetProblem, replay: float, ridge: float) -> float:
    """Images of an epoch."""
    return len(problem.forget) + min(len(problem.retain), round(replay * len(problem.forget)))


def draws_once(problem: ForgetProblem, replay: float, ridge: float) -> float:
    """The original's pass over the images of an epoch."""
    return PASS_WORK * draws(problem, replay, ridge)


datamodel_matching = Method(
    "datamodel_matching",
    run=run,
    recipe=RECIPE,
    needs="datamodels",
    options={"replay": 3.0, "ridge": 1.0},
    ranges={
        "replay": Range(1.0, 20.0, "log"),
        "learning_rate": Range(1e-4, 0.01, "log"),
        "epochs": Range(3, 20, "whole"),
    },
    check=check,
    draws=draws,
    draws_once=draws_once,
)
