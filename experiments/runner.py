"""Runs the cells of an experiment: trains what is missing, evaluates, and keeps records that survive an interruption.

A stage (original, gold, twin model, curriculum model, features with prediction, unlearned model) is found by a hash of
what produced it, so a run that is started again continues where it stopped and requests share what they have in common.
"""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from experiments import environment
from experiments.cells import Cells
from experiments.plan import Settings, check_methods, check_output, make_requests
from experiments.progress import Display
from experiments.records import Record, RecordTable, write_whole
from tmu_jax.checkpoint import StageStore
from tmu_jax.data import Dataset


def run(
    settings: Settings,
    data: Dataset,
    output: pathlib.Path,
    config: Mapping[str, Any],
    console: Console,
) -> list[Record]:
    """Computes every cell of a run that the folder does not hold yet.

    Args:
      settings: of the run.
      data: its data set.
      output: the folder for config.json, results.jsonl, features.json and stages/.
      config: what config.json says beside the settings (command, versions, device, shortfalls, …).
      console: where progress is shown.

    Returns:
      All records of the folder.

    Raises:
      ValueError: before any work, when a request cannot be made or the folder holds another run.
    """
    check_methods(settings.methods)
    check_output(settings, output)
    requests = make_requests(settings, data)
    output.mkdir(parents=True, exist_ok=True)
    table = RecordTable(output, config)
    plan = [(request, todo) for request in requests if (todo := table.missing(settings, request))]
    if not plan:
        return table.records
    write_whole(output / "config.json", json.dumps({**config, "settings": _grown(settings, output)}, indent=1))
    with Display(console) as display:
        display.expect(sum(len(("original", "gold", *todo)) for _, todo in plan))
        for request, todo in plan:
            for records, features in Cells(settings, data, request, StageStore(output / "stages"), display).run(todo):
                table.add(records, features)
                display.advance()
    return table.records


def _grown(settings: Settings, output: pathlib.Path) -> dict[str, Any]:
    """The settings, their growing fields joined with those the folder was made with."""
    now = settings.plain()
    path = output / "config.json"
    if path.exists():
        before = json.loads(path.read_text())["settings"]
        for name in ("classes", "seeds", "methods"):
            now[name] = before[name] + [value for value in now[name] if value not in before[name]]
    return now


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
