"""One compiled training step for every training and every unlearning method.

    loss = sum_i weight[i] * cross_entropy(target[i], logits[i]) / batch size

Each row of the image pool has a target distribution and a weight (positive: learn; negative: ascend, bounded); a
stream of row indices says what is drawn. Images, targets and weights stay on the device; many steps run in one call.
"""

import dataclasses
import functools
import math
import weakref
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from tmu_jax.data import Pool, Split
from tmu_jax.timing import Stopwatch

Variables = dict[str, Any]
Progress = Callable[[int, int], None]

STEPS_PER_CALL = 64


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a classifier is optimised.

    Attributes:
      epochs: passes over the stream.
      batch_size: images a step.
      learning_rate: at the start, or at the peak of "onecycle".
      schedule: "step" (divided by 10 at each of `drops`), "cosine" (to 0), "onecycle" (from a 25th up to the learning
        rate over three tenths of the steps, then down to 0, along cosines; Smith & Topin 2019, arXiv 1708.07120) or
        "constant".
      drops: fractions of all steps after which "step" divides the learning rate.
      optimizer: "sgd" (momentum 0.9) or "adam".
      weight_decay: added to the gradient of all parameters.
      augment: random horizontal flip and 4-pixel shifted crop of every drawn image, on the device.
    """

    epochs: int = 30
    batch_size: int = 128
    learning_rate: float = 0.01
    schedule: str = "step"
    drops: tuple[float, ...] = (1 / 2, 5 / 6)
    optimizer: str = "sgd"
    weight_decay: float = 5e-4
    augment: bool = False

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ValueError(f"epochs={self.epochs} is too few; train at least 1")
        if self.batch_size < 2:
            raise ValueError(f"batch_size={self.batch_size} is too small; batch norm needs at least 2")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate={self.learning_rate} must be above 0")
        if self.schedule not in ("step", "cosine", "onecycle", "constant"):
            raise ValueError(f"schedule={self.schedule!r}; choose 'step', 'cosine', 'onecycle' or 'constant'")
        if self.optimizer not in ("sgd", "adam"):
            raise ValueError(f"optimizer={self.optimizer!r}; choose 'sgd' or 'adam'")

    def learning_rates(self, num_steps: int) -> np.ndarray:
        """The learning rate of each of `num_steps` steps, float32[num_steps]."""
        fraction = np.arange(num_steps) / num_steps
        if self.schedule == "cosine":
            factor = 0.5 * (1 + np.cos(np.pi * fraction))
        elif self.schedule == "onecycle":
            with jax.numpy_dtype_promotion("standard"):  # optax multiplies by booleans
                factor = np.asarray(jax.vmap(optax.cosine_onecycle_schedule(num_steps, 1.0))(jnp.arange(num_steps)))
        elif self.schedule == "step":
            factor = np.prod([np.where(fraction >= drop, 0.1, 1.0) for drop in self.drops], axis=0)
        else:
            factor = np.ones(num_steps)
        return (self.learning_rate * factor).astype(np.float32)


class Normalization(NamedTuple):
    """Per-channel mean and standard deviation of the training pixels, float32[c] each, in units of 0..1."""

    mean: np.ndarray
    std: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class TrainedModel:
    """A classifier with what is needed to run it on raw pixels.

    Attributes:
      module: the Flax module.
      variables: its "params" and, where it has batch norm, "batch_stats".
      normalization: applied to pixels before the module sees them.
      recipe: how it was trained.
      seconds: run time of the training, synchronised with the device, without compilation.
      compile_seconds: time spent on tracing and compiling.
      losses: mean training loss of each epoch.
    """

    module: nn.Module
    variables: Variables
    normalization: Normalization
    recipe: Recipe
    seconds: float = 0.0
    compile_seconds: float = 0.0
    losses: tuple[float, ...] = ()


class TrainState(NamedTuple):
    """What a training step changes: one frozen pytree."""

    params: Any
    batch_stats: Any
    opt_state: Any
    step: jax.Array


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


def weighted_cross_entropy(logits: jax.Array, targets: jax.Array, weights: jax.Array) -> jax.Array:
    """The one loss: the sum of weight · cross-entropy(target, logits), over the batch size.

    Where the weight is negative (gradient ascent) the cross-entropy counts up to log(classes), the loss of a uniform
    guess, and has no gradient beyond it: so the ascent ends.

    Args:
      logits: float32[n, classes].
      targets: float32[n, classes], a distribution each.
      weights: float32[n].

    Returns:
      float32[].
    """
    chex.assert_rank([logits, targets, weights], [2, 2, 1])
    chex.assert_equal_shape([logits, targets])
    cross_entropy = optax.softmax_cross_entropy(logits, targets)
    bounded = jnp.minimum(cross_entropy, math.log(logits.shape[-1]))
    return jnp.mean(weights * jnp.where(weights < 0, bounded, cross_entropy))


def normalize(images: jax.Array, normalization: Normalization) -> jax.Array:
    """Pixels float32[..., h, w, c] in 0..1 to zero mean and unit variance a channel."""
    mean, std = jnp.asarray(normalization.mean), jnp.asarray(normalization.std)
    shape = (1,) * (images.ndim - 1) + (-1,)
    return (images - mean.reshape(shape)) / std.reshape(shape)


def random_flip_and_crop(key: jax.Array, images: jax.Array, padding: int = 4) -> jax.Array:
    """Flips each image left to right with probability 1/2 and shifts it by up to `padding` pixels, zeros coming in.

    Args:
      key: a PRNG key.
      images: [n, h, w, c].
      padding: largest shift in pixels, in either direction.

    Returns:
      Images of the same shape and dtype.
    """
    chex.assert_rank(images, 4)
    n, height, width, channels = images.shape
    flip_key, shift_key = jax.random.split(key)
    flip = jax.random.bernoulli(flip_key, shape=(n, 1, 1, 1))
    images = jnp.where(flip, images[:, :, ::-1], images)
    padded = jnp.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    offsets = jax.random.randint(shift_key, (n, 2), 0, 2 * padding + 1)

    def crop(image: jax.Array, offset: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(image, (offset[0], offset[1], 0), (height, width, channels))

    return jax.vmap(crop)(padded, offsets)


def make_optimizer(name: str, weight_decay: jax.Array | float) -> optax.GradientTransformation:
    """Gradient to update, before the learning rate: SGD with momentum 0.9 or Adam, weight decay in the gradient."""
    core = optax.trace(decay=0.9) if name == "sgd" else optax.scale_by_adam()
    return optax.chain(optax.add_decayed_weights(weight_decay), core)


def train_step(
    state: TrainState,
    images: jax.Array,
    targets: jax.Array,
    weights: jax.Array,
    learning_rate: jax.Array,
    weight_decay: jax.Array,
    *,
    module: nn.Module,
    optimizer: str,
    num_parts: int = 1,
) -> tuple[TrainState, jax.Array]:
    """One step on one batch. Pure.

    Args:
      state: parameters, batch statistics, optimiser state, step.
      images: float32[n, h, w, c], normalised.
      targets: float32[n, classes].
      weights: float32[n].
      learning_rate: float32[].
      weight_decay: float32[].
      module: the classifier (static).
      optimizer: "sgd" or "adam" (static).
      num_parts: parts that the batch is taken in, one after another (static); for a module that does not mix images.

    Returns:
      The next state and the loss, float32[].
    """
    chex.assert_equal_shape_prefix([images, targets, weights], 1)
    chex.assert_is_divisible(len(images), num_parts)

    def loss_fn(params: Any, images: jax.Array, targets: jax.Array, weights: jax.Array) -> tuple[jax.Array, Any]:
        variables = {"params": params, "batch_stats": state.batch_stats}
        (logits, _), updates = module.apply(variables, images, train=True, mutable=["batch_stats"])
        return weighted_cross_entropy(logits, targets, weights), updates.get("batch_stats", {})

    (loss, batch_stats), gradient = mean_over_parts(
        functools.partial(jax.value_and_grad(loss_fn, has_aux=True), state.params), num_parts, images, targets, weights
    )
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam raises a float to an integer power
        updates, opt_state = make_optimizer(optimizer, weight_decay).update(gradient, state.opt_state, state.params)
    params = jax.tree.map(lambda param, update: param - learning_rate * update, state.params, updates)
    return TrainState(params, batch_stats, opt_state, state.step + 1), loss


def mean_over_parts(function: Callable[..., Any], num_parts: int, *batch: jax.Array) -> Any:
    """The mean of `function` over equal parts of a batch, one after another in one loop.

    Args:
      function: of a part of each array; returns a pytree of floats.
      num_parts: divides the batch; 1 is no loop.
      *batch: arrays [n, ...].

    Returns:
      What the function returns, averaged.
    """
    if num_parts == 1:
        return function(*batch)
    parts = tuple(array.reshape(num_parts, -1, *array.shape[1:]) for array in batch)

    def add(total: Any, part: tuple[jax.Array, ...]) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, function(*part)), None

    one = jax.eval_shape(function, *(part[0] for part in parts))
    start = jax.tree.map(lambda result: jnp.zeros(result.shape, result.dtype), one)
    # Two parts in one turn: XLA computes what is too small for all cores side by side.
    total, _ = jax.lax.scan(add, start, parts, unroll=2)
    return jax.tree.map(lambda result: result / num_parts, total)


def _num_parts(module: nn.Module, batch_size: int) -> int:
    """How many parts of a batch a step takes one after another: on a CPU those whose activations stay in the cache."""
    if jax.default_backend() != "cpu" or not getattr(module, "images_are_independent", False):
        return 1
    parts = [batch_size // size for size in range(8, 17) if batch_size % size == 0]
    # An even number where there is one: two parts share a turn of the loop.
    return min(parts, key=lambda number: (number % 2, number), default=1)


@functools.partial(jax.jit, static_argnames=("module", "optimizer", "augment"), donate_argnames=("state",))
def train_steps(
    state: TrainState,
    pool_images: jax.Array,
    targets: jax.Array,
    weights: jax.Array,
    normalization: Normalization,
    indices: jax.Array,
    learning_rates: jax.Array,
    num_steps: jax.Array,
    weight_decay: jax.Array,
    key: jax.Array,
    *,
    module: nn.Module,
    optimizer: str,
    augment: bool,
) -> tuple[TrainState, jax.Array]:
    """The first `num_steps` of the given steps in one compiled loop; `state` is donated.

    Args:
      state: where to start.
      pool_images: uint8[p, h, w, c], 0..255.
      targets: float32[p, classes].
      weights: float32[p].
      normalization: of the pixels.
      indices: int32[steps, batch], rows of the pool.
      learning_rates: float32[steps].
      num_steps: int32[], at most `steps`; dynamic, so that one program serves every length.
      weight_decay: float32[].
      key: of the augmentation; folded with the step.
      module: the classifier (static).
      optimizer: "sgd" or "adam" (static).
      augment: flip and crop (static).

    Returns:
      The state and the loss of each step, float32[steps] (0 beyond `num_steps`).
    """
    chex.assert_rank([pool_images, targets, weights, indices], [4, 2, 1, 2])

    def body(i: jax.Array, carry: tuple[TrainState, jax.Array]) -> tuple[TrainState, jax.Array]:
        state, losses = carry
        rows = indices[i]
        images = pool_images[rows].astype(jnp.float32) / 255
        if augment:
            images = random_flip_and_crop(jax.random.fold_in(key, state.step), images)
        state, loss = train_step(
            state,
            normalize(images, normalization),
            targets[rows],
            weights[rows],
            learning_rates[i],
            weight_decay,
            module=module,
            optimizer=optimizer,
            num_parts=_num_parts(module, len(rows)),
        )
        return state, losses.at[i].set(loss)

    return jax.lax.fori_loop(0, num_steps, body, (state, jnp.zeros(len(indices), jnp.float32)))


@functools.partial(jax.jit, static_argnames=("module",))
def init_variables(key: jax.Array, images: jax.Array, *, module: nn.Module) -> Variables:
    """Fresh variables of a module for images of this shape."""
    return dict(module.init(key, images, train=False))


def one_hot(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Labels int32[n] as float32[n, num_classes]."""
    return np.eye(num_classes, dtype=np.float32)[labels]


_device_images: "weakref.WeakKeyDictionary[Pool, jax.Array]" = weakref.WeakKeyDictionary()


def device_images(pool: Pool) -> jax.Array:
    """The pool's images on the device, put there once, uint8[p, h, w, c]."""
    if pool not in _device_images:
        _device_images[pool] = jnp.asarray(pool.images)
    return _device_images[pool]


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
      FloatingPointError: when the loss is no longer finite.
    """
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
                _pad(rows[start : start + count]),
                _pad(chunk_rates),
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


def _pad(rows: np.ndarray) -> np.ndarray:
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
      model: a Flax module called as `model(images float32[n, h, w, c], train) -> (logits, embedding)`. One that sets
        `images_are_independent` (see `models.ViT`) may be given a batch in parts.
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


def pixel_statistics(data: Split) -> Normalization:
    """Per-channel mean and standard deviation of a split's pixels, in units of 0..1 (a constant channel: 1)."""
    counts = [np.bincount(data.images[..., c].ravel(), minlength=256) for c in range(data.pool.images.shape[-1])]
    levels = np.arange(256) / 255
    mean = np.array([count @ levels / count.sum() for count in counts])
    variance = np.array([count @ (levels - m) ** 2 / count.sum() for count, m in zip(counts, mean, strict=True)])
    std = np.where(variance > 0, np.sqrt(variance), 1.0)
    return Normalization(mean.astype(np.float32), std.astype(np.float32))


class Blocks(NamedTuple):
    """How many images an evaluation takes together, and how many times in one call."""

    size: int
    per_call: int

    def split(self, rows: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
        """Yields the rows of one call after another; without any, one call of none.

        Args:
          rows: int32[n].

        Yields:
          Rows int32[per_call, size], filled up by repeating them, and how many of them, from the first on, are real.
        """
        most = self.size * self.per_call
        for start in range(0, max(len(rows), 1), most):
            part = rows[start : start + most]
            yield np.resize(part, (self.per_call, self.size)), len(part)

    def num_blocks(self, num_rows: int) -> np.int32:
        """Blocks that hold so many rows."""
        return np.int32(-(-num_rows // self.size))


def evaluation_blocks(on_cpu: Blocks, elsewhere: Blocks) -> Blocks:
    """The blocks for this platform: few images on a CPU, where they stay in its cache."""
    return on_cpu if jax.default_backend() == "cpu" else elsewhere


def over_blocks(function: Callable[..., Any], num_blocks: jax.Array, *blocks: jax.Array) -> Any:
    """`function` of the first blocks, one after another in one loop: their memory is taken once.

    Args:
      function: of one block of each array.
      num_blocks: int32[], at most n; dynamic, so that one program serves any number of images.
      *blocks: arrays [n, ...], a block of each in their leading axis.

    Returns:
      What the function returns, stacked, [n, ...]; zeros beyond the first `num_blocks`.
    """
    one = jax.eval_shape(function, *(part[0] for part in blocks))
    start = jax.tree.map(lambda result: jnp.zeros((len(blocks[0]), *result.shape), result.dtype), one)

    def body(i: jax.Array, results: Any) -> Any:
        found = function(*(part[i] for part in blocks))
        return jax.tree.map(lambda every, result: every.at[i].set(result), results, found)

    return jax.lax.fori_loop(0, num_blocks, body, start)


@functools.partial(jax.jit, static_argnames=("module",))
def predict_rows(
    variables: Variables,
    normalization: Normalization,
    pool_images: jax.Array,
    rows: jax.Array,
    num_blocks: jax.Array,
    *,
    module: nn.Module,
) -> tuple[jax.Array, jax.Array]:
    """Logits and embeddings of rows int32[per_call, size] of the pool, in evaluation mode; see `over_blocks`."""

    def predict_block(rows: jax.Array) -> tuple[jax.Array, jax.Array]:
        images = pool_images[rows].astype(jnp.float32) / 255
        logits, embeddings = module.apply(variables, normalize(images, normalization), train=False)
        return jnp.asarray(logits), jnp.asarray(embeddings)

    return over_blocks(predict_block, num_blocks, jnp.asarray(rows))


def predict(model: TrainedModel, data: Split) -> tuple[np.ndarray, np.ndarray]:
    """Logits and embeddings of a split, in evaluation mode.

    Args:
      model: the classifier.
      data: n images.

    Returns:
      (logits float32[n, classes], embeddings float32[n, d]), in the split's order; empty for an empty split.
    """
    blocks = evaluation_blocks(Blocks(64, 16), Blocks(2000, 1))
    images = device_images(data.pool)
    outputs = []
    for rows, count in blocks.split(data.indices):
        found = predict_rows(
            model.variables, model.normalization, images, rows, blocks.num_blocks(count), module=model.module
        )
        outputs.append([first_rows(part, count) for part in found])
    logits, embeddings = (np.concatenate(parts) for parts in zip(*outputs, strict=True))
    return logits, embeddings


def first_rows(blocks: jax.Array | np.ndarray, count: int) -> np.ndarray:
    """The first `count` rows of blocks [blocks, size, ...], on the host, [count, ...]."""
    return np.asarray(blocks).reshape(-1, *blocks.shape[2:])[:count]
