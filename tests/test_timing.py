"""The stopwatch: compile time apart, nested stages counted once."""

import time

import jax
import jax.numpy as jnp
import pytest

from tmu_jax.timing import Stopwatch, _union_length, compiling_native


def test_union_of_nested_and_overlapping_intervals():
    assert _union_length([(0, 4), (1, 2), (3, 6), (8, 9)]) == 7
    assert _union_length([]) == 0


def test_compile_time_is_told_apart_from_run_time():
    @jax.jit
    def slow_to_compile(x: jax.Array) -> jax.Array:
        for _ in range(150):
            x = jnp.sin(x) @ x
        return x

    x = jnp.eye(4)
    with Stopwatch() as first:
        jax.block_until_ready(slow_to_compile(x))
    with Stopwatch() as second:
        jax.block_until_ready(slow_to_compile(x))
        time.sleep(0.05)
    assert first.compile_seconds > 0
    assert second.compile_seconds == 0
    assert second.seconds == pytest.approx(0.05, abs=0.5)
    assert second.seconds >= 0.05
    assert first.seconds >= 0


def test_watches_nest():
    with Stopwatch() as outer:
        with Stopwatch() as inner:
            jax.jit(lambda x: jnp.cos(x) + 1)(jnp.ones(3)).block_until_ready()
        time.sleep(0.02)
    assert outer.compile_seconds >= inner.compile_seconds > 0
    assert outer.seconds >= inner.seconds + 0.02


def test_native_code_counts_as_compiled_inside_what_is_traced_too():
    @jax.jit
    def traced(x: jax.Array) -> jax.Array:
        with compiling_native():
            time.sleep(0.2)
        return x

    with Stopwatch() as watch:
        traced(jnp.ones(())).block_until_ready()
        with compiling_native():
            time.sleep(0.2)
    assert watch.compile_seconds >= 0.4
    assert watch.seconds < 0.2
