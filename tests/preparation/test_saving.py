"""A preparation that was written and read goes on as if it had not been."""

import chex
import numpy as np
import pytest

import tmu_jax
from tests.preparation.made import DATA, KEY
from tests.tiny import TinyNet, tiny_data
from tmu_jax import forget, load_prepared, save_prepared
from tmu_jax.store import Saved, StageStore
from tmu_jax.unlearning.unlearned import forgotten_rows


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
    assert read.model.original is None


def test_what_its_models_forgot_is_known_after_it(ready, tmp_path):
    """Of the request before it was kept, and of those after; so nothing of it is trained on again without a word."""
    first = forget(ready, np.arange(4), method="rewarm", budget=0.3)
    save_prepared(first.prepared, tmp_path)
    read = load_prepared(tmp_path, DATA, TinyNet())
    assert (forgotten_rows(read.model).tolist(), read.model.method) == ([0, 1, 2, 3], "rewarm")
    keeps_them = tmu_jax.data.forget_indices(DATA, np.arange(20, 24))
    for model in (first.model, read.model):
        with pytest.raises(ValueError, match="4 training images that the model forgot before"):
            tmu_jax.unlearn("rewarm", keeps_them, model, key=KEY)
        with pytest.raises(ValueError, match="4 training images that the model forgot before"):
            tmu_jax.prepare(model, DATA, heldout=40, key=KEY)
    second = forget(read, np.arange(20, 24), method="rewarm")
    second.save(tmp_path / "model")
    kept = tmu_jax.load(tmp_path / "model", TinyNet())
    assert forgotten_rows(kept).tolist() == [0, 1, 2, 3, 20, 21, 22, 23]


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
    load = StageStore.load

    def without_what_was_forgotten(self, name):
        saved = load(self, name)
        return Saved(saved.arrays, {key: value for key, value in saved.metadata.items() if key != "unlearned"})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StageStore, "load", without_what_was_forgotten)
        with pytest.raises(ValueError, match="was kept by an earlier version"):
            load_prepared(tmp_path, DATA, TinyNet())
    (tmp_path / "preparation" / "manifest.json").unlink()
    with pytest.raises(ValueError, match="was not finished, or was emptied"):
        load_prepared(tmp_path, DATA, TinyNet())
