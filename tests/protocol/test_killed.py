"""A run of a whole experiment, killed while it writes states, stages, records and report, ends as one nobody killed."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

from experiments.report.write import write_report
from tests.protocol.killed import KINDS, RECORDS
from tests.protocol.test_run import TIMES
from tmu_jax.store import StageStore

REPORT = ("report.md", "report.html", "overview.svg", "features.svg")
STEPS_OF_A_CALL = 4
CALLS_AT_RISK = 2
"""That a kill may cost where each is saved: the one at work, and the one before it, which is saved meanwhile."""


def moments():
    """26 of them, as KIND, NUMBER and DELAY: from the start on states, stages and records by turns, then the report."""
    rng = np.random.default_rng(0)
    most = {"state": 80, "stage": 15, "records": 6}
    for number in range(18):
        kind = KINDS[number % 3]
        # Within a change, too: Orbax's threads and TensorStore write after Python has begun.
        yield kind, int(rng.integers(1, most[kind] + 1)), float(rng.choice([0, rng.uniform(0, 0.05)]))
    for number in range(8):
        yield "report", number + 1, 0.0005 * (number % 2)


def go_on(output, diary, *moment):
    """A process of the run; returns its exit status, and what it wrote down, a line a list of words."""
    before = len(diary.read_text().splitlines()) if diary.exists() else 0
    command = [sys.executable, "-m", "tests.protocol.killed", str(output), str(diary), *map(str, moment)]
    environment = {
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
        **os.environ,
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr[-3000:]
    return done.returncode, [line.split() for line in diary.read_text().splitlines()[before:]]


def steps_of(lines):
    """By training and position, what a process has trained."""
    return {tuple(words[1:]) for words in lines if words[0] == "steps"}


@pytest.mark.slow
def test_killed_at_any_moment_it_ends_as_one_that_nobody_killed(tmp_path):
    status, _ = go_on(tmp_path / "whole", tmp_path / "whole.txt")
    assert status == 0
    done, killed = set(), 0
    for kind, number, delay in moments():
        status, lines = go_on(tmp_path / "killed", tmp_path / "killed.txt", kind, number, delay)
        steps = steps_of(lines)
        repeated = len(done & steps)
        at = next(words for words in lines if words[:2] == [kind, str(number)])
        print(f"{kind} {number} + {1000 * delay:.1f} ms | {' '.join(at[2:])} | {len(steps)} calls, {repeated} again")
        assert status == -signal.SIGKILL
        assert repeated <= CALLS_AT_RISK
        done |= steps
        killed += 1
    status, lines = go_on(tmp_path / "killed", tmp_path / "killed.txt")
    assert (status, lines[-1]) == (0, ["ended"])
    assert killed == 26
    assert done | steps_of(lines) == steps_of(
        line.split() for line in (tmp_path / "whole.txt").read_text().splitlines()
    )
    assert_equal_runs(tmp_path / "killed", tmp_path / "whole", tmp_path)


def assert_equal_runs(found: pathlib.Path, expected: pathlib.Path, scratch: pathlib.Path):
    """To the last bit, but for what says how long something took."""
    files = [{str(path.relative_to(folder)) for path in folder.glob("*")} for folder in (found, expected)]
    assert files[0] == files[1]
    names = [{path.name for path in (folder / "stages").glob("[!.]*")} for folder in (found, expected)]
    assert names[0] == names[1]
    assert not list((found / "stages/.partial").glob("*"))
    for name in sorted(names[0]):
        one, other = (StageStore(folder / "stages", warn=pytest.fail).load(name) for folder in (found, expected))
        assert jax.tree.structure(one.arrays) == jax.tree.structure(other.arrays)
        for leaf, due in zip(*map(jax.tree.leaves, (one.arrays, other.arrays)), strict=True):
            assert (leaf.dtype, leaf.shape, leaf.tobytes()) == (due.dtype, due.shape, due.tobytes()), name
        assert without_seconds(one.metadata) == without_seconds(other.metadata), name
    for name in RECORDS[:3]:
        assert (found / name).read_bytes() == (expected / name).read_bytes(), name
    timeless = [timeless_copy(folder, scratch / f"timeless-{folder.name}") for folder in (found, expected)]
    for name in ("results.jsonl", *REPORT):
        assert (timeless[0] / name).read_bytes() == (timeless[1] / name).read_bytes(), name
    again = scratch / "again"
    again.mkdir()
    for name in RECORDS:
        shutil.copy(found / name, again)
    write_report(again)
    for name in REPORT:
        assert (found / name).read_bytes() == (again / name).read_bytes(), name


def timeless_copy(folder, copy):
    """Its records with 1 for every time, and the report of them."""
    copy.mkdir()
    for name in RECORDS[:3]:
        shutil.copy(folder / name, copy)
    records = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    lines = [json.dumps(without_seconds(record)) for record in records]
    (copy / "results.jsonl").write_text("".join(f"{line}\n" for line in lines))
    write_report(copy)
    return copy


def without_seconds(found):
    """A record or a stage's metadata with 1 in the place of each time, at whatever depth."""
    if isinstance(found, list):
        return [without_seconds(one) for one in found]
    if not isinstance(found, dict):
        return found
    return {key: _one(value) if key in TIMES else without_seconds(value) for key, value in found.items()}


def _one(value):
    return dict.fromkeys(value, 1.0) if isinstance(value, dict) else 1.0
