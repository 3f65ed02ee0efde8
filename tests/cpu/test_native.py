"""Compiled convolutions against `jax.lax.conv_general_dilated`, and what happens where nothing can be compiled."""

import logging
import os
import pathlib
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from tests.cpu.test_convolution import NHWC, assert_close, bind, normal, values_and_gradients
from tmu_jax.cpu import native
from tmu_jax.cpu.convolution import conv_general_dilated

compilers = [os.environ.get("CXX"), *map(shutil.which, ("c++", "g++", "clang++"))]
# Not by `native.is_available`: code that does not compile must fail, not be skipped.
HAS_COMPILER = any(compilers) and os.environ.get("TMU_JAX_NATIVE") != "0"
needs_compiler = pytest.mark.skipif(not HAS_COMPILER, reason="needs a C++ compiler")


def three(convolve, stride, padding, images, kernel):
    return jax.jit(values_and_gradients, static_argnums=0)(bind(convolve, stride, padding), images, kernel)


def assert_agrees_with_lax(shape, window, features, stride=1, padding="SAME"):
    images, kernel = normal(0, *shape), normal(1, window, window, shape[-1], features)
    calls = custom_calls(
        lambda *args: values_and_gradients(bind(conv_general_dilated, stride, padding), *args), images, kernel
    )
    assert calls == 3
    ours = three(conv_general_dilated, stride, padding, images, kernel)
    assert_close(ours, three(lax.conv_general_dilated, stride, padding, images, kernel), tolerance=1e-5)


def custom_calls(function, *args):
    return jax.jit(function).lower(*args).as_text().count("custom_call @tmu_jax_")


@needs_compiler
@pytest.mark.parametrize("group", native._GROUPS)
def test_compiles_here(group):
    assert native.is_available(group)


@needs_compiler
@pytest.mark.parametrize("padding", ["SAME", "VALID", ((2, 0), (1, 2))])
@pytest.mark.parametrize("shape", [(3, 8, 8, 32), (2, 7, 5, 96), (1, 3, 3, 64), (70, 4, 4, 32)])
def test_winograd(shape, padding):
    """Tiles of 4x4 outputs: whole, cut off at the edges, and more of them than one block or group takes."""
    assert_agrees_with_lax(shape, 3, 64, padding=padding)


@needs_compiler
@pytest.mark.parametrize(
    "padding", ["SAME", "VALID", 1, ((1, 0), (1, 2)), ((2, 1), (0, 2)), ((0, 1), (1, 0)), ((2, 2), (1, 1))]
)
@pytest.mark.parametrize("shape", [(3, 16, 16, 32), (2, 15, 13, 96), (1, 14, 7, 64), (70, 8, 8, 32)])
def test_winograd_of_stride_2(shape, padding):
    """Odd and even numbers of zeros before the image, in both directions and in one of them, where patches take over;
    tiles that are cut off, images that no tile ends with, and gradients of pixels that no window reaches.
    """
    padding = ((padding, padding), (padding, padding)) if padding == 1 else padding
    assert_agrees_with_lax(shape, 3, 64, 2, padding)


@needs_compiler
@pytest.mark.parametrize(
    ("shape", "stride", "padding"),
    [
        ((70, 4, 4, 256), 1, "SAME"),
        ((3, 7, 9, 256), 1, "VALID"),
        ((70, 8, 8, 256), 2, "SAME"),
        ((5, 15, 15, 256), 2, ((1, 1), (1, 0))),
    ],
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
@pytest.mark.parametrize(("window", "stride"), [(2, 1), (3, 1), (3, 2), (5, 1), (5, 2), (5, 3), (7, 1), (7, 2), (7, 3)])
@pytest.mark.parametrize(
    ("shape", "features"),
    [((2, 9, 8, 32), 64), ((3, 7, 10, 3), 40), ((2, 8, 7, 20), 5), ((1, 9, 9, 1), 1), ((2, 7, 8, 3), 16)],
)
def test_patches(shape, features, window, stride):
    """Channels and features that fill vectors, and that do not; four channels and fewer have a path of their own."""
    assert_agrees_with_lax(shape, window, features, stride)


@needs_compiler
@pytest.mark.parametrize("channels", [3, 32])
@pytest.mark.parametrize(("window", "padding"), [(3, ((2, 0), (0, 1))), (3, "VALID"), (5, ((0, 4), (3, 1)))])
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
@pytest.mark.parametrize(("window", "stride"), [(1, 1), (1, 2), (2, 2), (2, 3)])
@pytest.mark.parametrize(("shape", "features"), [((2, 9, 8, 32), 64), ((3, 7, 10, 3), 40), ((9, 16, 16, 20), 32)])
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
def test_products_give_the_same(monkeypatch):
    images, kernel = normal(0, 6, 16, 16, 32), normal(1, 3, 3, 32, 64)
    compiled = three(conv_general_dilated, 2, "SAME", images, kernel)
    monkeypatch.setattr(native, "is_available", lambda *_: False)
    assert custom_calls(bind(conv_general_dilated, 2), images, kernel) == 0
    by_products = values_and_gradients(bind(conv_general_dilated, 2), images, kernel)
    assert_close(compiled, by_products)


@pytest.fixture
def anew(monkeypatch, tmp_path):
    """As in a new process of a user whose cache folder is empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("TMU_JAX_NATIVE", raising=False)
    monkeypatch.setattr(jax.ffi, "register_ffi_target", lambda *args, **options: None)
    native.is_available.cache_clear()
    yield tmp_path
    native.is_available.cache_clear()


@needs_compiler
@pytest.mark.skipif(sys.platform != "linux", reason="the cache folder is set for Linux")
def test_compiled_once_and_kept(anew, monkeypatch, caplog):
    group = native.ATTENTION  # The quicker one to compile.
    assert native.is_available(group)
    folder = anew / "tmu_jax" / "native"
    made = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert sorted(name.split("-")[0] for name in made) == sorted(
        pathlib.Path(name).stem for name in native._GROUPS[group]
    )
    native.is_available.cache_clear()
    assert native.is_available(group)
    assert made == {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert not caplog.records


@pytest.mark.parametrize("what", ["processor", "compiler", "source"])
def test_another_processor_compiler_or_source_is_another_library(anew, monkeypatch, what):
    monkeypatch.setattr(subprocess, "run", fake_compiler)
    before = native._build("batch_norm.cc")
    assert before == native._build("batch_norm.cc")
    if what == "processor":
        monkeypatch.setattr(native, "_processor", lambda: "another one")
    elif what == "compiler":
        monkeypatch.setattr(native, "_version", lambda compiler: "another one")
    else:
        monkeypatch.setattr(native, "_prefix", lambda: "another one")
    assert native._build("batch_norm.cc") != before


def fake_compiler(arguments, **_):
    if "-o" in arguments:
        pathlib.Path(arguments[-1]).write_text("")
    return subprocess.CompletedProcess(arguments, 0, stdout="of this version", stderr="")


@pytest.mark.parametrize(("compiler", "reason"), [("no-such-compiler", "no-such-compiler"), ("false", "false")])
def test_where_it_cannot_be_compiled_a_warning_says_so(anew, monkeypatch, caplog, compiler, reason):
    monkeypatch.setenv("CXX", compiler)
    with caplog.at_level(logging.WARNING, "tmu_jax"):
        assert not native.is_used()
        assert native.describe() == "XLA"
    (record,) = caplog.records
    assert "C++ compiler" in record.getMessage()
    assert reason in record.getMessage()


@needs_compiler
def test_the_compilers_own_words_are_passed_on(anew, monkeypatch, caplog, tmp_path):
    (tmp_path / "broken.cc").write_text("#error out of order\n")
    monkeypatch.setattr(native, "_FOLDER", tmp_path)
    monkeypatch.setitem(native._GROUPS, native.CONVOLUTIONS, {"broken.cc": ()})
    monkeypatch.setattr(native, "_prefix", lambda: "broken")
    with caplog.at_level(logging.WARNING, "tmu_jax"):
        assert not native.is_available(native.CONVOLUTIONS)
    assert "out of order" in caplog.text
    assert not list(anew.rglob("*.so"))


def test_switched_off_by_the_environment(anew, monkeypatch, caplog):
    monkeypatch.setenv("TMU_JAX_NATIVE", "0")
    assert not native.is_available(native.CONVOLUTIONS)
    assert not caplog.records


@needs_compiler
def test_kept_programs_run_in_a_new_process(tmp_path):
    """JAX's compilation cache holds programs that call compiled code; a second process loads them."""
    program = """
import sys
import jax, jax.numpy as jnp
from jax._src import compilation_cache, monitoring
from tmu_jax import cache as compilation
from tmu_jax.cpu.convolution import conv_general_dilated
compilation.use_compilation_cache(sys.argv[1])
hits = []
monitoring.register_event_listener(lambda name, **_: hits.append(name) if name.endswith("/cache_hits") else None)
images, kernel = jnp.ones((2, 8, 8, 32)), jnp.ones((3, 3, 32, 32))
hits.clear()
layout = ("NHWC", "HWIO", "NHWC")
convolve = jax.jit(lambda *args: conv_general_dilated(*args, (1, 1), "SAME", dimension_numbers=layout))
result = convolve(images, kernel).block_until_ready()
found = len(hits)
print(float(result[0, 4, 4, 0]), found)
"""
    outputs = [
        subprocess.run(
            [sys.executable, "-c", program, str(tmp_path)], check=True, capture_output=True, text=True, env=os.environ
        ).stdout.split()
        for _ in range(2)
    ]
    assert [float(value) for value, _ in outputs] == pytest.approx([288.0, 288.0], rel=1e-5)
    assert [int(hits) for _, hits in outputs] == [0, 1]
