"""The command line, `python -m benchmarks`."""

import contextlib
import dataclasses
import os
import pathlib
import shlex
import sys
from collections.abc import Sequence
from typing import Literal

import jax
import tyro
from rich.console import Console

from benchmarks import client, output, rivals
from benchmarks.cases import SCALES, Case, Scale, cases, optional
from benchmarks.client import RivalError, RivalProcess
from benchmarks.run import SCALING, Plan, run
from experiments.protocol.environment import device, versions

PYTHON_VARIABLE = "TMU_JAX_RIVALS_PYTHON"
FEWEST_REPEATS = 5


@dataclasses.dataclass(frozen=True)
class Options:
    """Measure the speed of tmu_jax's kernels beside PyTorch, torchattacks, faiss and scikit-learn.

    Outputs are compared before anything is timed. The rivals live in a Python environment of their own, see
    benchmarks/requirements.txt.
    """

    only: tuple[str, ...] = ()
    """Kernels to measure, by name or part of a name; `scaling` draws the cost against images, classes and seeds."""
    rivals_python: str | None = None
    """Python interpreter of the rivals' environment. Default: the environment variable TMU_JAX_RIVALS_PYTHON."""
    repeats: int = FEWEST_REPEATS
    """Turns of our side and every rival."""
    output: pathlib.Path | None = None
    """JSON file to write; the table goes beside it as Markdown. Default: results/bench-cpu.json, or -gpu, or -tiny."""
    scale: Literal["auto", "cpu", "gpu", "tiny"] = "auto"
    """Sizes: by this machine; tiny takes minutes and only checks that the outputs agree."""
    first_calls: bool = True
    """Measure compile times and memory in fresh processes."""
    list: bool = False
    """Only list the kernels of this scale."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = tyro.cli(Options, args=arguments, prog="python -m benchmarks")
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)  # a file has no edge
    name = ("cpu" if jax.default_backend() == "cpu" else "gpu") if options.scale == "auto" else options.scale
    scale = SCALES[name]
    try:
        chosen = choose(cases(scale), optional(scale), options.only)
        if options.repeats < 1:
            raise ValueError(f"--repeats {options.repeats} is too few; at least 1")
    except ValueError as error:
        console.print(f"[bold red]error:[/] {error}", highlight=False)
        return 2
    if options.list:
        for case in cases(scale):
            console.print(f"{case.name}  ({case.unit}; beside {', '.join(case.rivals) or 'nothing'})", highlight=False)
        console.print(f"{SCALING}  (only by name)", highlight=False)
        return 0
    with contextlib.ExitStack() as stack:
        process, sentence = start_rivals(options.rivals_python, stack)
        console.print(sentence, highlight=False, markup=False)
        return _run(options, scale, chosen, process, sentence, console, command(arguments))


def _run(
    options: Options,
    scale: Scale,
    chosen: tuple[Case, ...],
    process: RivalProcess | None,
    sentence: str,
    console: Console,
    typed: str,
) -> int:
    path = options.output or pathlib.Path("results") / f"bench-{scale.name}.json"
    report = output.Report(
        device=device(),
        versions=versions(),
        rival_versions=process.versions if process is not None else {},
        command=typed,
        threads=rivals.THREADS,
        scale=scale.name,
        notes=[sentence, *_notes(options, scale)],
    )
    plan = Plan(
        cases=chosen,
        scaling=any(name == SCALING for name in options.only),
        repeats=options.repeats,
        first_calls=options.first_calls,
        rivals=process,
        tiny=scale.name == "tiny",
        plot=path.with_name("bench-scaling"),
    )
    finished = run(plan, report, lambda line: console.print(line, highlight=False, markup=False))
    output.write(report, path)
    output.show(report, console)
    if not finished:
        console.print(f"Interrupted; not measured: {', '.join(report.missing)}.", highlight=False, markup=False)
        return 130
    return 1 if any(row.error for row in report.rows) else 0


def choose(every: Sequence[Case], by_name_only: frozenset[str], only: Sequence[str]) -> tuple[Case, ...]:
    """The cases that are asked for: all but the optional ones, or those whose name is, or contains, a given one.

    Raises:
      ValueError: when a given name fits none.
    """
    if not only:
        return tuple(case for case in every if case.name not in by_name_only)
    wanted = [name for name in only if name != SCALING]
    unknown = [name for name in wanted if not any(name in case.name for case in every)]
    if unknown:
        known = ", ".join([*(case.name for case in every), SCALING])
        raise ValueError(f"--only {' '.join(unknown)} fits no kernel; choose among {known}")
    exact = {case.name for case in every}
    return tuple(
        case for case in every if any(case.name == name or (name not in exact and name in case.name) for name in wanted)
    )


def start_rivals(python: str | None, stack: contextlib.ExitStack) -> tuple[RivalProcess | None, str]:
    """The rivals' process, and a sentence on whether there is one."""
    python = python or os.environ.get(PYTHON_VARIABLE)
    advice = (
        f"their columns stay empty. Give --rivals-python PATH or {PYTHON_VARIABLE}; see benchmarks/requirements.txt"
    )
    if python is None:
        return None, f"No rivals: {advice}"
    try:
        process, policy = client.start_rivals(python)
        stack.enter_context(process)
    except RivalError as error:
        return None, f"No rivals ({output.without_paths(str(error))}): {advice}"
    missing = [name for name, version in process.versions.items() if version == "not installed"]
    left_out = f"; without {', '.join(missing)}" if missing else ""
    return (
        process,
        f"Rivals: PyTorch {process.versions['torch']} and others in a process of their own{left_out}; {policy}",
    )


def command(arguments: Sequence[str]) -> str:
    """What was typed, with absolute paths left out."""
    shown = ["PATH" if os.path.isabs(word) else word for word in arguments]
    return shlex.join(["python", "-m", "benchmarks", *shown])


def _notes(options: Options, scale: Scale) -> list[str]:
    notes = []
    if options.repeats < FEWEST_REPEATS:
        notes.append(f"only {options.repeats} repeats, where {FEWEST_REPEATS} are usual")
    load = os.getloadavg()[0]
    if load > rivals.THREADS / 2:
        notes.append(
            f"load average {load:.1f} on {rivals.THREADS} cores at the start: other work may have disturbed the times"
        )
    if scale.name == "tiny":
        notes.append("sizes of a test: the comparisons count, the times mean nothing")
    return notes


if __name__ == "__main__":
    sys.exit(main())
