"""Derivatives of every kind and order against lax's: the three primitives are each other's transposes."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from tests.cpu.common import assert_close, bind, normal, sweep
from tmu_jax import models
from tmu_jax.cpu import conv_general_dilated, fast_convolutions, native


# By products a program takes several times as long to compile: two tests do that, and the slow ones.
# Where there is no compiler, products are what is there, and all tests are of them.
@pytest.fixture(params=["as it is here", pytest.param("plain", marks=pytest.mark.slow)], autouse=True)
def way(request, monkeypatch):
    if request.param == "plain":
        monkeypatch.setattr(native, "is_available", lambda: False)


def agree(transform, *args, stride=1, padding="SAME", tolerance=2e-5):
    """`transform` of a loss that is linear in neither images nor kernel, for our convolution and for lax's."""

    def results(convolve):
        def outputs(images, kernel):
            return bind(convolve, stride, padding)(images, kernel)

        def loss(images, kernel):
            return jnp.sum(jnp.sin(outputs(images, kernel)))

        return jax.jit(lambda *args: transform(loss, outputs, *args))(*args)

    ours, expected = results(conv_general_dilated), results(lax.conv_general_dilated)
    assert_close(ours, expected, tolerance)
    return ours


def everything(loss, outputs, images, kernel):
    """One program, for a program is what costs time: derivatives of first and second order in both modes."""
    point, direction = (images, kernel), (jnp.cos(images), jnp.sin(kernel))
    gradient = jax.grad(loss, (0, 1))

    def squared(images, kernel):
        return sum(jnp.vdot(one, one) for one in gradient(images, kernel))

    values, linear = jax.linearize(outputs, *point)
    return {
        "jvp": jax.jvp(outputs, point, direction),
        "linearize": (values, linear(*direction)),
        "gradient": gradient(*point),
        "jvp of the gradient": jax.jvp(gradient, point, direction)[1],
        "gradient of the jvp": jax.grad(lambda *at: jax.jvp(loss, at, direction)[1], (0, 1))(*point),
        "gradient of the gradient": jax.grad(squared, (0, 1))(*point),
        "third order": jax.jvp(jax.grad(squared, (0, 1)), point, direction)[1],
        "checkpoint": jax.grad(jax.checkpoint(loss), (0, 1))(*point),
        "transpose": jax.linear_transpose(lambda images: outputs(images, kernel), images)(values),
    }


@sweep(
    ("shape", "window", "features", "stride", "padding"),
    [((2, 6, 6, 32), 3, 32, 1, "SAME")],
    [
        ((2, 7, 6, 8), 3, 5, 2, ((1, 0), (0, 2))),
        ((2, 8, 8, 32), 3, 32, 2, "SAME"),
        ((1, 6, 5, 3), 3, 8, 1, "VALID"),
        ((2, 6, 6, 4), 2, 6, 2, "VALID"),
        ((2, 5, 6, 4), 1, 6, 2, "VALID"),
        ((2, 9, 8, 4), 5, 6, 1, "SAME"),
    ],
)
def test_derivatives(shape, window, features, stride, padding):
    images = normal(0, *shape)
    kernel = normal(1, window, window, shape[-1], features) / (window * shape[-1] ** 0.5)
    agree(everything, images, kernel, stride=stride, padding=padding)


def test_jvp_and_gradient_are_those_of_differences():
    """Not against lax: (f(x + e d) - f(x - e d)) / 2e, and <gradient, d>."""
    images, kernel = normal(0, 2, 6, 6, 32), normal(1, 3, 3, 32, 32) / 17
    directions = jnp.cos(images), jnp.sin(kernel)

    def loss(images, kernel):
        return jnp.mean(bind(conv_general_dilated)(images, kernel) ** 2)

    @jax.jit
    def results(images, kernel):
        at = (images, kernel)
        tangent = jax.jvp(loss, at, directions)[1]
        return tangent, sum(map(jnp.vdot, jax.grad(loss, (0, 1))(*at), directions))

    step = 1e-2
    ahead, behind = (
        jax.jit(loss)(images + sign * step * directions[0], kernel + sign * step * directions[1]) for sign in (1, -1)
    )
    tangent, along = results(images, kernel)
    np.testing.assert_allclose(tangent, (ahead - behind) / (2 * step), rtol=2e-3)
    np.testing.assert_allclose(along, tangent, rtol=1e-5)


def mapped(loss, outputs, images, kernel):
    """What `vmap` gives of a value, a gradient, a tangent and a Hessian-vector product."""

    def one(images, kernel):
        gradient = jax.grad(loss, (0, 1))
        return (
            outputs(images, kernel),
            gradient(images, kernel),
            jax.jvp(outputs, (images, kernel), (jnp.cos(images), jnp.sin(kernel))),
            jax.jvp(gradient, (images, kernel), (jnp.cos(images), jnp.sin(kernel)))[1],
        )

    axes = tuple(0 if array.ndim == 5 else None for array in (images, kernel))
    return jax.vmap(one, axes)(images, kernel)


@sweep(("which", "count"), [("both", 3), ("images", 0)], [("images", 3), ("kernels", 3), ("both", 0), ("kernels", 0)])
def test_vmap_of_derivatives(which, count):
    images, kernel = normal(0, 2, 5, 6, 16), normal(1, 3, 3, 16, 16) / 12
    if which != "kernels":
        images = normal(0, count, 2, 5, 6, 16)
    if which != "images":
        kernel = normal(1, count, 3, 3, 16, 16) / 12
    results = agree(mapped, images, kernel)
    assert results[0].shape == (count, 2, 5, 6, 16)


def test_jacobians_in_both_modes():
    images, kernel = normal(0, 1, 3, 3, 2), normal(1, 3, 3, 2, 2) / 4

    def jacobians(loss, outputs, images, kernel):
        return (
            jax.jacfwd(outputs, (0, 1))(images, kernel),
            jax.jacrev(outputs, (0, 1))(images, kernel),
            jax.hessian(loss, 1)(images, kernel),
        )

    forwards, backwards, _ = agree(jacobians, images, kernel)
    assert_close(forwards, backwards)


def test_a_gradient_computes_no_more_than_was_asked_for():
    gradient = jax.jit(jax.grad(lambda *args: jnp.sum(bind(conv_general_dilated)(*args)), 0))
    lowered = gradient.lower(normal(0, 2, 8, 8, 32), normal(1, 3, 3, 32, 32)).as_text()
    assert lowered.count("custom_call @tmu_jax_input_gradient") == native.is_available()
    assert "tmu_jax_weight_gradient" not in lowered  # Of a kernel that nobody asked for.


class TwoLayers(nn.Module):
    @nn.compact
    def __call__(self, images):
        return nn.Conv(8, (3, 3), strides=2)(jnp.tanh(nn.Conv(8, (3, 3))(images))).mean(axis=(1, 2))


def hessian_vector_products(logits, params):
    """With lax's convolutions and with ours."""

    def product(params):
        def loss(params):
            return jnp.mean(jnp.sin(logits(params)))

        return jax.jvp(jax.grad(loss), (params,), (jax.tree.map(jnp.sin, params),))[1]

    expected = jax.jit(product)(params)
    with fast_convolutions():
        # Another function, for what was compiled stays as it was compiled.
        return jax.jit(lambda params: product(params))(params), expected


@pytest.mark.parametrize("way", ["compiled", "plain"], indirect=True)
def test_hessian_vector_product_through_two_layers():
    model, images = TwoLayers(), normal(0, 2, 8, 8, 3)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    params = jax.tree.map(lambda leaf: normal(1, *leaf.shape) / 4, shapes)
    assert_close(*hessian_vector_products(lambda params: model.apply(params, images), params))


@pytest.mark.slow
def test_hessian_vector_product_through_resnet18(monkeypatch):
    """With a smooth activation: at a kink of relu a rounding error decides which derivative it has."""
    monkeypatch.setattr(nn, "relu", nn.silu)
    model, images = models.create("resnet18", 10), normal(0, 2, 32, 32, 3)
    variables = jax.jit(model.init)(jax.random.key(0), images)

    def logits(params):
        return model.apply({**variables, "params": params}, images)[0]

    assert_close(*hessian_vector_products(logits, variables["params"]), tolerance=1e-4)


@pytest.mark.slow
def test_hessian_vector_product_through_resnet18_with_relu(monkeypatch):
    """Against float64: the same but for units whose sign rounding decides; the few there are lie at the kink."""
    relu, images = nn.relu, normal(0, 2, 32, 32, 3)
    variables = jax.jit(models.create("resnet18", 10).init)(jax.random.key(0), images)

    def results(dtype, signs=None):
        """Inputs of the relus and the product; `signs` say which units are on, whatever the inputs are."""
        model, inputs = models.create("resnet18", 10, dtype=dtype), []
        at, batch = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), dtype), (variables, images))

        def activation(features):
            inputs.append(features)
            return relu(features) if signs is None else jnp.where(signs[len(inputs) - 1], features, 0)

        def loss(params):
            inputs.clear()
            return jnp.mean(jnp.sin(model.apply({**at, "params": params}, batch)[0])), list(inputs)

        @jax.jit
        def product(params):
            direction = jax.tree.map(jnp.sin, params)
            (_, features), (tangent, _) = jax.jvp(jax.grad(loss, has_aux=True), (params,), (direction,))
            return features, tangent

        monkeypatch.setattr(nn, "relu", activation)
        features, tangent = jax.tree.map(np.asarray, product(at["params"]))
        return features, np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tangent)])

    with jax.enable_x64(True):
        exact, expected = results(jnp.float64)
    with fast_convolutions():
        rounded, _ = results(jnp.float32)
        _, ours = results(jnp.float32, [features > 0 for features in exact])
    flipped = [(one > 0) != (other > 0) for one, other in zip(rounded, exact, strict=True)]
    assert sum(map(np.sum, flipped)) <= 10  # of 1,114,112; 0 by lax's convolutions
    for features, units in zip(exact, flipped, strict=True):
        assert np.all(np.abs(features[units]) < 2e-5 * features.std())
    assert np.linalg.norm(ours - expected) < 1e-4 * np.linalg.norm(expected)
