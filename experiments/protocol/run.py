"""Runs the cells of an experiment: trains what is missing, evaluates, and keeps records that survive an interruption.

A stage (original, gold, twin model, curriculum model, features, prediction, unlearned model) is found by its name,
which says what made it, and checked; so a run that is started again continues where it stopped, and requests share what
they have in common.
"""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

import tmu_jax
from experiments.protocol import environment
from experiments.protocol.budgets import graph_of
from experiments.protocol.cells import Cells
from experiments.protocol.progress import Display
from experiments.protocol.records import Record, RecordTable, with_run, write_whole
from experiments.protocol.requests import Request, check_methods, make_requests
from experiments.protocol.settings import Settings, check_output, read_arms
from tmu_jax import evaluation
from tmu_jax.data import Dataset
from tmu_jax.store import StageStore


def run(
    arms: Sequence[Settings],
    data: Dataset,
    output: pathlib.Path,
    config: Mapping[str, Any],
    console: Console,
    stages: pathlib.Path | None = None,
) -> list[Record]:
    """Computes every cell of a run that the folder does not hold yet.

    Args:
      arms: the settings of the run; several where it compares variants, each with a `variant` of its own.
      data: its data set.
      output: the folder for config.json, results.jsonl, features.json and samples.json.
      config: what config.json says beside the settings (command, versions, device, shortfalls, …).
      console: where progress is shown.
      stages: the folder of checkpoints, which several runs may share; `output`/stages where None.

    Returns:
      All records of the folder.

    Raises:
      ValueError: before any work, when a request cannot be made or the folder holds another run.
    """
    config = with_run(config, output)
    work = remaining(arms, data, output, config)
    table = RecordTable(output, config, say=lambda sentence: console.print(sentence, style="yellow", markup=False))
    if not work:
        return table.records
    output.mkdir(parents=True, exist_ok=True)
    write_whole(output / "config.json", json.dumps({**config, "arms": _grown(arms, output)}, indent=1))
    store = StageStore(stages or output / "stages", warn=lambda sentence: console.print(sentence, style="yellow"))
    cache: dict[str, evaluation.Outputs] = {}
    with Display(console) as display:
        display.expect(sum(len(("original", "gold", *todo)) for _, _, todo in work))
        for settings, request, todo in work:
            for found in Cells(settings, data, request, store, display, cache).run(todo):
                table.add(*found)
                display.advance()
    return table.records


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
