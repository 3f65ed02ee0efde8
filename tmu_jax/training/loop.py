"""The loop around the training step: streams of rows, epochs, and training from a fresh initialisation."""

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tmu_jax.data import Pool, Split
from tmu_jax.stages import Progress
from tmu_jax.timing import Stopwatch
from tmu_jax.training.images import device_images, one_hot, pixel_statistics
from tmu_jax.training.module import init_variables
from tmu_jax.training.recipe import Normalization, Recipe, TrainedModel, Variables
from tmu_jax.training.step import TrainState, make_optimizer, train_steps

STEPS_PER_CALL = 64


class Stream(NamedTuple):
    """Which rows of the pool are drawn, how often, and beside which others.

    Attributes:
      groups: int32 row indices of each group; an epoch is one pass over the first, the others are cycled.
      shares: each group's share of every batch; they add up to 1.
    """

    groups: tuple[np.ndarray, ...]
    shares: tuple[float, ...] = (1.0,)

    def sizes(self, batch_size: int) -> list[int]:
        """How many rows of each group a batch holds."""
        if len(self.groups) != len(self.shares) or not all(len(group) for group in self.groups):
            lengths = [len(group) for group in self.groups]
            raise ValueError(f"groups of {lengths} rows, shares={self.shares}: give each share a group with rows in it")
        sizes = [round(share * batch_size) for share in self.shares]
        if sum(sizes) != batch_size or min(sizes) < 1:
            raise ValueError(f"shares={self.shares} do not divide a batch of {batch_size} into whole rows")
        return sizes

    def steps_per_epoch(self, batch_size: int) -> int:
        """Full batches in a pass over the first group; a group smaller than its share is cycled within one batch."""
        return max(1, len(self.groups[0]) // self.sizes(batch_size)[0])

    def epochs(self, batch_size: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
        """Yields the row indices of one epoch after another, int32[steps, batch_size], without end."""
        steps = self.steps_per_epoch(batch_size)
        sources = [_cycle(group, rng) for group in self.groups]
        while True:
            if len(self.groups[0]) >= self.sizes(batch_size)[0]:
                sources[0] = _cycle(self.groups[0], rng)  # a partial batch is dropped, not carried over
            yield np.concatenate(
                [
                    np.fromiter(source, np.int32, count=steps * size).reshape(steps, size)
                    for source, size in zip(sources, self.sizes(batch_size), strict=True)
                ],
                axis=1,
            )


def _cycle(group: np.ndarray, rng: np.random.Generator) -> Iterator[int]:
    """Rows of the group in a random order, reshuffled after every pass."""
    while True:
        yield from rng.permutation(group)


def fit(
    module: nn.Module,
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
) -> tuple[Variables, list[float]]:
    """Runs the training step over a stream.

    Args:
      module: the classifier.
      variables: where to start; left intact.
      normalization: of the pixels.
      pool: the images.
      stream: which rows are drawn.
      targets: float32[p, classes], a row for each row of the pool.
      weights: float32[p].
      recipe: epochs, batch size, optimiser, learning rate.
      key: of the order of the images and the augmentation.
      progress: called with (steps done, steps in all).
      max_epochs: go on to at most so many epochs while `is_enough` says no, at the rates of the last one.
      is_enough: asked after `recipe.epochs` epochs and after each further one.

    Returns:
      The new variables and each epoch's mean loss.

    Raises:
      ValueError: when targets or weights are not of the pool's length, or the stream has a group without rows.
      FloatingPointError: when the loss is no longer finite.
    """
    expected = {"targets": (len(pool.labels), pool.num_classes), "weights": (len(pool.labels),)}
    for name, array in (("targets", targets), ("weights", weights)):
        if np.shape(array) != expected[name]:
            raise ValueError(f"{name} has shape {np.shape(array)}; a row for each of the pool's makes {expected[name]}")
    order_key, augment_key = jax.random.split(key)
    rng = np.random.default_rng(np.asarray(jax.random.key_data(order_key)))
    steps = stream.steps_per_epoch(recipe.batch_size)
    total = steps * recipe.epochs
    rates = recipe.learning_rates(total)
    state = TrainState(
        params=jax.tree.map(jnp.copy, variables["params"]),
        batch_stats=jax.tree.map(jnp.copy, variables.get("batch_stats", {})),
        opt_state=make_optimizer(recipe.optimizer, recipe.weight_decay).init(variables["params"]),
        step=jnp.zeros((), jnp.int32),
    )
    images, device_targets, device_weights = device_images(pool), jnp.asarray(targets), jnp.asarray(weights)
    losses: list[float] = []
    for epoch, rows in enumerate(stream.epochs(recipe.batch_size, rng)):
        epoch_losses = []
        for start in range(0, steps, STEPS_PER_CALL):
            count = min(STEPS_PER_CALL, steps - start)
            chunk_rates = rates[min(epoch, recipe.epochs - 1) * steps + start :][:count]
            state, chunk_losses = train_steps(
                state,
                images,
                device_targets,
                device_weights,
                normalization,
                pad_steps(rows[start : start + count]),
                pad_steps(chunk_rates),
                np.int32(count),
                np.float32(recipe.weight_decay),
                augment_key,
                module=module,
                optimizer=recipe.optimizer,
                augment=recipe.augment,
            )
            epoch_losses.append(np.asarray(chunk_losses)[:count])
            if progress is not None:
                done = epoch * steps + start + count
                progress(done, max(total, done))
        losses.append(float(np.concatenate(epoch_losses).mean()))
        if not math.isfinite(losses[-1]):
            raise FloatingPointError(
                f"the training loss became {losses[-1]} in epoch {epoch + 1}; "
                f"try a learning_rate below {recipe.learning_rate}"
            )
        result: Variables = {"params": state.params}
        if state.batch_stats:
            result["batch_stats"] = state.batch_stats
        if epoch + 1 >= (max_epochs or recipe.epochs):
            break
        if epoch + 1 >= recipe.epochs and (is_enough is None or is_enough(result)):
            break
    return result, losses


def pad_steps(rows: np.ndarray) -> np.ndarray:
    """Pads the leading axis to STEPS_PER_CALL, so that one program serves every length."""
    return np.pad(rows, [(0, STEPS_PER_CALL - len(rows))] + [(0, 0)] * (rows.ndim - 1))


def train(
    model: nn.Module,
    data: Split,
    *,
    key: jax.Array,
    recipe: Recipe | None = None,
    epochs: int | None = None,
    progress: Progress | None = None,
) -> TrainedModel:
    """Trains a classifier from a fresh initialisation.

    Args:
      model: a Flax module called as `model(images float32[n, h, w, c], train) -> (logits, embedding)`. On a CPU
        its convolutions are the fast ones (`training.module`).
      data: the images to train on, such as `problem.train`, or `problem.retain` for a gold model. Pixel normalisation
        is computed from these images alone.
      key: a PRNG key; initialisation and order are split from it.
      recipe: the optimisation; the paper's protocol (30 epochs of SGD, see `Recipe`) where None.
      epochs: overrides the recipe's epochs.
      progress: called with (steps done, steps in all).

    Returns:
      The trained model.

    Raises:
      ValueError: when `data` is empty or a setting is out of range.
      FloatingPointError: when training diverges.
    """
    recipe = recipe or Recipe()
    if epochs is not None:
        recipe = dataclasses.replace(recipe, epochs=epochs)
    if len(data) == 0:
        raise ValueError("data holds no images; give a Split with at least one")
    init_key, fit_key = jax.random.split(key)
    pool = data.pool
    with Stopwatch() as watch:
        normalization = pixel_statistics(data)
        variables = init_variables(init_key, jnp.zeros((1, *pool.images.shape[1:]), jnp.float32), module=model)
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
        )
        jax.block_until_ready(variables)
    return TrainedModel(model, variables, normalization, recipe, watch.seconds, watch.compile_seconds, tuple(losses))
