"""A search by rehearsal: what is tried, and that the least misalignment is taken."""

import dataclasses

import pytest

import tmu_jax
from tests.preparation.made import gathered_rows
from tmu_jax import METHODS, Range, Recipe
from tmu_jax.unlearning.ranges import attempt


def test_it_rehearses_each_attempt_and_takes_the_best(bare):
    found = tmu_jax.tune(bare, "finetune", tries=3)
    methods = [attempt(METHODS["finetune"], number) for number in range(3)]
    alone = [tmu_jax.rehearse(bare, method) for method in methods]
    assert [one.misalignment for one in found.rehearsals] == [one.misalignment for one in alone]
    assert [one.recipe["learning_rate"] for one in found.rehearsals] == [m.recipe.learning_rate for m in methods]
    best = min(range(3), key=lambda number: alone[number].misalignment)
    assert found.method.recipe == methods[best].recipe
    assert len({one.misalignment for one in alone}) > 1


def test_a_try_that_diverges_is_left_out_and_the_others_are_kept(bare):
    wild = {"learning_rate": Range(1e5, 1e6, "log")}
    method = dataclasses.replace(METHODS["finetune"], ranges=wild)
    found = tmu_jax.tune(bare, method, tries=3)
    assert [one is None for one in found.rehearsals] == [False, True, True]
    assert found.method.recipe == METHODS["finetune"].recipe
    hopeless = method.configured(dataclasses.replace(method.recipe, learning_rate=1e6))
    with pytest.raises(FloatingPointError, match="finite"):
        tmu_jax.tune(bare, hopeless, tries=2)


def test_a_rehearsal_goes_by_the_methods_own_recipe(bare, monkeypatch):
    longer = METHODS["finetune"].configured(Recipe(epochs=2, batch_size=50))
    with gathered_rows(monkeypatch) as rows:
        tmu_jax.rehearse(bare, longer)
    assert sum(len(call) for call in rows) == 2 * (200 // 50)
    assert {call.shape[1] for call in rows} == {50}


def test_what_a_request_shows_is_the_rehearsal_of_its_very_recipe(bare):
    """Same method and options, another recipe: no promise of it."""
    mine = METHODS["finetune"].configured(Recipe(epochs=1, batch_size=50))
    tuned = tmu_jax.tune(bare, mine, tries=1)
    known = tmu_jax.forget(bare_with(bare, tuned.rehearsals), range(4), method=mine)
    other = tmu_jax.forget(bare_with(bare, tuned.rehearsals), range(4), method="finetune")
    assert known.rehearsal == tuned.rehearsals[0]
    assert other.rehearsal is None


def bare_with(prepared, rehearsals):
    return dataclasses.replace(prepared, rehearsals=tuple(rehearsals))


@pytest.mark.parametrize(
    ("method", "options", "said"),
    [
        ("finetune", {"tries": 0}, "tries=0 must lie in 1..1000"),
        ("finetune", {"tries": 10**9}, "tries=1000000000 must lie in 1..1000"),
        ("finetune", {"seed": -1}, "seed must be within 0"),
        ("retrain", {}, "method='retrain' has no ranges"),
        ("twin", {}, "method='twin' has no ranges"),
        ("forgetting", {}, "method='forgetting' is unknown"),
        ("soft_twin", {}, "needs|bank"),
    ],
)
def test_what_cannot_be_tuned(bare, method, options, said):
    with pytest.raises(ValueError, match=said):
        tmu_jax.tune(bare, method, **options)
