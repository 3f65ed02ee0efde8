"""A vision transformer for small images: shifted patch tokenisation and locality self-attention."""

import math
from functools import partial
from typing import ClassVar

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike


def shifted_patches(images: jax.Array, patch: int) -> jax.Array:
    """Stacks an image with its four half-patch diagonal shifts and cuts the stack into patches.

    Args:
      images: float[n, h, w, c], h and w multiples of `patch`.
      patch: side of a patch in pixels.

    Returns:
      float[n, (h/patch)·(w/patch), patch·patch·5·c].

    References:
      Lee et al., Vision Transformer for Small-Size Datasets, 2021 (arXiv 2112.13492), Section 3.1.
    """
    chex.assert_rank(images, 4)
    n, height, width, channels = images.shape
    shift = patch // 2
    padded = jnp.pad(images, ((0, 0), (shift, shift), (shift, shift), (0, 0)))
    corners = [(0, 0), (0, 2 * shift), (2 * shift, 0), (2 * shift, 2 * shift)]
    shifted = [padded[:, top : top + height, left : left + width] for top, left in corners]
    stacked = jnp.concatenate([images, *shifted], axis=-1)
    grid = stacked.reshape(n, height // patch, patch, width // patch, patch, 5 * channels)
    return grid.transpose(0, 1, 3, 2, 4, 5).reshape(n, -1, patch * patch * 5 * channels)


def attend_others(query: jax.Array, key: jax.Array, value: jax.Array, scale: jax.Array) -> jax.Array:
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
    # Heads lead, and tokens come last in keys and values: of the layouts that were timed, XLA's products on a CPU like
    # this one best. The mask is added, for a sum is computed along with the product and a choice by another loop.
    query = (query.astype(jnp.float32) * scale[None, None, :, None]).astype(value.dtype).transpose(0, 2, 1, 3)
    key, value = key.transpose(0, 2, 3, 1), value.transpose(0, 2, 3, 1)
    scores = jnp.einsum("nhqd,nhdk->nhqk", query, key, preferred_element_type=jnp.float32)
    scores += jnp.finfo(scores.dtype).min * jnp.eye(query.shape[2], dtype=scores.dtype)[None, None]
    # The softmax, divided by its sum after the product: fewer numbers to divide, and no third array of this size.
    attention = jnp.exp(scores - lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True)))
    mixed = jnp.einsum("nhqk,nhdk->nhqd", attention.astype(value.dtype), value)
    mixed = mixed.astype(jnp.float32) / jnp.sum(attention, axis=-1, keepdims=True)
    return mixed.astype(value.dtype).transpose(0, 2, 1, 3)


class LocalitySelfAttention(nn.Module):
    """Multi-head self-attention with a learnt temperature a head and each token masked from itself.

    References:
      Lee et al., 2021 (arXiv 2112.13492), Section 3.2.
    """

    num_heads: int
    head_dim: int
    dtype: DTypeLike
    param_dtype: DTypeLike

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Maps tokens float[n, t, d] to float[n, t, d]."""
        chex.assert_rank(tokens, 3)
        log_temperature = self.param(
            "log_temperature",
            nn.initializers.constant(0.5 * math.log(self.head_dim)),
            (self.num_heads,),
            self.param_dtype,
        )
        scale = jnp.exp(-log_temperature.astype(jnp.float32))
        projections = nn.DenseGeneral(
            (3, self.num_heads, self.head_dim),
            use_bias=False,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name="query_key_value",
        )(tokens)
        query, key, value = (projections[:, :, part] for part in range(3))
        mixed = attend_others(query, key, value, scale)
        return nn.DenseGeneral(
            tokens.shape[-1], axis=(-2, -1), dtype=self.dtype, param_dtype=self.param_dtype, name="output"
        )(mixed)


class ViT(nn.Module):
    """A pre-norm vision transformer with a class token; its final state is the embedding.

    Attributes:
      num_classes: number of outputs.
      patch: side of a patch in pixels.
      depth: number of transformer blocks.
      width: length of a token.
      num_heads: attention heads of `head_dim` each.
      mlp_width: hidden width of each block's MLP.
      dtype: of the computation; parameters stay in `param_dtype`.
      microbatch: images that a training step takes at a time on a CPU, whose cache holds their activations: no layer
        mixes images. A subclass that mixes them (batch norm) sets it to None.

    References:
      Dosovitskiy et al., 2021 (arXiv 2010.11929); Lee et al., 2021 (arXiv 2112.13492).
    """

    microbatch: ClassVar[int] = 16

    num_classes: int
    patch: int = 4
    depth: int = 9
    width: int = 192
    num_heads: int = 12
    head_dim: int = 16
    mlp_width: int = 384
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """Maps normalised images float32[n, h, w, c] to (logits float32[n, classes], embedding float32[n, width])."""
        del train  # neither batch norm nor dropout
        chex.assert_rank(images, 4)
        if images.shape[1] % self.patch or images.shape[2] % self.patch:
            raise ValueError(f"images are {images.shape[1]}×{images.shape[2]}; ViT needs multiples of {self.patch}")
        dense = partial(nn.Dense, dtype=self.dtype, param_dtype=self.param_dtype)
        norm = partial(nn.LayerNorm, dtype=self.dtype, param_dtype=self.param_dtype)
        tokens = shifted_patches(images.astype(self.dtype), self.patch)
        tokens = dense(self.width, name="patch_embedding")(norm(name="patch_norm")(tokens))
        class_token = self.param("class_token", nn.initializers.normal(0.02), (1, 1, self.width), self.param_dtype)
        class_tokens = jnp.broadcast_to(class_token, (tokens.shape[0], 1, self.width)).astype(tokens.dtype)
        tokens = jnp.concatenate([class_tokens, tokens], axis=1)
        positions = self.param(
            "positions", nn.initializers.normal(0.02), (1, tokens.shape[1], self.width), self.param_dtype
        )
        tokens = tokens + positions.astype(tokens.dtype)
        for block in range(self.depth):
            attend = LocalitySelfAttention(
                self.num_heads, self.head_dim, self.dtype, self.param_dtype, name=f"attention_{block}"
            )
            tokens = tokens + attend(norm(name=f"attention_norm_{block}")(tokens))
            hidden = dense(self.mlp_width, name=f"mlp_in_{block}")(norm(name=f"mlp_norm_{block}")(tokens))
            tokens = tokens + dense(self.width, name=f"mlp_out_{block}")(nn.gelu(hidden))
        embedding = norm(name="final_norm")(tokens[:, 0]).astype(jnp.float32)
        logits = nn.Dense(self.num_classes, dtype=jnp.float32, param_dtype=self.param_dtype, name="head")(embedding)
        return logits, embedding
