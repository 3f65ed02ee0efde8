"""Ranges, the attempts of a search, and recipes that ship."""

import json

import numpy as np
import pytest

import tmu_jax
from tmu_jax import METHODS, Method, Range, Recipe
from tmu_jax.unlearning.ranges import attempt
from tmu_jax.unlearning.shipped import SHIPPED, read_recipes


def test_what_lies_where_in_a_range():
    assert [Range(1, 3, "whole").at(x) for x in (0, 0.33, 0.34, 0.66, 0.67, 0.999)] == [1, 1, 2, 2, 3, 3]
    assert Range(0.01, 1, "log").at(0.5) == pytest.approx(0.1)
    assert Range(2, 4).at(0.25) == pytest.approx(2.5)
    assert Range(0.1, 1).at(0.123456) == 0.211  # three digits


@pytest.mark.parametrize(
    "wrong", [(0.0, 1.0, "log"), (2.0, 1.0), (float("nan"), 1.0), (0.0, float("inf")), (1.0, 2.0, "square")]
)
def test_a_range_that_is_none(wrong):
    with pytest.raises(ValueError, match=r"low=|scale="):
        Range(*wrong)


def test_the_first_attempt_is_the_methods_own_and_the_others_fill_its_ranges():
    method = METHODS["salun"]
    found = [attempt(method, number) for number in range(40)]
    assert found[0] is method
    values = np.array([(one.options["share"], one.recipe.learning_rate, one.recipe.epochs) for one in found[1:]])
    for column, name in zip(values.T, ("share", "learning_rate", "epochs"), strict=True):
        limits = method.ranges[name]
        assert column.min() >= limits.low
        assert column.max() <= limits.high
    assert sorted(set(values[:, 2])) == [1, 2, 3, 4, 5]
    # Spread evenly: each third of a logarithmic range has about a third of them.
    thirds = np.floor(3 * np.log(values[:, 1] / 0.0003) / np.log(0.1 / 0.0003)).astype(int)
    assert np.bincount(thirds, minlength=3).min() >= 10
    assert {one.recipe.batch_size for one in found} == {method.recipe.batch_size}


def test_attempts_are_the_same_however_many_follow_and_others_under_another_seed():
    method = METHODS["ssd"]
    assert attempt(method, 3).options == attempt(method, 3).options
    assert attempt(method, 3).options != attempt(method, 3, seed=1).options
    assert attempt(method, 3).options != attempt(method, 4).options


def test_every_method_can_be_made_with_its_ranges_ends():
    for method in METHODS.values():
        for end in ("low", "high"):
            options = {name: getattr(one, end) for name, one in method.ranges.items() if name in method.options}
            method.configured(None, options)


def test_what_has_no_ranges_and_ranges_of_nothing():
    with pytest.raises(ValueError, match="method='twin' has no ranges"):
        attempt(METHODS["twin"], 1)
    with pytest.raises(ValueError, match=r"ranges of method 'mine' hold 'peak'; it has: epochs, learning_rate"):
        Method("mine", lambda *args: None, Recipe(), ranges={"peak": Range(0, 1)})
    with pytest.raises(ValueError, match=r"ranges of method 'mine' hold 'epochs'"):
        Method("mine", run=lambda *args, **options: None, ranges={"epochs": Range(1, 2, "whole")})


def test_a_recipe_of_a_file(tmp_path):
    recipe = {**METHODS["scrub"].own_recipe, "learning_rate": 0.003, "epochs": 5}
    held = {"methods": {"scrub": {"chosen": {"number": 4, "recipe": recipe, "options": {"alpha": 0.5}}, "tries": []}}}
    path = tmp_path / "recipes.json"
    path.write_text(json.dumps(held))
    for given in (path, str(path)):
        found = tmu_jax.tuned("scrub", given)
        assert (found.recipe.learning_rate, found.recipe.epochs, found.recipe.batch_size) == (0.003, 5, 256)
        assert found.options == {**METHODS["scrub"].options, "alpha": 0.5}
    with pytest.raises(ValueError, match=r"hold none for method 'ssd'; they have: scrub"):
        tmu_jax.tuned("ssd", path)
    with pytest.raises(ValueError, match="method='scrubs' is unknown"):
        tmu_jax.tuned("scrubs", path)
    broken = {"scrub": {"chosen": {"recipe": {"epochs": 1}, "options": {}}}}
    listed = {"scrub": {"chosen": {"recipe": recipe, "options": [1]}}}
    texts = [json.dumps({"methods": methods}) for methods in (broken, listed)]
    for text in (*texts, "{", "[]", '{"methods": {"scrub": {}}}', '{"methods": 3}'):
        path.write_text(text)
        with pytest.raises(ValueError, match="is no file of recipes"):
            tmu_jax.tuned("scrub", path)
    with pytest.raises(ValueError, match="is no file of recipes"):
        tmu_jax.tuned("scrub", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"is neither a file nor a name that ships: .*cifar10"):
        tmu_jax.tuned("scrub", "nowhere")


def test_the_recipes_that_ship_are_the_best_rehearsed_of_their_tries():
    """By rehearsal, whatever came true: the file holds both."""
    methods = read_recipes(SHIPPED)
    assert len(methods) >= 10
    for name, held in methods.items():
        best = min(held["tries"], key=lambda one: one["rehearsed"]["misalignment"])
        assert held["chosen"]["number"] == best["number"]
        assert (held["chosen"]["recipe"], held["chosen"]["options"]) == (best["recipe"], best["options"])
        first = held["tries"][0]
        assert (first["number"], first["options"]) == (0, dict(METHODS[name].options))
        assert tmu_jax.tuned(name).name == name
