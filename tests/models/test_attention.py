"""Attention of compiled code, and of XLA, against NumPy in float64, and their gradients against each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.cpu.test_convolution import assert_close, normal
from tests.cpu.test_native import custom_calls, needs_compiler
from tmu_jax.cpu import native
from tmu_jax.models import ViT, attention
from tmu_jax.training import init_variables


def by_xla(projections, scale):
    return attention.mix_others(*(projections[:, :, part] for part in range(3)), scale)


def by_numpy(projections, scale):
    query, key, value = np.moveaxis(np.asarray(projections, np.float64), 2, 0)
    scores = np.einsum("nqhd,nkhd->nhqk", query * np.asarray(scale, np.float64)[:, None], key)
    scores[:, :, np.arange(scores.shape[2]), np.arange(scores.shape[2])] = -np.inf
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("nhqk,nkhd->nqhd", weights, value).astype(np.float32)


both = pytest.mark.parametrize(
    "mix", [pytest.param(attention.mix_others_compiled, marks=needs_compiler, id="compiled"), by_xla]
)


@both
@pytest.mark.parametrize("num_tokens", [2, 3, 8, 16, 17, 65, 101])
@pytest.mark.parametrize(("heads", "head_dim"), [(3, 16), (1, 32), (2, 48)])
def test_equals_numpy(mix, num_tokens, heads, head_dim):
    """Tokens that fill vectors and blocks of rows, and that do not."""
    projections = normal(0, 3, num_tokens, 3, heads, head_dim)
    scale = jnp.linspace(0.2, 1.0, heads)
    assert_close(mix(projections, scale), by_numpy(projections, scale), tolerance=5e-6)


@needs_compiler
@pytest.mark.parametrize(("num_tokens", "heads", "head_dim"), [(3, 2, 16), (16, 1, 16), (65, 3, 16), (20, 2, 48)])
def test_gradients_equal_those_of_xla(num_tokens, heads, head_dim):
    projections, scale = normal(0, 3, num_tokens, 3, heads, head_dim), jnp.linspace(0.2, 1.0, heads)
    cotangent = normal(1, 3, num_tokens, heads, head_dim)

    def gradients(mix):
        return jax.jit(lambda *args: jax.vjp(mix, *args[:2])[1](args[2]))(projections, scale, cotangent)

    assert_close(gradients(attention.mix_others_compiled), gradients(by_xla), tolerance=1e-5)


@both
@pytest.mark.parametrize("factor", [30.0, 1000.0])
def test_large_scores_do_not_overflow(mix, factor):
    projections = normal(0, 2, 20, 3, 2, 16).at[:, :, 0].multiply(factor)
    scale = jnp.array([1.0, 3.0])
    assert_close(mix(projections, scale), by_numpy(projections, scale), tolerance=1e-3 if factor > 100 else 3e-5)


@both
def test_scores_of_minus_infinity_leave_a_token_its_own_value(mix):
    """As where a mask leaves nothing: the score of the token itself is the least number there is."""
    projections = jnp.ones((1, 5, 3, 1, 16)).at[:, :, 0].set(-3e38).at[:, :, 1].set(1e10)
    projections = projections.at[:, :, 2].set(normal(0, 1, 5, 1, 16))
    assert_close(mix(projections, jnp.ones(1)), projections[:, :, 2])


@both
def test_what_is_not_a_number_stays_so(mix):
    projections = normal(0, 1, 20, 3, 1, 16).at[0, 3, 1, 0, 5].set(jnp.nan)
    is_nan = np.isnan(np.asarray(mix(projections, jnp.ones(1))))[0, :, 0]
    assert is_nan[np.arange(20) != 3].all()


@needs_compiler
def test_repeated_calls_are_equal_to_the_last_bit():
    projections, scale = normal(0, 30, 33, 3, 4, 16), jnp.ones(4)

    def both_ways(*args):
        out, pull = jax.vjp(attention.mix_others_compiled, *args)
        return out, pull(out)

    first, second = (jax.jit(both_ways)(projections, scale) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, first, second)


@needs_compiler
def test_vmap():
    projections, scales = normal(0, 3, 2, 9, 3, 2, 16), jnp.linspace(0.2, 1.0, 6).reshape(3, 2)
    expected = jnp.stack([by_xla(*pair) for pair in zip(projections, scales, strict=True)])
    assert_close(jax.vmap(attention.mix_others_compiled)(projections, scales), expected)


@needs_compiler
def test_what_compiled_code_does_not_take():
    assert attention.is_compiled(jnp.zeros((2, 9, 32)), 16)
    assert not attention.is_compiled(jnp.zeros((2, 1, 32)), 16)
    assert not attention.is_compiled(jnp.zeros((2, 9, 32)), 24)
    assert not attention.is_compiled(jnp.zeros((2, 9, 32), jnp.bfloat16), 16)


@needs_compiler
def test_a_vit_is_the_same_with_and_without_compiled_code(monkeypatch):
    model = ViT(10, patch=8, depth=2, width=64, num_heads=2, head_dim=16, mlp_width=96)
    images = normal(0, 4, 32, 32, 3)
    params = init_variables(jax.random.key(0), images[:1], module=model)["params"]

    def outputs_and_gradient(params, images):
        def loss(params):
            logits, embedding = model.apply({"params": params}, images)
            return jnp.sum(logits**2), (logits, embedding)

        return jax.value_and_grad(loss, has_aux=True)(params)

    assert custom_calls(outputs_and_gradient, params, images) > 10
    compiled = jax.jit(outputs_and_gradient)(params, images)
    monkeypatch.setattr(native, "is_available", lambda *_: False)
    assert custom_calls(lambda *args: outputs_and_gradient(*args), params, images) == 0
    assert_close(compiled, jax.jit(lambda *args: outputs_and_gradient(*args))(params, images), tolerance=1e-4)
