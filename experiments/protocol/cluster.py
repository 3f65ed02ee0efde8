"""A series of experiments on many machines by Ray: each task of `tasks.py` is one of Ray's.

What goes over the network is names: stages and records lie in folders that every machine sees, where locks keep two
processes from one stage or one file.
"""

import contextlib
import logging
import os
import pathlib
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from rich.console import Console

import tmu_jax
from experiments.protocol import command
from experiments.protocol import run as runner
from experiments.protocol.forecast import Forecast
from experiments.protocol.progress import Display
from experiments.protocol.tasks import Chapter, Done, Plan, Task, Worker, lay_out
from tmu_jax.resuming import stop_on_terminate

# Read by Ray when it is imported or started: it is to tell nobody of its use.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

try:
    import ray
    from ray.exceptions import RayError, RayTaskError
except ImportError as error:
    raise ImportError(
        f"--ray needs the package ray, which cannot be imported ({error}); install it by pip install 'tmu-jax[ray]'"
    ) from error

MAX_RETRIES = 10
"""How often a task is taken over whose worker or machine was lost. Ray's own 3 is few where machines come and go."""
GRACE = 60.0
"""Seconds that tasks at work get to save what they have come to, after an interruption."""
PAUSE = 0.1
"""Seconds between two looks at what is done."""

Prepare = Callable[[], list[command.Prepared]]


class Brief(NamedTuple):
    """What every worker of a series is told.

    Attributes:
      name: of this series, for a worker may outlive it.
      folder: where the command was given: relative paths are relative to it on every machine.
      chapters: the experiments.
    """

    name: str
    folder: pathlib.Path
    chapters: list[Chapter]


_workers: dict[str, Worker] = {}
"""The worker of this process, by its series: the tasks of one find what those before them have read."""


def _settle(folder: pathlib.Path) -> None:
    """Makes this process work as one that was started in a folder."""
    os.chdir(folder)
    tmu_jax.use_compilation_cache()


def _plan(folder: pathlib.Path, prepare: Prepare, width: int, begin: bool) -> Plan:
    """Plans on a machine that will work: what is chosen depends on its devices, which the driver's own may lack."""
    _settle(folder)
    return lay_out(prepare(), width, begin)


def _do(brief: Brief, task: Task, *needed: Done) -> Done:
    """Does a task; Ray begins it when those that it needs are done."""
    if brief.name not in _workers:
        _settle(brief.folder)
        _workers.clear()
        _workers[brief.name] = Worker(brief.chapters)
    return _workers[brief.name].do(task)


def run(
    prepare: Prepare,
    address: str,
    cores: int | None,
    console: Console,
    show_plan: Callable[[Sequence[Forecast]], None],
    plan_only: bool = False,
) -> list[Chapter]:
    """Runs a series on Ray's machines, and writes each experiment's report.

    Args:
      prepare: makes the series; called by a worker.
      address: "local" for a cluster of this machine alone, HOST:PORT of one that runs, or "auto": RAY_ADDRESS, else
        localhost:6379.
      cores: of each task; None: see `resources`.
      console: where progress is shown.
      show_plan: is given the forecasts before any long work.
      plan_only: stop there.

    Returns:
      The experiments; their reports are written.

    Raises:
      command.ERRORS: of the planning, or where no cluster is to be found.
      RuntimeError: tasks failed; what did not need them is done.
    """
    with connected(address):
        gpus, share = resources(cores, console)
        as_task = ray.remote(max_retries=MAX_RETRIES, num_gpus=gpus, num_cpus=share)
        plan_task, do_task = as_task(_plan), as_task(_do)
        here = pathlib.Path.cwd()
        console.print("planning on a worker: a few measured steps for the estimate", highlight=False)
        (ref,) = _ready([plan_task.remote(here, prepare, console.width, not plan_only)])
        try:
            plan = ray.get(ref)
        except RayTaskError as error:
            raise error.cause from None
        except RayError as error:
            raise RuntimeError(f"the planning failed: {_reason(error)}") from None
        show_plan(plan.forecasts)
        if plan_only:
            return plan.chapters
        for chapter in plan.chapters:
            console.rule(chapter.experiment.name)
            console.print(chapter.screen, highlight=False, markup=False, soft_wrap=True)
        outputs = [chapter.options.output for chapter in plan.chapters]
        with contextlib.ExitStack() as stack:
            for output in outputs:
                stack.enter_context(runner.at_work(output, False, console))
            brief = ray.put(Brief(uuid.uuid4().hex, here, plan.chapters))
            failed, left = _hand_out(
                plan.tasks, lambda task, needed: do_task.options(name=task.label).remote(brief, task, *needed), console
            )
    for chapter, output in zip(plan.chapters, outputs, strict=True):
        if (output / "results.jsonl").exists():
            console.rule(chapter.experiment.name)
            command.show(chapter.experiment, output, console)
    if failed:
        raise RuntimeError(
            f"{failed} of {len(plan.tasks)} tasks failed, each named above, and {left} that need them were left; the "
            "same command tries them again"
        )
    return plan.chapters


def _hand_out(tasks: Sequence[Task], submit: Callable[[Task, list[Any]], Any], console: Console) -> tuple[int, int]:
    """Hands the tasks to Ray and waits for them; returns how many failed, and how many were left since they did."""
    refs: dict[str, Any] = {}
    for task in tasks:
        refs[task.name] = submit(task, [refs[name] for name in task.needs])
    waiting = {refs[task.name]: task for task in tasks}
    done: set[str] = set()
    failed = left = 0
    try:
        with Display(console) as display:
            display.expect(len(tasks))
            while waiting:
                for ref in _ready(list(waiting)):
                    task = waiting.pop(ref)
                    try:
                        seconds, said = ray.get(ref)
                    except RayError as error:
                        if done.issuperset(task.needs):
                            failed += 1
                            console.print(f"failed   {task.label}: {_reason(error)}", style="red", markup=False)
                        else:
                            left += 1
                    else:
                        done.add(task.name)
                        console.print(f"{seconds:7.1f}s {task.label}", highlight=False, markup=False)
                        for sentence in said:
                            console.print(sentence, style="yellow", markup=False)
                    display.advance()
    except KeyboardInterrupt:
        _cancel(list(waiting), console)
        raise
    return failed, left


def _ready(refs: list[Any]) -> list[Any]:
    """Waits for the first of them; returns those that are done."""
    while not (ready := ray.wait(refs, num_returns=len(refs), timeout=0)[0]):
        time.sleep(PAUSE)  # Here, not in Ray: out of its own waiting SIGTERM would come as Ctrl-C.
    return ready


def _reason(error: RayError) -> str:
    """Why a task failed, in one line."""
    cause = error.cause if isinstance(error, RayTaskError) else error
    first = (str(cause).strip().splitlines() or [""])[0]
    return first if isinstance(cause, command.ERRORS) and first else f"{type(cause).__name__}: {first}"


def _cancel(refs: list[Any], console: Console) -> None:
    """Ends what is at work as Ctrl-C does in its own process, which saves the training; the last begun first."""
    console.print("stopping: tasks at work save what they have come to", highlight=False)
    for ref in reversed(refs):
        ray.cancel(ref)
    if refs:
        ray.wait(refs, num_returns=len(refs), timeout=GRACE)


@contextlib.contextmanager
def connected(address: str) -> Iterator[None]:
    """Ray, with its logs in its own folder; a connection that is there already is used, and stays.

    Args:
      address: see `run`.

    Raises:
      ValueError: it is no address.
      OSError: no cluster is to be found there.
    """
    is_ours = not ray.is_initialized()
    if is_ours:
        found = address if address == "local" else _reached(address)
        dashboard = False if address == "local" else None  # None leaves a cluster's own as it is.
        try:
            ray.init(found, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=dashboard)
        except (ConnectionError, RuntimeError, ValueError) as error:
            first = (str(error).strip().splitlines() or [""])[0]
            raise OSError(f"ray={address!r} leads to no cluster: {first}") from error
    stop_on_terminate()  # In the place of Ray's own answer to SIGTERM.
    try:
        yield
    finally:
        if is_ours:
            ray.shutdown()


def _reached(address: str) -> str:
    """The HOST:PORT of a cluster, where something answers: Ray itself would try for minutes."""
    found = os.environ.get("RAY_ADDRESS", "localhost:6379") if address == "auto" else address
    host, _, port = found.rpartition(":")
    if not host or "/" in host or not port.isdecimal():
        raise ValueError(f"ray={found!r} must be local, auto, or the HOST:PORT of a cluster")
    try:
        socket.create_connection((host, int(port)), timeout=10.0).close()
    except (OSError, OverflowError) as error:
        raise OSError(
            f"ray={found!r} leads to no cluster ({error}); start one by `ray start --head --port 6379`, or use local"
        ) from error
    return found


def resources(cores: int | None, console: Console) -> tuple[int, int]:
    """What a task takes of a machine: a GPU where there are any, and its share of the cores; waits for a machine.

    Args:
      cores: as given; None: those of the smallest machine, divided by its GPUs, for one training takes all it finds.
      console: is told of the waiting.

    Returns:
      GPUs and cores.

    Raises:
      ValueError: no machine has so many cores.
    """
    is_told = False
    while not (machines := _machines()):
        if not is_told:
            console.print("waiting for a machine to join the cluster", highlight=False)
        is_told = True
        time.sleep(1.0)
    gpus = int(any(machine.get("GPU", 0) >= 1 for machine in machines))
    able = [machine for machine in machines if machine.get("GPU", 0) >= gpus]
    most = int(max(machine["CPU"] for machine in able))
    if cores is not None and cores > most:
        raise ValueError(f"cores={cores} is more than a machine of the cluster has; give at most {most}")
    share = min(int(machine["CPU"] // max(machine.get("GPU", 0), 1)) for machine in able)
    return gpus, cores or max(share, 1)


def _machines() -> list[dict[str, float]]:
    """The resources of each machine of the cluster that takes tasks."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [node for node in nodes if node.get("CPU", 0) >= 1]
