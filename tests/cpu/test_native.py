"""Compiled convolutions against `jax.lax.conv_general_dilated` and NumPy's float64."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from tests.cpu.common import (
    NHWC,
    assert_close,
    bind,
    custom_calls,
    needs_compiler,
    normal,
    sweep,
    three,
    values_and_gradients,
)
from tmu_jax.cpu import conv_general_dilated, native


def assert_agrees_with_lax(shape, window, features, stride=1, padding="SAME"):
    images, kernel = normal(0, *shape), normal(1, window, window, shape[-1], features)
    calls = custom_calls(
        lambda *args: values_and_gradients(bind(conv_general_dilated, stride, padding), *args), images, kernel
    )
    assert calls == 3
    ours = three(conv_general_dilated, stride, padding, images, kernel)
    assert_close(ours, three(lax.conv_general_dilated, stride, padding, images, kernel), tolerance=1e-5)


@needs_compiler
def test_compiles_here():
    assert native.is_available()
    assert native.describe() == "compiled C++"


@needs_compiler
@sweep("padding", [((2, 0), (1, 2))], ["SAME", "VALID"])
@sweep("shape", [(2, 7, 5, 96), (70, 4, 4, 32)], [(3, 8, 8, 32), (1, 3, 3, 64)])
def test_winograd(shape, padding):
    """Tiles of 4x4 outputs: whole, cut off at the edges, and more of them than one block or group takes."""
    assert_agrees_with_lax(shape, 3, 64, padding=padding)


@needs_compiler
@sweep("padding", ["SAME", ((1, 0), (1, 2))], ["VALID", 1, ((2, 1), (0, 2)), ((0, 1), (1, 0)), ((2, 2), (1, 1))])
@sweep("shape", [(2, 15, 13, 96)], [(3, 16, 16, 32), (1, 14, 7, 64), (70, 8, 8, 32)])
def test_winograd_of_stride_2(shape, padding):
    """Odd and even numbers of zeros before the image, in both directions and in one of them, where patches take over;
    tiles that are cut off, images that no tile ends with, and gradients of pixels that no window reaches.
    """
    padding = ((padding, padding), (padding, padding)) if padding == 1 else padding
    assert_agrees_with_lax(shape, 3, 64, 2, padding)


@needs_compiler
@sweep(
    ("shape", "stride", "padding"),
    [((70, 4, 4, 256), 1, "SAME"), ((5, 15, 15, 256), 2, ((1, 1), (1, 0)))],
    [((3, 7, 9, 256), 1, "VALID"), ((70, 8, 8, 256), 2, "SAME")],
)
def test_winograd_of_few_tiles(shape, stride, padding):
    """For large kernels up to four cores take panels of features, not tiles; the first and third in more blocks."""
    assert_agrees_with_lax(shape, 3, 256, stride, padding)


@needs_compiler
@pytest.mark.parametrize(
    ("shape", "stride", "padding", "takes"),
    [
        ((2, 8, 8, 32), 1, "SAME", True),
        ((2, 8, 8, 32), 2, "SAME", True),
        ((2, 8, 8, 32), 2, ((2, 1), (0, 1)), True),
        ((2, 8, 8, 32), 2, ((1, 1), (0, 1)), False),
        ((2, 8, 8, 20), 1, "SAME", False),
        ((2, 1, 1, 32), 1, "SAME", False),
        ((2, 4, 4, 32), 2, "SAME", False),
    ],
)
def test_what_takes_winograd(shape, stride, padding, takes):
    """Of integers, products of patches are exact, and Winograd's algorithm, by points that are none, is not."""
    rng = np.random.default_rng(0)
    images, kernel = (jnp.asarray(rng.integers(-9, 10, size), jnp.float32) for size in (shape, (3, 3, shape[-1], 64)))
    ours, exact = (
        bind(convolve, stride, padding)(images, kernel) for convolve in (conv_general_dilated, lax.conv_general_dilated)
    )
    assert takes == (np.asarray(ours) != np.asarray(exact)).any()


@needs_compiler
@sweep(("window", "stride"), [(3, 1), (5, 2)], [(2, 1), (3, 2), (5, 1), (5, 3), (7, 1), (7, 2), (7, 3)])
@sweep(
    ("shape", "features"),
    [((3, 7, 10, 3), 40), ((2, 8, 7, 20), 5)],
    [((2, 9, 8, 32), 64), ((1, 9, 9, 1), 1), ((2, 7, 8, 3), 16)],
)
def test_patches(shape, features, window, stride):
    """Channels and features that fill vectors, and that do not; four channels and fewer have a path of their own."""
    assert_agrees_with_lax(shape, window, features, stride)


@needs_compiler
@sweep("channels", [3, 32], [])
@sweep(("window", "padding"), [(5, ((0, 4), (3, 1)))], [(3, ((2, 0), (0, 1))), (3, "VALID")])
def test_padding_of_patches(window, padding, channels):
    assert_agrees_with_lax((2, 9, 11, channels), window, 32, 2, padding)


@needs_compiler
def test_many_patches():
    """More pixels than one block, and than one thread, takes."""
    assert_agrees_with_lax((9, 16, 16, 16), 3, 48)


@needs_compiler
@pytest.mark.parametrize(("stride", "largest"), [(1, 3e-6), (2, 1e-6)])
def test_error_is_a_few_times_that_of_the_direct_algorithm(stride, largest):
    """In float64, as NumPy computes it; Winograd's F(4x4, 3x3) by the points 1 and 2 would have 1e-5 and 3e-6."""
    images, kernel = normal(0, 8, 16, 16, 64), normal(1, 3, 3, 64, 64)
    padded = np.pad(np.asarray(images, np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
    exact = sum(
        padded[:, i : i + 16 : stride, j : j + 16 : stride] @ np.asarray(kernel[i, j], np.float64)
        for i in range(3)
        for j in range(3)
    )
    ours = bind(conv_general_dilated, stride, ((1, 1), (1, 1)))(images, kernel)
    assert np.abs(ours - exact).max() < largest * np.abs(exact).max()


@needs_compiler
def test_calls_are_those_of_compiled_code():
    images, kernel = normal(0, 2, 8, 8, 32), normal(1, 3, 3, 32, 32)
    assert custom_calls(lambda *args: values_and_gradients(bind(conv_general_dilated), *args), images, kernel) == 3
    apart = normal(1, 2, 2, 32, 32)  # The gradient of images, most of it zeros, stays a product.
    two = custom_calls(lambda *args: values_and_gradients(bind(conv_general_dilated, 2, "VALID"), *args), images, apart)
    assert two == 2


@needs_compiler
@sweep(("window", "stride"), [(1, 2), (2, 3)], [(1, 1), (2, 2)])
@sweep(("shape", "features"), [((3, 7, 10, 3), 40)], [((2, 9, 8, 32), 64), ((9, 16, 16, 20), 32)])
def test_windows_that_do_not_overlap(shape, features, window, stride):
    images, kernel = normal(0, *shape), normal(1, window, window, shape[-1], features)
    ours = three(conv_general_dilated, stride, "VALID", images, kernel)
    assert_close(ours, three(lax.conv_general_dilated, stride, "VALID", images, kernel), tolerance=1e-5)


@needs_compiler
def test_repeated_calls_are_equal_to_the_last_bit():
    for shape, features in (((40, 16, 16, 32), 64), ((70, 4, 4, 256), 256)):
        images, kernel = normal(0, *shape), normal(1, 3, 3, shape[-1], features)
        for stride in (1, 2):
            first, second = (three(conv_general_dilated, stride, "SAME", images, kernel) for _ in range(2))
            jax.tree.map(np.testing.assert_array_equal, first, second)


@needs_compiler
def test_vmap_folds_images_that_share_a_kernel_and_loops_over_kernels():
    images, kernels = normal(0, 3, 2, 7, 5, 32), normal(1, 3, 3, 3, 32, 32)
    shared = jax.vmap(bind(conv_general_dilated), (0, None))
    assert custom_calls(shared, images, kernels[0]) == 1
    assert "stablehlo.while" not in jax.jit(shared).lower(images, kernels[0]).as_text()
    expected = jnp.stack([bind(lax.conv_general_dilated)(part, kernels[0]) for part in images])
    assert_close(shared(images, kernels[0]), expected)
    expected = jnp.stack([bind(lax.conv_general_dilated)(*pair) for pair in zip(images, kernels, strict=True)])
    assert_close(jax.vmap(bind(conv_general_dilated))(images, kernels), expected)


@needs_compiler
def test_inside_a_loop_equals_outside():
    images, kernel = normal(0, 4, 6, 6, 32), normal(1, 3, 3, 32, 32) / 20
    gradient = jax.grad(lambda kernel: jnp.mean(bind(conv_general_dilated)(images, kernel) ** 2))
    expected = kernel
    for _ in range(3):
        expected = expected - jax.jit(gradient)(expected)
    looped = jax.jit(lambda kernel: lax.fori_loop(0, 3, lambda _, k: k - gradient(k), kernel))(kernel)
    assert_close(looped, expected)


@needs_compiler
def test_strides_of_numpy_are_those_of_python():
    images, kernel = normal(0, 2, 8, 8, 32), normal(1, 3, 3, 32, 16)
    strided = conv_general_dilated(images, kernel, (np.int64(2), np.int64(2)), "SAME", dimension_numbers=NHWC)
    np.testing.assert_array_equal(strided, bind(conv_general_dilated, 2)(images, kernel))


@needs_compiler
@pytest.mark.slow
def test_products_give_the_same(monkeypatch):
    images, kernel = normal(0, 6, 16, 16, 32), normal(1, 3, 3, 32, 64)
    compiled = three(conv_general_dilated, 2, "SAME", images, kernel)
    monkeypatch.setattr(native, "is_available", lambda: False)
    assert custom_calls(bind(conv_general_dilated, 2), images, kernel) == 0
    by_products = values_and_gradients(bind(conv_general_dilated, 2), images, kernel)
    assert_close(compiled, by_products)


@needs_compiler
def test_threads_that_call_at_once_do_not_meet():
    """Each has its own working memory; two at once, and more of them than cores."""
    images, kernel = normal(0, 8, 16, 16, 32), normal(1, 3, 3, 32, 64)
    function = jax.jit(lambda *args: values_and_gradients(bind(conv_general_dilated), *args))
    expected = function(images, kernel)
    results = [None] * 6

    def run(i):
        for _ in range(5):
            results[i] = jax.block_until_ready(function(images, kernel))

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(results))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        jax.tree.map(np.testing.assert_array_equal, result, expected)


@needs_compiler
def test_memory_that_is_kept_is_counted():
    jax.block_until_ready(bind(conv_general_dilated)(normal(0, 2, 8, 8, 32), normal(1, 3, 3, 32, 32)))
    assert native.scratch_bytes() >= 36 * 32 * 32 * 4  # The transformed kernel.


def test_a_call_without_compiled_code_says_so(monkeypatch):
    monkeypatch.setattr(native, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match="not compiled"):
        native.call("tmu_jax_forward", (1, 1, 1, 1), stride=1, top=0, left=0)
    assert native.scratch_bytes() == 0
