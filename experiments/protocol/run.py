"""Runs the cells of an experiment: trains what is missing, evaluates, and keeps records that survive an interruption.

A stage (original, gold, twin model, curriculum model, features, prediction, unlearned model) is found by its name,
which says what made it, and checked; so a run that is started again continues where it stopped, and requests share what
they have in common.
"""

import contextlib
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import filelock
from rich.console import Console

import tmu_jax
from experiments.protocol import environment
from experiments.protocol.budgets import graph_of
from experiments.protocol.cells import Cells
from experiments.protocol.progress import Display
from experiments.protocol.records import Record, RecordTable, locked, with_run
from experiments.protocol.requests import Request, check_methods, make_requests
from experiments.protocol.settings import Settings, check_output, read_arms
from experiments.report.files import read_config, write_whole
from experiments.report.formats import plain
from tmu_jax import evaluation
from tmu_jax.data import Dataset
from tmu_jax.resuming import EVERY
from tmu_jax.store import StageStore, real_lock
from tmu_jax.training import TrainedModel
from tmu_jax.training.module import fresh_bytes


def run(
    arms: Sequence[Settings],
    data: Dataset,
    output: pathlib.Path,
    config: Mapping[str, Any],
    console: Console,
    stages: pathlib.Path | None = None,
    wait: bool = False,
    save_every: float = EVERY,
) -> list[Record]:
    """Computes every cell of a run that the folder does not hold yet.

    Args:
      arms: the settings of the run; several where it compares variants, each with a `variant` of its own.
      data: its data set.
      output: the folder for config.json, results.jsonl, features.json.gz and samples.json.gz.
      config: what config.json says beside the settings (command, versions, device, shortfalls, …).
      console: where progress is shown.
      stages: the folder of checkpoints, which several runs may share; `output`/stages where None.
      wait: for another run that is at work in the folder; else both work, and find what the other has done.
      save_every: seconds after which a training that is at work is saved.

    Returns:
      All records of the folder.

    Raises:
      ValueError: before any work, when a request cannot be made or the folder holds another run.
    """
    config = with_run(config, output)
    remaining(arms, data, output, config)  # What cannot be is refused before anything is written.
    output.mkdir(parents=True, exist_ok=True)
    with at_work(output, wait, console):
        warn = partial(_warn, console)
        store = StageStore(stages or output / "stages", warn=warn, save_every=save_every)
        return _run(arms, data, output, config, console, store)


def _run(
    arms: Sequence[Settings],
    data: Dataset,
    output: pathlib.Path,
    config: Mapping[str, Any],
    console: Console,
    store: StageStore,
) -> list[Record]:
    work = remaining(arms, data, output, config)
    table = RecordTable(output, config, say=partial(_warn, console))
    if not work:
        return table.records
    begin(arms, output, config)
    cache: dict[str, evaluation.Outputs] = {}
    with Display(console) as display:
        display.expect(sum(len(("original", "gold", *todo)) for _, _, todo in work))
        for settings, request, todo in work:
            for found in Cells(settings, data, request, store, display, cache).run(todo):
                table.add(*found)
                display.advance()
    return table.records


def begin(arms: Sequence[Settings], output: pathlib.Path, config: Mapping[str, Any]) -> None:
    """Writes config.json, to which the records refer; what other runs have written there stays.

    Args:
      arms: of the run.
      output: its folder.
      config: as `with_run` returns it.
    """
    with locked(output):
        held = read_config(output).get("runs") or {} if (output / "config.json").exists() else {}
        runs = {name: run for name, run in held.items() if name not in config["runs"]} | config["runs"]
        whole = {**config, "runs": runs, "arms": _grown(arms, output)}
        write_whole(output / "config.json", json.dumps(whole, indent=1))


def _warn(console: Console, sentence: str) -> None:
    console.print(plain(sentence), style="yellow", markup=False)


@contextlib.contextmanager
def at_work(output: pathlib.Path, wait: bool, console: Console) -> Iterator[None]:
    """Lets other runs know that one is at work in a folder."""
    with real_lock(output / ".running") as lock:
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            then = "waiting for it" if wait else "both go on, and find what the other has done (--wait waits instead)"
            _warn(console, f"another run is at work in {output}: {then}")
            if wait:
                lock.acquire()
    try:
        yield
    finally:
        lock.release()


def remaining(
    arms: Sequence[Settings], data: Dataset, output: pathlib.Path, config: Mapping[str, Any]
) -> list[tuple[Settings, Request, list[str]]]:
    """What a run has still to do: arms, requests and their methods without records that hold; arguments as `run`."""
    variants = [settings.variant for settings in arms]
    if len(set(variants)) < len(variants):
        raise ValueError(f"arms have the variants {variants}; each must have a name of its own")
    for settings in arms:
        check_methods(settings.methods)
    check_output(arms, output)
    table = RecordTable(output, config)
    work = []
    for settings in arms:
        module = tmu_jax.models.create(settings.arch, data.num_classes)
        for request in make_requests(settings, data):
            if todo := table.missing(graph_of(settings, request, module)):
                work.append((settings, request, todo))
    return work


def room_for(work: Sequence[tuple[Settings, Request, list[str]]], data: Dataset, stages: pathlib.Path) -> int:
    """About how many bytes of checkpoints a run writes: its models, and twice the state of the one that is trained."""
    store = StageStore(stages)
    sizes: dict[str, int] = {}
    new: dict[str, str] = {}
    for settings, request, todo in work:
        module = tmu_jax.models.create(settings.arch, data.num_classes)
        sizes[settings.arch] = fresh_bytes(module, data.pool.images.shape[1:])
        models = [
            one for one in graph_of(settings, request, module).stages(todo) if issubclass(one.value, TrainedModel)
        ]
        new |= {one.name: settings.arch for one in models if one.is_kept and not store.has(one.name)}
    return sum(sizes[arch] for arch in new.values()) + (4 * max(sizes.values()) if new else 0)


def _grown(arms: Sequence[Settings], output: pathlib.Path) -> dict[str, Any]:
    """The settings of every arm, their growing fields joined with those the folder was made with."""
    held = read_arms(output)
    for settings in arms:
        now = settings.plain()
        for name in ("classes", "seeds", "methods") if settings.variant in held else ():
            before = held[settings.variant][name]
            now[name] = before + [value for value in now[name] if value not in before]
        held[settings.variant] = now
    return held


def config_of_machine(command: str, data: Dataset, shortfalls: Sequence[str], why: Sequence[str]) -> Record:
    """What config.json says beside the settings; the records carry it too."""
    return {
        "command": command,
        "data_source": data.source,
        "why": list(why),
        "shortfalls": list(shortfalls),
        "versions": environment.versions(),
        "device": environment.device(),
        "git_revision": environment.git_revision(),
    }
