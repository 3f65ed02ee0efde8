"""The convolutions of `convolution.cc`, compiled for the machine they run on and called by XLA.

A C++ compiler is needed, as for `torch.compile` on a CPU. The first convolution compiles them (some seconds, once: the
library is kept in the user's cache folder); where that cannot be done a warning is logged and convolutions are XLA's
matrix products (`products.py`), which take two to three times as long. TMU_JAX_NATIVE=0 chooses those: a program with
compiled convolutions runs on a CPU alone, and only where they are registered.
"""

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

import jax
import numpy as np
from jax import Array

_SOURCE = pathlib.Path(__file__).with_name("convolution.cc")
_FLAGS = ("-std=c++17", "-O3", "-ffp-contract=fast", "-shared", "-fPIC", "-w")
_FUNCTIONS = ("forward", "input_gradient", "weight_gradient")
_logger = logging.getLogger("tmu_jax")


def describe() -> str:
    """What computes convolutions on this CPU, in words, for records."""
    return "compiled C++" if is_available() else "XLA's matrix products"


def call(function: str, shape: tuple[int, ...], stride: int, top: int, left: int) -> Callable[[Array, Array], Array]:
    """One of the compiled functions; needs `is_available()`.

    Args:
        function: "forward" of (images, kernel), "input_gradient" of (cotangent, kernel), or "weight_gradient" of
            (images, cotangent).
        shape: of the result. Images are float32[n, height, width, channels], kernels float32[window, window, channels,
            features].
        stride: of the window, along both axes.
        top: rows of zeros above the images.
        left: columns of zeros before them.
    """
    target = jax.ffi.ffi_call(f"{_prefix()}_{function}", jax.ShapeDtypeStruct(shape, np.float32))
    return functools.partial(target, stride=np.int64(stride), top=np.int64(top), left=np.int64(left))


@functools.cache
def is_available() -> bool:
    """Whether convolutions are compiled here; compiles and registers them at the first call."""
    if os.environ.get("TMU_JAX_NATIVE") == "0":
        return False
    try:
        library = ctypes.CDLL(str(_build()))
    except (OSError, subprocess.SubprocessError) as error:
        reason = getattr(error, "stderr", None) or str(error)
        _logger.warning(
            "Convolutions on this CPU could not be compiled and take XLA's matrix products, two to three times as long."
            " Install a C++ compiler (g++ or clang++; CXX names another), or set TMU_JAX_NATIVE=0 to say no more of"
            " it: %s",
            reason.strip()[-1000:],
        )
        return False
    for function in _FUNCTIONS:
        symbol = getattr(library, f"tmu_jax_{function}")
        jax.ffi.register_ffi_target(f"{_prefix()}_{function}", jax.ffi.pycapsule(symbol), platform="cpu")
    return True


@functools.cache
def _prefix() -> str:
    # Another version of the source is another function to the compilation cache.
    return f"tmu_jax_{hashlib.sha256(_SOURCE.read_bytes()).hexdigest()[:12]}"


def _build() -> pathlib.Path:
    """Compiles the library unless it is there: one for each source, compiler, jaxlib and processor."""
    import pooch

    compiler = os.environ.get("CXX") or next(filter(shutil.which, ("c++", "g++", "clang++")), None)
    if compiler is None:
        raise FileNotFoundError("none of c++, g++ and clang++ was found")
    native = "-mcpu=native" if platform.machine() in ("arm64", "aarch64") else "-march=native"
    command = [*compiler.split(), *_FLAGS, native]
    key = [*command, _version(compiler), importlib.metadata.version("jaxlib"), sys.platform, _processor(), _prefix()]
    folder = pathlib.Path(pooch.os_cache("tmu_jax")) / "native"
    library = folder / f"convolution-{hashlib.sha256(repr(key).encode()).hexdigest()[:16]}.so"
    if not library.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            built = pathlib.Path(scratch) / library.name
            arguments = [*command, "-isystem", jax.ffi.include_dir(), str(_SOURCE), "-o", str(built)]
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
