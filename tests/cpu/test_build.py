"""Compiled once and kept, loaded only when it is what was written, and no traceback whatever the compiler is like."""

import ctypes
import logging
import os
import pathlib
import pwd
import shlex
import subprocess
import sys
import tempfile

import jax
import pytest

from tests.cpu.common import needs_compiler
from tmu_jax.cpu import build, native

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the cache folder is set for Linux")
PROBE = 'case "$*" in *-dM*) echo "#define __cplusplus 201703L"; exit 0;; esac'


@pytest.fixture
def anew(monkeypatch, tmp_path):
    """As in a new process of a user whose cache folder is empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("TMU_JAX_NATIVE", raising=False)
    monkeypatch.setattr(jax.ffi, "register_ffi_target", lambda *args, **options: None)
    native._library.cache_clear()
    yield tmp_path / "cache" / "tmu_jax" / "native"
    native._library.cache_clear()


@pytest.fixture
def loaded(anew, monkeypatch, tmp_path):
    """The contents of files that were loaded, instead of loading them, with a compiler that writes "library"."""
    contents = []
    monkeypatch.setattr(ctypes, "CDLL", lambda path: contents.append(pathlib.Path(path).read_text()))
    monkeypatch.setenv("CXX", compiler(tmp_path, 'for last; do :; done; printf library > "$last"'))
    return contents


def compiler(folder, action, probe=PROBE):
    """A command that does what a compiler does until it is given a file."""
    path = folder / "compiler"
    path.write_text(f"#!/bin/sh\n{probe}\n{action}\n")
    path.chmod(0o700)
    return shlex.quote(str(path))


@needs_compiler
def test_compiled_once_and_kept(anew, monkeypatch, caplog, tmp_path):
    source = tmp_path / "small"
    source.mkdir()
    (source / "convolution.cc").write_text('extern "C" int answer() { return 42; }\n')
    monkeypatch.setattr(build, "_FOLDER", source)
    assert build.load().answer() == 42
    (made,) = anew.iterdir()
    changed = made.stat().st_mtime_ns
    assert build.load().answer() == 42
    assert [path.stat().st_mtime_ns for path in anew.iterdir()] == [changed]
    assert anew.stat().st_mode & 0o777 == made.stat().st_mode & 0o777 == 0o700
    assert not caplog.records


@pytest.mark.parametrize("what", ["processor or compiler", "source", "jaxlib"])
def test_another_processor_compiler_source_or_jaxlib_is_another_library(loaded, anew, monkeypatch, tmp_path, what):
    build.load()
    if what == "source":
        monkeypatch.setattr(build, "source_hash", lambda: "another one")
    elif what == "jaxlib":
        monkeypatch.setattr(build.importlib.metadata, "version", lambda _: "another one")
    else:
        compiler(tmp_path, "printf library > built.so", PROBE.replace("exit 0", "echo '#define __AVX9__ 1'; exit 0"))
        compiler(tmp_path, 'for last; do :; done; printf library > "$last"', PROBE.replace("2017", "2099"))
    build.load()
    assert len(list(anew.iterdir())) == 2


def half(library):
    library.write_text(library.read_text()[:3])


def flipped(library):
    library.write_text("librarz")


def emptied(library):
    library.write_text("")


def planted(library):
    library.write_text("planted")
    library.chmod(0o777)


def writable(library):
    library.chmod(0o722)


def linked(library):
    elsewhere = library.parent.parent / "elsewhere"
    elsewhere.write_text("library")
    library.unlink()
    library.symlink_to(elsewhere)


@pytest.mark.parametrize("damage", [half, flipped, emptied, planted, writable, linked])
def test_what_is_not_what_was_written_is_compiled_anew_and_said_once(loaded, anew, caplog, damage):
    build.load()
    (library,) = anew.iterdir()
    damage(library)
    for _ in range(2):
        build.load()
    assert loaded == ["library"] * 3
    assert [path.read_text() for path in anew.iterdir()] == ["library"]
    (record,) = caplog.records
    assert str(library) in record.getMessage()


def others_may_write(folder):
    folder.chmod(0o777)


def group_may_write(folder):
    folder.chmod(0o770)


def others_may_write_above(folder):
    folder.parent.chmod(0o777)


def a_link(folder):
    target = folder.parent.parent / "target"
    folder.rename(target)
    folder.symlink_to(target)


def a_file(folder):
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    folder.write_text("")


def a_dangling_link_above(folder):
    folder.parent.rename(folder.parent.parent / "moved")
    folder.parent.symlink_to(folder.parent.parent / "nowhere")


@pytest.mark.parametrize(
    "spoil", [others_may_write, group_may_write, others_may_write_above, a_link, a_file, a_dangling_link_above]
)
def test_a_folder_in_others_reach_is_left_alone(loaded, anew, caplog, monkeypatch, tmp_path, spoil):
    """What lies there is neither loaded nor changed; the private folder is gone once the library is loaded."""
    build.load()
    (library,) = anew.iterdir()
    library.write_text("planted")
    spoil(anew)
    scratch = tmp_path / "private"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    build.load()
    assert loaded == ["library", "library"]
    assert [record.getMessage().partition(",")[0] for record in caplog.records] == ["Compiled code is not kept"]
    assert not list(scratch.iterdir())


@pytest.mark.parametrize("owner", [12345, 0])
def test_a_folder_of_another_user(loaded, anew, monkeypatch, caplog, owner):
    build.load()
    real = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: owner)
    build.load()
    assert loaded == ["library", "library"]
    assert len(caplog.records) == (owner != real)


def test_links_above_to_a_folder_of_ones_own_are_followed(loaded, anew, caplog):
    build.load()
    anew.parent.rename(anew.parent.parent / "larger disk")
    anew.parent.symlink_to(anew.parent.parent / "larger disk")
    build.load()
    assert loaded == ["library", "library"]
    assert not caplog.records


@pytest.mark.parametrize("error", [PermissionError("read-only"), OSError(28, "No space left on device")])
def test_a_cache_folder_that_cannot_be_written(loaded, anew, monkeypatch, caplog, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(build.shutil, "copyfile", fail)
    build.load()
    assert loaded == ["library"]
    (record,) = caplog.records
    assert str(error) in record.getMessage()
    assert not list(anew.iterdir())


HOSTILE = {
    "no-such-compiler": "no-such-compiler",
    "g++ 'x": "no command",
    "   ": "no command",
    "/bin/false": "/bin/false",
    "/bin/true": "no C++ compiler",
    "/bin/echo": "no C++ compiler",
    "rm -rf": "rm ended with",
    "/": "cannot be run",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_command_that_is_no_compiler(anew, monkeypatch, caplog, name):
    monkeypatch.setenv("CXX", name)
    with caplog.at_level(logging.WARNING, "tmu_jax"):
        for _ in range(2):
            assert not native.is_available()
            assert native.describe() == "XLA's products"
    (record,) = caplog.records
    assert "C++ compiler" in record.getMessage()
    assert HOSTILE[name] in record.getMessage()
    assert pathlib.Path(build.__file__).is_file()


@pytest.mark.parametrize(
    ("action", "probe", "reason"),
    [
        ("", "exec sleep 60", "did not end within"),
        ("exec sleep 60", PROBE, "did not end within"),
        ("", "head -c 1000000 /dev/urandom", "no C++ compiler"),
        ("exit 0", PROBE, "wrote nothing"),
        ('for last; do :; done; head -c 9999 /dev/urandom > "$last"', PROBE, "invalid ELF header"),
        ('for last; do :; done; mkdir "$last"', PROBE, "wrote nothing"),
        ('echo "out of order" >&2; exit 1', PROBE, "out of order"),
        ("kill -9 $$", PROBE, "ended with -9"),
    ],
)
def test_a_compiler_that_misbehaves(anew, monkeypatch, caplog, tmp_path, action, probe, reason):
    monkeypatch.setattr(build, "_PROBE_SECONDS", 2 if "sleep" in probe else 30)
    monkeypatch.setattr(build, "_COMPILE_SECONDS", 1 if "sleep" in action else 30)
    monkeypatch.setenv("CXX", compiler(tmp_path, action, probe))
    with caplog.at_level(logging.WARNING, "tmu_jax"):
        assert not native.is_available()
    (record,) = caplog.records
    assert reason in record.getMessage()
    assert not list(anew.glob("*"))


def test_no_compiler_at_all(anew, monkeypatch, caplog):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", "/nowhere")
    with caplog.at_level(logging.WARNING, "tmu_jax"):
        assert not native.is_available()
    assert "none of c++, g++ and clang++" in caplog.text


def test_switched_off_by_the_environment(anew, monkeypatch, caplog):
    monkeypatch.setenv("TMU_JAX_NATIVE", "0")
    assert not native.is_available()
    assert not caplog.records


def test_no_home_and_no_entry_for_the_user(loaded, monkeypatch, caplog, tmp_path):
    """Nothing is written into a folder named "~"."""

    def missing(*_):
        raise KeyError("no entry")

    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name in ("getpwuid", "getpwnam"):
        monkeypatch.setattr(pwd, name, missing)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    build.load()
    assert loaded == ["library"]
    assert len(caplog.records) == 1
    assert not list(work.iterdir())


@needs_compiler
@pytest.mark.slow
def test_kept_programs_run_in_a_new_process(tmp_path):
    """JAX's compilation cache holds programs that call compiled code; a second process loads them."""
    program = """
import sys
import jax, jax.numpy as jnp
from jax._src import compilation_cache, monitoring
from tmu_jax import cache as compilation
from tmu_jax.cpu import conv_general_dilated
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
