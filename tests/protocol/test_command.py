"""The first screen of a command."""

import dataclasses
import io
import pathlib

import pytest
from rich.console import Console

from experiments import ablation, cifar10, slurm
from experiments.protocol import command


def first_screen(prepared, width=80, **changes):
    prepared = dataclasses.replace(prepared, **changes)
    console = Console(width=width, file=io.StringIO())
    command.announce(prepared, console)
    text = console.file.getvalue()
    return text, sum(-(-len(line) // width) for line in text.splitlines())


@pytest.mark.parametrize("module", [cifar10, ablation])
@pytest.mark.parametrize("width", [80, 120])
def test_the_first_screen_has_at_most_8_lines(module, width, tmp_path):
    options = module.Options(dataset="synthetic", preset="quick", output=tmp_path / "out")
    prepared = command.prepare(module.EXPERIMENT, options)
    left_out = [f"image {i} is \x1b[2J damaged, and the sentence that says so is a rather long one" for i in range(20)]
    why = ["a reason of some length that goes on and on"] * 9
    for changes in ({}, {"left_out": left_out}, {"why": why}, {"why": why, "left_out": left_out}):
        text, lines = first_screen(prepared, width, **changes)
        assert lines <= 8
        assert "\x1b" not in text
        assert "NOT the paper's setting: synthetic images, small_resnet, 2,000 training images" in text
        assert "more in config.json" in text
        assert str(tmp_path / "out") in text
        assert ("left out: 20" in text) == ("left_out" in changes)
        assert "combined request, 20 of each of 10 classes" in text
        assert "why: " in text


def test_the_papers_setting_is_said(tmp_path):
    options = cifar10.Options(dataset="synthetic", preset="quick", output=pathlib.Path(tmp_path))
    prepared = command.prepare(cifar10.EXPERIMENT, options)
    assert first_screen(prepared, short=[])[0].splitlines()[1] == "the paper's setting"
    text, _ = first_screen(prepared, short=["3 epochs instead of 30"])
    assert text.splitlines()[1] == "NOT the paper's setting: 3 epochs; see config.json"


def test_a_misspelt_option_of_slurm_is_one_line(capsys):
    assert slurm.main(["--adress", "host:1"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: Required options")
    assert "--adress" in line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--seeds", str(2**32)], "error: seeds must be within 0..4294967295, got 4294967296"),
        (["--training-seed", str(10**20)], "error: training_seed must be within 0..4294967295, got 1"),
        (["--unlearning-rate-factor", "nan"], "error: unlearning_rate_factor=nan must lie within 0.001..1000"),
        (["--batch-size", "5000"], "error: batch_size=5000 must be at most 2000, the training images"),
        (
            ["--num-train", "32"],
            "error: batch_size=64 of preset quick must be at most 32, the training images; give",
        ),
        (["--stages", "/dev/null"], "error: stages='/dev/null' is a file; give a folder"),
        (["--save-minutes", "1e308"], "error: save_minutes=1e+308 must be minutes, 0 to 10,080 (a week)"),
        (["--seeds", "1.5"], "error: Value error Error parsing --seeds:"),
    ],
)
def test_an_option_is_refused_by_its_own_name_in_one_line(tmp_path, capsys, arguments, said):
    given = ["--dataset", "synthetic", "--preset", "quick", "--output", str(tmp_path / "out"), *arguments]
    assert cifar10.main(given) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(said)
    assert list(tmp_path.iterdir()) == []
