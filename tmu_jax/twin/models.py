"""The models of the twin problem: the twin model M_t and the curriculum model G_c.

References:
  Ji et al., Towards Aligned Data Removal via Twin Machine Unlearning, 2024 (arXiv 2408.11433), Section 4.
"""

import dataclasses
from typing import Any

import jax
import numpy as np

from tmu_jax.data import ForgetProblem, Split
from tmu_jax.stages import Progress
from tmu_jax.timing import Stopwatch
from tmu_jax.training import Recipe, Schedule, Stream, TrainedModel, fit, one_hot, predict, train
from tmu_jax.twin.settings import DEFAULT_SETTINGS, FIRST_EPOCH_RECIPE, TwinSettings


def outside(split: Split, classes: tuple[int, ...]) -> Split:
    """The samples of a split that are of none of these classes."""
    return Split(split.pool, split.indices[~np.isin(split.labels, classes)])


def tuned_on(problem: ForgetProblem) -> Split:
    """What M_t is fine-tuned on beside D: D_test, or what the problem has in its place; not of whole classes."""
    return outside(problem.heldout if problem.tuned is None else problem.tuned, problem.whole_classes)


def _draw(indices: np.ndarray, share: float, key: jax.Array) -> np.ndarray:
    """A random share of the indices, at least one."""
    count = max(1, round(share * len(indices)))
    return np.sort(np.asarray(jax.random.permutation(key, indices))[:count])


def train_twin(
    problem: ForgetProblem,
    original: TrainedModel,
    key: jax.Array,
    settings: TwinSettings = DEFAULT_SETTINGS,
    progress: Progress | None = None,
) -> TrainedModel:
    """M_t: the original model fine-tuned on D and D_test (or `problem.tuned`), until it knows those.

    Args:
      problem: the request.
      original: M_o, left intact.
      key: a PRNG key.
      settings: see `TwinSettings`.
      progress: called with (steps done, steps in all).

    Returns:
      The twin model. Held-out samples of whole classes are left out: there is no twin problem for them.

    Raises:
      ValueError: when the request forgets whole classes only.
    """
    heldout = tuned_on(problem)
    if not len(heldout):
        raise ValueError(f"problem forgets whole classes {problem.whole_classes} only; they have no twin problem")
    return train_with_heldout(original, problem.train, heldout, key, settings, progress)


def train_with_heldout(
    original: TrainedModel,
    train: Split,
    heldout: Split,
    key: jax.Array,
    settings: TwinSettings = DEFAULT_SETTINGS,
    progress: Progress | None = None,
) -> TrainedModel:
    """The original model fine-tuned on D and held-out images, until it knows them; arguments as in `train_twin`."""
    draw_key, fit_key = jax.random.split(key)
    recipe = dataclasses.replace(settings.twin_recipe, augment=original.augment)
    replayed = train.indices
    if settings.twin_replay < 1:
        replayed = _draw(replayed, settings.twin_replay, draw_key)

    def knows_heldout(variables: dict) -> bool:
        logits, _ = predict(dataclasses.replace(original, variables=variables), heldout)
        return bool(100 * np.mean(logits.argmax(-1) == heldout.labels) >= settings.enough_accuracy)

    return _fine_tuned(
        original,
        Split(train.pool, np.concatenate([replayed, heldout.indices])),
        recipe,
        fit_key,
        progress=progress,
        max_epochs=max(settings.max_twin_epochs, recipe.epochs),
        is_enough=knows_heldout,
    )


def _fine_tuned(model: TrainedModel, split: Split, recipe: Recipe, key: jax.Array, **options: Any) -> TrainedModel:
    """A model trained further on a split with its true labels; `options` are those of `fit`."""
    pool = split.pool
    with Stopwatch() as watch:
        variables, losses = fit(
            model.module,
            model.variables,
            model.normalization,
            pool,
            Stream((split.indices,)),
            one_hot(pool.labels, pool.num_classes),
            np.ones(len(pool.labels), np.float32),
            recipe,
            key,
            **options,
        )
        jax.block_until_ready(variables)
    return dataclasses.replace(
        model,
        variables=variables,
        recipe=recipe,
        seconds=watch.seconds,
        compile_seconds=watch.compile_seconds,
        losses=tuple(losses),
    )


def train_curriculum(
    problem: ForgetProblem,
    original: TrainedModel,
    key: jax.Array,
    settings: TwinSettings = DEFAULT_SETTINGS,
    exclude: np.ndarray | None = None,
    progress: Progress | None = None,
) -> TrainedModel:
    """G_c: the same architecture from a fresh initialisation, trained briefly on a part of D.

    Neither D_f nor D_test are among its images, or its loss would not transfer from one to the other; but see
    `TwinSettings.curriculum_data`.

    Args:
      problem: the request.
      original: M_o, for its architecture and recipe.
      key: a PRNG key.
      settings: see `TwinSettings`.
      exclude: int32, further rows of the pool to leave out: the forget sets of other requests that share this model.
        Only of what is "unseen".
      progress: called with (steps done, steps in all).

    Returns:
      The curriculum model.

    Raises:
      ValueError: when nothing of D is left to train on.
    """
    draw_key, train_key = jax.random.split(key)
    allowed = problem.train.indices
    if settings.curriculum_data == "train_and_heldout":
        allowed = np.union1d(allowed, problem.heldout.indices)
    elif settings.curriculum_data == "unseen":
        excluded = np.concatenate([problem.forget.indices, problem.heldout.indices, [] if exclude is None else exclude])
        allowed = np.setdiff1d(allowed, excluded.astype(np.int32))
    if not len(allowed):
        raise ValueError("exclude leaves no training image for the curriculum model; it needs at least one")
    # A cycle fits any number of epochs, and its peak is no rate to start at.
    training = original.training_recipe
    schedule: Schedule = "onecycle" if training.schedule == "onecycle" else "constant"
    recipe = dataclasses.replace(training, epochs=settings.curriculum_epochs, schedule=schedule)
    rows = _draw(allowed, settings.curriculum_share, draw_key)
    return train(original.module, Split(problem.pool, rows), key=train_key, recipe=recipe, progress=progress)


def train_first_epoch(
    model: TrainedModel, retain: Split, key: jax.Array, progress: Progress | None = None
) -> TrainedModel:
    """A problem's own model after one epoch of fine-tuning on its retain set: CF of `curriculum="first_epoch"`.

    Args:
      model: M_t for the twin problem, M_o for the original problem; left intact.
      retain: D for the twin problem, D_r for the original problem.
      key: a PRNG key.
      progress: called with (steps done, steps in all).

    Returns:
      The fine-tuned model.
    """
    recipe = dataclasses.replace(FIRST_EPOCH_RECIPE, augment=model.augment)
    return _fine_tuned(model, retain, recipe, key, progress=progress)
