"""What does not lie on the device is read ahead, and every number is that of what does."""

import jax
import numpy as np
import pytest

import tmu_jax
from tests import golden
from tests.data.test_demand import Source, data_on_demand
from tests.tiny import TinyNet, tiny_data
from tmu_jax.data.demand import on_demand
from tmu_jax.training import calls, loop
from tmu_jax.training import images as placing


def check_same(monkeypatch, *named):
    resident = golden.values_of({what: one for what, one in golden.stages().items() if what in named})
    monkeypatch.setattr(golden, "tiny_data", lambda: data_on_demand(tiny_data()))
    streamed = golden.values_of({what: one for what, one in golden.stages().items() if what in named})
    assert set(streamed) == set(named)
    for what, value in streamed.items():
        for ours, theirs in zip(golden.arrays_of(value), golden.arrays_of(resident[what]), strict=True):
            np.testing.assert_array_equal(ours, theirs, err_msg=what)


def test_trainings_and_features_are_those_of_images_in_memory(monkeypatch):
    monkeypatch.setattr(calls, "_MOST_BYTES", 20 * 4 * 4 * 3 * 4)  # four steps a call
    check_same(monkeypatch, "training", "features", "rewarm")


@pytest.mark.slow
def test_every_kind_of_stage_is(monkeypatch):
    data = [kind for kind in golden.stages() if not kind.startswith("training, ")]  # Those have images of their own.
    check_same(monkeypatch, *data)


def test_a_pool_too_large_for_the_device_is_read_ahead(monkeypatch):
    data = tiny_data()
    split = tmu_jax.data.Split(data.pool, np.arange(200, dtype=np.int32))
    resident = golden.arrays_of(tmu_jax.train(TinyNet(), split, key=jax.random.key(0), recipe=golden.RECIPE))
    monkeypatch.setattr(placing, "is_resident", lambda pool: False)
    monkeypatch.setattr(loop, "is_resident", lambda pool: False)
    monkeypatch.setattr(calls, "is_resident", lambda pool: False)
    streamed = golden.arrays_of(tmu_jax.train(TinyNet(), split, key=jax.random.key(0), recipe=golden.RECIPE))
    for ours, theirs in zip(streamed, resident, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_half_of_a_device_is_for_the_pool(monkeypatch):
    pool = tiny_data().pool

    class Device:
        def __init__(self, limit):
            self.limit = limit

        process_index = 0

        def memory_stats(self):
            return self.limit and {"bytes_limit": self.limit}

    for limit, expected in ((None, True), (2 * pool.images.nbytes, True), (2 * pool.images.nbytes - 1, False)):
        monkeypatch.setattr(placing.devices, "in_use", lambda limit=limit: (Device(limit),))
        assert placing.is_resident(pool) == expected


def test_an_epoch_reads_each_image_it_gathers_once():
    source = Source(tiny_data().train_images)
    data = tmu_jax.data.from_arrays(
        on_demand(source), tiny_data().train_labels, tiny_data().test_images, tiny_data().test_labels
    )
    split = tmu_jax.data.Split(data.pool, np.arange(40, 140, dtype=np.int32))
    source.read.clear()
    recipe = tmu_jax.Recipe(epochs=3, batch_size=20)
    tmu_jax.train(TinyNet(), split, key=jax.random.key(0), recipe=recipe)
    read = np.bincount(source.read, minlength=200)
    assert set(read[40:140]) == {1 + 3}  # for the pixels' mean, and in each epoch
    assert read[:40].sum() + read[140:].sum() == 0
