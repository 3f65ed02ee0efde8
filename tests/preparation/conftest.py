"""Preparations that all modules here share; a request leaves them as they are."""

import pytest

from tests.preparation.made import prepared


@pytest.fixture(scope="session")
def ready():
    """With a bank."""
    return prepared()


@pytest.fixture(scope="session")
def bare():
    """Without."""
    return prepared(folds=0)
