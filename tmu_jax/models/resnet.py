"""Residual networks for small images: ResNet-18 and `small_resnet`, a quick one for CPUs."""

from functools import partial

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from tmu_jax.models.layers import batch_norm, conv_layer


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions with batch norm and a shortcut (projected where the shape changes)."""

    width: int
    stride: int
    dtype: DTypeLike
    param_dtype: DTypeLike

    @nn.compact
    def __call__(self, features: jax.Array, train: bool) -> jax.Array:
        conv = conv_layer(self.dtype, self.param_dtype)
        norm = batch_norm(train, self.dtype, self.param_dtype)
        strides = (self.stride, self.stride)
        shortcut = features
        if self.stride != 1 or features.shape[-1] != self.width:
            shortcut = norm(name="shortcut_norm")(
                conv(self.width, (1, 1), strides, name="shortcut_conv", padding="VALID")(features)
            )
        features = conv(self.width, (3, 3), strides, padding=1, name="conv_0")(features)
        features = nn.relu(norm(name="norm_0")(features))
        features = conv(self.width, (3, 3), padding=1, name="conv_1")(features)
        return nn.relu(norm(name="norm_1")(features) + shortcut)


class ResNet(nn.Module):
    """A residual network with a 3×3 stem and no max-pool, as is usual on 32×32 images.

    Attributes:
      num_classes: number of outputs.
      stem_width: channels after the first convolution.
      widths: channels of each stage; the last is the embedding's length.
      blocks: residual blocks of each stage.
      strides: stride of each stage's first block.
      dtype: of the computation; parameters and batch statistics stay in `param_dtype`.

    References:
      He et al., Deep Residual Learning for Image Recognition, 2016 (arXiv 1512.03385).
    """

    num_classes: int
    stem_width: int = 64
    widths: tuple[int, ...] = (64, 128, 256, 512)
    blocks: tuple[int, ...] = (2, 2, 2, 2)
    strides: tuple[int, ...] = (1, 2, 2, 2)
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """Maps normalised images float32[n, h, w, c] to (logits float32[n, classes], embedding float32[n, width])."""
        chex.assert_rank(images, 4)
        conv = conv_layer(self.dtype, self.param_dtype)
        norm = batch_norm(train, self.dtype, self.param_dtype)
        features = conv(self.stem_width, (3, 3), padding=1, name="stem_conv")(images)
        features = nn.relu(norm(name="stem_norm")(features))
        for stage, (width, blocks, stride) in enumerate(zip(self.widths, self.blocks, self.strides, strict=True)):
            for block in range(blocks):
                features = ResidualBlock(
                    width, stride if block == 0 else 1, self.dtype, self.param_dtype, name=f"block_{stage}_{block}"
                )(features, train)
        embedding = features.astype(jnp.float32).mean((1, 2))
        logits = nn.Dense(self.num_classes, dtype=jnp.float32, param_dtype=self.param_dtype, name="head")(embedding)
        return logits, embedding


ResNet18 = ResNet
"""ResNet-18 (the defaults): 11,173,962 parameters for 10 classes of 32×32 RGB images, a 512-d embedding."""

SmallResNet = partial(ResNet, stem_width=32, widths=(32, 64, 256), blocks=(1, 1, 1), strides=(2, 2, 2))
"""Ours, for CPUs: three blocks, the first already at half resolution, a 256-d embedding."""
