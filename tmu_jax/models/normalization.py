"""Batch norm together with what follows it: a shortcut added, and ReLU."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax

from tmu_jax.cpu import native

_Residuals = tuple[Array, Array, Array, Array, Array, Array]


class BatchNorm(nn.BatchNorm):
    """Flax's batch norm; in training on a CPU by compiled code (`native`), if that can be had.

    Parameters, statistics and results are those of `nn.BatchNorm` (results to about 5e-6). The compiled path takes
    float32 features whose last axis fills whole vectors (a multiple of 16 channels), and may be differentiated once, in
    reverse mode, with respect to everything but the statistics.

    References:
      Ioffe & Szegedy, Batch Normalization, 2015 (arXiv 1502.03167), algorithm 1.
    """

    @nn.compact
    def __call__(self, features: Array, shortcut: Array | None = None, relu: bool = False) -> Array:  # type: ignore[override]
        """Normalises features [..., channels], adds a shortcut of the same shape, and applies ReLU where asked."""
        if not self._is_native(features):
            features = super().__call__(features)
            if shortcut is not None:
                features = features + shortcut
            return nn.relu(features) if relu else features
        channels = features.shape[-1:]
        mean = self.variable("batch_stats", "mean", jnp.zeros, channels, jnp.float32)
        variance = self.variable("batch_stats", "var", jnp.ones, channels, jnp.float32)
        scale = self.param("scale", self.scale_init, channels, self.param_dtype)
        bias = self.param("bias", self.bias_init, channels, self.param_dtype)
        out, *found = _batch_norm(bool(relu), shortcut is not None, float(self.epsilon))(
            features, bias if shortcut is None else shortcut, scale, bias
        )
        if not self.is_initializing():
            for kept, new in zip((mean, variance), found, strict=True):
                kept.value = self.momentum * kept.value + (1 - self.momentum) * lax.stop_gradient(new)
        return out

    def _is_native(self, features: Array) -> bool:
        dtypes = {jnp.dtype(dtype) for dtype in (features.dtype, self.dtype or features.dtype, self.param_dtype)}
        plain = (
            self.use_running_average is False  # None is Flax's to refuse.
            and self.axis == -1
            and self.axis_name is None
            and self.use_bias
            and self.use_scale
            and dtypes == {jnp.dtype(jnp.float32)}
            and features.shape[-1] % 16 == 0
            and features.size > 0
        )
        return plain and native.is_used(features)


@functools.cache
def _batch_norm(relu: bool, has_shortcut: bool, epsilon: float) -> Callable[..., Any]:
    """(features, shortcut, scale, bias) -> (out, mean, variance); without a shortcut, any array in its place."""
    attributes = {"relu": relu, "has_shortcut": has_shortcut, "epsilon": epsilon}

    def forward(features: Array, shortcut: Array, scale: Array, bias: Array) -> tuple[Array, ...]:
        shapes = [features.shape, bias.shape, bias.shape]
        compiled = native.call("batch_norm", shapes, **attributes)
        return lax.platform_dependent(
            features,
            shortcut,
            scale,
            bias,
            cpu=lambda *args: tuple(compiled(*args)),
            default=functools.partial(_forward, relu, has_shortcut, epsilon),
        )

    def gradient(features: Array, *args: Array) -> tuple[Array, ...]:
        shape, channels = features.shape, features.shape[-1:]
        shapes = [shape, channels, channels, shape if has_shortcut else channels]
        compiled = native.call("batch_norm_gradient", shapes, **attributes)
        return lax.platform_dependent(
            features,
            *args,
            cpu=lambda *args: tuple(compiled(*args)),
            default=functools.partial(_gradient, relu, has_shortcut, epsilon),
        )

    @jax.custom_vjp
    def batch_norm(features: Array, shortcut: Array, scale: Array, bias: Array) -> tuple[Array, ...]:
        return forward(features, shortcut, scale, bias)

    def batch_norm_fwd(
        features: Array, shortcut: Array, scale: Array, bias: Array
    ) -> tuple[tuple[Array, ...], _Residuals]:
        out, mean, variance = forward(features, shortcut, scale, bias)
        # With a shortcut, only the result tells where ReLU let values pass.
        kept = out if relu and has_shortcut else bias
        return (out, mean, variance), (features, kept, scale, bias, mean, variance)

    def batch_norm_bwd(residuals: _Residuals, cotangents: tuple[Array, ...]) -> tuple[Array, ...]:
        features, out, *parameters = residuals
        to_features, to_scale, to_bias, to_shortcut = gradient(features, out, cotangents[0], *parameters)
        return to_features, to_shortcut, to_scale, to_bias

    batch_norm.defvjp(batch_norm_fwd, batch_norm_bwd)
    return batch_norm


def _forward(
    relu: bool, has_shortcut: bool, epsilon: float, features: Array, shortcut: Array, scale: Array, bias: Array
) -> tuple[Array, Array, Array]:
    """What the compiled function computes, for a program traced beside a CPU and run elsewhere."""
    axes = tuple(range(features.ndim - 1))
    mean, variance = features.mean(axes), features.var(axes)
    shape = (1,) * len(axes) + (-1,)
    factor = (scale * lax.rsqrt(variance + epsilon)).reshape(shape)
    out = (features - mean.reshape(shape)) * factor + bias.reshape(shape)
    out = out + shortcut if has_shortcut else out
    return (nn.relu(out) if relu else out), mean, variance


def _gradient(
    relu: bool,
    has_shortcut: bool,
    epsilon: float,
    features: Array,
    out: Array,
    cotangent: Array,
    scale: Array,
    bias: Array,
    *_: Array,
) -> tuple[Array, ...]:
    def normalize(features: Array, scale: Array, bias: Array) -> Array:
        return _forward(False, False, epsilon, features, bias, scale, bias)[0]

    normalized, pull = jax.vjp(normalize, features, scale, bias)
    if relu:
        cotangent = jnp.where((out if has_shortcut else normalized) > 0, cotangent, 0.0)
    return *pull(cotangent), cotangent if has_shortcut else jnp.zeros_like(bias)
