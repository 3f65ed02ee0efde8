"""Compiles the C++ for the processor it runs on, and keeps the library where nobody else can put one in its place.

A library is looked for in the user's cache folder and loaded only if the folder, every folder above it and the file
are out of others' reach and the file's content has the checksum in its name. Where the folder will not do, what is
compiled lives in a private temporary folder until it is loaded.
"""

import contextlib
import ctypes
import hashlib
import importlib.metadata
import logging
import os
import pathlib
import platform
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile

import jax

_FOLDER = pathlib.Path(__file__).parent
_SOURCE = "convolution.cc"
_FLAGS = ("-std=c++17", "-O3", "-ffp-contract=fast", "-shared", "-fPIC", "-w")
_PROBE_SECONDS, _COMPILE_SECONDS = 30, 300
_logger = logging.getLogger("tmu_jax")


class BuildError(Exception):
    """Why there is no library, in words for the user."""


def source_hash() -> str:
    """Tells one version of the C++ from another."""
    sources = b"".join(path.read_bytes() for path in sorted([*_FOLDER.glob("*.h"), *_FOLDER.glob("*.cc")]))
    return hashlib.sha256(sources).hexdigest()[:12]


def load() -> ctypes.CDLL:
    """The library: the one that was kept, or a new one.

    Raises:
        BuildError: if it cannot be compiled.
        OSError: if it cannot be written or loaded.
    """
    command, compiler = _find_compiler()
    key = [command, compiler, importlib.metadata.version("jaxlib"), sys.platform, source_hash()]
    stem = f"{pathlib.Path(_SOURCE).stem}-{hashlib.sha256(repr(key).encode()).hexdigest()[:16]}"
    folder: pathlib.Path | None = None
    try:
        folder = _cache_folder()
        kept = _find(folder, stem)
        if kept is not None:
            return ctypes.CDLL(str(kept))
    except (BuildError, OSError, RuntimeError) as error:
        _warn_private(error)
        folder = None
    with tempfile.TemporaryDirectory(prefix="tmu_jax-", ignore_cleanup_errors=True) as scratch:
        built = _compile(command, pathlib.Path(scratch), stem)
        library = ctypes.CDLL(str(built))  # Once loaded the file may go.
        if folder is not None:
            try:
                _keep(built, folder)
            except OSError as error:
                _warn_private(error)
    return library


def _warn_private(error: Exception) -> None:
    _logger.warning("Compiled code is not kept, so every start compiles anew (some 20 seconds): %s", error)


# --- The compiler.


def _find_compiler() -> tuple[list[str], str]:
    """The command up to the names of files, and what the compiler says of itself and of this processor."""
    named = os.environ.get("CXX")
    name = named or next(filter(shutil.which, ("c++", "g++", "clang++")), None)
    if name is None:
        raise BuildError("none of c++, g++ and clang++ was found")
    try:
        words = shlex.split(name)
    except ValueError as error:
        raise BuildError(f"CXX={name!r} is no command: {error}") from error
    if not words:
        raise BuildError(f"CXX={name!r} is no command")
    native = "-mcpu=native" if platform.machine() in ("arm64", "aarch64") else "-march=native"
    command = [*words, *_FLAGS, native]
    # What it defines: its version, and, one macro each, what this processor can do. No other program prints that, so
    # none is started with names of files.
    macros = _run([*words, native, "-dM", "-E", "-x", "c++", "-"], _PROBE_SECONDS)
    if "#define __cplusplus " not in macros:
        raise BuildError(f"{name!r} is no C++ compiler")
    return command, macros


def _compile(command: list[str], scratch: pathlib.Path, stem: str) -> pathlib.Path:
    """Compiles the source into a file of `scratch` that has its checksum in its name."""
    built = scratch / "built.so"
    _run(
        [*command, "-isystem", jax.ffi.include_dir(), str(_FOLDER / _SOURCE), "-o", str(built)],
        _COMPILE_SECONDS,
    )
    if not built.is_file():
        raise BuildError(f"{shlex.join(command[:1])} ended well and wrote nothing")
    return built.rename(scratch / f"{stem}-{_checksum(built.read_bytes())}.so")


def _run(command: list[str], seconds: float) -> str:
    name = shlex.join(command[:1])
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds, encoding="utf-8", errors="replace"
        )
    except (OSError, ValueError) as error:
        raise BuildError(f"{name} cannot be run: {error}") from error
    except subprocess.TimeoutExpired as error:
        raise BuildError(f"{name} did not end within {seconds} seconds") from error
    if done.returncode:
        raise BuildError(f"{name} ended with {done.returncode}: {done.stderr.strip()[-1000:]}")
    return done.stdout


# --- The cache folder.


def _cache_folder() -> pathlib.Path:
    """The folder that libraries are kept in, made if need be, by its real path.

    Raises:
        BuildError: if somebody else could put a file there.
    """
    import pooch

    folder = pathlib.Path(pooch.os_cache("tmu_jax")) / "native"
    if not folder.is_absolute():
        raise BuildError(f"{folder} is no absolute path: HOME or XDG_CACHE_HOME is not set to one")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    if folder.is_symlink():
        raise BuildError(f"{folder} is a link, not a folder")
    folder = folder.resolve(strict=True)
    for path in (folder, *folder.parents):
        _check_owner(path, is_shared=path != folder)
    return folder


def _check_owner(path: pathlib.Path, is_shared: bool) -> None:
    """Raises unless nobody but this user, and root where `is_shared`, can change what is in `path`."""
    status = path.lstat()
    owners = (os.getuid(), 0) if is_shared else (os.getuid(),)
    if status.st_uid not in owners:
        raise BuildError(f"{path} belongs to another user")
    # In a sticky folder, as /tmp is, others cannot rename what is not theirs.
    is_sticky = is_shared and status.st_mode & stat.S_ISVTX
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not is_sticky:
        raise BuildError(f"others may write to {path}; chmod go-w takes that from them")


def _find(folder: pathlib.Path, stem: str) -> pathlib.Path | None:
    """The library that was kept under this name, unless it is not what was written."""
    for library in sorted(folder.glob(f"{stem}-*.so")):
        try:
            if not stat.S_ISREG(library.lstat().st_mode):
                raise BuildError(f"{library} is no file")
            _check_owner(library, is_shared=False)
            if library.stem != f"{stem}-{_checksum(library.read_bytes())}":
                raise BuildError(f"{library} is damaged")
        except (BuildError, OSError) as error:
            _logger.warning("Compiled code is compiled anew: %s", error)
            with contextlib.suppress(OSError):
                library.unlink()
        else:
            return library
    return None


def _keep(built: pathlib.Path, folder: pathlib.Path) -> None:
    """Puts a library into the cache folder: whole or not at all, for others that start at the same time."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        copy = pathlib.Path(scratch) / built.name
        shutil.copyfile(built, copy)
        copy.chmod(0o700)
        copy.replace(folder / built.name)


def _checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
