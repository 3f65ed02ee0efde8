"""Projected gradient attacks as pure functions of one example, and the adversarial feature made from them."""

import functools
import math
from collections.abc import Callable
from typing import Literal

import chex
import jax
import jax.numpy as jnp
import optax

LogitsFn = Callable[[jax.Array], jax.Array]


def pgd(
    logits_fn: LogitsFn,
    image: jax.Array,
    label: jax.Array,
    *,
    eps: float | jax.Array,
    num_steps: int = 5,
    step_size: float | jax.Array | None = None,
    uphill: jax.Array | None = None,
) -> jax.Array:
    """Moves one image uphill on the cross-entropy of its true label, within an L-infinity ball.

    Each step adds `step_size` times the sign of the gradient and projects onto the ball and the pixel range. There is
    no random start, so the result is a function of the arguments. Everything but `num_steps` may be traced.

    Args:
        logits_fn: maps an image float32[height, width, channels] in 0..1 to logits float32[classes]. Normalisation
            belongs inside it, and so does evaluation mode: the prediction must not depend on a batch.
        image: float32[height, width, channels], 0..1.
        label: int32[], the true class.
        eps: radius of the ball in pixel units, 0..1.
        num_steps: number of gradient steps, at least 0.
        step_size: length of a step in pixel units, eps / 3 by default.
        uphill: the direction of the first step where it is known, see `ascent_direction`; it saves a gradient.

    Returns:
        The adversarial image, float32[height, width, channels], 0..1 and within eps of `image`.

    Raises:
        TypeError: if the image is not floating point (eps would then mean another unit) or the label no integer.
        ValueError: if num_steps, eps or step_size is negative or not finite, as far as it is known.

    References:
        Madry et al. 2018, Towards Deep Learning Models Resistant to Adversarial Attacks (arXiv 1706.06083), Eq. 2 and
        the iteration of section 2.1.
    """
    chex.assert_rank([image, label], [3, 0])
    if uphill is not None:
        chex.assert_equal_shape([image, uphill])
    _check_types(image, label)
    _check_settings(eps, num_steps, step_size)
    eps = jnp.asarray(eps, image.dtype)
    step = eps / 3.0 if step_size is None else jnp.asarray(step_size, image.dtype)
    lowest = jnp.maximum(image - eps, 0.0)
    highest = jnp.minimum(image + eps, 1.0)

    def ascend(adversarial: jax.Array, direction: jax.Array) -> jax.Array:
        return jnp.clip(adversarial + step * direction, lowest, highest)

    def ascend_anew(_: jax.Array, adversarial: jax.Array) -> jax.Array:
        return ascend(adversarial, ascent_direction(logits_fn, adversarial, label)[0])

    if uphill is None or num_steps == 0:
        return jax.lax.fori_loop(0, num_steps, ascend_anew, image)
    return jax.lax.fori_loop(1, num_steps, ascend_anew, ascend(image, uphill))


def ascent_direction(logits_fn: LogitsFn, image: jax.Array, label: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The direction of a step of `pgd` from an image, and the logits on the way to it.

    That of the first step, from the clean image, is the same for every radius.

    Args:
        logits_fn: as for `pgd`.
        image: float32[height, width, channels], 0..1.
        label: int32[], the true class.

    Returns:
        (the sign of the gradient of the cross-entropy, float32[height, width, channels]; the image's logits
        float32[classes]).

    References:
        Madry et al. 2018 (arXiv 1706.06083), the iteration of section 2.1.
    """

    def loss(image: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits = logits_fn(image)
        chex.assert_rank(logits, 1)
        return optax.softmax_cross_entropy_with_integer_labels(logits, label), logits

    gradient, logits = jax.grad(loss, has_aux=True)(image)
    return jnp.sign(gradient), logits


def attack_batch(
    logits_fn: LogitsFn,
    images: jax.Array,
    labels: jax.Array,
    *,
    eps: float | jax.Array,
    num_steps: int = 5,
    step_size: float | jax.Array | None = None,
    uphill: jax.Array | None = None,
) -> jax.Array:
    """`pgd` on every image of a batch, each for itself.

    Args:
        logits_fn: of **one** image, as for `pgd`.
        images: float32[n, height, width, channels], 0..1.
        labels: int32[n].
        eps: one radius for all images, in pixel units.
        num_steps: as for `pgd`.
        step_size: as for `pgd`.
        uphill: as for `pgd`, one of each image.

    Returns:
        float32[n, height, width, channels].

    Raises:
        TypeError: as `pgd`.
        ValueError: as `pgd`.
    """
    chex.assert_rank([images, labels], [4, 1])
    chex.assert_equal_shape_prefix([images, labels], 1)

    def attack(image: jax.Array, label: jax.Array, uphill: jax.Array | None) -> jax.Array:
        return pgd(logits_fn, image, label, eps=eps, num_steps=num_steps, step_size=step_size, uphill=uphill)

    return jax.vmap(attack)(images, labels, uphill)


@functools.partial(jax.jit, static_argnames="order")
def adversarial_cross_entropy(
    clean_logits: jax.Array,
    adversarial_logits: jax.Array,
    order: Literal["clean_target", "adversarial_target"] = "clean_target",
) -> jax.Array:
    """Cross-entropy between the predictions before and after the attack, the feature AF.

    Args:
        clean_logits: float32[..., classes], of the images themselves.
        adversarial_logits: float32[..., classes], of the attacked images.
        order: which of the two softmax outputs is the target distribution.

    Returns:
        float32[...], in nats; small where the attack changes little.

    Raises:
        ValueError: if `order` is neither of the two.

    References:
        Ji et al. 2024, Towards Aligned Data Removal via Twin Machine Unlearning (arXiv 2408.11433), Eq. 6. Which
        argument is the target cannot be read there.
    """
    chex.assert_equal_shape([clean_logits, adversarial_logits])
    if order == "clean_target":
        return optax.softmax_cross_entropy(adversarial_logits, jax.nn.softmax(clean_logits))
    if order == "adversarial_target":
        return optax.softmax_cross_entropy(clean_logits, jax.nn.softmax(adversarial_logits))
    raise ValueError(f"order must be 'clean_target' or 'adversarial_target', got {order!r}")


def _check_types(image: jax.Array, label: jax.Array) -> None:
    if not jnp.issubdtype(image.dtype, jnp.floating):
        raise TypeError(f"image must be floating point in 0..1, got {image.dtype}")
    if not jnp.issubdtype(label.dtype, jnp.integer):
        raise TypeError(f"label must be an integer, got {label.dtype}")


def _check_settings(eps: float | jax.Array, num_steps: int, step_size: float | jax.Array | None) -> None:
    if num_steps < 0:
        raise ValueError(f"num_steps must be at least 0, got {num_steps}")
    for name, value in (("eps", eps), ("step_size", step_size)):
        if isinstance(value, int | float) and not (value >= 0 and math.isfinite(value)):
            raise ValueError(f"{name} must be finite and at least 0 (pixel units), got {value}")
