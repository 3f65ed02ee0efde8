"""The loop around the training step: epochs over a stream of rows, and training from a fresh initialisation."""

import dataclasses
import logging
import math
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tmu_jax import devices
from tmu_jax.boundary import checked
from tmu_jax.data import Pool, Split
from tmu_jax.data.checks import check_memory, name_some
from tmu_jax.resuming import Position, next_loop
from tmu_jax.stages import Progress
from tmu_jax.timing import Stopwatch
from tmu_jax.training.adapter import Adapter, ModuleLike, Variables, as_masters, low_precision, name_of
from tmu_jax.training.calls import Pace, calls, pad_steps, steps_per_call
from tmu_jax.training.images import is_resident, one_hot, pixel_statistics
from tmu_jax.training.linen import as_adapter, as_static
from tmu_jax.training.module import fresh_bytes, init_variables
from tmu_jax.training.recipe import Normalization, Recipe, TrainedModel
from tmu_jax.training.step import (
    Loss,
    TrainState,
    are_finite,
    make_optimizer,
    train_steps,
    weighted_cross_entropy,
)
from tmu_jax.training.stream import Stream
from tmu_jax.training.updates import Recording, as_groups

_logger = logging.getLogger("tmu_jax")


def fit(
    module: ModuleLike,
    variables: Variables,
    normalization: Normalization,
    pool: Pool,
    stream: Stream,
    targets: np.ndarray,
    weights: np.ndarray,
    recipe: Recipe,
    key: jax.Array,
    *,
    progress: Progress | None = None,
    max_epochs: int | None = None,
    is_enough: Callable[[Variables], bool] | None = None,
    loss: Loss = weighted_cross_entropy,
    mask: Any = None,
    recording: Recording | None = None,
) -> tuple[Variables, list[float]]:
    """Runs the training step over a stream.

    Args:
      module: the classifier.
      variables: where to start; left intact.
      normalization: of the pixels.
      pool: the images.
      stream: which rows are drawn.
      targets: float32[p, classes], a row for each row of the pool; of another width where `loss` takes it.
      weights: float32[p].
      recipe: epochs, batch size, optimiser, learning rate.
      key: of the order of the images and the augmentation.
      progress: called with (steps done, steps in all).
      max_epochs: go on to at most so many epochs while `is_enough` says no, at the rates of the last one.
      is_enough: asked after `recipe.epochs` epochs and after each further one.
      loss: what is descended on.
      mask: of the parameters that move, see `train_step`; None: all.
      recording: keeps what some steps change, and is told of it; None: nothing is kept.

    Returns:
      The new variables and each epoch's mean loss.

    Raises:
      ValueError: when targets or weights are not of the pool's length, or the stream has a group without rows.
      FloatingPointError: when a loss, or a parameter in the end, is not finite: with the step, its rate and its rows.
    """
    width = pool.num_classes if loss is weighted_cross_entropy else np.shape(targets)[-1]
    expected = {"targets": (len(pool.labels), width), "weights": (len(pool.labels),)}
    for name, array in (("targets", targets), ("weights", weights)):
        if np.shape(array) != expected[name]:
            raise ValueError(f"{name} has shape {np.shape(array)}; a row for each of the pool's makes {expected[name]}")
    check_memory("batch_size", recipe.batch_size, 4 * recipe.batch_size * math.prod(pool.images.shape[1:]))
    order_key, augment_key = jax.random.split(key)
    rng = np.random.default_rng(np.asarray(jax.random.key_data(order_key)))
    steps = stream.steps_per_epoch(recipe.batch_size)
    total = steps * recipe.epochs
    rates = recipe.learning_rates(total)
    optimizer = make_optimizer(recipe.optimizer, recipe.weight_decay, jnp.float32(recipe.learning_rate))
    copied = {name: jax.tree.map(jnp.copy, collection) for name, collection in variables.items()}
    state = TrainState(
        params=copied.pop("params"),
        collections=copied,
        opt_state=optimizer.init(variables["params"]),
        step=jnp.zeros((), jnp.int32),
        updates=None if recording is None else recording.begin(variables),
    )
    kept = () if recording is None else recording.groups
    loop = next_loop(total, recipe.batch_size, jax.random.key_data(key), targets, weights, *stream.groups, *kept)
    state, at = loop.begin(state)
    state, normalization, augment_key, mask = devices.replicate((state, normalization, augment_key, mask))
    of_pool = devices.replicate((jnp.asarray(targets), jnp.asarray(weights))) if is_resident(pool) else None
    per_call = steps_per_call(pool, recipe.batch_size)
    pace = Pace(per_call, is_bound=jax.default_backend() == "cpu" and jax.process_count() == 1)
    with loop.at_work():
        for epoch, rows in enumerate(stream.epochs(recipe.batch_size, rng)):
            if epoch < at.epoch:
                continue  # Drawn all the same: the order of the later ones depends on it.
            for start, count, own_rows, call in calls(pool, rows, at.start, pace, per_call):
                began = time.perf_counter()
                chunk_rates = rates[min(epoch, recipe.epochs - 1) * steps + start :][:count]
                counted = None if recording is None else pad_steps(recording.counted(rows[start:][:count]), per_call)
                state, chunk_losses = train_steps(
                    state,
                    call.images,
                    *(of_pool or (devices.split(array[own_rows], 1) for array in (targets, weights))),
                    normalization,
                    call.rows,
                    pad_steps(chunk_rates, per_call),
                    np.int32(count),
                    np.float32(recipe.weight_decay),
                    augment_key,
                    module=module,
                    optimizer=recipe.optimizer,
                    augment=recipe.augment,
                    every_step=count == per_call and jax.default_backend() != "cpu",
                    loss=loss,
                    mask=mask,
                    counted=counted,
                )
                at = at.after(count, chunk_losses)
                loop.reached(state, at)
                of_steps = np.asarray(chunk_losses)[:count]
                pace.took(count, time.perf_counter() - began)
                if not np.isfinite(of_steps).all():
                    raise FloatingPointError(_divergence(epoch, start, of_steps, chunk_rates, rows[start:]))
                loop.save_if_due()
                if progress is not None:
                    done = epoch * steps + start + count
                    progress(done, max(total, done))
            losses = [*at.losses, at.mean()]
            result: Variables = state.variables
            if epoch + 1 >= (max_epochs or recipe.epochs):
                break
            if epoch + 1 >= recipe.epochs and (is_enough is None or is_enough(result)):
                break
            at = Position(epoch + 1, losses=losses)
    if not are_finite(result["params"]):
        raise FloatingPointError(
            f"the parameters are not finite after step {steps} of epoch {epoch + 1}, the last, at learning rate "
            f"{rates[-1]:g}, on rows {name_some(map(str, rows[-1].tolist()))} of the pool; try a smaller learning_rate"
        )
    if recording is not None and state.updates is not None:
        recording.end(state.updates, (epoch + 1) * steps)
    return result, losses


def _divergence(epoch: int, start: int, losses: np.ndarray, rates: np.ndarray, rows: np.ndarray) -> str:
    """Where a loss first was not finite, of the steps of an epoch from `start` on."""
    first = int(np.flatnonzero(~np.isfinite(losses))[0])
    return (
        f"the training loss became {losses[first]} in step {start + first + 1} of epoch {epoch + 1}, at learning rate "
        f"{rates[first]:g}, on rows {name_some(map(str, rows[first].tolist()))} of the pool; try a smaller "
        "learning_rate, and look at those images and the ones before them"
    )


@checked
def train(
    model: ModuleLike,
    data: Split,
    *,
    key: jax.Array,
    recipe: Recipe | None = None,
    epochs: int | None = None,
    updates_of: Any = None,
    progress: Progress | None = None,
) -> TrainedModel:
    """Trains a classifier from a fresh initialisation.

    Args:
      model: a Flax Linen module that maps images float32[n, h, w, c] to (logits, embedding), or to logits alone; it
        may have dropout, batch norm and other collections, and an argument `train`, `training`, `is_training` or
        `deterministic`, or none. Or the `module` of a model from `wrap`. On a CPU its convolutions are the fast ones.
      data: the images to train on, such as `problem.train`, or `problem.retain` for a gold model. Pixel normalisation
        is computed from these images alone, but where `wrap` was told one.
      key: a PRNG key; initialisation and order are split from it.
      recipe: the optimisation; the paper's protocol (30 epochs of SGD, see `Recipe`) where None.
      epochs: overrides the recipe's epochs.
      updates_of: rows of the pool that may have to be forgotten together, such as `problem.forget.indices`, or a list
        of several such groups: for each the model keeps, in `updates`, the sum of what the steps with one of its rows
        changed, for `unlearn("amnesiac", …)`. It takes the memory of the variables once more for each group, while it
        trains and after.
      progress: called with (steps done, steps in all).

    Returns:
      The trained model.

    Raises:
      ValueError: when `data` is empty, a setting is out of range, `updates_of` names rows that are not trained on, or
        the machine has not the memory for the model.
      FloatingPointError: when training diverges.
    """
    recipe = recipe or Recipe()
    if epochs is not None:
        recipe = dataclasses.replace(recipe, epochs=epochs)
    if len(data) == 0:
        raise ValueError("data holds no images; give a Split with at least one")
    recording = None if updates_of is None else Recording(as_groups(updates_of, data))
    init_key, fit_key = jax.random.split(key)
    pool = data.pool
    with Stopwatch() as watch:
        model, variables = begin(model, init_key, pool)
        normalization = pixel_statistics(data)
        if isinstance(model, Adapter) and model.normalization is not None:
            normalization = Normalization(*(np.asarray(part, np.float32) for part in model.normalization))
        variables, losses = fit(
            model,
            variables,
            normalization,
            pool,
            Stream((data.indices,)),
            one_hot(pool.labels, pool.num_classes),
            np.ones(len(pool.labels), np.float32),
            recipe,
            fit_key,
            progress=progress,
            recording=recording,
        )
        jax.block_until_ready(variables)
    guess = math.log(pool.num_classes)
    if losses[-1] >= guess:
        _logger.warning(
            "The last epoch's mean loss, %.3f, is no better than that of a guess among %d classes, %.3f; try another "
            "learning_rate than %g, or more epochs",
            *(losses[-1], pool.num_classes, guess, recipe.learning_rate),
        )
    return TrainedModel(
        model,
        variables,
        normalization,
        recipe,
        watch.seconds,
        watch.compile_seconds,
        tuple(losses),
        None if recording is None else recording.updates,
    )


def begin(model: ModuleLike, key: jax.Array, pool: Pool) -> tuple[ModuleLike, Variables]:
    """A module that a program can be compiled for, and fresh variables of it in float32; frozen ones as they were.

    Raises:
      ValueError: when the variables and their gradient take more memory than the machine has.
    """
    model = as_static(model)
    shape = pool.images.shape[1:]
    check_memory("model", model, 2 * fresh_bytes(model, shape))  # With the gradient.
    variables = init_variables(key, jnp.zeros((1, *shape), jnp.float32), module=model)
    low = low_precision(variables)
    if low:
        model, variables = dataclasses.replace(as_adapter(model), dtypes=low), as_masters(variables)
    if isinstance(model, Adapter) and model.kept:
        variables = jax.tree_util.tree_map_with_path(lambda path, leaf: model.kept.get(name_of(path), leaf), variables)
    return model, variables
