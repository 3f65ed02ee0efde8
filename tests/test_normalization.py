"""Batch norm with a shortcut and ReLU: against Flax's, and in float64."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.test_convolution import assert_close, normal
from tmu_jax.models import native
from tmu_jax.models.normalization import BatchNorm

needs_compiler = pytest.mark.skipif(not native.is_available(), reason="needs a C++ compiler")


def variables(channels):
    return {
        "params": {"scale": 1 + 0.3 * normal(5, channels), "bias": normal(6, channels)},
        "batch_stats": {"mean": normal(7, channels), "var": jnp.exp(normal(8, channels))},
    }


def results(layer, features, shortcut, relu, cotangent):
    """Outputs, new statistics, and gradients with respect to features, shortcut and parameters."""
    given = variables(features.shape[-1])

    def apply(features, shortcut, params):
        collections = {"params": params, "batch_stats": given["batch_stats"]}
        if isinstance(layer, BatchNorm):
            return layer.apply(collections, features, shortcut, relu, mutable=["batch_stats"])
        out, new = layer.apply(collections, features, mutable=["batch_stats"])
        out = out if shortcut is None else out + shortcut
        return (nn.relu(out) if relu else out), new

    out, pull, new = jax.vjp(apply, features, shortcut, given["params"], has_aux=True)
    return out, new, pull(cotangent)


def layers(**options):
    shared = {"use_running_average": False, "momentum": 0.9, "dtype": jnp.float32, **options}
    return BatchNorm(**shared), nn.BatchNorm(**shared)


def is_compiled(layer, features):
    def apply(features):
        return layer.apply(variables(features.shape[-1]), features, mutable=["batch_stats"])[0]

    return "batch_norm" in jax.jit(apply).lower(features).as_text()


@needs_compiler
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("has_shortcut", [False, True])
@pytest.mark.parametrize("shape", [(3, 5, 7, 16), (40, 8, 8, 32), (2, 9, 80), (300, 512), (1, 1, 1, 32)])
def test_equals_flax(shape, has_shortcut, relu):
    """Channels of one vector, of several, of more than one pass takes; one run of rows, and many."""
    features = 3 + 2 * normal(0, *shape)
    shortcut = normal(1, *shape) if has_shortcut else None
    ours, flax = layers()
    assert is_compiled(ours, features)
    args = features, shortcut, relu, normal(2, *shape)
    assert_close(jax.jit(results, static_argnums=(0, 3))(ours, *args), results(flax, *args), tolerance=2e-5)


@needs_compiler
def test_against_float64():
    features, cotangent = 5 + normal(0, 60, 8, 8, 32), normal(1, 60, 8, 8, 32)
    given = variables(32)["params"]
    out, new, (to_features, _, to_params) = results(layers()[0], features, None, True, cotangent)
    wide = np.asarray(features, np.float64).reshape(-1, 32)
    mean, variance = wide.mean(0), wide.var(0)
    centered, inverse = wide - mean, 1 / np.sqrt(variance + 1e-5)
    scale, bias = (np.asarray(given[name], np.float64) for name in ("scale", "bias"))
    exact = np.maximum(centered * inverse * scale + bias, 0)
    passed = np.asarray(cotangent, np.float64).reshape(-1, 32) * (exact > 0)
    to_scale = (passed * centered * inverse).sum(0)
    slope = scale * inverse * (passed - passed.mean(0) - centered * inverse * to_scale / len(wide))
    np.testing.assert_allclose(out.reshape(-1, 32), exact, atol=1e-5)
    statistics = new["batch_stats"]
    np.testing.assert_allclose(statistics["mean"], 0.9 * variables(32)["batch_stats"]["mean"] + 0.1 * mean, atol=1e-6)
    np.testing.assert_allclose(statistics["var"], 0.9 * variables(32)["batch_stats"]["var"] + 0.1 * variance, atol=1e-5)
    np.testing.assert_allclose(to_features.reshape(-1, 32), slope, atol=2e-5)
    np.testing.assert_allclose(to_params["scale"], to_scale, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(to_params["bias"], passed.sum(0), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("channels", "options"),
    [(24, {}), (32, {"dtype": jnp.bfloat16}), (32, {"use_bias": False}), (32, {"use_running_average": True})],
)
def test_other_layers_are_those_of_flax(channels, options):
    features, given = normal(0, 4, 5, 5, channels), variables(channels)
    if "use_bias" in options:
        del given["params"]["bias"]
    with jax.numpy_dtype_promotion("standard"):  # Flax's own layer mixes bfloat16 with float32.
        ours, flax = (jax.jit(partial(layer.apply, mutable=["batch_stats"])) for layer in layers(**options))
        assert "batch_norm" not in ours.lower(given, features).as_text()
        assert_close(ours(given, features), flax(given, features), tolerance=0)


@pytest.mark.parametrize("channels", [24, 32])
def test_variables_have_the_names_and_first_values_of_flax(channels):
    ours, flax = (layer.init(jax.random.key(0), normal(0, 4, channels)) for layer in layers())
    jax.tree.map(np.testing.assert_array_equal, ours, flax)


@needs_compiler
def test_vmap_equals_a_loop():
    features = normal(0, 3, 4, 5, 5, 32)
    ours, _ = layers()

    def gradient(features):
        return results(ours, features, features, True, normal(1, 4, 5, 5, 32))

    looped = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(gradient(part) for part in features))
    assert_close(jax.vmap(gradient)(features), looped)


@needs_compiler
def test_repeated_calls_are_equal_to_the_last_bit():
    features, cotangent = normal(0, 64, 16, 16, 64), normal(1, 64, 16, 16, 64)
    first, second = (results(layers()[0], features, None, True, cotangent) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, first, second)
