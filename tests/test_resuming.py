"""A training that is stopped anywhere and begun again ends as one that nobody stopped, to the last bit."""

import contextlib
import shutil
import signal
import subprocess
import sys

import chex
import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

import tmu_jax
from tests.patching import patch_everywhere
from tests.tiny import TinyNet, tiny_data
from tmu_jax.resuming import Terminated, resumable, stop_on_terminate
from tmu_jax.store import StageStore
from tmu_jax.training import Recipe, Stream, loop
from tmu_jax.training import calls as training_calls
from tmu_jax.training.packing import pack
from tmu_jax.training.step import train_steps

DATA = tiny_data()
RECIPE = Recipe(epochs=3, batch_size=10, learning_rate=0.05, schedule="onecycle", augment=True)
PROBLEM = tmu_jax.data.forget_indices(DATA, range(20))


def trained(key=0, recipe=RECIPE):
    return tmu_jax.train(TinyNet(), PROBLEM.train, key=jax.random.key(key), recipe=recipe)


@pytest.fixture
def short_calls(monkeypatch):
    """Calls of 4 steps: 20 steps an epoch, 15 calls in all."""
    monkeypatch.setattr(training_calls, "STEPS_PER_CALL", 4)
    monkeypatch.setattr(training_calls, "FIRST_STEPS", 4)


@pytest.fixture
def calls(monkeypatch):
    """The steps that are done after each call; stops before the call whose number is in `stop`."""
    done = []

    def counted(state, *args, **kwargs):
        if len(done) in counted.stop:
            counted.stop.remove(len(done))
            done.append("stopped")
            if counted.error is not None:
                raise counted.error
        found = train_steps(state, *args, **kwargs)
        done.append(int(found[0].step))
        return found

    counted.stop, counted.error = [], RuntimeError("killed")
    patch_everywhere(monkeypatch, train_steps, counted)
    done_and = type("Calls", (), {"done": done, "plan": counted})
    return done_and


def equal(one, other):
    chex.assert_trees_all_equal(one.variables, other.variables)
    assert one.losses == other.losses


@pytest.mark.parametrize("number", [0, 7])
def test_killed_and_begun_again_is_uninterrupted(short_calls, calls, tmp_path, number):
    """Saved after each call; nothing of what was saved is done again."""
    expected = trained()
    assert calls.done == list(range(4, 61, 4))
    calls.done.clear()
    calls.plan.stop = [number]
    with pytest.raises(RuntimeError, match="killed"), resumable(tmp_path, every=0):
        trained()
    assert len(calls.done) == number + 1
    calls.done.clear()
    with resumable(tmp_path, every=0):
        found = trained()
    equal(found, expected)
    assert calls.done == list(range(4 * number + 4, 61, 4))
    assert found.seconds > 0


def test_stopped_many_times(short_calls, calls, tmp_path):
    expected = trained()
    calls.done.clear()
    calls.plan.stop = [2, 4, 9, 11]
    stops = 0
    while True:
        with contextlib.suppress(RuntimeError), resumable(tmp_path, every=0):
            found = trained()
            break
        stops += 1
    equal(found, expected)
    assert stops == 4
    assert [step for step in calls.done if step != "stopped"] == list(range(4, 61, 4))


def test_an_interrupted_training_repeats_nothing(short_calls, calls, tmp_path):
    """Ctrl-C and SIGTERM save what is there, whatever `every` says."""
    expected = trained()
    for error in (KeyboardInterrupt(), Terminated()):
        calls.done.clear()
        calls.plan.stop, calls.plan.error = [8], error
        with pytest.raises(type(error)), resumable(tmp_path / type(error).__name__):
            trained()
        calls.done.clear()
        with resumable(tmp_path / type(error).__name__):
            equal(trained(), expected)
        assert calls.done == list(range(36, 61, 4))


def test_what_was_not_due_is_done_again(short_calls, calls, tmp_path):
    calls.plan.stop = [8]
    with pytest.raises(RuntimeError, match="killed"), resumable(tmp_path):
        trained()
    assert list(tmp_path.iterdir()) == []


def test_each_loop_has_its_own_place(short_calls, calls, tmp_path):
    """Two trainings in one: the first is not repeated for the second's sake."""
    expected = trained(0), trained(1)
    calls.done.clear()
    calls.plan.stop = [20]
    with pytest.raises(RuntimeError, match="killed"), resumable(tmp_path, every=0):
        trained(0), trained(1)
    calls.done.clear()
    with resumable(tmp_path, every=0):
        found = trained(0), trained(1)
    equal(found[0], expected[0])
    equal(found[1], expected[1])
    assert calls.done == list(range(24, 61, 4))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # What Orbax leaves when it fails.
@pytest.mark.parametrize("seed", range(6))
def test_a_state_with_a_flipped_bit_is_not_taken(short_calls, calls, tmp_path, seed):
    """Wherever the bit is: what is damaged is done again."""
    expected = trained()
    calls.plan.stop = [len(calls.done) + 7]
    with pytest.raises(RuntimeError, match="killed"), resumable(tmp_path, every=0):
        trained()
    files = sorted(path for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_size)
    sizes = np.array([path.stat().st_size for path in files])
    rng = np.random.default_rng(seed)
    path = files[rng.choice(len(files), p=sizes / sizes.sum())]
    content = bytearray(path.read_bytes())
    content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
    path.write_bytes(content)
    with resumable(tmp_path, every=0):
        equal(trained(), expected)


def test_values_that_changed_on_disk_are_not_taken(short_calls, calls, tmp_path, monkeypatch):
    """Though Orbax reads them without a word."""
    expected = trained()
    calls.plan.stop = [len(calls.done) + 7]
    with pytest.raises(RuntimeError, match="killed"), resumable(tmp_path, every=0):
        trained()
    restore = ocp.CheckpointManager.restore

    def changed(*args, **kwargs):
        found = restore(*args, **kwargs)
        found.state["0"] = np.asarray(found.state["0"]) * 1.0001
        return found

    monkeypatch.setattr(ocp.CheckpointManager, "restore", changed)
    with resumable(tmp_path, every=0):
        equal(trained(), expected)


@pytest.mark.parametrize("change", ["key", "rows"])
def test_the_state_of_another_training_is_not_taken(short_calls, calls, tmp_path, change):
    with resumable(tmp_path, every=0):
        trained()
    other = {
        "key": lambda: trained(key=1),
        "rows": lambda: tmu_jax.train(TinyNet(), PROBLEM.retain, key=jax.random.key(0), recipe=RECIPE),
    }[change]
    expected = other()
    with resumable(tmp_path, every=0):
        equal(other(), expected)


@pytest.mark.parametrize("damage", ["cut", "file"])
def test_a_state_that_is_damaged_is_done_again(short_calls, calls, tmp_path, damage):
    with resumable(tmp_path, every=0):
        expected = trained()
    for path in sorted((tmp_path / "loop-1").rglob("*")):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:-3])
    if damage == "file":
        shutil.rmtree(tmp_path / "loop-1")
        (tmp_path / "loop-1").write_text("")
    calls.done.clear()
    with resumable(tmp_path, every=1e6):
        equal(trained(), expected)
    assert calls.done == list(range(4, 61, 4))


@pytest.mark.parametrize("when", ["in the foreground", "in the background"])
def test_a_disk_that_is_full_does_not_end_a_training(short_calls, calls, tmp_path, monkeypatch, when):
    expected = trained()

    def full(self, *args, **kwargs):
        raise OSError(28, "No space left on device")

    name = {"in the foreground": "save", "in the background": "close"}[when]
    monkeypatch.setattr(ocp.CheckpointManager, name, full)
    warns = pytest.warns(UserWarning, match="No space left on device; the training goes on without")
    with warns, resumable(tmp_path, every=0):
        found = trained()
    equal(found, expected)


def test_a_stage_goes_on_where_it_was_stopped_and_leaves_nothing_behind(short_calls, calls, tmp_path):
    expected = trained()
    calls.done.clear()
    calls.plan.stop = [11]
    store = StageStore(tmp_path, save_every=0)
    with pytest.raises(RuntimeError, match="killed"):
        store.load_or_make("gold-1", lambda: pack(trained()))
    assert (tmp_path / ".partial/gold-1").is_dir()
    saved = store.load_or_make("gold-1", lambda: pack(trained()))
    assert [step for step in calls.done if step != "stopped"] == list(range(4, 61, 4))
    chex.assert_trees_all_equal(saved.arrays["variables"], jax.tree.map(np.asarray, expected.variables))
    assert not (tmp_path / ".partial/gold-1").exists()


def test_nothing_is_kept_outside(short_calls, calls, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trained()
    assert list(tmp_path.iterdir()) == []


def test_no_seconds_below_zero(tmp_path):
    for every in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="every="), resumable(tmp_path, every=every):
            pass


@pytest.mark.slow
def test_a_stream_of_two_groups_and_further_epochs(short_calls, calls, tmp_path):
    """Groups that are cycled go on in the middle of their order; and how many epochs it takes is asked again."""

    def fitted():
        groups = Stream((PROBLEM.retain.indices, PROBLEM.forget.indices), (0.5, 0.5))
        targets = loop.one_hot(DATA.pool.labels, 4)
        start = TinyNet().init(jax.random.key(0), np.zeros((1, 4, 4, 3), np.float32))
        weights = np.ones(len(DATA.pool), np.float32)
        return loop.fit(
            TinyNet(), start, loop.pixel_statistics(PROBLEM.train), DATA.pool, groups, targets, weights, RECIPE,
            jax.random.key(2), max_epochs=4, is_enough=lambda variables: False,
        )  # fmt: skip

    expected = fitted()
    total = len(calls.done)
    for number in (3, total - 2):
        calls.done.clear()
        calls.plan.stop = [number]
        folder = tmp_path / str(number)
        with pytest.raises(RuntimeError, match="killed"), resumable(folder, every=0):
            fitted()
        with resumable(folder, every=0):
            found = fitted()
        assert found[1] == expected[1]
        chex.assert_trees_all_equal(found[0], expected[0])


def test_sigterm_is_an_interruption():
    before = signal.getsignal(signal.SIGTERM)
    try:
        stop_on_terminate()
        with pytest.raises(Terminated):
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
    ("stop", "status", "waits"),
    [pytest.param("", 3, True, marks=pytest.mark.slow), ("", 130, False), ("terminate", 0, False)],
)
def test_a_stopped_command_does_not_wait_for_what_interrupted_calls_left(stop, status, waits):
    """In their place a function that Python calls on leaving, as it waits for XLA's threads."""
    code = f"""
import atexit, contextlib, signal
from tmu_jax.resuming import leave, stop_on_terminate
atexit.register(print, "waited")
stop_on_terminate()
if {stop!r}:
    with contextlib.suppress(KeyboardInterrupt):
        signal.raise_signal(signal.SIGTERM)
print("said")
leave({status})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()) == (status, ["said", "waited"] if waits else ["said"])


CHILD = """
import hashlib, sys, jax, numpy as np, tmu_jax
from tests.test_resuming import trained, RECIPE
from tmu_jax.training import calls
import dataclasses
calls.STEPS_PER_CALL = calls.FIRST_STEPS = 4
with tmu_jax.resumable(sys.argv[1], every=0):
    model = tmu_jax.train(
        __import__("tests.tiny").tiny.TinyNet(), __import__("tests.test_resuming").test_resuming.PROBLEM.train,
        key=jax.random.key(0), recipe=dataclasses.replace(RECIPE, epochs=60),
        progress=lambda done, total: print(done, flush=True),
    )
print(hashlib.sha256(b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(model.variables))).hexdigest())
"""


def run_child(folder, kill_at=None):
    """The lines of a process that trains; killed by SIGKILL once it has said so many of them."""
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(folder)], stdout=subprocess.PIPE, text=True)
    lines = []
    for line in child.stdout:
        lines.append(line.strip())
        if len(lines) == kill_at:
            child.kill()
            break
    child.stdout.close()
    child.wait()
    return lines


@pytest.mark.slow
def test_killed_at_twenty_random_moments(tmp_path):
    """Within writing, too: each call is saved, so most of the time is."""
    expected = run_child(tmp_path / "whole")[-1]
    rng = np.random.default_rng(0)
    first = []
    for _ in range(20):
        lines = run_child(tmp_path / "killed", kill_at=int(rng.integers(1, 20)))
        first.append(int(lines[0]))
    found = run_child(tmp_path / "killed")
    assert found[-1] == expected
    assert len(expected) == 64
    assert first == sorted(first)
