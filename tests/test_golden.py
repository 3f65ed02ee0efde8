"""Stages are found by the version of their code: numbers that change without it would mix old stages with new ones."""

import json

import numpy as np
import pytest

from tests import golden
from tmu_jax.twin import settings as twin_settings


@pytest.fixture(scope="module")
def recorded():
    return json.loads(golden.PATH.read_text())


@pytest.fixture(scope="module")
def computed():
    return golden.compute()


def test_every_kind_of_stage_is_recorded(recorded, computed):
    assert set(recorded) == set(computed)
    assert set(golden.VERSIONS) <= set(recorded)


@pytest.mark.parametrize("kind", json.loads(golden.PATH.read_text()))
def test_the_numbers_of_a_kind_change_only_with_its_version(kind, recorded, computed):
    before, now = recorded[kind], computed[kind]
    advice = "; then record them anew: python -m tests.golden"
    assert now["versions"] == before["versions"], f"versions have changed{advice}"
    assert golden.agree(now["numbers"], before["numbers"]), (
        f"the numbers of {kind!r} have changed: raise its version (tmu_jax.stages.VERSIONS or Method.version){advice}"
    )


def test_what_is_compared_sees_small_changes(recorded):
    """The oracle's own: a hundredth of a norm is a change, rounding is none."""
    numbers = recorded["twin"]["numbers"]
    assert golden.agree(numbers, list(np.asarray(numbers) * (1 + 1e-4)))
    assert not golden.agree(numbers, [*numbers[:-1], numbers[-1] * 1.01 + 0.01])
    assert not golden.agree(numbers, numbers[:-1])


def test_the_other_choices_are_others():
    for name, choices in twin_settings._CHOICES.items():
        assert getattr(golden.OTHER_CHOICES, name) in set(choices) - {getattr(golden.SETTINGS, name)}
    assert golden.OTHER_CHOICES.normalize_embeddings != golden.SETTINGS.normalize_embeddings
