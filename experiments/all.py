"""Every experiment in one command: the plan first, then one after another, shared stages trained once.

The comparison of all methods, which takes the time of all the others, is run where `--only` names it.

Run it as `python -m experiments.all`. Killed or interrupted, the same command goes on where it stopped.

Not yet run at full size (`python -m experiments.all --preset paper`). Its first lines estimate the minutes; the rows to
expect stand with each experiment.
"""

import dataclasses
import functools
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import tyro
from rich.console import Console
from rich.table import Table

import tmu_jax
from experiments import ablation, cifar10, cifar100, compare, forget_size, requests, variants, vggface2
from experiments.protocol import command
from experiments.protocol.experiment import Experiment, choose
from experiments.protocol.forecast import Forecast, forecast
from experiments.report.formats import plain
from tmu_jax.command.parsing import parsed
from tmu_jax.command.saying import stop_saying
from tmu_jax.resuming import leave, stop_on_terminate

EXPERIMENTS: dict[str, tuple[Experiment, Any]] = {
    module.EXPERIMENT.name: (module.EXPERIMENT, module.Options)
    for module in (cifar10, ablation, variants, forget_size, requests, cifar100, vggface2, compare)
}
Name = Literal["cifar10", "ablation", "variants", "forget_size", "requests", "cifar100", "vggface2", "compare"]
NAMES: tuple[Name, ...] = get_args(Name)
DEFAULT = tuple(name for name in NAMES if name != "compare")


@dataclasses.dataclass(frozen=True)
class Options:
    """Run every experiment of the paper, one after another, with shared stages trained once.

    The plan comes first: cells, models to train, and the time estimated from a few measured steps. Killed or
    interrupted, the same command goes on where it stopped.
    """

    preset: Literal["auto", "quick", "fast", "paper"] = "auto"
    """quick: minutes on a CPU for each. paper: the paper's protocol. fast: the same in fewer epochs. auto: each
    experiment chooses."""
    only: tuple[Name, ...] = DEFAULT
    """Experiments to run. Default: all but compare."""
    archs: tuple[Literal["auto", "small_resnet", "resnet18", "allcnn", "vit"], ...] = ("auto",)
    """Architectures of experiments.cifar10 (Table 1 has three); the others take the first. auto: the preset's."""
    seeds: tuple[int, ...] = (0,)
    """One repetition for each seed, with independent draws for the split, the trainings and the unlearning."""
    data_dir: pathlib.Path | None = None
    """Folder with CIFAR-10 and CIFAR-100 (official files, archives, or TFDS). Default: the usual places."""
    faces_dir: pathlib.Path | None = None
    """Folder with VGGFace2: identity folders, or a prepared TFDS vgg_face2. Default: the usual places."""
    download: bool = False
    """Download the official CIFAR archives where they are not found. Nothing is downloaded otherwise."""
    plan_only: bool = False
    """Print the plan and stop. Default: False."""
    output: pathlib.Path | None = None
    """Folder for one folder of results each. Default: runs, as for the experiments by themselves."""
    stages: pathlib.Path | None = None
    """Folder for the checkpoints that they share. Default: OUTPUT/stages."""
    ray: str | None = None
    """Share the work among many processes by Ray: local (this machine), a cluster's HOST:PORT, or auto (RAY_ADDRESS,
    else localhost:6379). All its machines see the same folders. Default: this process alone."""
    cores: int | None = None
    """With --ray, cores that a task takes. Default: all of the smallest machine, or its share for each GPU."""


def series(options: Options) -> list[command.Prepared]:
    """Every experiment, checked and not begun; errors as `command.prepare`."""
    if not options.only or not options.archs or len(set(options.archs)) < len(options.archs):
        raise ValueError(f"only={list(options.only)} and archs={list(options.archs)} must name at least one, each once")
    output = options.output or pathlib.Path("runs")
    found = []
    for name in dict.fromkeys(options.only):
        experiment, kind = EXPERIMENTS[name]
        for arch in options.archs if name == "cifar10" else options.archs[:1]:
            values: dict[str, Any] = {"preset": options.preset, "seeds": options.seeds, "arch": arch}
            faces = name == "vggface2"
            values["data_dir"] = options.faces_dir if faces else options.data_dir
            if not faces:
                values["download"] = options.download
            chosen, _ = choose(experiment, kind(**values))
            folder = f"{name}-{chosen.preset}" + ("" if arch == options.archs[0] else f"-{arch}")
            values |= {"output": output / folder, "stages": options.stages or output / "stages"}
            found.append(command.prepare(experiment, kind(**values)))
    return found


def print_plan(plan: Sequence[Forecast], console: Console) -> None:
    """The plan as a table: cells, stages and time of every experiment."""
    table = Table(title="Plan", title_justify="left")
    headings = ("experiment", "cells", "found", "shared", "train", "other", "minutes")
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="right" if index else "left", no_wrap=True)
    for row in plan:
        figures = (row.cells, row.found, row.shared, row.trainings, row.others, f"{row.seconds / 60:.1f}")
        table.add_row(row.name, *map(str, figures))
    table.add_section()
    total = [sum(getattr(row, field) for row in plan) for field in Forecast._fields[1:-1]]
    table.add_row("all", *map(str, total), f"{sum(row.seconds for row in plan) / 60:.1f}")
    console.print(table)
    console.print(
        "Cells: methods to evaluate. Stages found on disk, shared with an experiment above, models to train before any "
        "unlearning, other stages. Minutes: the images to be trained on, attacked and evaluated, at the measured rate; "
        "compilation (a minute or two for each network, once) is not in it.",
        highlight=False,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    console = Console()
    stop_on_terminate()
    start = time.perf_counter()
    try:
        given = None if arguments is None else list(arguments)
        options = parsed(lambda: tyro.cli(Options, args=given, prog="python -m experiments.all"))
        if options is None:
            return 0
        if options.ray is not None:
            return on_ray(options, options.ray, console, start)
        if options.cores is not None:
            raise ValueError(f"cores={options.cores} is for tasks on Ray; add --ray, or leave it out")
        tmu_jax.use_compilation_cache()
        runs = series(options)
        plan = forecast(runs, lambda text: console.print(text, highlight=False))
        print_plan(plan, console)
        for prepared in [] if options.plan_only else runs:
            console.rule(prepared.experiment.name)
            command.execute(prepared, prepared.arguments(), console)
    except BrokenPipeError:
        return stop_saying()
    except command.ERRORS as error:
        return command.complain(error)
    except KeyboardInterrupt as stop:
        return command.interrupted(stop, console)
    if not options.plan_only:
        say_done({prepared.output: prepared.experiment.name for prepared in runs}, console, start)
    return 0


def on_ray(options: Options, address: str, console: Console, start: float) -> int:
    """The same on the machines of a Ray cluster; returns the exit status."""
    if options.cores is not None and options.cores < 1:
        raise ValueError(f"cores={options.cores} must be at least 1")
    from experiments.protocol import cluster  # Needs the extra "ray".

    prepare = functools.partial(series, options)
    try:
        chapters = cluster.run(
            prepare,
            address,
            options.cores,
            console,
            lambda plan: print_plan(plan, console),
            options.plan_only,
        )
    except RuntimeError as error:
        return command.complain(error)
    if not options.plan_only:
        say_done({chapter.options.output: chapter.experiment.name for chapter in chapters}, console, start)
    return 0


def say_done(outputs: Mapping[pathlib.Path, str], console: Console, start: float) -> None:
    """The last lines: how long it took, and where each experiment's report is."""
    console.print(f"all done in {(time.perf_counter() - start) / 60:.1f} minutes", highlight=False)
    for output, name in outputs.items():
        console.print(plain(f"  {name}: {output / 'report.html'}"), highlight=False, markup=False)


if __name__ == "__main__":
    leave(main())
