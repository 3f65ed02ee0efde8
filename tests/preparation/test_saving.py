"""A preparation that was written and read goes on as if it had not been."""

import chex
import numpy as np
import pytest

import tmu_jax
from tests.preparation.made import DATA
from tests.tiny import TinyNet, tiny_data
from tmu_jax import forget, load_prepared, save_prepared


@pytest.fixture(scope="module")
def after(ready):
    return forget(ready, np.arange(12), budget=0.3).prepared


def test_requests_go_on_after_it_as_without(after, tmp_path):
    save_prepared(after, tmp_path / "kept")
    read = load_prepared(tmp_path / "kept", DATA, TinyNet())
    assert repr(read) == repr(after)
    assert read.debt() == after.debt()
    assert read.rehearsals == after.rehearsals
    kept = [one.answers for one in after.rehearsals]
    assert [answers is None for answers in kept] == [one.method != "rewarm_rehearsed" for one in after.rehearsals]
    chex.assert_trees_all_equal([one.answers for one in read.rehearsals], kept)
    ours, theirs = (forget(one, np.arange(40, 60), budget=0.3) for one in (after, read))
    assert ours.method == theirs.method
    chex.assert_trees_all_equal(ours.model.variables, theirs.model.variables)
    assert type(read.model) is tmu_jax.TrainedModel


def test_without_bank_and_request(tmp_path, bare):
    save_prepared(bare, tmp_path)
    read = load_prepared(tmp_path, DATA, TinyNet())
    assert read.bank is None
    assert read.model is read.original
    chex.assert_trees_all_equal(read.twin.variables, bare.twin.variables)


def test_other_images_damage_and_nothing_are_refused(after, tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no preparation"):
        load_prepared(tmp_path, DATA, TinyNet())
    save_prepared(after, tmp_path)
    with pytest.raises(ValueError, match="data is not what the preparation"):
        load_prepared(tmp_path, tiny_data(), TinyNet())
    (tmp_path / "preparation" / "manifest.json").unlink()
    with pytest.raises(ValueError, match="was not finished, or was emptied"):
        load_prepared(tmp_path, DATA, TinyNet())
