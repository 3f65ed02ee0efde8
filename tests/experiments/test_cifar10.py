"""The command line of the main job: what it chooses, says and refuses."""

import dataclasses
import functools
import json
from typing import get_args

import numpy as np
import pytest

import tmu_jax
from experiments import cifar10
from experiments.cifar10 import EXPERIMENT, Options
from experiments.protocol import command, experiment
from experiments.report.files import read_records
from tmu_jax.data import synthetic
from tmu_jax.models import ResNet
from tmu_jax.unlearning import MethodName


@pytest.fixture(autouse=True)
def no_cifar(monkeypatch, tmp_path):
    """A machine without CIFAR-10."""
    for variable in ("TMU_JAX_DATA", "TFDS_DATA_DIR"):
        monkeypatch.delenv(variable, raising=False)
    tmu_jax.cpu.is_available()  # compiled once for all tests, not into this empty folder
    for variable in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(experiment.jax, "default_backend", lambda: "cpu")
    monkeypatch.setattr(tmu_jax, "use_compilation_cache", lambda: None)


def test_auto_falls_to_the_embedded_set_and_says_why():
    chosen, why = experiment.choose(EXPERIMENT, Options())
    assert (chosen.dataset, chosen.preset, chosen.arch) == ("synthetic", "quick", "small_resnet")
    assert any("CIFAR-10 was not found" in reason for reason in why)
    assert any("no accelerator" in reason for reason in why)


def test_an_accelerator_with_cifar10_gets_the_paper_preset(monkeypatch):
    monkeypatch.setattr(experiment.jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(tmu_jax.data, "locate", lambda name, folder: "somewhere")
    chosen, why = experiment.choose(EXPERIMENT, Options())
    assert (chosen.dataset, chosen.preset, chosen.arch) == ("cifar10", "paper", "resnet18")
    assert (chosen.epochs, chosen.requests, chosen.num_forget, chosen.num_train) == (30, "each", 100, None)
    assert any("accelerator" in reason for reason in why)


def test_the_fast_preset_differs_from_the_papers_in_the_training_of_models_alone():
    fast, _ = experiment.choose(EXPERIMENT, Options(preset="fast", dataset="synthetic"))
    paper, _ = experiment.choose(EXPERIMENT, Options(preset="paper", dataset="synthetic"))
    differing = {
        field.name for field in dataclasses.fields(fast) if getattr(fast, field.name) != getattr(paper, field.name)
    }
    assert differing == {"preset", "epochs", "learning_rate", "schedule", "output"}
    assert (fast.epochs, fast.learning_rate, fast.schedule) == (10, 0.1, "onecycle")


def test_a_preset_only_sets_defaults():
    chosen, _ = experiment.choose(
        EXPERIMENT, Options(preset="paper", dataset="synthetic", epochs=3, arch="vit", num_forget=7)
    )
    assert (chosen.epochs, chosen.arch, chosen.num_forget, chosen.requests) == (3, "vit", 7, "each")


def test_methods_that_take_longer_than_a_retraining_run_where_they_are_named():
    rivals = {"ssd", "scrub", "salun", "l1_sparse", "unsir", "fisher", "influence", "amnesiac", "ntk", "sisa"}
    rivals |= {"datamodel_matching"}
    assert set(Options().methods) == set(get_args(MethodName)) - rivals


def test_an_option_that_is_none_is_named_once(capsys):
    assert cifar10.main(["--methdos", "twin"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: Unrecognized options: --methdos, twin")


def test_cifar10_asked_for_outright_never_falls_back(capsys):
    assert cifar10.main(["--dataset", "cifar10"]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    for way in ("cifar-10-batches-py", "cifar-10-python.tar.gz", "TensorFlow Datasets", "--data-dir", "--download"):
        assert way in error


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--methods", "scrubs"], "scrubs"),
        (["--num-forget", "0"], "num_forget"),
        (["--classes", "10"], "classes holds '10'"),
        (["--classes", "cat"], "classes holds 'cat'"),
        (["--num-train", "999999"], "num_train"),
        (["--epochs", "0"], "epochs"),
        (["--data-dir", "nowhere"], "nowhere"),
        (["--seeds", "-1"], "seed"),
        (["--seeds"], "seeds"),
        (["--seeds", "0", "0"], "seeds"),
        (["--classes", "2", "2"], "classes"),
        (["--output", "a_file/out"], "a_file"),
    ],
)
def test_wrong_values_get_one_clear_line_before_any_work(arguments, words, capsys, tmp_path):
    dataset = [] if "--data-dir" in arguments else ["--dataset", "synthetic"]
    (tmp_path / "a_file").touch()
    assert cifar10.main([*dataset, *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert words in error
    assert not (tmp_path / "runs").exists()


def test_shortfalls_name_every_difference_from_the_paper():
    data = tmu_jax.data.load("synthetic")
    chosen, _ = experiment.choose(EXPERIMENT, Options(dataset="synthetic"))
    text = "; ".join(experiment.shortfalls(EXPERIMENT, chosen, experiment.settings_of(EXPERIMENT, chosen, data)))
    for word in ("synthetic", "small_resnet", "training images", "epochs", "combined", "forgotten images"):
        assert word in text


def test_the_papers_setting_has_no_shortfalls():
    rng = np.random.default_rng(0)
    labels = np.arange(50_000) % 10
    images = rng.integers(0, 256, (50_000, 1, 1, 3)).astype(np.uint8)
    data = tmu_jax.data.from_arrays(images, labels, images[:100], labels[:100], name="cifar10")
    chosen, _ = experiment.choose(EXPERIMENT, Options(dataset="synthetic", preset="paper"))
    assert experiment.shortfalls(EXPERIMENT, chosen, experiment.settings_of(EXPERIMENT, chosen, data)) == []


def test_records_hold_no_folder_of_this_machine():
    arguments = [
        "--epochs",
        "3",
        "--output",
        "/somewhere/out",
        "--data-dir=/somewhere/data",
        "--stages",
        "/x",
        "--seeds",
        "0",
        "1",
    ]
    assert command.public_arguments(arguments) == ["--epochs", "3", "--seeds", "0", "1"]


def test_help_explains_every_option_with_its_default(capsys):
    assert cifar10.main(["--help"]) == 0
    text = " ".join(word for word in capsys.readouterr().out.split() if word not in "│╭╰─").split("options ", 1)[1]
    fields = [field.name for field in dataclasses.fields(Options)]
    explained = {}
    for name in reversed(fields):  # each option's text reaches to the next option
        text, explained[name] = text.split(f" --{name.replace('_', '-')}", 1)
    assert all("default" in sentence for sentence in explained.values())
    for preset, defaults in EXPERIMENT.presets.items():
        for name, value in defaults.items():
            shown = "all" if value is None else value
            ways = [f"{shown} in {preset}", f"Default: {shown}."] + [f"else {shown}."] * (preset != "quick")
            assert any(way in explained[name] for way in ways), (name, preset)


def test_the_command_end_to_end(tmp_path, capsys, monkeypatch):
    """The smallest honest run of the real command, on few test images: it says that it is not the paper's setting.

    Its network is one block of a residual network; the first command of the README runs all of it.
    """
    monkeypatch.setattr(tmu_jax.data, "load", lambda name: synthetic.generate(num_train=400, num_test=100))
    one_block = functools.partial(ResNet, stem_width=8, widths=(8,), blocks=(1,), strides=(2,))
    monkeypatch.setitem(tmu_jax.models.ARCHITECTURES, "small_resnet", one_block)
    output = tmp_path / "out"
    arguments = (
        "--dataset synthetic --num-train 200 --epochs 1 --num-forget 3 --classes 0 1 --methods original retrain twin "
        f"--output {output}"
    ).split()
    assert cifar10.main(arguments) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[0].startswith("experiments.cifar10: preset quick on synthetic")
    assert printed.splitlines()[1].startswith("NOT the paper's setting")
    last = printed.splitlines()[-20:]
    assert last[-1].startswith(f"records and report: {output}")
    assert any(line.startswith("floor: gold-gold") for line in last)
    records = read_records(output)
    assert {r["method"] for r in records} >= {"original", "retrain", "twin", "floor_gold_gold"}
    assert {r["num_train"] for r in records} == {200}
    config = json.loads((output / "config.json").read_text())
    (run,) = config["runs"].values()
    assert any("200 training images" in text for text in run["shortfalls"])
    assert str(tmp_path) not in (output / "config.json").read_text() + (output / "results.jsonl").read_text()
    for name in ("report.md", "report.html", "overview.svg", "features.svg"):
        assert (output / name).stat().st_size > 500
    assert cifar10.main([*arguments, "--num-train", "300"]) == 2
