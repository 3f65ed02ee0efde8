"""What a series of experiments will do, before any of it: cells, stages to train, and an estimate of the time."""

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np

import tmu_jax
from experiments.protocol import run as runner
from experiments.protocol.budgets import graph_of
from experiments.protocol.command import Prepared
from tmu_jax.data import Split
from tmu_jax.stages import Stage
from tmu_jax.store import StageStore

MEASURED_STEPS = 8
TRAININGS = ("original", "gold", "twin_model", "curriculum")


class Forecast(NamedTuple):
    """One experiment's share of the work.

    Attributes:
      name: of the experiment.
      cells: methods to evaluate and floors to compute, over all arms, requests and seeds.
      found: stages that the store holds already.
      shared: stages that an earlier experiment of the series makes.
      trainings: stages to train from scratch or fine-tune before any unlearning (original, gold, twin, curriculum).
      others: features, predictors and unlearned models to make.
      seconds: estimate.
    """

    name: str
    cells: int
    found: int
    shared: int
    trainings: int
    others: int
    seconds: float


def forecast(series: Sequence[Prepared], say: Callable[[str], None] = lambda text: None) -> list[Forecast]:
    """Counts the stages of every experiment, each once, and estimates their time from a few measured steps.

    Args:
      series: the experiments, in order.
      say: is told what is being measured.

    Returns:
      One entry for each experiment.
    """
    planned: set[str] = set()
    rates: dict[tuple[str, ...], float] = {}
    found = []
    for prepared in series:
        store = StageStore(prepared.stages)
        work = runner.remaining(prepared.arms, prepared.data, prepared.output, prepared.config(()))
        stages: dict[str, Stage] = {}
        evaluations: dict[tuple[str, str], float] = {}
        module = tmu_jax.models.create(prepared.arms[0].arch, prepared.data.num_classes)
        for settings, request, todo in work:
            graph = graph_of(settings, request, module)
            stages |= {stage.name: stage for stage in graph.stages(todo)}
            evaluations |= graph.evaluations(todo)
        there = {name for name in stages if store.has(name)}
        shared = {name for name in stages if name in planned} - there
        new = [stage for name, stage in stages.items() if name not in there | shared]
        planned |= stages.keys()
        images = sum(stage.work for stage in new) + sum(evaluations.values())
        seconds = images / _rate(prepared, rates, say) if work else 0.0
        trainings = sum(stage.kind in TRAININGS for stage in new)
        cells = sum(len(todo) for _, _, todo in work)
        found.append(
            Forecast(prepared.experiment.name, cells, len(there), len(shared), trainings, len(new) - trainings, seconds)
        )
    return found


def _rate(prepared: Prepared, known: dict[tuple[str, ...], float], say: Callable[[str], None]) -> float:
    """Images trained on in a second, by a few steps of the experiment's own network on its own images."""
    settings, data = prepared.arms[0], prepared.data
    shape = data.pool.images.shape
    kind = (settings.arch, str(shape), str(settings.recipe.batch_size), str(settings.recipe.augment))
    if kind not in known:
        say(f"measuring {MEASURED_STEPS} steps of {settings.arch} on {data.name} for the estimate")
        module = tmu_jax.models.create(settings.arch, data.num_classes)
        count = min(MEASURED_STEPS * settings.recipe.batch_size, len(data.train_labels))
        split = Split(data.pool, np.arange(count, dtype=np.int32))
        recipe = dataclasses.replace(settings.recipe, epochs=1)
        # The fastest of a few: what else the machine does at the moment only adds to the others.
        with _unsaid():
            runs = [tmu_jax.train(module, split, key=jax.random.key(0), recipe=recipe) for _ in range(3)]
        known[kind] = count / max(min(run.seconds for run in runs), 1e-9)
    return known[kind]


@contextlib.contextmanager
def _unsaid() -> Iterator[None]:
    """Without the package's warnings: that a few steps taught a model nothing is no news."""
    logger = logging.getLogger("tmu_jax")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
