"""Whatever an option or a file of a command is: status 0 or 2, at most one line on stderr, nothing half written."""

import contextlib
import functools
import gzip
import io
import json
import pathlib
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tmu_jax
from experiments import ablation, cifar10, cifar100, forget_size, requests, variants, vggface2
from experiments import all as every
from experiments.protocol import command
from tests.command.made import FORGET, GIVEN, enter, make_user
from tests.hostile.values import FEW, MANY, explore, texts
from tmu_jax.command import line
from tmu_jax.command import main as tmu_jax_main

MODULES = {
    module.__name__.rpartition(".")[2]: module
    for module in (ablation, cifar10, cifar100, forget_size, requests, variants, vggface2, every)
}
VALUES = ("0", "-1", "1", "2.5", "nan", "inf", "-inf", "1e-300", "1e300", "1e9", str(2**31), str(2**32 + 1), str(2**64))
VALUES += (
    str(10**20),
    "true",
    "None",
    "None None",
    "/proc/x",
    "/dev/null",
    "/dev/null/x",
    "file",
    "file/x",
    "loop",
    "~nobody/x",
)
values = st.sampled_from(VALUES) | texts | st.integers().map(str) | st.floats().map(str)
FILES = ("config.json", "results.jsonl", "samples.json.gz", "features.json.gz")
NETWORK = ("download", "plan_only", "ray")


def said_in(main, arguments: list[str]) -> tuple[int, str]:
    """The exit status of a command, and what it says on stderr."""
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        status = main(arguments)
    return status, errors.getvalue()


def snapshot(folder: pathlib.Path) -> dict[str, bytes | None]:
    """All files below a folder, but for those that Python makes."""
    paths = [path for path in folder.rglob("*") if "__pycache__" not in path.parts]
    return {str(path): path.read_bytes() if path.is_file() else None for path in paths}


def check_refusal(status: int, said: str, before: dict[str, bytes | None], folder: pathlib.Path) -> None:
    """One line and status 2; and what was there is as it was."""
    assert status in (0, 2, 3), said
    if status == 2:
        assert len(said.splitlines()) == 1, said
        assert said.isascii()
        assert "\x1b" not in said
        assert snapshot(folder) == before


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Where no experiment begins: what would run is checked, and no more."""
    loaded = functools.cache(tmu_jax.data.load)
    monkeypatch.setattr(tmu_jax.data, "load", loaded)
    monkeypatch.setattr(tmu_jax, "use_compilation_cache", lambda: None)
    monkeypatch.setattr(command, "execute", lambda *arguments: None)
    monkeypatch.setattr(every, "forecast", lambda *arguments: [])
    monkeypatch.setenv("TMU_JAX_DATA", str(tmp_path / "nowhere"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("5")
    (tmp_path / "loop").symlink_to("loop")
    return tmp_path


@pytest.mark.parametrize("cases", [FEW, pytest.param(2 * MANY, marks=pytest.mark.slow)])
def test_an_option_of_an_experiment_that_nobody_means(place, cases):
    options = [
        (name, option)
        for name, module in MODULES.items()
        for option in module.Options.__dataclass_fields__
        if option not in NETWORK
    ]

    @explore(cases)
    @given(which=st.sampled_from(options), value=values)
    def check(which, value):
        name, option = which
        before = snapshot(place)
        given_always = ["--preset", "quick"] + ([] if name == "all" else ["--dataset", "synthetic"])
        status, said = said_in(MODULES[name].main, [*given_always, f"--{option.replace('_', '-')}", *value.split(" ")])
        check_refusal(status, said, before, place)
        if status == 0:
            for path in place.iterdir():
                if path.name not in ("file", "loop"):
                    shutil.rmtree(path)

    check()


@pytest.mark.parametrize("cases", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])
def test_a_broken_file_of_a_run_is_named(place, cases):
    json_values = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | texts,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
        max_leaves=8,
    )

    @explore(cases)
    @given(name=st.sampled_from(FILES), found=json_values | st.binary(max_size=40), cut=st.integers(0, 60))
    def check(name, found, cut):
        output = place / "out"
        output.mkdir(exist_ok=True)
        for other in FILES:
            (output / other).unlink(missing_ok=True)
        (output / "config.json").write_text("{}")
        content = found if isinstance(found, bytes) else as_line(name, found, cut)
        (output / name).write_bytes(content)
        before = snapshot(place)
        arguments = ["--preset", "quick", "--dataset", "synthetic", "--output", "out"]
        status, said = said_in(cifar10.main, arguments)
        check_refusal(status, said, before, place)
        assert status == 0 or name in said or "output" in said, said

    check()


NAMES = ("method", "target_class", "seed", "request", "variant", "num_forget", "ratio", "labels", "correct", "stage")
NAMES += ("seconds", "seconds_by_part", "stage_by_part", "forget_accuracy", "arms", "runs", "default", "problem", "NF")
NAMES += ("recipe", "epochs", "augment", "dataset", "arch", "num_train")


def as_line(name: str, value: object, cut: int) -> bytes:
    """A file whose one entry has every key that it needs, some of them hostile; or a part of it."""
    whole = {"method": "twin", "target_class": 1, "seed": 0, "request": "class 1", "labels": [1]}
    whole |= dict.fromkeys(("problem", "NF", "AF", "CF", "easy"))
    entry = {**whole, **value} if isinstance(value, dict) and name != "config.json" else value
    text = json.dumps(entry)
    text = text if name.endswith("jsonl") or name == "config.json" else f"[\n{text}\n]\n"
    written = (text if cut > 30 else text[:cut]).encode()
    return gzip.compress(written) if name.endswith(".gz") else written


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("user")
    make_user(folder)
    (folder / "file").write_text("5")
    (folder / "loop").symlink_to("loop")
    return folder


@pytest.mark.parametrize("cases", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])
def test_an_option_of_the_command_that_nobody_means(made, monkeypatch, cases):
    monkeypatch.setattr(line, "use_compilation_cache", lambda: None)
    enter(monkeypatch, made)
    ids = ["--ids", "asked.csv:image_id"]
    commands = {
        "check": GIVEN,
        "prepare": [*FORGET, "--dry-run"],
        "forget": [*FORGET, *ids, "--output", "v2", "--method", "retrain", "--dry-run"],
        "audit": ["v1", *GIVEN, *ids, "--gold", "nowhere"],
        "verify": ["file"],
    }
    names = {
        "check": ("model", "data", "test", "image-size", "expected-accuracy"),
        "prepare": ("model", "data", "test", "image-size", "ledger", "seed", "heldout", "folds"),
        "forget": (
            "model",
            "ids",
            "ledger",
            "output",
            "budget",
            "method",
            "seed",
            "folds",
            "copies",
            "key",
            "format",
        ),
        "audit": ("ids", "before", "gold", "ledger", "output", "seed", "key"),
        "verify": ("page", "public-key", "model", "data", "test", "image-size", "ids", "salt"),
    }
    options = [(name, option) for name, of_one in names.items() for option in of_one]

    @explore(cases)
    @given(which=st.sampled_from(options), value=values)
    def check(which, value):
        name, option = which
        before = snapshot(made)
        status, said = said_in(tmu_jax_main, [name, *commands[name], f"--{option}", value])
        check_refusal(status, said, before, made)
        assert snapshot(made) == before

    check()
