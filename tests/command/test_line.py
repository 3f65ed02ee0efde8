"""The command line itself: what cannot be done is said in one line, before anything is written."""

import dataclasses
import io
import json
import os
import re
import runpy
import subprocess
import sys
import tomllib

import numpy as np
import pytest

import tmu_jax
from tests.command.made import FORGET, GIVEN, enter, make_user
from tests.test_rooms import ROOT
from tmu_jax.command import auditing, line, main, options, saying

IDS = ["--ids", "asked.csv:image_id"]
NEW = ["--output", "v2"]
WHOLE = ["forget", *FORGET, *IDS, *NEW]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("user")
    make_user(folder)
    (folder / "file").write_text("5")
    (folder / "full").mkdir()
    (folder / "full" / "mine.txt").write_text("")
    (folder / "twice.txt").write_text("train-0-01.png\nant/train-0-01.png\n")
    (folder / "strange.txt").write_text("train-0-01.png\nnobody.png\n")
    (folder / "empty.txt").write_text("\n")
    (folder / "gap.csv").write_text("image_id\n\n''\n,\n")
    (folder / "holed").mkdir()
    (folder / "holed" / "ledger.jsonl").write_text("{}\n")
    (folder / "syntax.py").write_text("def restore(:\n")
    arrays = {name: np.zeros((2, 8, 8, 3), np.uint8) for name in ("x_train", "x_test")}
    np.savez(folder / "no_labels.npz", **arrays)
    return folder


@pytest.fixture
def user(made, monkeypatch):
    monkeypatch.setattr(line, "use_compilation_cache", lambda: None)
    enter(monkeypatch, made)
    return made


def changed(**options):
    """The command to forget, with some options set otherwise; None leaves one out."""
    found = list(WHOLE)
    for name, value in options.items():
        option = f"--{name.replace('_', '-')}"
        if option in found:
            place = found.index(option)
            del found[place : place + 2]
        found += [] if value is None else [option, value]
    return found


BAD = {
    "no command": ([], "check"),
    "unknown command": (["unlearn"], "unlearn"),
    "unknown option": ([*WHOLE, "--budgte", "0.1"], "--budgte"),
    "missing option": (changed(ids=None), "--ids"),
    "no number": (changed(budget="much"), "--budget"),
    "budget above 1": (changed(budget="5"), "--budget 5.0: must be 0 to 1"),
    "budget of no step": (changed(budget="0.0001"), "give at least"),
    "negative seed": (changed(seed="-1"), "--seed -1: must be 0 to 4294967295"),
    "format": (changed(format="pickle"), "pickle"),
    "method": (changed(method="forgetful"), "--method forgetful: method='forgetful' is unknown; choose one of"),
    "no method": (changed(method="original"), "--method original: forgets nothing"),
    "bank without folds": (changed(method="soft_twin", folds="0"), "--folds 0 makes none"),
    "one fold": (changed(folds="1"), "folds"),
    "heldout": (changed(heldout="1000"), "heldout=1000"),
    "model is no function": (changed(model="users.py"), "--model users.py: must be module:function"),
    "no module": (changed(model="nobody:restore"), "importing nobody raised ModuleNotFoundError"),
    "module of no syntax": (changed(model="syntax:restore"), "importing syntax raised SyntaxError"),
    "no function": (changed(model="users:load"), "users has no function 'load'"),
    "function raises": (changed(model="users:broken"), "broken() raised RuntimeError: no checkpoint"),
    "no model": (changed(model="users:number"), "returned a int; it must return a model of tmu_jax.wrap"),
    "probabilities": (changed(model="users:soft"), "--model users:soft: the model does not fit the images: the model"),
    "prepare with probabilities": (["prepare", *FORGET, "--model", "users:soft"], "returns probabilities"),
    "no data": (changed(data="nowhere", test=None), "--data nowhere: is not there"),
    "no such test folder": (changed(test="nowhere"), "--test nowhere: is no folder"),
    "no test images": (changed(test=None), "--data train: holds no test images"),
    "test beside a function": (changed(data="users:number"), "--test val: is of use only beside a folder"),
    "data is a number": (changed(data="users:number", test=None, image_size=None), "must return a tmu_jax.data"),
    "size of a function": (changed(data="users:number", test=None), "--image-size 8: has no use"),
    "npz without labels": (changed(data="no_labels.npz", test=None), "--data no_labels.npz: path="),
    "image size": (changed(image_size="2"), "image_size"),
    "no ids": (changed(ids="nowhere.txt"), "--ids nowhere.txt: is not there"),
    "no csv": (changed(ids="nowhere.csv:image_id"), "nowhere.csv is not there"),
    "no column named": (changed(ids="asked.csv"), "name the column, as asked.csv:image_id"),
    "no such column": (changed(ids="asked.csv:id"), "has no column 'id'; it has image_id, why"),
    "a row without id": (changed(ids="gap.csv:image_id"), "1 rows have no id"),
    "an empty list": (changed(ids="empty.txt"), "--ids empty.txt: holds no id"),
    "unknown id": (changed(ids="strange.txt"), "1 is unknown: nobody.png"),
    "the same id twice": (changed(ids="twice.txt"), "asked for more than once"),
    "ledger is a file": (changed(ledger="file"), "--ledger file: is a file"),
    "damaged ledger": (changed(ledger="holed"), "line 1 is damaged"),
    "output is there": (changed(output="full"), "--output full: is not empty"),
    "output is a file": (changed(output="file"), "--output file: is a file"),
    "output in a file": (changed(output="file/v2"), "/file, which is a file; give a folder"),
    "no key": (changed(key="nowhere.pem"), "--key nowhere.pem"),
    "key is none": (changed(key="asked.csv"), "cannot be read as a private key"),
    "prepare with one fold": (["prepare", *FORGET, "--folds", "1"], "folds"),
    "accuracy as a share": (["check", *GIVEN, "--expected-accuracy", "0.9"], "--expected-accuracy 0.9"),
    "audit of nothing": (["audit", "full", *GIVEN, *IDS], "FOLDER full"),
    "audit without ledger": (["audit", "v1", *GIVEN, *IDS, "--ledger", "full"], "--ledger full: holds no ledger.jsonl"),
    "verify nothing": (["verify", "nowhere.json"], "EVIDENCE nowhere.json"),
    "verify ids alone": (["verify", "file", *IDS], "--ids and --salt"),
    "verify no model": (["verify", "file", "--model", "nowhere"], "--model nowhere: is no folder"),
    "verify test alone": (["verify", "file", "--test", "val"], "only beside --data"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_done_is_said_in_one_line_before_anything_is_written(user, capsys, name):
    arguments, expected = BAD[name]
    before = sorted(path for path in user.rglob("*") if "__pycache__" not in path.parts)
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1
    assert said.err.endswith("\n")
    assert expected in said.err
    assert said.err.isascii()
    assert sorted(path for path in user.rglob("*") if "__pycache__" not in path.parts) == before


def test_what_nobody_expected_is_one_line_too_and_with_debug_a_traceback(user, capsys, monkeypatch):
    def fails(*arguments):
        raise ZeroDivisionError("by nought\nand more")

    monkeypatch.setattr(auditing, "library_check", fails)
    assert main(["check", *GIVEN]) == 1
    assert capsys.readouterr().err == (
        "tmu-jax: unexpected ZeroDivisionError: by nought and more (--debug shows where it came from)\n"
    )
    assert main(["check", *GIVEN, "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_help_names_the_commands_and_their_options(capsys):
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in ("check", "prepare", "forget", "audit", "verify"))
    assert main(["forget", "--help"]) == 0
    assert "share of a retraining" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("module", [pytest.param("tmu_jax", marks=pytest.mark.slow), "experiments.requests"])
def test_a_reader_that_has_gone_is_no_error(module):
    read, write = os.pipe()
    os.close(read)
    found = subprocess.run([sys.executable, "-m", module, "--help"], stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert (found.returncode, found.stderr) == (141, b"")


def test_the_command_is_installed_and_runs_as_a_module(monkeypatch):
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"tmu-jax": "tmu_jax.command:main"}
    monkeypatch.setattr(sys, "argv", ["tmu_jax", "--help"])
    monkeypatch.delitem(sys.modules, "tmu_jax.__main__", raising=False)  # which another test may have imported
    with pytest.raises(SystemExit) as stop:
        runpy.run_module("tmu_jax", run_name="__main__")
    assert stop.value.code == 0


def test_the_page_names_options_that_there_are():
    named = set(re.findall(r"--[a-z][a-z-]*", (ROOT / "docs" / "command.md").read_text()))
    fields = {field.name for kind in options.COMMANDS.values() for field in dataclasses.fields(kind)}
    known = {f"--{name.replace('_', '-')}" for name in fields} | {"--help"}
    assert named - known == set()
    assert len(named) > 15


def test_check_says_whether_model_and_data_fit(user, capsys):
    assert main(["check", *GIVEN]) == 0
    assert "the model fits the data" in capsys.readouterr().out
    assert main(["check", *GIVEN, "--expected-accuracy", "99"]) == 3
    assert "99 % were expected" in " ".join(capsys.readouterr().out.split())


def test_audit_of_a_saved_model_writes_beside_it(user, capsys, monkeypatch):
    data = tmu_jax.data.from_image_folder("train", test_folder="val", image_size=8, progress=False).data
    np.savez(
        "all.npz", x_train=data.train_images, y_train=data.train_labels, x_test=data.test_images,
        y_test=data.test_labels, ids=data.ids,
    )  # fmt: skip
    lines = (user / "asked.csv").read_text().splitlines()[1:]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(row.split(",")[0] for row in lines)))
    given = ["--model", "users:restore", "--data", "all.npz", "--ids", "-"]
    assert main(["audit", "v1", *given, "--output", "untouched"]) == 3  # The untouched model.
    said = capsys.readouterr().out
    salt = said.splitlines()[-1]
    assert json.loads((user / "untouched/evidence.json").read_text())["outcome"] == "failed"
    whole = ["verify", "untouched/evidence.json", "--page", "untouched/answer.html", "--model", "v1"]
    assert main([*whole, "--data", "all.npz", "--ids", "asked.csv:image_id", "--salt", salt]) == 0
    assert main(["audit", "v1", *given[:-2], *IDS, "--output", "untouched"]) == 2
    assert "holds answer.html already" in capsys.readouterr().err


def test_long_lines_are_wrapped_and_long_texts_cut(capsys):
    saying.say(["  one " + "word " * 40, "é"], most=3)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[1].startswith("    word")
    assert lines[-1] == "  ..."
    saying.say(["é"])
    assert capsys.readouterr().out == "\\xe9\n"
