"""A series on Ray: two workers of this machine, of which one is killed, or fails; and a driver that is told to end."""

import io
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import pytest
from rich.console import Console

import tmu_jax
from experiments import all as everything
from experiments import slurm
from experiments.protocol import run as runner
from tests.protocol import tiny_series
from tests.protocol.test_tasks import records_of, tiny_names  # noqa: F401
from tmu_jax.resuming import EVERY

pytest.importorskip("ray")
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("tiny_names")]

SMALL = {"methods": ("finetune", "mortal"), "classes": ("0",)}


@pytest.fixture
def diary(tmp_path):
    """The folder where workers say what they do."""
    folder = tmp_path / "diary"
    folder.mkdir()
    return folder


@pytest.fixture
def environment(diary):
    """What drivers and workers find set: programs are compiled as the tests' own are."""
    return {
        tiny_series.DIARY: str(diary),
        "JAX_DISABLE_MOST_OPTIMIZATIONS": os.environ.get("JAX_DISABLE_MOST_OPTIMIZATIONS", "1"),
        "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
        "COLUMNS": "200",
        "RAY_AUTH_MODE": "token",
    }


@pytest.fixture
def start(environment):
    """Starts drivers, each a process of its own."""
    drivers = []
    code = "import sys; from tests.protocol import tiny_series; sys.exit(tiny_series.main(*sys.argv[1:]))"

    def start_one(size, output, cores=2):
        arguments = [sys.executable, "-c", code, size, str(cores), "--output", output]
        root = pathlib.Path(tmu_jax.__file__).parents[1]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        drivers.append(subprocess.Popen(arguments, cwd=root, env=os.environ | environment, text=True, **pipes))
        return drivers[-1]

    yield start_one
    for driver in drivers:
        driver.kill()


def finish(driver):
    """Its exit status, and what it printed and complained of."""
    printed, complaints = driver.communicate(timeout=120)
    print(printed, complaints)
    return driver.returncode, printed, complaints


def records_alone(output, **changes):
    """The records of a run without Ray."""
    (prepared,) = tiny_series.prepare(output, **changes)
    config = prepared.config(prepared.arguments())
    runner.run(
        prepared.arms, prepared.data, output, config, Console(file=io.StringIO()), prepared.stages, save_every=EVERY
    )
    return records_of(output)


def noted(diary, name):
    """What the workers wrote down: (process, word)."""
    return [tuple(line.split()) for line in (diary / name).read_text().splitlines()]


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("", "must be local, auto, or the HOST:PORT"),
        ("ray://head:1", "must be"),
        ("localhost:1", "leads to no cluster"),
    ],
)
def test_an_address_without_a_cluster_is_said_in_one_line(address, words, capsys):
    assert everything.main(["--ray", address]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"ray={address!r} {words}" in line


def test_a_killed_workers_stage_is_taken_over_and_all_records_are_there(diary, start, tmp_path):
    (diary / tiny_series.KILL).touch()
    output = tmp_path / "ray"
    status, printed, complaints = finish(start("large", output))
    assert (status, complaints) == (0, "")
    assert not (diary / tiny_series.KILL).exists()
    assert records_of(output) == records_alone(tmp_path / "alone")
    made = [name for _, name in noted(diary, "made")]
    assert len(made) == len(set(made))
    stages = [{path.name for path in (folder / "stages").glob("[!.]*")} for folder in (output, tmp_path / "alone")]
    assert set(made) == stages[0] == stages[1]
    # The killed one's training goes on where it was saved: of two, the first steps of one are done once.
    steps = [(process, int(done)) for process, done in noted(diary, "steps")]
    ((killed,),) = noted(diary, "killed")
    whole = max(done for _, done in steps)
    assert [done for process, done in steps if process == killed][-1] < whole
    assert [done for process, done in steps].count(whole) == 2
    assert [done for process, done in steps].count(steps[0][1]) == 2
    assert len({process for process, _ in noted(diary, "made")} - {killed}) >= 2
    assert not [line for line in printed.splitlines() if line.startswith("failed")]
    assert f"cifar10: {output / 'report.html'}" in printed
    assert (output / "report.html").exists()


def test_a_failed_task_is_named_and_the_others_are_not_lost(diary, start, tmp_path):
    (diary / tiny_series.FAIL).touch()
    output = tmp_path / "ray"
    status, printed, complaints = finish(start("small", output))
    assert status == 2
    assert [line for line in printed.splitlines() if line.startswith("failed")] == [
        "failed   mortal, class 0, seed 0: as asked"
    ]
    (line,) = complaints.splitlines()
    assert line.startswith("error: 1 of 8 tasks failed, each named above, and 1 that need them")
    assert {record["method"] for record in records_of(output)} >= {"finetune", "floor_gold_gold"}
    (diary / tiny_series.FAIL).unlink()
    status, printed, _ = finish(start("small", output))
    assert status == 0
    assert sum("mortal, class 0" in line for line in printed.splitlines()) == 2
    assert "finetune, class 0" not in printed
    assert records_of(output) == records_alone(tmp_path / "alone", **SMALL)


@pytest.mark.parametrize(("number", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_a_driver_that_is_told_to_end_saves_what_is_at_work(diary, start, tmp_path, number, expected):
    (diary / tiny_series.WAIT).touch()
    output = tmp_path / "ray"
    driver = start("small", output)
    while not (diary / "steps").exists():
        assert driver.poll() is None
        time.sleep(0.1)
    driver.send_signal(number)
    status, printed, complaints = finish(driver)
    assert (status, complaints) == (expected, "")
    assert "the same command goes on" in printed
    assert "mortal" in {path.name.split("-")[0] for path in (output / "stages" / ".partial").iterdir()}
    (diary / tiny_series.WAIT).unlink()
    status, *_ = finish(start("small", output))
    assert status == 0
    done = [int(done) for _, done in noted(diary, "steps")]
    assert len(done) == len(set(done))  # No step was repeated.
    assert records_of(output) == records_alone(tmp_path / "alone", **SMALL)


def test_a_job_lends_its_machine_and_ends_with_the_cluster(environment, start, tmp_path, monkeypatch):
    """By submitit's own stand-in for SLURM."""
    pytest.importorskip("submitit")
    output = tmp_path / "ray"
    driver = start("small", output, cores=0)
    address = driver.stdout.readline().strip()
    assert driver.stdout.readline().strip() == "waiting for a machine to join the cluster"
    options = slurm.Options(address, gpus=0, cores=2, hours=0.1, cluster="local", logs=tmp_path / "logs")
    with monkeypatch.context() as of_jobs:
        for name, value in environment.items():
            of_jobs.setenv(name, value)
        (job,) = slurm.submit(options)
    status, _, complaints = finish(driver)
    assert (status, complaints) == (0, "")
    job.wait()
    assert "Ray runtime started" in job.stdout()
    assert records_of(output) == records_alone(tmp_path / "alone", **SMALL)
