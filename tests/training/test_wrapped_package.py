"""A user's own classifier in every part of the package: trained, predicted with, unlearned, prepared, kept."""

import dataclasses
import functools
import sys
import types

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import tmu_jax
from tests.preparation.made import hard_data
from tests.training import users
from tmu_jax.stages import stage_hash
from tmu_jax.training import Recipe
from tmu_jax.training.packing import pack, pack_recipe, unpack_model, unpack_recipe

DATA = hard_data()
KEY = jax.random.key(0)
RECIPE = Recipe(epochs=2, batch_size=20, learning_rate=0.05, schedule="onecycle", augment=users.brighter)
RECIPE_OF_FUNCTION = dataclasses.replace(RECIPE, optimizer=optax.adamw, augment=False)


@pytest.fixture(autouse=True)
def users_settings():
    """Users' modules mix dtypes and ranks."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture(scope="module")
def problem():
    return tmu_jax.data.forget_subset(DATA, target_classes=[1], num_forget=10)


@pytest.fixture(scope="module")
def of_nnx():
    return tmu_jax.wrap(users.nnx_net(), recipe=RECIPE, init=users.nnx_net)


@pytest.fixture(scope="module")
def of_function():
    return tmu_jax.wrap(users.linear, users.linear_tree(), recipe=RECIPE_OF_FUNCTION, init=users.linear_tree)


@pytest.fixture(scope="module")
def prediction(problem, of_function):
    """By the whole twin problem of a function, with distributions as a bank's would be."""
    settings = tmu_jax.TwinSettings(
        twin_recipe=dataclasses.replace(RECIPE, epochs=1), max_twin_epochs=1, curriculum_epochs=1
    )
    found = tmu_jax.predict_generalization(problem, of_function, KEY, settings)
    return dataclasses.replace(found, targets=np.full((len(problem.forget), 4), 0.25, np.float32))


# One of each way to make a stream, targets, weights or a recipe; the others differ from them in values.
QUICK = {"original", "retrain", "negative_gradient", "bad_teacher", "twin", "rewarm_twin"}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow])
        # A finished model was not trained here, and so has no updates for `amnesiac`; `sisa` makes another classifier.
        for name in sorted(set(tmu_jax.METHODS) - {"rewarm_rehearsed", "datamodel_matching", "amnesiac", "sisa"})
    ],
)
def test_every_method_takes_an_nnx_module(name, problem, of_nnx, prediction):
    method = tmu_jax.METHODS[name]
    options = {} if method.needs is None else {"prediction": prediction}
    if isinstance(method.recipe, Recipe):
        options["recipe"] = dataclasses.replace(method.recipe, epochs=1, batch_size=20)
    options |= {"alpha": 1.5} if name == "ssd" else {}  # its own selects none of so large a request
    unlearned = tmu_jax.unlearn(name, problem, of_nnx, key=KEY, **options)
    after = unlearned.unwrap()
    moved = np.abs(after.head.kernel[...] - of_nnx.unwrap().head.kernel[...]).max()
    assert (moved > 0) == (name != "original")
    after.eval()
    split = problem.forget
    np.testing.assert_allclose(
        tmu_jax.predict(unlearned, split)[0], after(jnp.asarray(split.images, jnp.float32) / 255), rtol=1e-3, atol=1e-4
    )


def test_a_function_is_prepared_kept_and_forgotten_from(of_function, tmp_path):
    call = {"key": KEY, "heldout": 20, "folds": 2, "repetitions": 1, "folder": tmp_path / "parts"}
    prepared = tmu_jax.prepare(of_function, DATA, **call)
    first = tmu_jax.forget(prepared, [1, 5], method="rewarm_twin")
    tmu_jax.save_prepared(first.prepared, tmp_path / "kept")
    read = tmu_jax.load_prepared(tmp_path / "kept", DATA, of_function.module)
    assert read.original.recipe == RECIPE_OF_FUNCTION
    chex.assert_trees_all_equal(read.model.unwrap(), first.model.unwrap())
    trained = list((tmp_path / "parts").glob("[!.]*"))
    chex.assert_trees_all_equal(tmu_jax.prepare(of_function, DATA, **call).twin.variables, prepared.twin.variables)
    assert len(list((tmp_path / "parts").glob("[!.]*"))) == len(trained) == 3  # found by their names, the second time
    second = tmu_jax.forget(read, [7], method="rewarm_rehearsed")  # rehearses first
    assert np.abs(second.model.unwrap()["bias"] - first.model.unwrap()["bias"]).max() > 0
    evaluation = tmu_jax.evaluate(prepared.problem([1, 5]), first.model, gold=of_function)
    assert evaluation.readouts.forget_accuracy >= 0


def test_what_trains_as_the_original_was_trained_asks_for_its_recipe_before_any_work(problem, monkeypatch):
    model = tmu_jax.wrap(users.Unaware(), users.variables_of(users.Unaware()))
    bare = tmu_jax.wrap(users.linear, users.linear_tree(), recipe=RECIPE)
    assert tmu_jax.unlearn("finetune", problem, model, key=KEY).recipe is None
    from tmu_jax.training import loop

    monkeypatch.setattr(loop, "train_steps", None)  # nothing may train from here on
    unlearn = functools.partial(tmu_jax.unlearn, problem=problem, key=KEY)
    asking = {
        "retrain": lambda model: unlearn("retrain", original=model),
        "twin": lambda model: unlearn("twin", original=model),
        "prediction": lambda model: tmu_jax.predict_generalization(problem, model, KEY),
        "prepare": lambda model: tmu_jax.prepare(model, DATA, key=KEY),
    }
    for ask in asking.values():
        with pytest.raises(ValueError, match=r"recipe=None: how the model was trained is not known"):
            ask(model)
        with pytest.raises(ValueError, match=r"init=None: fresh parameters cannot be made"):
            ask(bare)
    with pytest.raises(ValueError, match=r"init=None: fresh parameters cannot be made"):
        unlearn("bad_teacher", original=bare)
    with pytest.raises(ValueError, match=r"recipe=None"):
        unlearn("rewarm", original=model)
    whole = tmu_jax.data.forget_subset(DATA, target_classes=[1], num_forget="all")
    assert not tmu_jax.predict_generalization(whole, model, KEY).easy.any()  # no twin problem, so nothing to train


def test_init_must_make_the_same_model(problem):
    for model in (
        tmu_jax.wrap(users.nnx_net(), recipe=RECIPE, init=lambda key: nnx.Linear(3, 4, rngs=nnx.Rngs(key))),
        tmu_jax.wrap(users.linear, users.linear_tree(), recipe=RECIPE, init=lambda key: {"w": jnp.ones(3)}),
    ):
        with pytest.raises(ValueError, match="init returned"):
            tmu_jax.unlearn("retrain", problem, model, key=KEY)


def test_functions_go_by_their_names_in_stages_and_in_what_is_kept():
    recipe = dataclasses.replace(RECIPE, optimizer=optax.adamw)
    packed = pack_recipe(recipe)
    assert packed["augment"] == "tests.training.users.brighter"
    assert unpack_recipe(packed) == recipe
    assert pack_recipe(None) is None
    assert unpack_recipe(None) is None
    plain = Recipe(augment=True)
    assert unpack_recipe(pack_recipe(plain)) == plain
    hashes = {stage_hash(dataclasses.asdict(one)) for one in (recipe, RECIPE, plain)}
    assert len(hashes) == 3
    for function in (lambda key, images: images, functools.partial(users.brighter, KEY)):
        with pytest.raises(ValueError, match="define it by `def` at the top of a module"):
            stage_hash(dataclasses.asdict(dataclasses.replace(recipe, augment=function)))
    with pytest.raises(ValueError, match=r"optimizer='absent.tx' of the recipe is in no module that is imported"):
        unpack_recipe({**packed, "optimizer": "absent.tx"})


def test_a_model_without_a_recipe_is_kept_and_read(of_function, monkeypatch):
    model = dataclasses.replace(of_function, recipe=None)
    read = unpack_model(pack(model), model.module)
    assert read.recipe is None
    chex.assert_trees_all_equal(read.unwrap(), model.unwrap())
    gone = types.ModuleType("gone")
    gone.augment = lambda key, images: images
    gone.augment.__module__, gone.augment.__qualname__ = "gone", "augment"
    monkeypatch.setitem(sys.modules, "gone", gone)
    packed = pack_recipe(Recipe(augment=gone.augment))
    assert unpack_recipe(packed).augment is gone.augment
    monkeypatch.delitem(sys.modules, "gone")
    with pytest.raises(ValueError, match=r"gone\.augment"):
        unpack_recipe(packed)


def test_what_a_stage_is_named_by_tells_models_apart():
    tree, variables = users.linear_tree(), users.variables_of(users.Unaware())
    models = [
        tmu_jax.wrap(users.linear, tree),
        tmu_jax.wrap(users.linear, tree, output="sigmoid"),
        tmu_jax.wrap(users.linear, tree, normalization=(0.5, 0.5)),
        tmu_jax.wrap(users.linear, tree, frozen=lambda name: name == "params/bias"),
        tmu_jax.wrap(users.linear, tree, preprocess=users.channels_first),
        tmu_jax.wrap(users.Unaware(), variables),
        tmu_jax.wrap(users.Unaware(), variables, embedding="Dense_0"),
        tmu_jax.wrap(users.nnx_net()),
    ]
    named = [stage_hash({"module": model.module}) for model in models]
    assert len(set(named)) == len(models)
    assert stage_hash({"module": tmu_jax.wrap(users.linear, users.linear_tree()).module}) == named[0]
    with pytest.raises(ValueError, match="has no name"):
        stage_hash({"module": tmu_jax.wrap(lambda tree, images: images, tree).module})
