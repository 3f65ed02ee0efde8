"""What takes the fast path, and that all else is `jax.lax.conv_general_dilated` with nothing around it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from tests.cpu.common import NHWC, bind, needs_compiler, normal, values_and_gradients
from tmu_jax.cpu import conv_general_dilated, describe, native


def primitives(function, *args):
    """The names of all that a function is made of."""
    return [equation.primitive.name for equation in jax.make_jaxpr(function)(*args).eqns]


def convolution(images=((2, 7, 8, 8), np.float32), kernel=((3, 3, 8, 8), np.float32), strides=(1, 1), **options):
    options = {"padding": "SAME", "dimension_numbers": NHWC, **options}
    arrays = [jnp.zeros(shape, dtype) for shape, dtype in (images, kernel)]
    return primitives(lambda *args: conv_general_dilated(*args, strides, **options), *arrays)


def test_the_fast_path_is_one_primitive():
    assert convolution() == ["tmu_jax_forward"]


OTHERS = {
    "bfloat16": {"images": ((2, 7, 8, 8), jnp.bfloat16), "kernel": ((3, 3, 8, 8), jnp.bfloat16)},
    "float16": {"images": ((2, 7, 8, 8), np.float16), "kernel": ((3, 3, 8, 8), np.float16)},
    "int32": {"images": ((2, 7, 8, 8), np.int32), "kernel": ((3, 3, 8, 8), np.int32)},
    "no images": {"images": ((0, 7, 8, 8), np.float32)},
    "dilated kernel": {"rhs_dilation": (2, 2)},
    "dilated images": {"lhs_dilation": (2, 1), "padding": ((1, 1), (1, 1))},
    "groups": {"kernel": ((3, 3, 2, 8), np.float32), "feature_group_count": 4},
    "groups of images": {"batch_group_count": 2},
    "padding of a whole window": {"padding": ((3, 3), (3, 3))},
    "negative padding": {"padding": ((-1, 0), (0, 0))},
    "padding around windows of 1": {"kernel": ((1, 1, 8, 8), np.float32), "padding": ((1, 1), (0, 0))},
    "strides that differ": {"strides": (1, 2)},
    "window not square": {"kernel": ((3, 1, 8, 8), np.float32)},
    "patches past 2**16 numbers": {"images": ((1, 8, 8, 8192), np.float32), "kernel": ((3, 3, 8192, 1), np.float32)},
    "planes of channels": {
        "images": ((2, 8, 7, 8), np.float32),
        "kernel": ((8, 8, 3, 3), np.float32),
        "dimension_numbers": ("NCHW", "OIHW", "NCHW"),
    },
    "one dimension": {
        "images": ((2, 7, 8), np.float32),
        "kernel": ((3, 8, 8), np.float32),
        "strides": (1,),
        "dimension_numbers": ("NWC", "WIO", "NWC"),
    },
    "another precision": {"precision": lax.DotAlgorithmPreset.F32_F32_F32},
}


@pytest.mark.parametrize("what", OTHERS)
def test_others_are_those_of_lax_alone(what):
    assert convolution(**OTHERS[what]) == ["conv_general_dilated"]


def test_float64_is_that_of_lax_alone():
    with jax.enable_x64(True):
        double = {"images": ((2, 7, 8, 8), np.float64), "kernel": ((3, 3, 8, 8), np.float64)}
        assert convolution(**double) == ["conv_general_dilated"]
        assert convolution() == ["tmu_jax_forward"]


def test_off_the_cpu_it_is_that_of_lax_alone(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert convolution() == ["conv_general_dilated"]


def test_switched_off_it_is_that_of_lax_alone(monkeypatch):
    monkeypatch.setenv("TMU_JAX_NATIVE", "0")
    assert convolution() == ["conv_general_dilated"]
    assert not native.is_available()
    assert describe() == "XLA"


def test_without_a_compiler_only_what_has_products_is_fast(monkeypatch):
    monkeypatch.setattr(native, "is_available", lambda: False)
    assert describe() == "XLA's products"
    assert convolution() == ["tmu_jax_forward"]
    assert convolution(kernel=((1, 1, 8, 8), np.float32), strides=(2, 2)) == ["tmu_jax_forward"]
    assert convolution(kernel=((5, 5, 8, 8), np.float32)) == ["conv_general_dilated"]
    assert convolution(kernel=((4, 4, 8, 8), np.float32), strides=(3, 3)) == ["conv_general_dilated"]


@needs_compiler
def test_with_a_compiler_every_square_window_is_fast():
    assert convolution(kernel=((5, 5, 8, 8), np.float32)) == ["tmu_jax_forward"]
    assert convolution(kernel=((5, 5, 8, 8), np.float32), strides=(3, 3)) == ["tmu_jax_forward"]


def test_mismatched_channels_raise_as_lax_does():
    with pytest.raises(ValueError, match="feature_group_count"):
        bind(conv_general_dilated)(normal(0, 2, 6, 6, 8), normal(1, 3, 3, 9, 4))


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_other_platforms_keep_their_convolution(platform):
    def all_three(images, kernel):
        return values_and_gradients(bind(conv_general_dilated), images, kernel)

    args = normal(0, 2, 8, 8, 8), normal(1, 3, 3, 8, 4)
    text = jax.jit(all_three).trace(*args).lower(lowering_platforms=(platform,)).as_text()
    assert text.count("stablehlo.convolution") == 3
    assert "stablehlo.dot_general" not in text
