"""The C++ of this folder as functions that XLA calls.

A C++ compiler is needed, as for `torch.compile` on a CPU. The first use compiles (some 20 seconds, once: what is
compiled is kept in the user's cache folder, `build`); where that cannot be done a warning says why, and convolutions
are products of XLA's (`plain`). TMU_JAX_NATIVE=0 leaves them to `lax`: a program with compiled functions runs on a CPU
alone, and only where they are registered. XLA does not divide them over several devices, so where more than one is in
use convolutions are `lax`'s too.
"""

import ctypes
import functools
import logging
import os
import threading
from collections.abc import Callable

import jax
import numpy as np

from tmu_jax import devices, timing
from tmu_jax.cpu import build

_FUNCTIONS = ("tmu_jax_forward", "tmu_jax_input_gradient", "tmu_jax_weight_gradient")
_logger = logging.getLogger("tmu_jax")
_lock = threading.Lock()


def is_wanted() -> bool:
    """Whether convolutions that are traced now are ours: for one CPU device, and not switched off."""
    return jax.default_backend() == "cpu" and len(devices.in_use()) == 1 and os.environ.get("TMU_JAX_NATIVE") != "0"


def is_available() -> bool:
    """Whether there are compiled functions here; the first call compiles and registers them."""
    if os.environ.get("TMU_JAX_NATIVE") == "0":
        return False
    with _lock:
        return _library() is not None


def describe() -> str:
    """What computes convolutions on this CPU, in words, for records."""
    if not is_wanted():
        return "XLA"
    return "compiled C++" if is_available() else "XLA's products"


def scratch_bytes() -> int:
    """Memory that compiled functions keep for their next call, the most that they have needed in this process."""
    library = _library() if is_available() else None
    if library is None:
        return 0
    library.tmu_jax_scratch_bytes.restype = ctypes.c_int64
    return int(library.tmu_jax_scratch_bytes())


def call(function: str, shape: tuple[int, ...], **attributes: int) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """One of the compiled functions.

    Args:
        function: "tmu_jax_forward" of (images, kernel), "tmu_jax_input_gradient" of (outputs, kernel) or
            "tmu_jax_weight_gradient" of (images, outputs); images and outputs are float32[n, height, width, channels],
            kernels float32[window, window, channels, features].
        shape: of the result, float32. Where it does not fit the arguments the call is an error of XLA's.
        **attributes: stride, top and left (rows and columns of zeros before the images).

    Raises:
        RuntimeError: where they are not available.
    """
    if not is_available():
        raise RuntimeError(f"{function} is not available on this machine: it was not compiled")
    target = jax.ffi.ffi_call(_target(function), jax.ShapeDtypeStruct(shape, np.float32))
    return functools.partial(target, **{name: np.int64(value) for name, value in attributes.items()})


@functools.cache
def _library() -> ctypes.CDLL | None:
    try:
        with timing.compiling_native():
            library = build.load()
        capsules = {name: jax.ffi.pycapsule(getattr(library, name)) for name in _FUNCTIONS}
    except Exception as error:
        # Whatever a machine's compiler and folders are like, there is a way without them.
        _logger.warning(
            "Convolutions could not be compiled for this CPU, so XLA computes them, slower. Install a C++ compiler (g++"
            " or clang++; CXX names another), or set TMU_JAX_NATIVE=0 to be told no more: %s",
            error,
        )
        return None
    for name, capsule in capsules.items():
        jax.ffi.register_ffi_target(_target(name), capsule, platform="cpu")
    return library


@functools.cache
def _target(function: str) -> str:
    # Another version of the source is another function to the compilation cache.
    return f"{function}_{build.source_hash()}"
