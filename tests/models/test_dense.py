"""Compiled products of dense layers against NumPy in float64."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from tests.cpu.test_convolution import assert_close, normal, values_and_gradients
from tests.cpu.test_native import custom_calls, needs_compiler
from tmu_jax.models.dense import dot_general

LAST = (((1,), (0,)), ((), ()))


def product(rows, kernel):
    return dot_general(rows, kernel, LAST)


@needs_compiler
@pytest.mark.parametrize("rows", [32, 37, 129, 500])
@pytest.mark.parametrize(("inputs", "outputs"), [(32, 32), (40, 33), (104, 100), (192, 64)])
def test_values_and_gradients(rows, inputs, outputs):
    """Rows, inputs and outputs that fill blocks and panels, and that do not."""
    first, kernel, cotangent = normal(0, rows, inputs), normal(1, inputs, outputs), normal(2, rows, outputs)

    def three(first, kernel, cotangent):
        out, pull = jax.vjp(product, first, kernel)
        return out, *pull(cotangent)

    assert custom_calls(three, first, kernel, cotangent) == 3
    x, w, y = (np.asarray(array, np.float64) for array in (first, kernel, cotangent))
    assert_close(jax.jit(three)(first, kernel, cotangent), tuple(map(np.float32, (x @ w, y @ w.T, x.T @ y))), 2e-6)


@needs_compiler
def test_several_axes_are_contracted_and_kept():
    inputs, kernel = normal(0, 3, 20, 4, 16), normal(1, 4, 16, 3, 12)
    numbers = (((2, 3), (0, 1)), ((), ()))
    assert custom_calls(lambda *args: dot_general(*args, numbers), inputs, kernel) == 1
    assert_close(dot_general(inputs, kernel, numbers), jnp.einsum("ntij,ijab->ntab", inputs, kernel))


@needs_compiler
@pytest.mark.parametrize(
    ("shapes", "dtype"),
    [
        (((31, 64), (64, 64)), jnp.float32),
        (((64, 24), (24, 64)), jnp.float32),
        (((64, 36), (36, 64)), jnp.float32),
        (((64, 64), (64, 10)), jnp.float32),
        (((64, 64), (64, 64)), jnp.bfloat16),
    ],
)
def test_small_products_and_other_dtypes_are_those_of_lax(shapes, dtype):
    arrays = [normal(seed, *shape).astype(dtype) for seed, shape in enumerate(shapes)]
    assert custom_calls(product, *arrays) == 0
    assert_close(product(*arrays), lax.dot_general(*arrays, LAST), tolerance=0)


@needs_compiler
def test_other_axes_are_those_of_lax():
    first, second = normal(0, 64, 64), normal(1, 64, 64)
    for numbers in [(((0,), (0,)), ((), ())), (((1,), (1,)), ((), ()))]:
        assert custom_calls(lambda *args, numbers=numbers: dot_general(*args, numbers), first, second) == 0
        assert_close(dot_general(first, second, numbers), lax.dot_general(first, second, numbers), tolerance=0)


@needs_compiler
def test_vmap_folds_rows_that_share_a_kernel_and_loops_over_kernels():
    rows, kernels = normal(0, 5, 40, 32), normal(1, 5, 32, 48)
    shared = jax.vmap(product, (0, None))
    assert custom_calls(shared, rows, kernels[0]) == 1
    assert "stablehlo.while" not in jax.jit(shared).lower(rows, kernels[0]).as_text()
    assert_close(shared(rows, kernels[0]), rows @ kernels[0])
    assert_close(jax.vmap(product)(rows, kernels), rows @ kernels)
    gradient = jax.vmap(jax.grad(lambda kernel, rows: product(rows, kernel).sum()), (None, 0))(kernels[0], rows)
    assert_close(gradient, jnp.broadcast_to(rows.sum(1)[:, :, None], (5, 32, 48)))


@needs_compiler
def test_under_a_flax_layer():
    layer, plain = nn.Dense(48, dot_general=dot_general), nn.Dense(48)
    inputs = normal(0, 2, 30, 64)
    variables = layer.init(jax.random.key(0), inputs)
    assert custom_calls(layer.apply, variables, inputs) == 1
    assert_close(layer.apply(variables, inputs), plain.apply(variables, inputs))


@needs_compiler
def test_elsewhere_precision_is_passed_on():
    def highest(*args):
        return values_and_gradients(lambda *args: dot_general(*args, LAST, precision=lax.Precision.HIGHEST), *args)

    args = normal(0, 64, 64), normal(1, 64, 64)
    text = jax.jit(highest).trace(*args).lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("precision = [HIGHEST, HIGHEST]") == 3
    assert "tmu_jax" not in text


@needs_compiler
def test_an_explicit_mesh_has_products_of_lax():
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Explicit,))
    rows = jax.device_put(normal(0, 64, 64), jax.NamedSharding(mesh, jax.P("data")))
    kernel = jax.device_put(normal(1, 64, 64), jax.NamedSharding(mesh, jax.P()))
    with jax.set_mesh(mesh):
        assert custom_calls(product, rows, kernel) == 0
        assert_close(product(rows, kernel), np.asarray(rows) @ np.asarray(kernel))


@needs_compiler
@pytest.mark.filterwarnings("ignore:Explicitly requested dtype")
def test_other_results_than_float32_are_those_of_lax():
    args = normal(0, 64, 64), normal(1, 64, 64)
    for dtype in (jnp.bfloat16, np.dtype("float64")):
        assert custom_calls(lambda *args, dtype=dtype: dot_general(*args, LAST, None, dtype), *args) == 0
