"""A stage's name sees all that determines it; computing walks parents once; keys do not depend on each other."""

import dataclasses

import jax
import numpy as np
import pytest

from tmu_jax.stages import Stage, compute, given, key_for, stage_hash


def stage(kind="twin_model", **changes):
    fields = {"label": kind, "make": lambda progress: 1, "value": int, "made_from": {"seed": 0}}
    return Stage(kind, **{**fields, **changes})


def test_the_name_sees_everything_that_determines_a_stage():
    base = stage()
    parent = stage("original")
    others = [
        stage("curriculum"),
        stage(version=2),
        stage(made_from={"seed": 1}),
        stage(parents={"original": parent}),
        stage(parents={"gold": parent}),
        stage(parents={"original": stage("original", version=2)}),
        stage(parents={"original": stage("original", made_from={"seed": 3})}),
    ]
    names = [one.name for one in (base, *others)]
    assert len(set(names)) == len(names)
    assert base.name == stage(label="for people", make=lambda progress: 2, work=7.0).name
    assert base.name.startswith("twin_model-")


def test_the_hash_sees_contents_and_not_the_order_of_names():
    rows = np.arange(5, dtype=np.int32)
    assert stage_hash({"a": 1, "rows": rows}) == stage_hash({"rows": rows.copy(), "a": 1})
    assert stage_hash({"rows": rows}) != stage_hash({"rows": rows[::-1]})
    assert stage_hash({"rows": rows}) != stage_hash({"rows": rows.astype(np.int64)})
    key = jax.random.key(3)
    assert stage_hash({"key": key}) == stage_hash({"key": jax.random.key(3)})
    assert stage_hash({"key": key}) != stage_hash({"key": jax.random.key(4)})
    assert stage_hash({"key": key}) != stage_hash({"key": jax.random.key(3, impl="rbg")})


def test_the_hash_refuses_what_it_cannot_see():
    with pytest.raises(TypeError, match="object"):
        stage_hash({"model": object()})
    with pytest.raises(TypeError):
        _ = given(1).name


def test_computing_makes_each_stage_once_parents_first():
    made, shown = [], []

    def making(name, value):
        def make(progress, **parents):
            made.append(name)
            progress(1, 1)
            return value + sum(parents.values())

        return make

    first = stage("first", make=making("first", 1))
    left, right = (stage(name, make=making(name, 10), parents={"a": first}) for name in ("left", "right"))
    last = stage("last", make=making("last", 100), parents={"b": left, "c": right, "d": given(1000)})
    assert compute(last, lambda kind: lambda done, total: shown.append(kind)) == 1122
    assert made == shown == ["first", "left", "right", "last"]
    assert [one.kind for one in last.with_ancestors()] == ["first", "left", "right", "given", "last"]


def test_keys_of_purposes_are_far_from_each_other_and_repeatable():
    key = jax.random.key(0)
    data = {purpose: tuple(np.asarray(jax.random.key_data(key_for(key, purpose)))) for purpose in "abc"}
    assert len(set(data.values())) == 3
    assert data["a"] == tuple(np.asarray(jax.random.key_data(key_for(jax.random.key(0), "a"))))


def test_stages_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        stage().kind = "other"


class Memory:
    """A keeper of a dict."""

    def __init__(self):
        self.values, self.asked = {}, []

    def value(self, stage, make):
        self.asked.append(stage.kind)
        if stage.name not in self.values:
            self.values[stage.name] = make()
        return self.values[stage.name]


def test_a_keeper_is_asked_first_and_given_what_was_made():
    """Not for what is given, nor for what is made anew each time; those are known by what they are made from."""
    made = []

    def add(first, second, progress):
        made.append("sum")
        return first + second

    first = given(1, {"number": 1})
    second = stage("second", make=lambda progress: made.append("second") or 2)
    fleeting = stage("fleeting", make=lambda second, progress: second + 10, parents={"second": second}, is_kept=False)
    both = stage("sum", make=add, parents={"first": first, "second": fleeting})
    memory = Memory()
    assert compute(both, keeper=memory) == compute(both, keeper=memory) == 13
    assert made == ["second", "sum"]
    assert set(memory.asked) == {"second", "sum"}
    assert len(memory.values) == 2
    again = stage("sum", make=add, parents={"first": given(1, {"number": 1}), "second": fleeting})
    assert again.name == both.name
    with pytest.raises(TypeError, match="no JSON value"):
        _ = stage("sum", parents={"first": given(1)}).name
