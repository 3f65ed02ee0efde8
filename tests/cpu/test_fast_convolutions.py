"""`fast_convolutions` under modules of Flax: their own, shared, frozen, lifted ones, and from several threads."""

import threading

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from jax import lax

from tests.cpu.common import assert_close, normal, sweep
from tmu_jax.cpu import conv_general_dilated, fast_convolutions


class Tiny(nn.Module):
    """Convolutions of each kind, one called twice, beside layers of one dimension that must be left alone."""

    @nn.compact
    def __call__(self, images):
        shared = nn.Conv(8, (1, 1), name="shared")
        features = shared(nn.relu(shared(nn.Conv(8, (3, 3))(images))))
        strided = nn.Conv(16, (3, 3), strides=(2, 2), use_bias=False)(features)
        shortcut = nn.Conv(16, (1, 1), strides=2, use_bias=False)(features)
        patches = nn.Conv(16, (4, 4), strides=4, padding="VALID")(images)
        sequence = nn.Conv(4, (3,))(nn.relu(strided + shortcut).reshape(images.shape[0], -1, 16))
        return nn.Dense(3)(sequence.mean(axis=1)) + nn.Dense(3)(patches.mean(axis=(1, 2)))


@jax.jit
def initialize(images):
    return Tiny().init(jax.random.key(0), images)


def model_outputs(model, variables, images):
    """Outputs and the gradient of all parameters."""

    @jax.jit
    def both(params):
        outputs, pull = jax.vjp(lambda params: model.apply({"params": params}, images), params)
        return outputs, pull(jnp.cos(outputs))

    return both(variables["params"])


@sweep(
    ("window", "stride", "padding"),
    [((3, 3), (2, 2), 1)],
    [((3, 3), 1, "SAME"), ((1, 1), 2, "SAME"), ((4, 4), 4, "VALID")],
)
def test_under_a_flax_layer(window, stride, padding):
    options = {"features": 8, "kernel_size": window, "strides": stride, "padding": padding}
    ours, plain = nn.Conv(**options, conv_general_dilated=conv_general_dilated), nn.Conv(**options)
    images = normal(0, 2, 8, 8, 8)
    variables = jax.jit(plain.init)(jax.random.key(0), images)
    assert jax.eval_shape(ours.init, jax.random.key(0), images) == jax.eval_shape(lambda: variables)
    assert_close(model_outputs(ours, variables, images), model_outputs(plain, variables, images))


@pytest.mark.slow
def test_fast_convolutions_under_a_module():
    model, images = Tiny(), normal(0, 3, 8, 8, 3)
    variables = initialize(images)
    expected = model_outputs(model, variables, images)
    with fast_convolutions():
        assert jax.eval_shape(model.init, jax.random.key(0), images) == jax.eval_shape(lambda: variables)
        assert_close(model_outputs(model, variables, images), expected)


def test_fast_convolutions_replace_those_of_two_dimensions_only():
    def fast(variables, images):
        with fast_convolutions():
            return Tiny().apply(variables, images)

    images = normal(0, 3, 8, 8, 3)
    variables = jax.eval_shape(Tiny().init, jax.random.key(0), images)

    def num_convolutions(function):
        return jax.jit(function).lower(variables, images).as_text().count("stablehlo.convolution(")

    assert num_convolutions(Tiny().apply) == 7
    assert num_convolutions(fast) == 1


def test_fast_convolutions_keep_a_layers_own_function():
    def doubled(*args, **kwargs):
        return 2 * lax.conv_general_dilated(*args, **kwargs)

    layer, images = nn.Conv(4, (3, 3), conv_general_dilated=doubled), normal(0, 1, 5, 5, 8)
    variables = {"params": {"kernel": normal(1, 3, 3, 8, 4), "bias": normal(2, 4)}}
    expected = layer.apply(variables, images)
    with fast_convolutions():
        assert_close(layer.apply(variables, images), expected, tolerance=0)


def num_fast(function, *args):
    """How many convolutions of a program are ours."""
    return str(jax.make_jaxpr(function)(*args)).count("tmu_jax_forward[")


class Shared(nn.Module):
    """A layer that was made outside, called twice."""

    layer: nn.Module

    def __call__(self, images):
        return self.layer(self.layer(images))


@pytest.fixture
def layer():
    return nn.Conv(8, (3, 3))


@pytest.fixture
def variables(layer):
    return {"params": {"kernel": normal(1, 3, 3, 8, 8), "bias": normal(2, 8)}}


def test_a_bound_layer_is_lent_the_function_and_left_as_it_was(layer, variables):
    images, bound = normal(0, 1, 5, 5, 8), layer.bind(variables)
    before = repr(bound), hash(layer)
    with fast_convolutions():
        assert num_fast(lambda images: bound(images), images) == 1
        with pytest.raises(Exception, match="shape"):
            bound(normal(0, 1, 5, 5, 7))  # An error leaves it so, too.
    assert (repr(bound), hash(layer)) == before
    assert bound.conv_general_dilated is None
    assert num_fast(lambda images: bound(images), images) == 0


def test_a_shared_layer(layer, variables):
    images, model = normal(0, 1, 5, 5, 8), Shared(layer)
    nested = {"params": {"layer": variables["params"]}}
    with fast_convolutions():
        assert num_fast(model.apply, nested, images) == 2
        assert num_fast(model.init, jax.random.key(0), images) == 2
        assert jax.eval_shape(model.init, jax.random.key(0), images) == jax.eval_shape(lambda: nested)
    assert layer.conv_general_dilated is None


def test_contexts_may_be_nested_and_end_in_any_order(layer, variables):
    images = normal(0, 1, 5, 5, 8)
    with fast_convolutions():
        with fast_convolutions():
            assert num_fast(lambda images: layer.apply(variables, images), images) == 1
        assert num_fast(lambda images: layer.apply(variables, images), images) == 1
    assert num_fast(lambda images: layer.apply(variables, images), images) == 0


def test_layers_that_are_computed_again_for_the_gradient(variables):
    lifted, images = nn.remat(nn.Conv)(8, (3, 3)), normal(0, 1, 5, 5, 8)

    def loss(variables):
        return jnp.sum(jnp.sin(lifted.apply(variables, images)))

    expected = jax.jit(jax.grad(loss))(variables)
    with fast_convolutions():
        assert num_fast(loss, variables) == 1
        assert_close(jax.jit(jax.grad(lambda variables: loss(variables)))(variables), expected)


def test_models_in_parallel_over_parameters(layer, variables):
    images = normal(0, 3, 1, 5, 5, 8)
    several = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf, 3 * leaf]), variables)
    outputs = jax.jit(layer.apply)(variables, images[:, 0])[:, None]
    expected = jnp.array([1.0, 2.0, 3.0])[:, None, None, None, None] * outputs
    with fast_convolutions():
        assert_close(jax.jit(jax.vmap(layer.apply))(several, images), expected)


def test_intermediates_are_captured_once(layer, variables):
    images = normal(0, 1, 5, 5, 8)
    with fast_convolutions():
        _, state = layer.apply(variables, images, capture_intermediates=True)
    assert len(state["intermediates"]["__call__"]) == 1


def test_a_context_is_its_threads_own_and_threads_may_share_a_module(layer, variables):
    images, model = normal(0, 1, 5, 5, 8), Shared(layer)
    nested = {"params": {"layer": variables["params"]}}
    counts = {"plain": [], "fast": []}

    def plain():
        counts["plain"] += [num_fast(lambda images: model.apply(nested, images), images) for _ in range(10)]

    def fast():
        with fast_convolutions():
            counts["fast"] += [num_fast(lambda images: model.apply(nested, images), images) for _ in range(10)]

    with fast_convolutions():
        threads = [threading.Thread(target=target) for target in (plain, fast, plain, fast)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert counts == {"plain": [0] * 20, "fast": [2] * 20}
    assert layer.conv_general_dilated is None
