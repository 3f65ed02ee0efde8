"""Batch norm with a shortcut and ReLU: against Flax's, and in float64."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.cpu.test_convolution import assert_close, normal
from tests.cpu.test_native import needs_compiler
from tmu_jax.cpu.convolution import conv_general_dilated
from tmu_jax.models import normalization
from tmu_jax.models.normalization import BatchNorm


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


@needs_compiler
@pytest.mark.parametrize(("first", "mean"), [(0.0, 0.0), (100.0, 0.0), (0.0, 30.0)])
def test_variance_of_numbers_far_from_zero_and_from_each_other(first, mean):
    features = (mean + normal(0, 3000, 16)).at[0].set(mean + first)
    variance = normalization._batch_norm(False, False, 1e-5)(features, jnp.zeros(16), jnp.ones(16), jnp.zeros(16))[2]
    np.testing.assert_allclose(variance, np.asarray(features, np.float64).var(0), rtol=2e-5)


@needs_compiler
def test_what_is_not_a_number_stays_so():
    features = normal(0, 64, 32).at[3, 5].set(jnp.nan)
    out, new, _ = results(layers()[0], features, None, True, normal(1, 64, 32))
    for found in (out, new["batch_stats"]["mean"], new["batch_stats"]["var"]):
        assert jnp.isnan(found[..., 5]).all()
        assert jnp.isfinite(jnp.delete(found, 5, -1)).all()


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("has_shortcut", [False, True])
def test_for_another_platform_it_is_written_in_jax(relu, has_shortcut):
    """Traced beside a CPU, run elsewhere: the same values and gradients."""
    features, shortcut, cotangent = normal(0, 9, 5, 32), normal(1, 9, 5, 32), normal(2, 9, 5, 32)
    given = variables(32)["params"]
    scale, bias, shortcut = given["scale"], given["bias"], shortcut if has_shortcut else None
    flags = relu, has_shortcut, 1e-5
    out, mean, variance = normalization._forward(*flags, features, shortcut, scale, bias)
    found = normalization._gradient(*flags, features, out, cotangent, scale, bias, mean, variance)
    expected, _, (to_features, to_shortcut, to_params) = results(layers()[1], features, shortcut, relu, cotangent)
    assert_close((out, *found[:3]), (expected, to_features, to_params["scale"], to_params["bias"]))
    assert_close(found[3], to_shortcut if has_shortcut else jnp.zeros(32))
    np.testing.assert_allclose(variance, np.asarray(features, np.float64).reshape(-1, 32).var(0), rtol=1e-5)


@needs_compiler
def test_a_program_for_cuda_holds_no_compiled_function():
    def loss(features):
        return layers()[0].apply(variables(32), features, relu=True, mutable=["batch_stats"])[0].sum()

    traced = jax.jit(jax.grad(loss)).trace(normal(0, 4, 5, 32))
    assert "tmu_jax" not in traced.lower(lowering_platforms=("cuda",)).as_text()
    assert "tmu_jax" in traced.lower(lowering_platforms=("cpu",)).as_text()


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


def test_inside_shard_map_layers_are_those_of_flax():
    """Arrays that differ from device to device: a compiled function would be refused by JAX's check of them."""
    mesh = jax.make_mesh((1,), ("devices",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec("devices")
    features, kernel = normal(0, 4, 6, 6, 32), normal(1, 3, 3, 32, 32)
    ours, flax = layers()

    def model(layer, convolve):
        def apply(features):
            features = convolve(features, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
            return layer.apply(variables(32), features, mutable=["batch_stats"])[0]

        return jax.jit(jax.shard_map(apply, mesh=mesh, in_specs=spec, out_specs=spec))

    assert_close(model(ours, conv_general_dilated)(features), model(flax, jax.lax.conv_general_dilated)(features))


def test_whether_it_trains_must_be_said():
    with pytest.raises(ValueError, match="use_running_average"):
        BatchNorm().init(jax.random.key(0), normal(0, 4, 32))


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
