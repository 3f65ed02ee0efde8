"""Attention of every token to every other one, by compiled code on a CPU where it can be had."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array, lax

from tmu_jax.cpu import native

# A head's queries fill the vectors of any processor.
_WHOLE_WIDTH = 16


def is_compiled(tokens: Array, head_dim: int, *others: Array) -> bool:
    """Whether compiled code takes heads of this width for tokens float[n, t, d] and other arrays beside them."""
    fits = tokens.dtype == jnp.float32 and tokens.shape[1] > 1 and head_dim % _WHOLE_WIDTH == 0 and tokens.size > 0
    return fits and native.is_used(tokens, *others, group=native.ATTENTION)


def mix_others(query: Array, key: Array, value: Array, scale: Array) -> Array:
    """Means of the other tokens' values, weighted by the softmax of scale · query · key.

    Args:
        query: float[n, t, heads, head_dim], and so are key and value.
        key: what the queries are multiplied with.
        value: what is averaged.
        scale: float32[heads].

    Returns:
        float[n, t, heads, head_dim]; a single token has only its own value.

    References:
        Lee et al., 2021 (arXiv 2112.13492), Section 3.2.
    """
    query = (query.astype(jnp.float32) * scale[None, None, :, None]).astype(value.dtype)
    scores = jnp.einsum("nqhd,nkhd->nhqk", query, key, preferred_element_type=jnp.float32)
    scores = jnp.where(jnp.eye(query.shape[1], dtype=bool), jnp.finfo(scores.dtype).min, scores)
    # The softmax, divided by its sum after the product: fewer numbers to divide, and no third array of this size.
    largest = lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True))
    attention = jnp.exp(scores - largest)
    sums = jnp.sum(attention, axis=-1).swapaxes(1, 2)[..., None]
    mixed = jnp.einsum("nhqk,nkhd->nqhd", attention.astype(value.dtype), value)
    return (mixed.astype(jnp.float32) / sums).astype(value.dtype)


def mix_others_compiled(projections: Array, scale: Array) -> Array:
    """The same of queries, keys and values in one array, float32[n, t, 3, heads, head_dim]; where `is_compiled`."""
    return _compiled()(projections, scale)


@functools.cache
def _compiled() -> Callable[[Array, Array], Array]:
    def library(projections: Array, scale: Array) -> Array:
        return mix_others(projections[:, :, 0], projections[:, :, 1], projections[:, :, 2], scale)

    def forward(projections: Array, scale: Array) -> Array:
        num_images, tokens, _, *head = projections.shape
        call = native.call("attention", (num_images, tokens, *head))
        return lax.platform_dependent(projections, scale, cpu=call, default=library)

    def gradient(projections: Array, scale: Array, cotangent: Array) -> tuple[Array, Array]:
        shapes = [projections.shape, (len(projections), len(scale))]

        def on_cpu(*args: Array) -> tuple[Array, Array]:
            to_projections, to_scale = native.call("attention_gradient", shapes)(*args)
            return to_projections, to_scale.sum(0)

        def elsewhere(projections: Array, scale: Array, cotangent: Array) -> tuple[Array, Array]:
            return tuple(jax.vjp(library, projections, scale)[1](cotangent))

        return lax.platform_dependent(projections, scale, cotangent, cpu=on_cpu, default=elsewhere)

    @jax.custom_vjp
    def mix(projections: Array, scale: Array) -> Array:
        return forward(projections, scale)

    def mix_fwd(projections: Array, scale: Array) -> tuple[Array, tuple[Array, Array]]:
        return forward(projections, scale), (projections, scale)

    def mix_bwd(residuals: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
        return gradient(*residuals, cotangent)

    mix.defvjp(mix_fwd, mix_bwd)
    return mix
