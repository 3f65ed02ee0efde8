"""The embedded set is generated once for all tests of the commands; it takes a second, and they ask for it often."""

import functools

import pytest

import tmu_jax

_load = functools.cache(tmu_jax.data.load)


@pytest.fixture(autouse=True)
def loaded_once(monkeypatch):
    monkeypatch.setattr(tmu_jax.data, "load", _load)
