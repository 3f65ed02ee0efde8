"""Stages come back as they were, and what is not the stage asked for is named, never used, and replaced."""

import concurrent.futures
import errno
import fcntl
import os
import shutil
import subprocess
import sys
import threading
import time

import filelock
import numpy as np
import pytest

from tmu_jax.requests.record import Book
from tmu_jax.store import Saved, StageStore

ARRAYS = {"a": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)}, "flags": np.array([True, False])}
SAVED = Saved({**ARRAYS, "none": np.zeros((0, 3), np.float32)}, {"seconds": 1.5, "notes": ["as it was"]})
NAME = "gold-0123456789abcdef"


@pytest.fixture
def store(tmp_path):
    warnings = []
    made = StageStore(tmp_path, warn=warnings.append)
    made.warnings = warnings
    made.save(NAME, SAVED)
    return made


def assert_whole(saved):
    assert saved.metadata == SAVED.metadata
    assert set(saved.arrays) == set(SAVED.arrays)
    np.testing.assert_array_equal(saved.arrays["a"]["kernel"], ARRAYS["a"]["kernel"])
    np.testing.assert_array_equal(saved.arrays["flags"], ARRAYS["flags"])
    assert saved.arrays["flags"].dtype == bool
    assert saved.arrays["none"].shape == (0, 3)
    assert saved.arrays["none"].dtype == np.float32


def test_a_stage_is_restored_equal(store, tmp_path):
    assert store.has(NAME)
    assert_whole(StageStore(tmp_path).load(NAME))
    assert store.warnings == []


def test_a_stage_of_no_arrays(store):
    store.save("rehearsal-1", Saved({}, {"agreement": [88.0, 86.5, 89.5]}))
    assert store.load("rehearsal-1") == Saved({}, {"agreement": [88.0, 86.5, 89.5]})
    assert store.warnings == []


def test_a_stage_that_is_not_there(store):
    assert not store.has("gold-other")
    assert store.load("gold-other") is None
    assert store.warnings == []


def test_a_stage_whose_writing_was_stopped_is_not_there(store, monkeypatch):
    def stop(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", stop)
        with pytest.raises(KeyboardInterrupt):
            store.save("gold-half", SAVED)
    assert store.path("gold-half").is_dir()
    assert not store.has("gold-half")
    assert store.load("gold-half") is None
    assert "not finished" in store.warnings[0]
    store.save("gold-half", SAVED)
    assert_whole(store.load("gold-half"))


def test_what_a_kill_left_of_a_finished_stages_trainings_is_removed(store):
    (store.partial(NAME) / "loop-1").mkdir(parents=True)
    assert_whole(store.load_or_make(NAME, pytest.fail))
    assert not store.partial(NAME).exists()


def swapped(path):
    """Another gold's folder under this name."""
    StageStore(path.parent).save("gold-other", Saved({"a": np.ones(3, np.float32)}, {}))
    shutil.rmtree(path)
    (path.parent / "gold-other").rename(path)


def of_another_kind(path):
    StageStore(path.parent).save("features-0123456789abcdef", SAVED)
    shutil.rmtree(path)
    (path.parent / "features-0123456789abcdef").rename(path)


def emptied(path):
    shutil.rmtree(path)
    path.mkdir()


def emptied_step(path):
    shutil.rmtree(path / "0")
    (path / "0").mkdir()


def a_file(path):
    shutil.rmtree(path)
    path.write_text("not a folder")


def a_dangling_link(path):
    shutil.rmtree(path)
    path.symlink_to(path.parent / "nowhere")


def truncated(path):
    """The largest file of the arrays cut in half."""
    largest = max((p for p in (path / "0").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])


def without_metadata(path):
    shutil.rmtree(path / "0" / "metadata")


def garbage_metadata(path):
    for file in (path / "0" / "metadata").iterdir():
        file.write_text("[1, 2")


def another_metadata(path):
    """Valid JSON with one number changed."""
    file = path / "0" / "metadata" / "metadata"
    assert "1.5" in file.read_text()
    file.write_text(file.read_text().replace("1.5", "9.5"))


def manifest_of_another_form(path):
    """A manifest that is no dictionary."""
    (path / "manifest.json").write_text("[]")


FAULTS = (
    swapped,
    of_another_kind,
    emptied,
    emptied_step,
    a_file,
    a_dangling_link,
    truncated,
    without_metadata,
    garbage_metadata,
    another_metadata,
    manifest_of_another_form,
)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_what_is_not_the_stage_is_named_and_replaced(store, fault):
    fault(store.path(NAME))
    assert store.load(NAME) is None
    assert len(store.warnings) == 1
    assert NAME in store.warnings[0]
    assert "\n" not in store.warnings[0]
    assert len(store.warnings[0]) < 500
    store.save(NAME, SAVED)
    assert_whole(store.load(NAME))
    assert len(store.warnings) == 1


def test_a_flipped_bit_anywhere_is_never_used(store):
    """In every file of the stage, at several places."""
    files = sorted(p for p in store.path(NAME).rglob("*") if p.is_file() and p.stat().st_size)
    for file in files:
        content = file.read_bytes()
        for position in {0, len(content) // 3, len(content) // 2, len(content) - 1}:
            damaged = bytearray(content)
            damaged[position] ^= 1 << (position % 8)
            file.write_bytes(bytes(damaged))
            assert store.load(NAME) is None, (file.name, position)
            file.write_bytes(content)
    assert len(files) >= 5
    assert_whole(store.load(NAME))


def test_a_link_to_another_folder_is_removed_and_its_target_left(store, tmp_path):
    target = tmp_path / "elsewhere"
    target.mkdir()
    (target / "precious").write_text("kept")
    store.path("gold-link").symlink_to(target)
    assert store.load("gold-link") is None
    assert "gold-link" in store.warnings[0]
    store.save("gold-link", SAVED)
    assert (target / "precious").read_text() == "kept"
    assert_whole(store.load("gold-link"))


def test_a_failing_save_leaves_no_stage(store, monkeypatch):
    with pytest.raises(TypeError):
        store.save("gold-new", Saved(ARRAYS, {"model": object()}))
    assert store.load("gold-new") is None


def test_of_several_that_ask_at_once_one_makes_a_stage_and_the_others_wait(tmp_path):
    made, warnings = [], []

    def make():
        made.append(threading.get_ident())
        time.sleep(0.3)
        return SAVED

    def ask(number):
        return StageStore(tmp_path, warn=warnings.append).load_or_make(NAME, make)

    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        for found in pool.map(ask, range(3)):
            assert_whole(found)
    assert len(made) == 1
    assert set(warnings) == {f"stage {NAME} is being made by another process; waiting for it"}


def test_a_stage_that_is_there_is_read_by_many_at_once(store, monkeypatch):
    monkeypatch.setattr(filelock.FileLock, "acquire", lambda *args, **kwargs: pytest.fail("asked for the lock"))
    assert_whole(store.load_or_make(NAME, lambda: pytest.fail("made again")))


def test_a_lock_is_free_when_its_holder_was_killed(tmp_path):
    code = f"""
import time
from tmu_jax.store import StageStore
StageStore({str(tmp_path)!r}).load_or_make({NAME!r}, lambda: print("made", flush=True) or time.sleep(60))
"""
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"made\n"
    holder.kill()
    holder.wait()
    holder.stdout.close()
    assert_whole(StageStore(tmp_path).load_or_make(NAME, lambda: SAVED))


def test_a_stage_that_fails_leaves_its_place_free(tmp_path):
    def fail():
        raise ZeroDivisionError

    store = StageStore(tmp_path)
    with pytest.raises(ZeroDivisionError):
        store.load_or_make(NAME, fail)
    assert_whole(store.load_or_make(NAME, lambda: SAVED))


def test_a_folder_that_cannot_be_written_gives_what_it_holds(store, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError("read-only")

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    assert_whole(store.load_or_make(NAME, refuse))
    with pytest.raises(PermissionError, match="read-only"):
        store.load_or_make("gold-other", refuse)


def test_a_lock_that_the_system_does_not_have_is_not_replaced_by_a_mere_file(tmp_path, monkeypatch):
    """Which a killed process would leave behind."""

    def missing(*args):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", missing)
    with pytest.raises(OSError, match="knows no locks; choose another folder"):
        StageStore(tmp_path).load_or_make(NAME, lambda: SAVED)
    with pytest.raises(OSError, match="knows no locks; choose another folder"), Book(tmp_path / "ledger").locked():
        pass
