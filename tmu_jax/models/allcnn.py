"""The all-convolutional network (AllCNN)."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from tmu_jax.models.layers import batch_norm, conv_layer


class AllCNN(nn.Module):
    """AllCNN-C with batch norm: 96 and 192 filters, stride 2 in place of pooling, a 192-d embedding.

    The last 1×1 convolution and the global average commute, so the head is a dense layer on the averaged features.

    Attributes:
      num_classes: number of outputs.
      dtype: of the computation; parameters and batch statistics stay in `param_dtype`.

    References:
      Springenberg et al., Striving for Simplicity: The All Convolutional Net, 2015 (arXiv 1412.6806).
    """

    num_classes: int
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """Maps normalised images float32[n, h, w, c] to (logits float32[n, classes], embedding float32[n, 192])."""
        chex.assert_rank(images, 4)
        conv = conv_layer(self.dtype, self.param_dtype)
        norm = batch_norm(train, self.dtype, self.param_dtype)
        layers = ((96, 3, 1), (96, 3, 1), (96, 3, 2), (192, 3, 1), (192, 3, 1), (192, 3, 2), (192, 3, 1), (192, 1, 1))
        features = images
        for index, (width, size, stride) in enumerate(layers):
            features = conv(width, (size, size), (stride, stride), padding=size // 2, name=f"conv_{index}")(features)
            features = nn.relu(norm(name=f"norm_{index}")(features))
        embedding = features.astype(jnp.float32).mean((1, 2))
        logits = nn.Dense(self.num_classes, dtype=jnp.float32, param_dtype=self.param_dtype, name="head")(embedding)
        return logits, embedding
