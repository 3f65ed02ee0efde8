"""A series of experiments as tasks that several processes share: what each needs before it, and how it is done.

A task makes one stage, or the records of one cell. Whoever hands them out need only know their names: values stay in
the folder of stages, and records in the folders of results.
"""

import dataclasses
import io
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from rich.console import Console

import tmu_jax
from experiments.protocol import command
from experiments.protocol import run as runner
from experiments.protocol.budgets import graph_of
from experiments.protocol.cells import Cells
from experiments.protocol.experiment import Experiment
from experiments.protocol.forecast import Forecast, forecast
from experiments.protocol.progress import Display
from experiments.protocol.records import RecordTable
from experiments.protocol.requests import Request, make_requests
from experiments.protocol.settings import Settings
from experiments.protocol.stages import Stages
from tmu_jax import evaluation
from tmu_jax.stages import Stage
from tmu_jax.store import StageStore


@dataclasses.dataclass(frozen=True)
class Task:
    """One stage or one cell of a series.

    Attributes:
      name: of the stage, or of the cell; no other task of the series has it.
      label: for people.
      needs: names of the tasks that come before it.
      chapter: number of the experiment that wants it.
      variant: the arm's name.
      request: the request's name and its seed.
      method: the method, or `FLOORS`, that wants it.
      is_cell: whether it evaluates a method and adds its records; else it makes the stage of its name.
    """

    name: str
    label: str
    needs: tuple[str, ...]
    chapter: int
    variant: str
    request: tuple[str, int]
    method: str
    is_cell: bool = False


class Chapter(NamedTuple):
    """One experiment of a series without its images: what another process prepares it from.

    Attributes:
      experiment: which.
      options: with nothing left to choose: what one machine chose by what it found holds for all.
      why: its reasons, a sentence each.
      screen: its first lines, see `command.announce`.
    """

    experiment: Experiment
    options: Any
    why: list[str]
    screen: str


class Plan(NamedTuple):
    """A series, ready to be handed out.

    Attributes:
      chapters: the experiments.
      forecasts: the work of each.
      tasks: what is to be done, each after those that it needs.
    """

    chapters: list[Chapter]
    forecasts: list[Forecast]
    tasks: list[Task]


class Done(NamedTuple):
    """What is told of a task.

    Attributes:
      seconds: that it took.
      said: warnings.
    """

    seconds: float
    said: list[str]


def lay_out(series: Sequence[command.Prepared], width: int, begin: bool) -> Plan:
    """The plan of a series.

    Args:
      series: the experiments, in order; they share their folder of stages.
      width: of the terminal, in columns.
      begin: whether to write config.json where there is work to do, so that what does not go with it is refused.
    """
    chapters = []
    for prepared in series:
        screen = io.StringIO()
        command.announce(prepared, Console(file=screen, width=width))
        chapters.append(Chapter(prepared.experiment, prepared.options, prepared.why, screen.getvalue().rstrip()))
    plan = Plan(chapters, forecast(series), tasks_of(series))
    for number in sorted({task.chapter for task in plan.tasks}) if begin else ():
        prepared = series[number]
        runner.begin(prepared.arms, prepared.output, prepared.config(prepared.arguments()))
    return plan


def tasks_of(series: Sequence[command.Prepared]) -> list[Task]:
    """The tasks of a series: cells without records, and the stages that they need and that are not there."""
    tasks: dict[str, Task] = {}
    for number, prepared in enumerate(series):
        store = StageStore(prepared.stages)
        work = runner.remaining(prepared.arms, prepared.data, prepared.output, prepared.config(()))
        module = tmu_jax.models.create(prepared.arms[0].arch, prepared.data.num_classes)
        for settings, request, todo in work:
            graph, where = graph_of(settings, request, module), request.described(settings)
            for method in todo:
                place = (number, settings.variant, (request.name, request.seed), method)
                ends = [graph.original, graph.gold, *graph.shown(method).values()]
                stages = {stage.name: stage for end in ends for stage in end.with_ancestors() if stage.is_kept}
                for name, stage in stages.items():
                    if name not in tasks and not store.has(name):
                        needs = _known(_kept(stage.parents.values()), tasks)
                        tasks[name] = Task(name, f"{stage.label}, {where}", needs, *place)
                name = " ".join(map(str, (prepared.experiment.name, *place)))
                label = f"{prepared.experiment.name}: record of {method}, {where}"
                tasks[name] = Task(name, label, _known(_kept(ends), tasks), *place, is_cell=True)
    return list(tasks.values())


def _kept(stages: Iterable[Stage]) -> Iterator[Stage]:
    """The stages, those that are made anew each time replaced by what they are made from."""
    for stage in stages:
        yield from [stage] if stage.is_kept else _kept(stage.parents.values())


def _known(stages: Iterable[Stage], tasks: dict[str, Task]) -> tuple[str, ...]:
    """Names of the stages that are to be made, each once."""
    return tuple(dict.fromkeys(stage.name for stage in stages if stage.name in tasks))


class Worker:
    """Does tasks of a series in this process; data sets and evaluated models stay in memory from one to the next."""

    def __init__(self, chapters: Sequence[Chapter]) -> None:
        """Args: chapters: of the plan; nothing is read yet."""
        self._chapters = chapters
        self._prepared: dict[int, command.Prepared] = {}
        self._tables: dict[int, RecordTable] = {}
        self._requests: dict[tuple[int, str], dict[tuple[str, int], Request]] = {}
        self._cache: dict[str, evaluation.Outputs] = {}
        self._said: list[str] = []

    def do(self, task: Task) -> Done:
        """Does a task; where another process has done it, or is at it, its stage is found or waited for.

        Raises:
          ValueError: this machine has another data set or another backend than the folders were begun with.
          command.ERRORS: whatever the stage or the evaluation raises.
        """
        start = time.perf_counter()
        self._said.clear()
        prepared = self._of_chapter(task.chapter)
        (settings,) = (arm for arm in prepared.arms if arm.variant == task.variant)
        request = self._request(task, settings)
        # Nothing is shown here: whoever handed the task out says that it is done.
        display = Display(Console(quiet=True))
        save_every = 60 * prepared.options.save_minutes
        store = StageStore(prepared.stages, warn=self._said.append, save_every=save_every)
        if task.is_cell:
            cells = Cells(settings, prepared.data, request, store, display, self._cache)
            for found in cells.run([task.method]):
                self._table(task.chapter).add(*found)
        else:
            module = tmu_jax.models.create(settings.arch, prepared.data.num_classes)
            stages = graph_of(settings, request, module).stages([task.method])
            stage = next(stage for stage in stages if stage.name == task.name)
            Stages(store, module, display, request.described(settings)).value(stage)
        return Done(time.perf_counter() - start, list(self._said))

    def _of_chapter(self, number: int) -> command.Prepared:
        if number not in self._prepared:
            chapter = self._chapters[number]
            prepared = command.prepare(chapter.experiment, chapter.options)
            self._prepared[number] = dataclasses.replace(prepared, why=chapter.why)
        return self._prepared[number]

    def _request(self, task: Task, settings: Settings) -> Request:
        place = (task.chapter, task.variant)
        if place not in self._requests:
            requests = make_requests(settings, self._of_chapter(task.chapter).data)
            self._requests[place] = {(request.name, request.seed): request for request in requests}
        return self._requests[place][task.request]

    def _table(self, number: int) -> RecordTable:
        """The records of a chapter, whose run is this machine's."""
        if number not in self._tables:
            prepared = self._of_chapter(number)
            config = prepared.config(prepared.arguments())
            runner.begin(prepared.arms, prepared.output, config)
            self._tables[number] = RecordTable(prepared.output, config, say=self._said.append)
        return self._tables[number]
