"""Fixtures of the tests that read data from disk."""

import pytest

from tests.data.official import Fake


@pytest.fixture
def nothing_of_this_machine(monkeypatch, tmp_path):
    """No data set of this machine is found, and nothing is written outside the test's own folder."""
    home = tmp_path / "home"
    home.mkdir()
    for variable in ("TMU_JAX_DATA", "TFDS_DATA_DIR"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.chdir(home)


@pytest.fixture(params=["cifar10", "cifar100"])
def fake(request, monkeypatch) -> Fake:
    return Fake(request.param, monkeypatch)


@pytest.fixture
def fake10(monkeypatch) -> Fake:
    return Fake("cifar10", monkeypatch)
