"""UNSIR: noise that the original finds hardest as its classes undoes them, and a short training repairs the rest.

For each class of D_f, images are learnt from noise,

    N ← argmin over N of −CE(class, f_θo(N)) + penalty · mean Σ N²,

in units of normalised pixels. *Impair*: an epoch over these, `copies` times, with the class as their label, and
`per_class` retained images of every class. *Repair*: an epoch over the retained ones alone.

It forgets classes: of a request for some images of a class it impairs all of it, and the repair brings back what the
class's other images teach.

Two faults of the authors' code are not here: all noise gets the label 0, whichever class it was learnt for; and the
noise is learnt in train mode, so that the original's batch statistics, which are meant to be left alone, move to those
of noise.

References:
  Tarun et al., Fast Yet Effective Machine Unlearning, 2023 (arXiv 2111.08947), Eq. 3 and Algorithm 1; every setting is
  that of the authors' notebook for CIFAR-10.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tmu_jax import devices
from tmu_jax.data import ForgetProblem
from tmu_jax.stages import Progress, ignore_progress
from tmu_jax.training import (
    ModuleLike,
    Recipe,
    Stream,
    TrainedModel,
    TrainState,
    Variables,
    apply,
    fit,
    make_optimizer,
    one_hot,
    train_steps,
)
from tmu_jax.training.loop import pad_steps
from tmu_jax.unlearning.method import Method
from tmu_jax.unlearning.ranges import Range
from tmu_jax.unlearning.relabelling import equal_weights, true_targets
from tmu_jax.unlearning.unlearned import UnlearnedModel, with_variables

RECIPE = Recipe(epochs=1, batch_size=256, learning_rate=0.01, schedule="constant", optimizer="adam", weight_decay=0.0)
_STEPS_PER_CALL = 8


def run(
    problem: ForgetProblem,
    original: TrainedModel,
    key: jax.Array,
    *,
    recipe: Recipe,
    progress: Progress | None,
    noise_images: int,
    noise_steps: int,
    noise_rate: float,
    penalty: float,
    copies: int,
    per_class: int,
    impair: float,
) -> UnlearnedModel:
    """Learns the noise, impairs and repairs.

    Args:
      problem: the request.
      original: the model that is to forget.
      key: a PRNG key.
      recipe: of the repair, and but for its rate of impairing, which augments nothing.
      progress: called with (steps done, steps in all), of impairing and of repairing.
      noise_images: that are learnt for a class.
      noise_steps: of Adam, to learn them.
      noise_rate: its learning rate.
      penalty: on the images' squares.
      copies: of each noise image in an epoch of impairing.
      per_class: retained images of each class, at most.
      impair: learning rate of impairing, as a multiple of the repair's.
    """
    noise_key, draw_key, impair_key, repair_key = jax.random.split(key, 4)
    retained = draw_by_class(problem, per_class, draw_key)
    classes = np.unique(problem.forget.labels)
    shape = (noise_images, *problem.pool.images.shape[1:])
    noise = [
        learn_noise(
            devices.replicate(original.variables),
            devices.split(np.asarray(jax.random.normal(own_key, shape, jnp.float32)), 0),
            jnp.int32(label),
            jnp.float32(noise_rate),
            jnp.float32(penalty),
            jnp.int32(noise_steps),
            module=original.module,
        )
        for own_key, label in zip(jax.random.split(noise_key, len(classes)), classes, strict=True)
    ]
    impairing = dataclasses.replace(recipe, learning_rate=impair * recipe.learning_rate)
    noise_labels = np.repeat(classes, noise_images)
    images = np.concatenate([devices.on_host(part) for part in noise])
    impaired = impaired_by(problem, original, images, noise_labels, copies, retained, impairing, impair_key, progress)
    variables, losses = fit(
        original.module,
        impaired,
        original.normalization,
        problem.pool,
        Stream((retained,)),
        true_targets(problem),
        equal_weights(problem),
        recipe,
        repair_key,
        progress=progress,
    )
    return with_variables(original, variables, losses)


def draw_by_class(problem: ForgetProblem, per_class: int, key: jax.Array) -> np.ndarray:
    """Random retained rows, at most so many of each class, int32[n]."""
    order = np.asarray(jax.random.permutation(key, problem.retain.indices))
    labels = problem.pool.labels[order]
    return np.concatenate([order[labels == label][:per_class] for label in range(problem.num_classes)])


@functools.partial(jax.jit, static_argnames=("module",))
def learn_noise(
    variables: Variables,
    noise: jax.Array,
    label: jax.Array,
    rate: jax.Array,
    penalty: jax.Array,
    num_steps: jax.Array,
    *,
    module: ModuleLike,
) -> jax.Array:
    """Images float32[n, h, w, c] after steps of Adam away from a label, in units of normalised pixels."""
    labels = jnp.full(len(noise), label)
    optimizer = make_optimizer("adam", 0.0)

    def loss(noise: jax.Array) -> jax.Array:
        (logits, _), _ = apply(module, variables, noise, train=False)
        cross_entropy = optax.softmax_cross_entropy_with_integer_labels(jnp.asarray(logits), labels)
        return jnp.mean(-cross_entropy + penalty * jnp.sum(jnp.square(noise), axis=(1, 2, 3)))

    def body(_: jax.Array, carry: tuple[jax.Array, optax.OptState]) -> tuple[jax.Array, optax.OptState]:
        noise, state = carry
        with jax.numpy_dtype_promotion("standard"):  # optax's Adam raises a float to an integer power
            update, state = optimizer.update(jax.grad(loss)(noise), state, noise)
        return noise - rate * update, state

    return jax.lax.fori_loop(0, num_steps, body, (noise, optimizer.init(noise)))[0]


def impaired_by(
    problem: ForgetProblem,
    original: TrainedModel,
    noise: np.ndarray,
    noise_labels: np.ndarray,
    copies: int,
    retained: np.ndarray,
    recipe: Recipe,
    key: jax.Array,
    progress: Progress | None = None,
) -> Variables:
    """The variables after training on noise float32[n, h, w, c] with its labels int[n], and on retained rows.

    Raises:
      FloatingPointError: when a loss is not finite.
    """
    mean, std = (np.asarray(part, np.float32) for part in original.normalization)
    as_pixels = 255 * (noise * std + mean)
    in_all = copies * len(noise)
    labels = np.concatenate([np.tile(noise_labels, copies), problem.pool.labels[retained]])
    order_key, step_key = jax.random.split(key)
    stream = Stream((np.arange(len(labels), dtype=np.int32),))
    epochs = stream.epochs(recipe.batch_size, np.random.default_rng(np.asarray(jax.random.key_data(order_key))))
    copied = jax.tree.map(jnp.copy, original.variables)
    params = copied.pop("params")
    optimizer = make_optimizer(recipe.optimizer, recipe.weight_decay, jnp.float32(recipe.learning_rate))
    state = TrainState(params, copied, optimizer.init(params), jnp.zeros((), jnp.int32))
    state, normalization, step_key = devices.replicate((state, original.normalization, step_key))
    chosen = np.concatenate([next(epochs) for _ in range(recipe.epochs)])
    rates = recipe.learning_rates(len(chosen))
    for start in range(0, len(chosen), _STEPS_PER_CALL):
        rows = chosen[start : start + _STEPS_PER_CALL]
        of_pool = problem.pool.images[retained[np.maximum(rows - in_all, 0)]]
        is_noise = (rows < in_all)[..., None, None, None]
        batch = (
            np.where(is_noise, as_pixels[rows % len(noise)], of_pool.astype(np.float32)),
            one_hot(labels[rows], problem.num_classes),
            np.ones(rows.shape, np.float32),
        )
        state, losses = train_steps(
            state,
            *(devices.split(pad_steps(part, _STEPS_PER_CALL), 1) for part in batch),
            normalization,
            None,
            pad_steps(rates[start : start + len(rows)], _STEPS_PER_CALL),
            np.int32(len(rows)),
            np.float32(recipe.weight_decay),
            step_key,
            module=original.module,
            optimizer=recipe.optimizer,
            augment=False,
        )
        if not np.isfinite(losses).all():
            raise FloatingPointError(
                f"the loss of impairing is not finite at learning rate {rates[start]:g}; try a smaller impair"
            )
        (progress or ignore_progress)(start + len(rows), len(chosen))
    return {"params": state.params, **state.collections}


def check(
    noise_images: int,
    noise_steps: int,
    noise_rate: float,
    penalty: float,
    copies: int,
    per_class: int,
    impair: float,
) -> None:
    """Raises ValueError for options out of range."""
    whole = {"noise_images": noise_images, "noise_steps": noise_steps, "copies": copies, "per_class": per_class}
    for name, count in whole.items():
        if count < 1 or count != int(count):
            raise ValueError(f"{name}={count} must be a whole number, at least 1")
    for name, value in (("noise_rate", noise_rate), ("impair", impair)):
        if not value > 0:
            raise ValueError(f"{name}={value} must be above 0")
    if not penalty >= 0:
        raise ValueError(f"penalty={penalty} must be 0 or more")


def draws(problem: ForgetProblem, noise_images: int, copies: int, per_class: int, **others: float) -> float:
    """Images of an epoch of impairing, and of one of repair."""
    sizes = np.bincount(problem.retain.labels, minlength=problem.num_classes)
    return float(2 * np.minimum(sizes, per_class).sum() + _images_of_noise(problem, noise_images) * copies)


def draws_once(problem: ForgetProblem, noise_images: int, noise_steps: int, **others: float) -> float:
    """Images of the noise's steps."""
    return float(_images_of_noise(problem, noise_images) * noise_steps)


def _images_of_noise(problem: ForgetProblem, noise_images: int) -> int:
    return noise_images * len(np.unique(problem.forget.labels))


unsir = Method(
    "unsir",
    run=run,
    recipe=RECIPE,
    options={
        "noise_images": 256,
        "noise_steps": 40,
        "noise_rate": 0.1,
        "penalty": 0.1,
        "copies": 20,
        "per_class": 1000,
        "impair": 2.0,
    },
    ranges={
        "copies": Range(1, 20, "whole"),
        "impair": Range(0.1, 4.0, "log"),
        "learning_rate": Range(3e-5, 0.01, "log"),
    },
    check=check,
    draws=draws,
    draws_once=draws_once,
)
