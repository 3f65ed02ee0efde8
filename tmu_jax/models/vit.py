"""A vision transformer for small images: shifted patch tokenisation and locality self-attention."""

import math
from functools import partial
from typing import ClassVar

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from tmu_jax.models import attention
from tmu_jax.models.dense import dot_general


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


class Heads(nn.Module):
    """Queries, keys and values of every head by one kernel, and attention.

    Compiled code takes them as they come from one product. Else there are three: XLA would cut one apart afterwards,
    and put its gradient together from padded parts.
    """

    num_heads: int
    head_dim: int
    dtype: DTypeLike
    param_dtype: DTypeLike

    @nn.compact
    def __call__(self, tokens: jax.Array, scale: jax.Array) -> jax.Array:
        """Maps tokens float[n, t, d] and scale float32[heads] to what the heads find, float[n, t, heads, head_dim]."""
        shape = (tokens.shape[-1], 3, self.num_heads, self.head_dim)

        def init(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike) -> jax.Array:
            return nn.initializers.lecun_normal()(key, (shape[0], math.prod(shape[1:])), dtype).reshape(shape)

        kernel = self.param("kernel", init, shape, self.param_dtype).astype(self.dtype)
        tokens = tokens.astype(self.dtype)
        if attention.is_compiled(tokens, self.head_dim, kernel, scale):
            return attention.mix_others_compiled(dot_general(tokens, kernel, (((2,), (0,)), ((), ()))), scale)
        query, key, value = (jnp.einsum("ntd,dhe->nthe", tokens, kernel[:, part]) for part in range(3))
        return attention.mix_others(query, key, value, scale)


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
        mixed = Heads(self.num_heads, self.head_dim, self.dtype, self.param_dtype, name="query_key_value")(
            tokens, scale
        )
        return nn.DenseGeneral(
            tokens.shape[-1],
            axis=(-2, -1),
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            dot_general=dot_general,
            name="output",
        )(mixed)


class ViT(nn.Module):
    """A pre-norm vision transformer with a class token; its final state is the embedding.

    On a CPU, where its layers are compiled code (`TMU_JAX_NATIVE=0` prevents it), it is differentiated in reverse mode
    only, and once.

    Attributes:
      num_classes: number of outputs.
      patch: side of a patch in pixels.
      depth: number of transformer blocks.
      width: length of a token.
      num_heads: attention heads of `head_dim` each.
      mlp_width: hidden width of each block's MLP.
      dtype: of the computation; parameters stay in `param_dtype`.
      images_are_independent: no layer mixes images, in training either, so that a training step may take a batch in
        parts. A subclass that mixes them (batch norm) sets it to False.

    References:
      Dosovitskiy et al., 2021 (arXiv 2010.11929); Lee et al., 2021 (arXiv 2112.13492).
    """

    images_are_independent: ClassVar[bool] = True

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
        dense = partial(nn.Dense, dtype=self.dtype, param_dtype=self.param_dtype, dot_general=dot_general)
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
