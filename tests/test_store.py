"""Stages come back as they were, are found by what produced them, and an interrupted one is computed again."""

import numpy as np
import pytest

from tmu_jax.store import Stage, StageStore, stage_hash

ARRAYS = {"a": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)}, "flags": np.array([True, False])}


def test_a_stage_is_computed_once_and_restored_equal(tmp_path):
    calls = []

    def compute():
        calls.append(1)
        return Stage(ARRAYS, {"seconds": 1.5, "notes": ["as it was"]})

    store = StageStore(tmp_path)
    assert not store.has("gold", {"seed": 0})
    first = store.get("gold", {"seed": 0}, compute)
    second = StageStore(tmp_path).get("gold", {"seed": 0}, compute)
    assert len(calls) == 1
    assert store.has("gold", {"seed": 0})
    for stage in (first, second):
        np.testing.assert_array_equal(stage.arrays["a"]["kernel"], ARRAYS["a"]["kernel"])
        np.testing.assert_array_equal(stage.arrays["flags"], ARRAYS["flags"])
        assert stage.arrays["flags"].dtype == bool
        assert stage.metadata == {"seconds": 1.5, "notes": ["as it was"]}


def test_another_setting_is_another_stage(tmp_path):
    store = StageStore(tmp_path)
    store.get("gold", {"seed": 0}, lambda: Stage(ARRAYS, {"seed": 0}))
    assert store.get("gold", {"seed": 1}, lambda: Stage(ARRAYS, {"seed": 1})).metadata == {"seed": 1}


def test_a_failed_or_half_written_stage_is_not_there(tmp_path):
    store = StageStore(tmp_path)

    def fail():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.get("gold", {"seed": 0}, fail)
    assert not store.has("gold", {"seed": 0})
    half = store.path("gold", {"seed": 0}) / "0.orbax-checkpoint-tmp"
    half.mkdir(parents=True)
    assert not store.has("gold", {"seed": 0})
    assert store.get("gold", {"seed": 0}, lambda: Stage(ARRAYS, {"ok": True})).metadata == {"ok": True}


def test_the_hash_sees_contents_and_not_the_order_of_keys():
    rows = np.arange(5, dtype=np.int32)
    assert stage_hash({"a": 1, "rows": rows}) == stage_hash({"rows": rows.copy(), "a": 1})
    assert stage_hash({"rows": rows}) != stage_hash({"rows": rows[::-1]})
    assert stage_hash({"rows": rows}) != stage_hash({"rows": rows.astype(np.int64)})


def test_the_hash_refuses_what_it_cannot_see():
    with pytest.raises(TypeError, match="object"):
        stage_hash({"model": object()})
