"""A series as tasks: their order, each stage once, and the same records whoever does them."""

import dataclasses
import io
import sys

import pytest
from rich.console import Console

import tmu_jax
from experiments import all as everything
from experiments.protocol import run as runner
from experiments.protocol.experiment import Source
from experiments.protocol.tasks import Worker, lay_out, tasks_of
from experiments.report.files import read_records
from tests.patching import patch_everywhere
from tests.protocol import tiny_series
from tests.protocol.test_run import without_times
from tests.tiny import noise_for_training, tiny_data
from tmu_jax import training
from tmu_jax.unlearning import METHODS


@pytest.fixture
def tiny_names(monkeypatch):
    """What the tiny series calls its architecture and its method."""
    monkeypatch.setitem(tmu_jax.models.ARCHITECTURES, "tiny", tiny_series.tiny_architecture)
    monkeypatch.setitem(METHODS, "mortal", tiny_series.MORTAL)


@pytest.fixture
def untrained(tiny_names, monkeypatch):
    """The series with noise for trainings."""
    patch_everywhere(monkeypatch, training.fit, noise_for_training)


def counted(tasks):
    kinds = [task.name.rsplit("-", 1)[0] for task in tasks if not task.is_cell]
    return {kind: kinds.count(kind) for kind in kinds}


def records_of(output):
    """Without times, in an order of their own."""
    return sorted(without_times(read_records(output)), key=str)


def test_each_stage_is_one_task_after_those_that_it_needs(untrained, tmp_path):
    (prepared,) = tiny_series.prepare(tmp_path)
    tasks = tasks_of([prepared, prepared])
    # Two requests, two arms that differ in the threshold; the second experiment shares all stages with the first.
    assert counted(tasks) == {
        "original": 1, "gold": 4, "finetune": 2, "twin_model": 2, "curriculum": 1, "features": 2, "prediction": 4,
        "twin": 4, "mortal": 2,
    }  # fmt: skip
    assert sum(task.is_cell for task in tasks) == 2 * (2 * 4 + 2 * 2)
    place = {task.name: i for i, task in enumerate(tasks)}
    assert len(place) == len(tasks)
    assert all(place[name] < i for i, task in enumerate(tasks) for name in task.needs)
    needs = {task.label: {name.rsplit("-", 1)[0] for name in task.needs} for task in tasks}
    assert needs["original model, class 0, seed 0"] == set()
    assert needs["features, class 0, seed 0"] == {"original", "twin_model", "curriculum"}
    assert needs["cifar10: record of twin, class 0, seed 0"] == {"original", "gold", "twin"}
    assert needs["cifar10: record of floors, class 0, seed 0"] == {"original", "gold"}


def test_tasks_give_the_records_of_a_run(untrained, tmp_path):
    """Half by one process, and the rest by another that begins with the last: what is not there it makes."""
    few = {"methods": ("finetune", "mortal")}
    (alone,) = tiny_series.prepare(tmp_path / "alone", **few)
    config = alone.config(alone.arguments())
    runner.run(alone.arms, alone.data, alone.output, config, Console(file=io.StringIO()), alone.stages)
    output = tmp_path / "shared"
    plan = lay_out(tiny_series.prepare(output, **few), 80, begin=True)
    half = len(plan.tasks) // 2
    first = Worker(plan.chapters)
    for task in plan.tasks[:half]:
        first.do(task)
    rest = tasks_of(tiny_series.prepare(output, **few))
    assert [task.name for task in rest] == [task.name for task in plan.tasks[half:]]
    second = Worker(plan.chapters)
    for task in reversed(rest):
        second.do(task)
    assert tasks_of(tiny_series.prepare(output, **few)) == []
    assert records_of(output) == records_of(alone.output)


def test_a_machine_with_other_images_is_refused(untrained, tmp_path):
    plan = lay_out(tiny_series.prepare(tmp_path), 80, begin=True)
    (chapter,) = plan.chapters
    other = Source(lambda options: (tiny_data(seed=1), []), lambda options: None)
    chapter = chapter._replace(experiment=dataclasses.replace(chapter.experiment, source=other))
    with pytest.raises(ValueError, match="data_fingerprint"):
        Worker([chapter]).do(plan.tasks[0])
    assert not (tmp_path / "stages").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--ray", "local"], "pip install 'tmu-jax[ray]'"),
        (["--ray", "local", "--cores", "0"], "cores=0 must be at least 1"),
        (["--cores", "2"], "cores=2 is for tasks on Ray"),
    ],
)
def test_what_is_missing_or_wrong_for_ray_is_said_in_one_line(arguments, words, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)  # As where it is not installed.
    monkeypatch.delitem(sys.modules, "experiments.protocol.cluster", raising=False)
    monkeypatch.delattr("experiments.protocol.cluster", raising=False)
    assert everything.main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
