"""The command line of an experiment: its checks, its first lines, its run and its report."""

import dataclasses
import os
import pathlib
import pickle
import shlex
import sys
from collections.abc import Sequence
from typing import Any

import tyro
from rich.console import Console

import tmu_jax
from experiments.protocol import run as runner
from experiments.protocol.experiment import Experiment, choose, settings_of, shortfalls
from experiments.protocol.records import locked, with_run
from experiments.protocol.requests import check_methods
from experiments.protocol.settings import Settings, check_seeds
from experiments.report import write as report
from experiments.report.formats import plain
from tmu_jax.command.parsing import parsed
from tmu_jax.command.saying import stop_saying
from tmu_jax.data import Dataset
from tmu_jax.places import check_folder, reason
from tmu_jax.resuming import Terminated, stop_on_terminate
from tmu_jax.text import ascii_text

_MOST_MINUTES = 7 * 24 * 60
ERRORS = (ValueError, TypeError, OSError, ImportError, pickle.UnpicklingError, FloatingPointError)
"""What a caller's values or files may raise: said in one line."""


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A run that has been checked and not begun.

    Attributes:
      experiment: which.
      options: with nothing left open but num_train and classes (None: all).
      arms: the settings.
      data: the data set.
      output: folder of the results.
      stages: folder of the checkpoints.
      why: reasons for what was chosen, a sentence each.
      short: what is short of the paper's setting, a phrase each.
      left_out: bad files and the like, a sentence each.
    """

    experiment: Experiment
    options: Any
    arms: list[Settings]
    data: Dataset
    output: pathlib.Path
    stages: pathlib.Path
    why: list[str]
    short: list[str]
    left_out: list[str]

    def arguments(self) -> list[str]:
        """The arguments of the experiment's own command that do the same."""
        options = self.options
        chosen = ["--dataset", options.dataset, "--preset", options.preset, "--arch", options.arch]
        return [*chosen, "--seeds", *map(str, options.seeds)]

    def config(self, arguments: Sequence[str]) -> dict[str, Any]:
        """What config.json says beside the settings."""
        command = shlex.join(["python", "-m", f"experiments.{self.experiment.name}", *public_arguments(arguments)])
        machine = runner.config_of_machine(command, self.data, self.short, self.why)
        return with_run({"experiment": self.experiment.name, **machine, "left_out": self.left_out}, self.output)


def prepare(experiment: Experiment, options: Any) -> Prepared:
    """Loads the data and checks everything that can be checked before any long work.

    Args:
      experiment: which.
      options: the caller's.

    Returns:
      The run, ready to begin.

    Raises:
      ERRORS: with one message that says what is wrong and what would be right.
    """
    if getattr(options, "methods", ("all",)) != ("all",):
        check_methods(options.methods)
    if not 0 <= options.save_minutes <= _MOST_MINUTES:
        raise ValueError(f"save_minutes={options.save_minutes} must be minutes, 0 to {_MOST_MINUTES:,} (a week)")
    check_seeds(options)
    try:
        chosen, why = choose(experiment, options)
        for name in ("output", "stages"):
            folder = getattr(chosen, name)
            check_folder(f"{name}={str(folder)!r}", folder)
        data, left_out = _load(experiment, chosen)
    except FileNotFoundError as error:  # Of data alone.
        hint = "" if getattr(options, "download", False) else f" (on this command line: {experiment.provide})"
        raise FileNotFoundError(f"{error}{hint}") from error
    if chosen.num_train is not None and chosen.num_train != len(data.train_labels):
        data = tmu_jax.data.subset(data, chosen.num_train, seed=0)
    count = len(data.train_labels)
    if options.batch_size is None and chosen.batch_size > count:
        raise ValueError(
            f"batch_size={chosen.batch_size} of preset {chosen.preset} must be at most {count}, the training images; "
            "give --batch-size"
        )
    settings = settings_of(experiment, chosen, data)
    arms = experiment.arms(settings, chosen, data)
    short = shortfalls(experiment, chosen, settings)
    prepared = Prepared(experiment, chosen, arms, data, chosen.output, chosen.stages, why, short, left_out)
    work = runner.remaining(arms, data, chosen.output, prepared.config(()))
    room = runner.room_for(work, data, chosen.stages)
    check_folder(f"stages={str(chosen.stages)!r}", chosen.stages, room)
    chosen.output.mkdir(parents=True, exist_ok=True)
    return prepared


def _load(experiment: Experiment, chosen: Any) -> tuple[Dataset, list[str]]:
    if chosen.dataset == "synthetic":
        return tmu_jax.data.load("synthetic"), []
    return experiment.source.load(chosen)


def announce(prepared: Prepared, console: Console) -> None:
    """The first screen, at most 8 lines: what runs, on what, how far from the paper's setting, why, and where.

    What does not fit stands in config.json and in the report.
    """
    short, data, arms = prepared.short, prepared.data, prepared.arms
    first = arms[0]
    requests = "combined request" if first.requests == "combined" else f"{len(first.classes)} requests"
    compared = "" if len(arms) == 1 else f"{len(arms)} arms, "
    sizes = " ".join(dict.fromkeys(str(arm.num_forget) for arm in arms))
    methods = list(dict.fromkeys(name for arm in arms for name in arm.methods))
    seeds = f"{len(first.seeds)} seed{'s' if len(first.seeds) > 1 else ''}"
    elsewhere = "" if prepared.stages.parent == prepared.output else f", checkpoints: {prepared.stages}"
    lines = [
        (f"experiments.{prepared.experiment.name}: preset {first.preset} on {data.name}, {first.arch}", 1),
        (_distance(short, 2 * console.width), 2),
        (f"why: {'; '.join(prepared.why)}", 1 if prepared.left_out else 2),
        (
            f"work: {compared}{seeds}, {requests}, {sizes} of each of {len(first.classes)} classes, {len(methods)} "
            f"method{'s' if len(methods) > 1 else ''}, 3 floors",
            1,
        ),
        (f"results: {prepared.output}{elsewhere}", 2),
    ]
    if prepared.left_out:
        lines.append((f"left out: {len(prepared.left_out)}, all named in config.json: {prepared.left_out[0]}", 1))
    for line, most in lines:
        kept, wide = plain(line), console.width * most
        kept = kept if len(kept) <= wide or line.startswith("results") else kept[: wide - 1] + "…"
        console.print(kept, highlight=False, markup=False, soft_wrap=True)


def _distance(short: Sequence[str], wide: int) -> str:
    """How far a run is from the paper's setting: as many of its phrases as fit, and how many there are more."""
    if not short:
        return "the paper's setting"
    for count in range(len(short), 0, -1):
        # What a phrase says of the paper is left to config.json.
        said = ", ".join(phrase.split(" instead of ")[0] for phrase in short[:count])
        more = f", {len(short) - count} more in config.json" if count < len(short) else "; see config.json"
        text = f"NOT the paper's setting: {said}{more}"
        if len(text) <= wide:
            break
    return text


def execute(prepared: Prepared, arguments: Sequence[str], console: Console) -> None:
    """Runs the cells, writes the report and prints its last screen."""
    announce(prepared, console)
    output = prepared.output
    config = prepared.config(arguments)
    options = prepared.options
    runner.run(
        prepared.arms, prepared.data, output, config, console, prepared.stages, options.wait, 60 * options.save_minutes
    )
    show(prepared.experiment, output, console)


def show(experiment: Experiment, output: pathlib.Path, console: Console) -> None:
    """Writes the report of an output folder and prints its last screen."""
    with locked(output):
        body = (experiment.body or report.standard)(output)
        try:
            report.write_report(output, body)
        except OSError as error:
            raise OSError(
                f"the report in {output} cannot be written ({reason(error)}); its records are, and the same command "
                "makes it from them"
            ) from error
    report.print_table(output, console, body)


def main(experiment: Experiment, kind: type, arguments: Sequence[str] | None = None) -> int:
    """The command line of an experiment; returns the exit status."""
    console = Console()
    arguments = sys.argv[1:] if arguments is None else arguments
    stop_on_terminate()
    try:
        prog = f"python -m experiments.{experiment.name}"
        options = parsed(lambda: tyro.cli(kind, args=list(arguments), prog=prog))
        if options is None:
            return 0
        tmu_jax.use_compilation_cache()
        execute(prepare(experiment, options), arguments, console)
    except BrokenPipeError:
        return stop_saying()
    except ERRORS as error:
        return complain(error)
    except KeyboardInterrupt as stop:
        return interrupted(stop, console)
    return 0


def interrupted(stop: KeyboardInterrupt, console: Console) -> int:
    """Says how it goes on; returns the exit status."""
    console.print("stopped; the same command goes on with the step that was at work")
    return 0 if isinstance(stop, Terminated) else 130


def complain(error: BaseException) -> int:
    """Says what is wrong in one line; returns the exit status."""
    sentence = ascii_text(" ".join(plain(word) for word in f"error: {error}".split()))
    Console(stderr=True).print(sentence, style="red", highlight=False, markup=False, soft_wrap=True)
    return 2


def public_arguments(arguments: Sequence[str]) -> list[str]:
    """The arguments without this machine's folders: what --data-dir, --output and --stages name is left out.

    Of any other file, such as one of recipes, its name stays.
    """
    private = ("--data-dir", "--data_dir", "--output", "--stages")
    kept: list[str] = []
    skip = False
    for argument in arguments:
        if skip:
            skip = False
        elif argument in private:
            skip = True
        elif not argument.startswith(tuple(f"{name}=" for name in private)):
            option, sign, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
            kept.append(option + sign + (os.path.basename(value) if os.path.isfile(value) else value))
    return kept
