"""The command line, `python -m benchmarks`: case after case, and what was found is kept when it stops."""

import contextlib
import dataclasses
import importlib.metadata
import os
import pathlib
import platform
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Literal

import jax
import tyro
from rich.console import Console

from benchmarks import client, first_call, floor, inputs, kernels, measure, output
from benchmarks.arrays import save_arrays
from benchmarks.cases import THREADS, Case, cases
from benchmarks.client import RivalError, RivalProcess, Rivals
from benchmarks.measure import Row, Say
from benchmarks.output import Report
from tmu_jax.command.parsing import parsed
from tmu_jax.timing import Stopwatch

PYTHON_VARIABLE = "TMU_JAX_RIVALS_PYTHON"
FAILURES = (RuntimeError, ValueError, TypeError, OSError, FloatingPointError)
"""What makes one case fail and leaves the others."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Measure the speed of tmu_jax's kernels beside PyTorch, torchattacks, faiss and scikit-learn.

    Outputs are compared before anything is timed. The rivals live in a Python environment of their own, see
    benchmarks/requirements.txt.
    """

    only: tuple[str, ...] = ()
    """Kernels to measure, by name or part of a name."""
    rivals_python: str | None = None
    """Python interpreter of the rivals' environment. Default: the environment variable TMU_JAX_RIVALS_PYTHON."""
    repeats: int = 5
    """Turns of our side and every rival."""
    output: pathlib.Path | None = None
    """JSON file to write; the table goes beside it as Markdown. Default: results/bench-cpu.json, or -gpu, or -tiny."""
    scale: Literal["full", "tiny"] = "full"
    """Sizes: tiny takes a minute and only checks that the outputs agree."""
    first_calls: bool = True
    """Measure compile times in fresh processes."""
    list: bool = False
    """Only list the kernels."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)  # a file has no edge
    try:
        options = parsed(lambda: tyro.cli(Options, args=arguments, prog="python -m benchmarks"))
    except ValueError as error:
        console.print(f"error: {error}", highlight=False, markup=False)
        return 2
    if options is None:
        return 0
    on_cpu = jax.default_backend() == "cpu"
    every = cases(options.scale, "cpu" if on_cpu else "cuda")
    try:
        chosen = choose(every, options.only)
        if options.repeats < 1:
            raise ValueError(f"--repeats {options.repeats} is too few; at least 1")
    except ValueError as error:
        console.print(f"[bold red]error:[/] {error}", highlight=False)
        return 2
    if options.list:
        for case in every:
            console.print(f"{case.name}  ({case.unit}; beside {', '.join(case.rivals) or 'nothing'})", highlight=False)
        return 0

    def say(line: str) -> None:
        console.print(line, highlight=False, markup=False)

    with contextlib.ExitStack() as stack:
        process, sentence = start_rivals(options.rivals_python, stack)
        say(sentence)
        notes = [sentence, f"load average {os.getloadavg()[0]:.1f} on {THREADS} cores at the start"]
        versions = process.versions if process is not None else {}
        report = Report(device(), our_versions(), versions, command(arguments), THREADS, notes)
        finished = run(chosen, options, process, report, say)
    name = options.scale if options.scale == "tiny" else "cpu" if on_cpu else "gpu"
    output.write(report, options.output or pathlib.Path("results") / f"bench-{name}.json")
    output.show(report, console)
    return 130 if not finished else 1 if any(row.error for row in report.rows) else 0


def run(chosen: Sequence[Case], options: Options, rivals: Rivals | None, report: Report, say: Say) -> bool:
    """Fills the report; returns False when it was interrupted (Ctrl-C), with `report.missing` set."""
    is_tiny, start = options.scale == "tiny", time.perf_counter()
    report.missing = [case.name for case in chosen]
    try:
        report.peak_flops = floor.peak_flops(256 if is_tiny else 3072)
        for number, case in enumerate(chosen, start=1):
            say(f"[{number}/{len(chosen)}] {case.name} (after {(time.perf_counter() - start) / 60:.1f} min)")
            report.rows += measure_case(case, options, rivals, report.peak_flops, say)
            report.missing.remove(case.name)
    except KeyboardInterrupt:
        return False
    return True


def measure_case(case: Case, options: Options, rivals: Rivals | None, peak: float, say: Say) -> list[Row]:
    """The rows of a case; a failure on our side becomes a row with an error."""
    try:
        with tempfile.TemporaryDirectory() as name, _no_programs_kept():
            folder = pathlib.Path(name)
            arrays = inputs.make_inputs(case)
            save_arrays(folder / "inputs.npz", arrays)
            calls = []
            if options.first_calls or case.kind == "table":
                calls = [first_call.measure(case, arrays, folder) for _ in range(2)]
                say(f"  compiled in {calls[0].compile_seconds:.1f} s, and in {calls[1].compile_seconds:.1f} s again")
            if case.kind == "table":
                rows = [Row(case.name, case.unit)]
                measure.fill(rows[0], [calls[1].process_seconds], [])
            else:
                target = 0.0 if options.scale == "tiny" else measure.TARGET_SECONDS
                ours = kernels.build(case, arrays)
                with Stopwatch() as watch:
                    rows = measure.measure(case, ours, rivals, folder / "inputs.npz", options.repeats, say, target)
                if case.kind == "unlearning":
                    for row in rows:
                        row.compile_seconds_cold = watch.compile_seconds
            work = floor.work(case, arrays)
    except FAILURES as error:
        say(f"  failed: {type(error).__name__}: {error}")
        return [Row(case.name, case.unit, error=f"{type(error).__name__}: {error}")]
    for row in rows:
        measure.set_floor(row, None if work is None else work / peak)
        if calls:
            row.compile_seconds_cold, row.compile_seconds_warm = (call.compile_seconds for call in calls)
        beside = "" if row.ratio is None else f", {row.rival} {row.rival_seconds:.3g} s: ratio {row.ratio:.2f}"
        say(f"  ours {row.ours_seconds:.3g} s{beside}")
    return rows


@contextlib.contextmanager
def _no_programs_kept() -> Iterator[None]:
    try:
        yield
    finally:
        jax.clear_caches()


def choose(every: Sequence[Case], only: Sequence[str]) -> tuple[Case, ...]:
    """The cases that are asked for: all, or those whose name is, or contains, a given one.

    Raises:
      ValueError: when a given name fits none.
    """
    names = {case.name for case in every}
    unknown = [name for name in only if not any(name in one for one in names)]
    if unknown:
        raise ValueError(f"--only {' '.join(unknown)} fits no kernel; choose among {', '.join(sorted(names))}")

    def is_wanted(case: Case) -> bool:
        return any(case.name == name or (name not in names and name in case.name) for name in only)

    return tuple(case for case in every if not only or is_wanted(case))


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
    except RivalError as error:
        return None, f"No rivals ({output.without_paths(str(error))}): {advice}"
    stack.enter_context(process)
    return process, f"Rivals: PyTorch {process.versions['torch']} and others in a process of their own; {policy}"


def command(arguments: Sequence[str]) -> str:
    """What was typed, with absolute paths left out."""
    return shlex.join(["python", "-m", "benchmarks", *("PATH" if os.path.isabs(word) else word for word in arguments)])


def device() -> str:
    """The device, in words."""
    kind = jax.devices()[0].device_kind
    return f"{kind} ({platform.machine()}, {THREADS} cores)"


def our_versions() -> dict[str, str]:
    """Versions of Python and of what our side's speed depends on."""
    packages = ("tmu-jax", "jax", "jaxlib", "flax", "optax", "numpy")
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in packages}}


if __name__ == "__main__":
    sys.exit(main())
