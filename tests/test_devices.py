"""One device or many, one process or two: the same numbers, of batches that are divided."""

import os
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from tests import golden
from tmu_jax import devices
from tmu_jax.resuming import resumable
from tmu_jax.store import StageStore


def start(file, where, *stages):
    """The process of `tests.spread`."""
    environment = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", **os.environ}  # as conftest has it in this process
    command = [sys.executable, "-m", "tests.spread", str(file), where, *stages]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process, file):
    _, told = process.communicate(timeout=900)
    assert process.returncode == 0, told[-3000:]
    with np.load(file) as found:
        return dict(found)


def divisions(found):
    return {name.removeprefix("divided "): int(count) for name, count in found.items() if name.startswith("divided ")}


def check_equal(found, expected):
    names = [name for name in expected if not name.startswith("divided ")]
    assert names
    for name in names:
        close = 1e-5
        if name.startswith("bank "):  # Kept in half precision, where rounding may fall to either side.
            np.testing.assert_array_max_ulp(*(one[name].astype(np.float16) for one in (found, expected)), 1)
            continue
        if name.startswith("bad_teacher"):
            # Adam takes full steps along what is rounding noise, the gradient of a bias before batch norm: a parameter
            # that no answer depends on.
            close = 1e-4
        np.testing.assert_allclose(found[name], expected[name], rtol=close, atol=close, err_msg=name)


def test_eight_devices_train_predict_and_attack_as_one(tmp_path):
    named = ("training", "features", "rewarm")
    running = start(tmp_path / "8.npz", "8", *named)
    values = golden.values_of({what: stage for what, stage in golden.stages().items() if what in named})
    expected = {f"{what} {i}": a for what, one in values.items() for i, a in enumerate(golden.arrays_of(one))}
    found = finish(running, tmp_path / "8.npz")
    check_equal(found, expected)
    # Batches of 20 images are divided over four of them, blocks of 64 and 32 over all.
    assert divisions(found) == {"train_steps": 4, "predict_rows": 8, "attack_rows": 8}


@pytest.mark.slow
@pytest.mark.parametrize("where", ["2", "4", "8", "two processes"])
def test_every_kind_of_stage_is_that_of_one_device(tmp_path, where, of_one):
    if where == "two processes":
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        first, second = (start(tmp_path / f"{rank}.npz", f"{rank}/2@{port}") for rank in (0, 1))
        found = finish(first, tmp_path / "0.npz")
        np.testing.assert_equal(finish(second, tmp_path / "1.npz"), found)
    else:
        found = finish(start(tmp_path / "found.npz", where), tmp_path / "found.npz")
    check_equal(found, of_one)
    fewest = {"2": 2, "4": 4, "8": 4, "two processes": 2}[where]
    assert divisions(found) == {
        "train_steps": fewest,
        **dict.fromkeys(("predict_rows", "attack_rows", "outputs_of_batch"), 2 if " " in where else int(where)),
    }


@pytest.fixture(scope="module")
def of_one(tmp_path_factory):
    file = tmp_path_factory.mktemp("one") / "found.npz"
    return finish(start(file, "1"), file)


def test_an_array_is_divided_over_as_many_devices_as_divide_it():
    code = """
import jax, numpy as np
from tmu_jax import devices
whole = np.arange(24).reshape(2, 12)
found = devices.split(whole, 1)
assert [tuple(shard.data.shape) for shard in found.addressable_shards] == [(2, 3)] * 8
np.testing.assert_array_equal(devices.on_host(found), whole)
with devices.use_devices(jax.devices()[2:5]):
    found = devices.split(whole, 1)
    assert found.sharding.device_set == set(jax.devices()[2:5]) == devices.replicate(whole).sharding.device_set
    assert devices.describe() == "cpu (3 of them)"
assert devices.describe() == "cpu (8 of them)"
"""
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


def test_with_one_device_nothing_is_moved():
    array = np.arange(6)
    assert devices.split(array, 0) is array
    assert devices.replicate([array])[0] is array
    assert devices.describe() == "cpu"


def test_devices_that_cannot_be_used_are_refused():
    for chosen in ([], jax.devices() * 2):
        with pytest.raises(ValueError, match="each once"), devices.use_devices(chosen):
            pass
    for chosen in (2, "cpu", [0]):
        with pytest.raises(TypeError, match=r"^devices"), devices.use_devices(chosen):
            pass


def test_what_one_process_alone_can_do_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(ValueError, match=r"a folder of stages is for one process, .* one of 2"):
        StageStore(tmp_path)
    with pytest.raises(ValueError, match="resumable is for one process"), resumable(tmp_path):
        pass
