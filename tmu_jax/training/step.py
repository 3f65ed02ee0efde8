"""One compiled training step for every training and every unlearning method.

    loss = sum_i weight[i] * cross_entropy(target[i], logits[i]) / batch size

Each row of the image pool has a target distribution and a weight (positive: learn; negative: ascend, bounded). Images,
targets and weights stay on the device; many steps run in one call. A method whose loss is no such sum brings its own,
and one that moves some parameters alone a mask of them.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from tmu_jax import devices
from tmu_jax.training.adapter import Adapter, Keys, ModuleLike, name_of
from tmu_jax.training.images import augmented, normalize
from tmu_jax.training.module import apply, step_keys
from tmu_jax.training.recipe import Augment, Normalization, Optimizer
from tmu_jax.training.updates import Sums, with_step

Loss = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
"""Called with logits float32[n, classes], targets float32[n, k] and weights float32[n]; returns float32[], a mean over
the images. A program is compiled for it: equal ones share one."""


class TrainState(NamedTuple):
    """What a training step changes: one frozen pytree.

    Attributes:
      params: the collection "params".
      collections: the model's other collections by name, such as "batch_stats".
      opt_state: the optimiser's.
      step: int32[].
      updates: of the steps before, where the training keeps them.
    """

    params: Any
    collections: dict[str, Any]
    opt_state: Any
    step: jax.Array
    updates: Sums | None = None

    @property
    def variables(self) -> dict[str, Any]:
        """The model's."""
        return {"params": self.params, **self.collections}


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


@jax.jit
def are_finite(params: Any) -> jax.Array:
    """Whether all numbers of a tree are finite, in one program for its form: bool[]."""
    return jnp.array([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(params)], bool).all()


def make_optimizer(
    optimizer: str | Optimizer, weight_decay: jax.Array | float, learning_rate: jax.Array | float = 1.0
) -> optax.GradientTransformation:
    """Gradient to update, before the learning rate: SGD with momentum 0.9 or Adam, weight decay in the gradient.

    Or what a function of the learning rate returns: to that the rate and the weight decay are its own matter.
    """
    if callable(optimizer):
        return optimizer(learning_rate)
    core = optax.trace(decay=0.9) if optimizer == "sgd" else optax.scale_by_adam()
    return optax.chain(optax.add_decayed_weights(weight_decay), core)


def train_step(
    state: TrainState,
    images: jax.Array,
    targets: jax.Array,
    weights: jax.Array,
    learning_rate: jax.Array,
    weight_decay: jax.Array,
    *,
    module: ModuleLike,
    optimizer: str | Optimizer,
    keys: Keys | None = None,
    loss: Loss = weighted_cross_entropy,
    mask: Any = None,
) -> tuple[TrainState, jax.Array]:
    """One step on one batch. Pure.

    Args:
      state: parameters, other collections, optimiser state, step.
      images: float32[n, h, w, c], normalised.
      targets: float32[n, classes], or what `loss` takes.
      weights: float32[n].
      learning_rate: float32[].
      weight_decay: float32[].
      module: the classifier (static).
      optimizer: "sgd", "adam" or a function of the learning rate (static).
      keys: of what the module draws, from `step_keys`.
      loss: what is descended on (static).
      mask: in the form of the parameters, bool each: where False they keep their values; None: all move.

    Returns:
      The next state and the loss, float32[].
    """
    chex.assert_equal_shape_prefix([images, targets, weights], 1)

    def loss_fn(params: Any, images: jax.Array, targets: jax.Array, weights: jax.Array) -> tuple[jax.Array, Any]:
        variables = {"params": params, **state.collections}
        (logits, _), updates = apply(module, variables, images, train=True, keys=keys)
        return loss(logits, targets, weights), {**state.collections, **updates}

    loss_and_gradient = jax.value_and_grad(loss_fn, has_aux=True)
    size = None if keys else microbatch_size(module, len(images))
    if size is not None:
        loss_and_gradient = optax.microbatching.microbatch(
            loss_and_gradient, (1, 2, 3), size, optax.microbatching.AccumulationType.MEAN
        )
    (value, collections), gradient = loss_and_gradient(state.params, images, targets, weights)
    gradient = but_frozen(module, gradient, lambda leaf, param: jnp.zeros_like(leaf), state.params)
    if mask is not None:
        gradient = jax.tree.map(lambda moves, leaf: jnp.where(moves, leaf, 0), mask, gradient)
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam raises a float to an integer power
        transformation = make_optimizer(optimizer, weight_decay, learning_rate)
        updates, opt_state = transformation.update(gradient, state.opt_state, state.params)
        if callable(optimizer):
            params = optax.apply_updates(state.params, updates)
        else:
            params = jax.tree.map(lambda param, update: param - learning_rate * update, state.params, updates)
    params = but_frozen(module, params, lambda leaf, param: param, state.params)
    if mask is not None:
        params = jax.tree.map(jnp.where, mask, params, state.params)
    return TrainState(params, collections, opt_state, state.step + 1), value


def but_frozen(module: ModuleLike, tree: Any, function: Callable[..., jax.Array], params: Any) -> Any:
    """A tree in the form of the parameters, with `function(leaf, param)` where the module's are frozen."""
    frozen = module.frozen if isinstance(module, Adapter) else frozenset()
    if not frozen:
        return tree
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf, param: function(leaf, param) if f"params/{name_of(path)}" in frozen else leaf, tree, params
    )


def microbatch_size(module: ModuleLike, batch_size: int) -> int | None:
    """How many images of a batch a step takes at a time; None: all of them.

    A module says by an attribute `microbatch` that it mixes no images, and of how many a CPU's cache holds the
    activations. It cannot be seen from its variables: one that normalises over the batch without keeping statistics
    would silently train something else.
    """
    size = getattr(module, "microbatch", None)
    whole = jax.default_backend() != "cpu" or len(devices.in_use()) > 1
    return None if size is None or whole or batch_size % size else size


@functools.partial(
    jax.jit, static_argnames=("module", "optimizer", "augment", "every_step", "loss"), donate_argnames=("state",)
)
def train_steps(
    state: TrainState,
    images: jax.Array,
    targets: jax.Array,
    weights: jax.Array,
    normalization: Normalization,
    indices: jax.Array | None,
    learning_rates: jax.Array,
    num_steps: jax.Array,
    weight_decay: jax.Array,
    key: jax.Array,
    *,
    module: ModuleLike,
    optimizer: str | Optimizer,
    augment: bool | Augment,
    every_step: bool = False,
    loss: Loss = weighted_cross_entropy,
    mask: Any = None,
    counted: jax.Array | None = None,
) -> tuple[TrainState, jax.Array]:
    """The first `num_steps` of the given steps in one compiled loop; `state` is donated.

    Args:
      state: where to start.
      images: uint8[p, h, w, c], 0..255.
      targets: float32[p, classes], or what `loss` takes.
      weights: float32[p].
      normalization: of the pixels.
      indices: int32[steps, batch], rows of those; None where they are the steps' own, [steps, batch, ...] each.
      learning_rates: float32[steps].
      num_steps: int32[], at most `steps`; dynamic, so that one program serves every length.
      weight_decay: float32[].
      key: of the augmentation and of what the module draws; folded with the step.
      module: the classifier (static).
      optimizer: "sgd", "adam" or a function of the learning rate (static).
      augment: flip and crop, or a function of (key, images) (static).
      every_step: that `num_steps` is `steps` (static); an accelerator need not ask the host then whether to go on.
      loss: what is descended on (static).
      mask: of the parameters that move, see `train_step`.
      counted: bool[steps, groups], whose updates each step's is, see `Recording`; None where none are kept.

    Returns:
      The state and the loss of each step, float32[steps] (0 beyond `num_steps`).
    """
    chex.assert_rank([images, targets, weights], [4, 2, 1] if indices is not None else [5, 3, 2])

    def body(i: jax.Array, carry: tuple[TrainState, jax.Array]) -> tuple[TrainState, jax.Array]:
        state, losses = carry
        rows = i if indices is None else indices[i]
        pixels = images[rows].astype(jnp.float32) / 255
        if augment:
            pixels = augmented(augment, jax.random.fold_in(key, state.step), pixels)
        pixels = normalize(pixels, normalization)
        updates, variables = state.updates, state.variables
        state, value = train_step(
            state,
            pixels,
            targets[rows],
            weights[rows],
            learning_rates[i],
            weight_decay,
            module=module,
            optimizer=optimizer,
            keys=step_keys(module, variables, pixels, key, state.step),
            loss=loss,
            mask=mask,
        )
        if counted is not None and updates is not None:
            state = state._replace(updates=with_step(updates, variables, state.variables, counted[i]))
        return state, losses.at[i].set(value)

    num_losses = len(learning_rates)
    last = num_losses if every_step else num_steps
    return jax.lax.fori_loop(0, last, body, (state, jnp.zeros(num_losses, jnp.float32)))
