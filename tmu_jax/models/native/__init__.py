"""Convolutions and batch norm in C++, compiled for the machine they run on and called by XLA.

A C++ compiler is needed, as for `torch.compile` on a CPU. The first use compiles them (some seconds, once: what is
compiled is kept in the user's cache folder); where that cannot be done a warning is logged, convolutions are XLA's
matrix products (`products.py`) and batch norm is Flax's, and training takes about twice as long. TMU_JAX_NATIVE=0
chooses those: a program with compiled functions runs on a CPU alone, and only where they are registered.
"""

import concurrent.futures
import ctypes
import functools
import hashlib
import importlib.metadata
import logging
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

_FOLDER = pathlib.Path(__file__).parent
_FUNCTIONS = {
    "convolution.cc": ("forward", "input_gradient", "weight_gradient"),
    "batch_norm.cc": ("batch_norm", "batch_norm_gradient"),
}
_FLAGS = ("-std=c++17", "-O3", "-ffp-contract=fast", "-shared", "-fPIC", "-w")
_logger = logging.getLogger("tmu_jax")


def describe() -> str:
    """What computes convolutions and batch norm on this CPU, in words, for records."""
    return "compiled C++" if is_available() else "XLA"


def is_used() -> bool:
    """Whether what is traced now takes compiled functions: where programs are for a CPU, if they can be had."""
    return jax.default_backend() == "cpu" and is_available()


def call(function: str, shapes: Any, **attributes: int | float | bool) -> Callable[..., Any]:
    """One of the compiled functions; needs `is_available()`.

    Args:
        function: "forward" of (images, kernel), "input_gradient" of (cotangent, kernel), "weight_gradient" of (images,
            cotangent), with the attributes stride, top and left (rows and columns of zeros before the images); images
            are float32[n, height, width, channels], kernels float32[window, window, channels, features]. "batch_norm"
            and "batch_norm_gradient" as batch_norm.cc describes them.
        shapes: of the float32 result, or a list of them.
        **attributes: what the function takes beside arrays.
    """
    results = jax.tree.map(lambda shape: jax.ShapeDtypeStruct(shape, np.float32), shapes, is_leaf=_is_shape)
    target = jax.ffi.ffi_call(f"{_prefix()}_{function}", results, vmap_method="sequential")
    kinds = {bool: np.bool_, int: np.int64, float: np.float32}
    return functools.partial(target, **{name: kinds[type(value)](value) for name, value in attributes.items()})


def _is_shape(value: Any) -> bool:
    return isinstance(value, tuple)


@functools.cache
def is_available() -> bool:
    """Whether there are compiled functions here; compiles and registers them at the first call."""
    if os.environ.get("TMU_JAX_NATIVE") == "0":
        return False
    try:
        with concurrent.futures.ThreadPoolExecutor() as pool:
            libraries = [ctypes.CDLL(str(path)) for path in pool.map(_build, _FUNCTIONS)]
    except (OSError, subprocess.SubprocessError) as error:
        reason = getattr(error, "stderr", None) or str(error)
        _logger.warning(
            "Convolutions and batch norm could not be compiled for this CPU; XLA's take their place, and training about"
            " twice as long. Install a C++ compiler (g++ or clang++; CXX names another), or set TMU_JAX_NATIVE=0 to be"
            " told no more: %s",
            reason.strip()[-1000:],
        )
        return False
    for library, functions in zip(libraries, _FUNCTIONS.values(), strict=True):
        for function in functions:
            capsule = jax.ffi.pycapsule(getattr(library, f"tmu_jax_{function}"))
            jax.ffi.register_ffi_target(f"{_prefix()}_{function}", capsule, platform="cpu")
    return True


@functools.cache
def _prefix() -> str:
    # Another version of the source is another function to the compilation cache.
    sources = b"".join((_FOLDER / name).read_bytes() for name in ("common.h", *_FUNCTIONS))
    return f"tmu_jax_{hashlib.sha256(sources).hexdigest()[:12]}"


def _build(source: str) -> pathlib.Path:
    """Compiles a library unless it is there: one for each source, compiler, jaxlib and processor."""
    import pooch

    compiler = os.environ.get("CXX") or next(filter(shutil.which, ("c++", "g++", "clang++")), None)
    if compiler is None:
        raise FileNotFoundError("none of c++, g++ and clang++ was found")
    native = "-mcpu=native" if platform.machine() in ("arm64", "aarch64") else "-march=native"
    command = [*compiler.split(), *_FLAGS, native]
    key = [*command, _version(compiler), importlib.metadata.version("jaxlib"), sys.platform, _processor(), _prefix()]
    folder = pathlib.Path(pooch.os_cache("tmu_jax")) / "native"
    name = f"{pathlib.Path(source).stem}-{hashlib.sha256(repr(key).encode()).hexdigest()[:16]}.so"
    library = folder / name
    if not library.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            built = pathlib.Path(scratch) / name
            arguments = [*command, "-isystem", jax.ffi.include_dir(), str(_FOLDER / source), "-o", str(built)]
            subprocess.run(arguments, check=True, capture_output=True, text=True, timeout=300)
            built.replace(library)  # Whole or not there, for others that start at the same time.
    return library


def _version(compiler: str) -> str:
    done = subprocess.run([*compiler.split(), "--version"], check=True, capture_output=True, text=True, timeout=60)
    return done.stdout


def _processor() -> str:
    """What tells apart processors that a shared cache folder may serve."""
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else [platform.processor()]
    kept = {line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))} or set(
        lines[:1]
    )
    return "\n".join(sorted(kept))
