"""`tmu-jax forget` from ids to evidence, in one process on a user's tiny folder; stopped anywhere, and gone on with."""

import csv
import dataclasses
import json
import shutil

import filelock
import jax
import numpy as np
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import tmu_jax
from tests.command.made import FORGET, GIVEN, enter, make_user
from tests.preparation.made import gathered_rows
from tests.tiny import TinyNet
from tmu_jax.command import forgetting, inputs, keeping, line, main, progress, writing
from tmu_jax.preparation import forget as library_forget
from tmu_jax.preparation import grid
from tmu_jax.unlearning.unlearned import forgotten_rows

FIRST = ["forget", *FORGET, "--ids", "asked.csv:image_id", "--output", "v2", "--method", "retrain", "--folds", "0"]
SECOND = ["forget", *FORGET, "--ids", "later.txt", "--output", "v3", "--method", "retrain"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("user")
    make_user(folder)
    return folder


@pytest.fixture(scope="module")
def after_first(made, tmp_path_factory):
    """The folder after one request, signed."""
    folder = tmp_path_factory.mktemp("first") / "user"
    shutil.copytree(made, folder)
    key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    pem = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "key.pem").write_bytes(key.private_bytes(*pem))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(line, "use_compilation_cache", lambda: None)
        enter(patch, folder)
        assert main([*FIRST, "--key", "key.pem"]) == 0
    return folder


@pytest.fixture
def user(request, tmp_path, monkeypatch):
    """A copy of the folder, as the shell's own; `parametrize` it indirectly with "after_first" for a later one."""
    folder = tmp_path / "user"
    shutil.copytree(request.getfixturevalue(getattr(request, "param", "made")), folder)
    monkeypatch.setattr(line, "use_compilation_cache", lambda: None)
    enter(monkeypatch, folder)
    return folder


later = pytest.mark.parametrize("user", ["after_first"], indirect=True)


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if "__pycache__" not in path.parts)


def weights(folder):
    return json.loads((folder / "evidence.json").read_text())["weights"]


def names_of_first(folder):
    with open(folder / "asked.csv", newline="") as file:
        return [row["image_id"] for row in csv.DictReader(file)]


def read_data():
    return tmu_jax.data.from_image_folder("train", test_folder="val", image_size=8, progress=False).data


@later
def test_what_a_request_leaves(user):
    assert sorted(path.name for path in (user / "v2").iterdir()) == [
        "answer.html", "evidence.json", "labels.csv", "model",
    ]  # fmt: skip
    with open("v2/labels.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == names_of_first(user)
    model = tmu_jax.load("v2/model", TinyNet(3))
    assert tmu_jax.verify("v2/evidence.json", model=model, data=read_data()).ok
    assert (user / "deletions/request-1.salt").stat().st_mode & 0o077 == 0
    assert tmu_jax.Ledger("deletions").requests[0].state == "closed"


@later
def test_verify_tells_what_fits_from_what_does_not(user, capsys):
    whole = ["verify", "v2/evidence.json", "--page", "v2/answer.html", "--model", "v2", *GIVEN[2:]]
    assert main([*whole, "--ids", "asked.csv:image_id", "--salt", "deletions/request-1.salt"]) == 0
    assert "evidence: fits" in capsys.readouterr().out
    assert main([*whole, "--ids", "later.txt", "--salt", "deletions/request-1.salt"]) == 3
    text = (user / "v2/evidence.json").read_text()
    (user / "v2/evidence.json").write_text(text.replace('"retrain', '"rewarm', 1))
    assert main(whole) == 3
    assert "DOES NOT FIT" in capsys.readouterr().out


@later
def test_a_later_request_starts_from_the_last_model_and_gathers_nothing_removed(user, monkeypatch, capsys):
    monkeypatch.setattr(grid, "REWARM_PEAKS", (1.0,))
    with gathered_rows(monkeypatch) as rows:
        assert main(["forget", *FORGET, "--ids", "later.txt", "--output", "v3", "--budget", "0.5"]) in (0, 3)
        assert main(SECOND) == 0
    gone = read_data().rows_of(names_of_first(user))
    assert len(gone) == 12
    assert len(rows) > 5
    assert not np.isin(np.concatenate([part.ravel() for part in rows]), gone).any()
    assert weights(user / "v3")["before"] == weights(user / "v2")["after"]
    known = forgotten_rows(tmu_jax.load("v3/model", TinyNet(3)))
    np.testing.assert_array_equal(
        known, np.union1d(gone, read_data().rows_of((user / "later.txt").read_text().split()))
    )
    assert "twin model" not in capsys.readouterr().err
    assert [path.name for path in (user / "deletions").glob("after-*")] == ["after-2"]


@later
def test_images_that_the_user_has_deleted_are_not_missed(user, capsys):
    for name in names_of_first(user):
        (user / "train" / name).unlink()
    assert main(SECOND) == 0
    assert "prepared anew, from request 1's model" in " ".join(capsys.readouterr().out.split())
    assert weights(user / "v3")["before"] == weights(user / "v2")["after"]
    # And once more: the user's function still returns the first model, which led to the one in service.
    (user / "more.txt").write_text("train-0-20.png\ntrain-1-20.png\ntrain-2-20.png\n")
    assert main(["forget", *FORGET, "--ids", "more.txt", "--output", "v4", "--method", "retrain"]) == 0
    assert weights(user / "v4")["before"] == weights(user / "v3")["after"]


@later
def test_what_was_removed_cannot_be_asked_for_again(user, capsys):
    assert main([*FIRST[:-6], "--output", "v9"]) == 2
    assert "removed by request 1 (closed" in capsys.readouterr().err


@later
def test_another_model_is_prepared_anew_and_that_is_said(user, capsys):
    shutil.copytree("v2/model", "other")
    model = tmu_jax.load("other", TinyNet(3))
    changed = jax.tree.map(lambda leaf: leaf + 1, model.variables)
    tmu_jax.TrainedModel(model.module, changed, model.normalization, model.recipe).save("v1", overwrite=True)
    assert main([*SECOND, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "none that this ledger's preparation knows" in said
    assert "train the twin model" in said


def test_a_dry_run_shows_the_plan_and_writes_nothing(user, capsys):
    before = files(user)
    assert main(["forget", *FORGET, "--ids", "asked.csv:image_id", "--output", "v2", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert files(user) == before
    # 8 epochs: a twin of 8 on 120 and 42, a bank of 4 x 4 epochs on 60 (and a third for each of 150 answers).
    assert "train the twin model: 1,296 images" in said
    assert "train the bank (4 models): 1,160 images" in said
    assert f"train the unlearning: {0.05 * 8 * 108:.0f} images" in said
    assert "less than a minute, at" in said


def test_a_command_that_is_stopped_anywhere_goes_on(user, monkeypatch, capsys):
    parts = []

    def stop_at(number):
        call = progress.Bars.__call__

        def stopping(self, kind):
            parts.append(kind)
            if len(parts) == number:
                raise KeyboardInterrupt
            return call(self, kind)

        return stopping

    with monkeypatch.context() as patch:
        patch.setattr(progress.Bars, "__call__", stop_at(3))
        assert main(FIRST) == 130
    assert parts == ["twin_model", "prepared", "retrain"]
    assert not (user / "v2").exists()
    capsys.readouterr()
    stops = (forgetting, "library_audit"), (keeping, "save_prepared"), (tmu_jax.Ledger, "close"), (writing, "unmark")
    for module, name in stops:
        with monkeypatch.context() as patch:
            patch.setattr(module, name, lambda *rest, **named: (_ for _ in ()).throw(KeyboardInterrupt))
            assert main(FIRST) == 130
    said = capsys.readouterr()
    assert "twin model" not in said.err
    assert said.err.count("retrain") == 4  # A retraining is no part of the preparation, and is not kept.
    assert tmu_jax.Ledger("deletions").requests[0].state == "closed"
    assert main(FIRST) == 0  # All was done but for the mark.
    assert "request 1 was closed" in capsys.readouterr().out
    assert sorted(path.name for path in (user / "v2").iterdir())[-1] == "model"
    assert main(["verify", "v2/evidence.json", "--page", "v2/answer.html", "--model", "v2", *GIVEN[2:]]) == 0


def with_a_note(*args, **kwargs):
    found = library_forget(*args, **kwargs)
    return dataclasses.replace(found, notes=("what a rehearsal found", *found.notes))


def test_nothing_forgotten_is_no_success_and_leaves_the_request_open(user, capsys, monkeypatch):
    weak = [*FIRST[:-4], "--method", "random_labeling", "--folds", "0"]
    with monkeypatch.context() as patch:
        patch.setattr(forgetting, "library_forget", with_a_note)
        assert main(weak) == 3
    said = capsys.readouterr()
    assert "NOTHING WAS FORGOTTEN by random_labeling" in said.out
    assert "note: what a rehearsal found" in said.out
    assert said.err.count("\n") == 3  # The parts that were done, and no error.
    assert not (user / "v2").exists()
    assert tmu_jax.Ledger("deletions").requests[0].state == "open"
    assert main([*FIRST[:1], *FORGET, "--ids", "later.txt", "--output", "v3", "--folds", "0"]) == 2
    assert "request 1" in capsys.readouterr().err
    assert main(FIRST) == 0


def test_a_copy_that_stays_fails_the_audit_and_its_request_is_closed_when_the_user_says_so(user, capsys):
    shutil.copyfile("train/ant/train-0-00.png", "train/ant/again.png")
    assert main([*FIRST, "--dry-run"]) == 0
    assert "ant/again.png" in capsys.readouterr().out
    assert main(FIRST) == 3
    said = capsys.readouterr().out
    assert "failed: copies" in said
    assert "stays open for its copies alone" in " ".join(said.split())
    assert "equal pixels" in (user / "v2/copies.csv").read_text()
    assert tmu_jax.Ledger("deletions").requests[0].state == "open"
    assert main([*FIRST, "--accept"]) == 3
    assert tmu_jax.Ledger("deletions").requests[0].state == "closed"
    assert not (user / "v2/unfinished.json").exists()


def test_copies_are_taken_along_and_what_is_said_fits_a_terminal(user, capsys):
    shutil.copyfile("train/ant/train-0-00.png", "train/ant/again.png")
    assert main([*FIRST, "--copies", "take", "--format", "safetensors"]) == 0
    assert "ant/again.png" in (user / "v2/labels.csv").read_text()
    assert (user / "v2/model/arrays.safetensors").is_file()
    said = capsys.readouterr().out
    summary = said[said.index("request 1:") :].splitlines()
    assert len(summary) <= 24
    assert "13 images, forgotten by retrain, 100.0 % of a retraining" in summary[0]
    assert all(len(row) <= 80 and row.isascii() for row in said.splitlines())


def test_a_second_command_in_the_same_folder_is_kept_out(user, capsys):
    (user / "deletions").mkdir()
    with filelock.FileLock("deletions/command.lock"):
        assert main(FIRST) == 2
    assert "another command is at work there" in capsys.readouterr().err
    assert tmu_jax.Ledger("deletions").requests == ()


@later
def test_a_request_that_was_closed_by_other_means_is_gone_on_with_from_its_model(user, capsys):
    shutil.rmtree("deletions/after-1")
    assert main([*SECOND, "--dry-run"]) == 2
    assert "let --model return that one" in capsys.readouterr().err
    shutil.rmtree("v1")
    shutil.copytree("v2/model", "v1")
    assert main([*SECOND, "--dry-run"]) == 0
    assert "train the twin model" in capsys.readouterr().out


@later
def test_a_ledger_that_lost_its_last_requests_is_refused(user, capsys):
    ledger = user / "deletions/ledger.jsonl"
    opened = ledger.read_bytes().splitlines(keepends=True)[:1]
    ledger.write_bytes(b"".join(opened))
    before = files(user)
    assert main(SECOND) == 2
    assert "after-1 is what request 1 left, and ledger.jsonl knows no such request" in capsys.readouterr().err
    assert files(user) == before


def test_what_a_stopped_command_left_is_not_trusted_where_something_else_closed_its_request(user, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr(tmu_jax.Ledger, "close", lambda *rest: (_ for _ in ()).throw(KeyboardInterrupt))
        assert main(FIRST) == 130
    assert (user / "deletions/after-1").is_dir()
    ledger = tmu_jax.Ledger("deletions")
    problem = ledger.request(read_data(), names_of_first(user))
    found = tmu_jax.unlearn("retrain", problem, inputs.read_model("users:restore"), key=jax.random.key(9))
    ledger.close(problem, found)
    assert main([*SECOND, "--dry-run"]) == 2
    assert "request 1 was closed by other means than this command" in capsys.readouterr().err


def test_prepare_once_and_each_request_goes_on_from_it(user, capsys):
    own = ["prepare", *FORGET, "--folds", "0", "--seed", "5"]
    assert main(own) == 0
    assert main([*own, "--dry-run"]) == 0
    assert "nothing is to be trained" in capsys.readouterr().out
    assert main([*FIRST, "--dry-run"]) == 0
    assert "twin model" not in capsys.readouterr().out
    assert main([*FIRST[:-1], "2"]) == 2
    assert "--folds 2: the preparation in deletions was made with 0" in capsys.readouterr().err
    assert main(["prepare", *FORGET, "--folds", "0", "--seed", "6"]) == 2
    assert "--seed 6: the preparation in deletions was made with 5" in capsys.readouterr().err
    assert main([*FIRST[:-4], "--method", "soft_twin"]) == 2
    assert "--folds 0 makes none" in capsys.readouterr().err
