"""Folders that cannot be written to, and disks that fill up: found before, or what was computed is kept elsewhere."""

import errno
import json
import os
import shutil
import tempfile
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from experiments.protocol.records import RecordTable, with_run
from experiments.report import files
from tests.protocol.test_records import FIRST, GOLD, entries
from tests.tiny import TinyNet, tiny_data
from tmu_jax import Ledger, load, places, prepare, store, wrap
from tmu_jax.places import check_folder, write_or_keep
from tmu_jax.store import Saved, StageStore
from tmu_jax.training import saving

SAVED = Saved({"weights": np.arange(1000, dtype=np.float32)}, {"seconds": 1.5})


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """The system's temporary folder, which has room."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def full(tmp_path, monkeypatch):
    """A folder whose disk is full, as `shutil.disk_usage` says."""
    folder = tmp_path / "full"
    folder.mkdir()
    usage = shutil.disk_usage

    def free(path):
        return SimpleNamespace(free=0) if str(path).startswith(str(folder)) else usage(path)

    monkeypatch.setattr(places.shutil, "disk_usage", free)
    return folder


def kept_in(error: pytest.ExceptionInfo, elsewhere) -> str:
    """Where the error says that it is kept; it is one line."""
    said = str(error.value)
    assert "cannot be written (No space left on device)" in said
    assert len(said.splitlines()) == 1
    (folder,) = elsewhere.glob("tmu_jax-kept-*")
    (kept,) = folder.iterdir()
    assert f"it is kept in {str(kept)!r}" in said
    return kept


@pytest.mark.parametrize(
    ("path", "match"),
    [
        ("file", r"is a file; give a folder"),
        ("file/below", r"lies in .*file, which is a file; give a folder"),
        ("nowhere", r"is a link to nothing; give a folder"),
        ("nowhere/below", r"lies in .*nowhere, which is a link to nothing"),
        ("a\0b", r"holds a null character"),
        ("a\udcff", r"cannot be written to"),  # No name in UTF-8: Orbax has no other, and would say so after all work.
        ("\ud800", r"cannot be written to"),
        ("x" * 5000, r"cannot be written to \(File name too long\); give another folder"),
        ("/proc/x/y", r"cannot be written to \(.*\); give another folder"),
    ],
)
def test_a_folder_that_cannot_be_is_refused(tmp_path, path, match):
    (tmp_path / "file").write_text("")
    (tmp_path / "nowhere").symlink_to(tmp_path / "not there")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match="^here: " + match):
        check_folder("here:", path if path.startswith("/") else f"{tmp_path}/{path}")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_that_can_be_leaves_nothing_behind(tmp_path):
    assert check_folder("here:", tmp_path / "new" / "one") == tmp_path / "new" / "one"
    assert check_folder("here:", str(tmp_path), num_bytes=1000) == tmp_path
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(TypeError, match="must be the path of a folder, got a int"):
        check_folder("here:", 5)


def test_a_disk_without_room_is_refused_by_what_is_to_be_written(full):
    with pytest.raises(ValueError, match="has 0 MB free, and about 12 MB are to be written"):
        check_folder("here:", full, num_bytes=12_000_000)


def test_a_stage_is_kept_elsewhere_and_found_when_it_is_put_in_its_place(full, elsewhere, monkeypatch):
    with pytest.raises(OSError, match="No space") as error:
        StageStore(full).load_or_make("gold-1", lambda: SAVED)
    assert not (full / "gold-1").exists()
    kept = kept_in(error, elsewhere)
    assert kept.name == "gold-1"
    monkeypatch.undo()
    shutil.move(kept, full / "gold-1")
    found = StageStore(full).load_or_make("gold-1", lambda: pytest.fail("it is there"))
    np.testing.assert_array_equal(found.arrays["weights"], SAVED.arrays["weights"])
    assert found.metadata == SAVED.metadata


def test_what_orbax_cannot_write_is_one_line_of_the_systems(tmp_path, elsewhere, monkeypatch, caplog):
    """As where a quota is used up: `disk_usage` tells nothing, and TensorStore raises its own error."""
    save = store.ocp.CheckpointManager.save

    def fails(self, *args, **kwargs):
        if str(self.directory).startswith(str(tmp_path / "quota")):
            raise ValueError("RESOURCE_EXHAUSTED: page after page [os_error_code='28']\nand more")
        return save(self, *args, **kwargs)

    monkeypatch.setattr(store.ocp.CheckpointManager, "save", fails)
    with pytest.raises(OSError, match="No space") as error:
        StageStore(tmp_path / "quota").save("gold-1", SAVED)
    assert kept_in(error, elsewhere).name == "gold-1"
    assert not caplog.records


@pytest.mark.parametrize("format", ["orbax", "msgpack"])
def test_a_model_is_kept_elsewhere(full, elsewhere, monkeypatch, format):
    module = TinyNet()
    model = wrap(module, module.init(jax.random.key(0), np.zeros((1, 4, 4, 3), np.float32)))
    write = saving._write_arrays

    def fails(state, folder, format):
        if folder.is_relative_to(full):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(state, folder, format)

    monkeypatch.setattr(saving, "_write_arrays", fails)
    with pytest.raises(OSError, match="No space") as error:
        model.save(full / "v2", format)
    assert list(full.iterdir()) == []
    again = load(kept_in(error, elsewhere), model)
    same = jax.tree.map(np.array_equal, again.variables, model.variables)
    assert all(jax.tree.leaves(same))


def test_records_are_kept_elsewhere_all_of_them(tmp_path, elsewhere, monkeypatch):
    output = tmp_path / "out"
    output.mkdir()
    config = with_run(FIRST, output)
    (output / "config.json").write_text(json.dumps(config))
    table = RecordTable(output, config)
    table.add(*entries("retrain", GOLD))
    before = {path.name: path.read_bytes() for path in output.iterdir()}
    replace = files.os.replace

    def fails(source, target):
        if str(target).startswith(str(output)):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    monkeypatch.setattr(files.os, "replace", fails)
    with pytest.raises(OSError, match="No space") as error:
        table.add(*entries("mine", "100"))
    kept = kept_in(error, elsewhere)
    assert {path.name: path.read_bytes() for path in output.iterdir()} == before
    lines = (kept / "results.jsonl").read_text().splitlines()
    assert [json.loads(line)["method"] for line in lines] == ["retrain", "mine"]
    assert len(files.read_samples(kept)) == 2


def test_a_preparation_is_refused_before_anything_is_trained(full, monkeypatch):
    (full / "file").write_text("")
    call = {"key": jax.random.key(0), "heldout": 20}
    for folder, match in ((full / "file", "is a file; give a folder"), (full, "has 0 MB free, and about")):
        with pytest.raises(ValueError, match=match):
            prepare(TinyNet(), tiny_data(), folder=folder, progress=lambda kind: pytest.fail("it trains"), **call)


def test_a_ledger_says_which_file_the_disk_does_not_take(tmp_path, monkeypatch):
    ledger = Ledger(tmp_path / "ledger")
    monkeypatch.setattr(os, "fsync", lambda handle: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left")))
    with pytest.raises(OSError, match=r"No space left.*ledger\.jsonl"):
        ledger.request(tiny_data(), [5])
    assert Ledger(tmp_path / "ledger").requests == ()


def test_nowhere_at_all(monkeypatch, tmp_path):
    def fails(place):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with pytest.raises(
        OSError, match=r"cannot be written \(Read-only file system\), nor could it be kept anywhere else"
    ):
        write_or_keep(tmp_path / "x", fails)
