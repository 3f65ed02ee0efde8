"""The two layers that every convolutional classifier here is made of."""

from functools import partial

import flax.linen as nn
from jax.typing import DTypeLike


def conv_layer(dtype: DTypeLike, param_dtype: DTypeLike) -> partial[nn.Conv]:
    """A bias-free convolution, He-initialised."""
    return partial(
        nn.Conv, use_bias=False, dtype=dtype, param_dtype=param_dtype, kernel_init=nn.initializers.he_normal()
    )


def batch_norm(train: bool, dtype: DTypeLike, param_dtype: DTypeLike) -> partial[nn.BatchNorm]:
    """Batch norm with momentum 0.9 (in Flax's sense) and eps 1e-5; its statistics are float32 for any dtype."""
    return partial(
        nn.BatchNorm,
        use_running_average=not train,
        momentum=0.9,
        epsilon=1e-5,
        dtype=dtype,
        param_dtype=param_dtype,
    )
