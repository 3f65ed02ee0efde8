"""What the tests of this room share: random arrays, lax's convolution bound to a geometry, and how close is close."""

import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

NHWC = ("NHWC", "HWIO", "NHWC")
_compilers = [os.environ.get("CXX"), *map(shutil.which, ("c++", "g++", "clang++"))]
# Not by `native.is_available`: code that does not compile must fail, not be skipped.
HAS_COMPILER = any(_compilers) and os.environ.get("TMU_JAX_NATIVE") != "0"
needs_compiler = pytest.mark.skipif(not HAS_COMPILER, reason="needs a C++ compiler")


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def bind(convolve, stride=1, padding="SAME", **options):
    def function(images, kernel):
        return convolve(images, kernel, (stride, stride), padding, dimension_numbers=NHWC, **options)

    return function


def values_and_gradients(function, images, kernel):
    """The output, and both gradients against a fixed random cotangent."""
    outputs, pull = jax.vjp(function, images, kernel)
    return outputs, *pull(normal(2, *outputs.shape).astype(outputs.dtype))


def three(convolve, stride, padding, images, kernel):
    return jax.jit(values_and_gradients, static_argnums=0)(bind(convolve, stride, padding), images, kernel)


def assert_close(ours, expected, tolerance=2e-5):
    """Largest error relative to the largest value: Winograd's errors are relative to a tile, not to a pixel."""
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        assert one.shape == other.shape
        assert one.dtype == other.dtype
        scale = np.abs(np.asarray(other, np.float32)).max(initial=0)
        np.testing.assert_allclose(np.asarray(one, np.float32), np.asarray(other, np.float32), atol=tolerance * scale)


def custom_calls(function, *args):
    return jax.jit(function).lower(*args).as_text().count("custom_call @tmu_jax_")


def sweep(name, quick, rest):
    """Parametrizes by all values; only the quick ones, of every kind at least one, outside of the slow tests."""
    several = not isinstance(name, str)
    slow = [pytest.param(*(value if several else (value,)), marks=pytest.mark.slow) for value in rest]
    return pytest.mark.parametrize(name, [*quick, *slow])
