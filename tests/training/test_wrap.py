"""Users' own classifiers: what they compute, how they train, what comes back, against the module called by hand."""

import dataclasses

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.core import FrozenDict, freeze

import tmu_jax
from tests.tiny import TinyNet, tiny_data
from tests.training import users
from tmu_jax import training
from tmu_jax.training import Recipe
from tmu_jax.twin import features

DATA = tiny_data()
RECIPE = Recipe(epochs=1, batch_size=50, learning_rate=0.05, schedule="constant", weight_decay=0.01)
PIXELS = jnp.asarray(DATA.pool.images[:50], jnp.float32) / 255
KEY = jax.random.key(5)


@pytest.fixture(scope="module")
def problem():
    return tmu_jax.data.forget_subset(DATA, target_classes=[1], num_forget=10)


@pytest.fixture(autouse=True)
def users_settings():
    """Users' modules mix dtypes and ranks."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def logits_of(model, count=50):
    return tmu_jax.predict(model, tmu_jax.data.Split(DATA.pool, np.arange(count, dtype=np.int32)))[0]


def one_step(model, rate=0.1, optimizer="sgd", step=0, decay=0.01, rows=50):
    """A training step on the first images, at a constant rate, and its loss."""
    params = model.variables["params"]
    others = {name: value for name, value in model.variables.items() if name != "params"}
    state = training.TrainState(
        params, others, training.make_optimizer(optimizer, decay, jnp.float32(rate)).init(params), jnp.int32(step)
    )
    targets = jax.nn.one_hot(jnp.asarray(DATA.pool.labels[:rows]), 4)
    images = training.normalize(PIXELS[:rows], model.normalization)
    keys = training.step_keys(model.module, model.variables, images, KEY, step)
    step_fn = jax.jit(training.train_step, static_argnames=("module", "optimizer"))
    return step_fn(
        state, images, targets, jnp.ones(rows), jnp.float32(rate), jnp.float32(decay), module=model.module,
        optimizer=optimizer, keys=keys,
    )  # fmt: skip


DROPPING = {
    "train": (users.Dropping(), lambda train: {"train": train}),
    "training": (users.ByTraining(), lambda train: {"training": train}),
    "deterministic": (users.ByDeterministic(), lambda train: {"deterministic": not train}),
}


@pytest.mark.parametrize("name", DROPPING)
def test_dropout_by_whatever_name_it_is_told(name):
    """In training as the module by hand with the very keys, in evaluation as the module that drops nothing."""
    module, flags = DROPPING[name]
    variables = users.variables_of(module, **flags(False))
    model = tmu_jax.wrap(module, variables)
    keys = training.step_keys(model.module, model.variables, PIXELS, KEY, 3)
    assert set(keys) == {"dropout"}
    (trained, _), _ = training.apply(model.module, model.variables, PIXELS, train=True, keys=keys)
    (evaluated, _), _ = training.apply(model.module, model.variables, PIXELS, train=False)
    np.testing.assert_allclose(trained, module.apply(variables, PIXELS, rngs=dict(keys), **flags(True)), rtol=1e-5)
    np.testing.assert_allclose(evaluated, module.apply(variables, PIXELS, **flags(False)), rtol=1e-5)
    assert np.abs(trained - evaluated).max() > 0.1


def test_dropout_by_a_field():
    module = users.ByField()
    variables = users.variables_of(users.ByField(deterministic=True))
    adapter = tmu_jax.wrap(module, variables).module
    assert set(training.step_keys(adapter, variables, PIXELS, KEY, 0)) == {"dropout"}
    (evaluated, _), _ = training.apply(adapter, variables, PIXELS, train=False)
    np.testing.assert_allclose(evaluated, users.ByField(deterministic=True).apply(variables, PIXELS), rtol=1e-5)


def test_every_step_drops_anew_and_a_module_that_draws_nothing_has_no_key_in_its_program():
    model = tmu_jax.wrap(users.Dropping(), users.variables_of(users.Dropping()))
    losses = [float(one_step(model, rate=0.0, decay=0.0, step=step)[1]) for step in (0, 1, 2, 1)]
    assert len(set(losses)) == 3
    assert losses[1] == losses[3]
    assert training.step_keys(TinyNet(), users.variables_of(TinyNet()), PIXELS, KEY, 0) == {}
    plain = tmu_jax.wrap(TinyNet(), users.variables_of(TinyNet()))
    for one, draws in ((model, True), (plain, False)):
        assert ("random" in str(jax.make_jaxpr(lambda one=one: one_step(one)[1])())) == draws


def test_a_plain_module_with_dropout_trains(problem):
    model = tmu_jax.train(users.Dropping(), problem.train, key=KEY, recipe=dataclasses.replace(RECIPE, epochs=8))
    assert model.module == users.Dropping()
    assert model.losses[-1] < model.losses[0]


def test_other_collections_axes_lists_and_properties(problem):
    """Every collection moves as by hand; a norm over devices is one over the batch on one device."""
    widths = [12]
    alone = users.Averaging(widths, axis_name=None)
    variables = users.variables_of(alone)
    model = tmu_jax.wrap(users.Averaging(widths), variables, recipe=RECIPE)
    _, expected = alone.apply(variables, PIXELS, mutable=["batch_stats", "ema"])
    state, _ = one_step(model)
    chex.assert_trees_all_close(state.collections, dict(expected), rtol=1e-4, atol=1e-6)
    trained = tmu_jax.unlearn("finetune", problem, model, key=KEY, recipe=RECIPE)
    assert set(trained.unwrap()) == {"params", "batch_stats", "ema"}
    assert features.adversarial(trained, problem.forget, eps=0.1)[0].shape == (10,)
    gold = tmu_jax.train(users.Averaging(widths), problem.retain, key=KEY, recipe=RECIPE)
    chex.assert_trees_all_equal_shapes(gold.unwrap(), trained.unwrap())


def test_a_collection_that_is_missing_is_named():
    variables = users.variables_of(users.Averaging())
    model = tmu_jax.wrap(users.Averaging(), freeze({"params": variables["params"]}))
    for train in (False, True):
        with pytest.raises(ValueError, match=r"variables holds 'params', and the module needs more.*'batch_stats'"):
            training.apply(model.module, model.variables, PIXELS, train=train)
    with pytest.raises(ValueError, match=r"variables=\['BatchNorm_0'.* must be the module's collections"):
        tmu_jax.wrap(users.Averaging(), variables["params"])


class Showing(nn.Module):
    """Leaves what it saw in one call, and a perturbation of the size of one image."""

    @nn.compact
    def __call__(self, images):
        hidden = self.perturb("hidden", nn.Dense(12)(users.flat(images)))
        self.sow("intermediates", "hidden", hidden)
        return nn.Dense(4)(hidden)


def test_what_was_seen_in_one_call_is_no_state(problem):
    trained = tmu_jax.train(Showing(), problem.train, key=KEY, recipe=RECIPE)
    assert set(trained.variables) == {"params"}
    model = tmu_jax.wrap(Showing(), Showing().init(KEY, PIXELS[:1]))
    state, _ = one_step(model)
    assert state.collections == {}


class AlwaysDropping(nn.Module):
    @nn.compact
    def __call__(self, images):
        return nn.Dense(4)(nn.Dropout(0.5, deterministic=False)(users.flat(images)))


def test_random_numbers_in_evaluation_are_refused_with_the_remedy():
    variables = {"params": {"Dense_0": {"kernel": jnp.ones((48, 4)), "bias": jnp.ones(4)}}}
    model = tmu_jax.wrap(AlwaysDropping(), variables)
    with pytest.raises(ValueError, match=r"draws random numbers in evaluation too.*`deterministic`"):
        logits_of(model)


class OwnMean(nn.Module):
    @nn.compact
    def __call__(self, images):
        return jax.lax.pmean(nn.Dense(4)(users.flat(images)), "devices")


def test_an_axis_of_devices_of_their_own_is_named():
    model = tmu_jax.wrap(OwnMean(), {"params": {"Dense_0": {"kernel": jnp.ones((48, 4)), "bias": jnp.ones(4)}}})
    with pytest.raises(ValueError, match="give it with axis_name=None"):
        training.apply(model.module, model.variables, PIXELS, train=False)


def test_low_precision_comes_back_as_it_came(problem):
    """What was not trained bit by bit; the forward pass is the module's own, in its own dtypes."""
    module = users.Convolving()
    variables = freeze(users.variables_of(module))
    model = tmu_jax.wrap(module, variables, frozen=lambda name: name == "params/stem/bias")
    assert isinstance(model.unwrap(), FrozenDict)
    chex.assert_trees_all_equal(model.unwrap(), variables)
    chex.assert_trees_all_equal_dtypes(model.unwrap(), variables)
    assert {leaf.dtype for leaf in jax.tree.leaves(model.variables)} == {jnp.dtype(jnp.float32)}
    expected = jax.jit(module.apply)(variables, PIXELS)
    np.testing.assert_allclose(logits_of(model), expected, rtol=2e-2, atol=2e-2)
    trained = tmu_jax.unlearn("finetune", problem, model, key=KEY, recipe=RECIPE)
    after = trained.unwrap()["params"]
    assert after["stem"]["kernel"].dtype == jnp.bfloat16
    assert (after["stem"]["kernel"] != variables["params"]["stem"]["kernel"]).any()
    chex.assert_trees_all_equal(after["stem"]["bias"], variables["params"]["stem"]["bias"])
    rounded = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), dict(trained.unwrap()))
    np.testing.assert_array_equal(logits_of(trained), logits_of(dataclasses.replace(trained, variables=rounded)))


def test_masters_are_finer_than_what_they_round_to():
    """A step too small for bfloat16 is not lost: it stands in the float32 master."""
    module = users.Convolving()
    model = tmu_jax.wrap(module, users.variables_of(module))
    state, _ = one_step(model, rate=1e-5)
    moved = dataclasses.replace(model, variables={"params": state.params})
    assert np.abs(state.params["stem"]["kernel"] - model.variables["params"]["stem"]["kernel"]).max() > 0
    chex.assert_trees_all_equal(moved.unwrap()["params"]["stem"], model.unwrap()["params"]["stem"])


def test_a_module_with_low_precision_parameters_trains_from_the_start(problem):
    model = tmu_jax.train(users.Convolving(), problem.train, key=KEY, recipe=RECIPE)
    assert model.unwrap()["params"]["stem"]["kernel"].dtype == jnp.bfloat16
    assert model.variables["params"]["stem"]["kernel"].dtype == jnp.float32


def nnx_state(module):
    return jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(module, nnx.Not(nnx.RngKey))))


def test_an_nnx_module_goes_in_and_another_comes_out(problem):
    module = users.nnx_net()
    module.train()
    before = nnx_state(module)
    model = tmu_jax.wrap(module, recipe=RECIPE)
    trained = tmu_jax.unlearn("finetune", problem, model, key=KEY, recipe=RECIPE)
    again, after = model.unwrap(), trained.unwrap()
    chex.assert_trees_all_equal(nnx_state(module), before)
    chex.assert_trees_all_equal(nnx_state(again), before)
    assert type(after) is users.NnxNet
    assert after is not module
    assert not after.dropout.deterministic  # in the mode that it came in
    np.testing.assert_array_equal(*(jax.random.key_data(net.dropout.rngs.key[...]) for net in (after, module)))
    assert (after.head.kernel[...] != module.head.kernel[...]).any()
    after.eval()
    np.testing.assert_allclose(
        logits_of(trained), jax.jit(nnx.merge(*nnx.split(after)).__call__)(PIXELS), rtol=1e-4, atol=1e-5
    )


@pytest.mark.filterwarnings("ignore:Using 'Module.sow():DeprecationWarning")
@pytest.mark.parametrize("was_called", [False, True])
def test_what_an_nnx_module_sows_is_dropped(problem, was_called):
    """Beside statistics that move, and whether it lies in the finished module or not."""
    module = users.Sowing(nnx.Rngs(0))
    if was_called:
        module(PIXELS)
        assert "seen" in nnx.to_pure_dict(nnx.state(module, nnx.Intermediate))
    model = tmu_jax.wrap(module, recipe=RECIPE)
    assert set(model.variables["state"]) == {"norm/mean", "norm/var"}
    after = tmu_jax.unlearn("finetune", problem, model, key=jax.random.key(0)).unwrap()
    assert isinstance(after, users.Sowing)
    assert (after.norm.mean[...] != module.norm.mean[...]).any()


def test_an_nnx_modules_statistics_move_as_by_hand():
    module = users.nnx_net()
    model = tmu_jax.wrap(module)
    losses = [one_step(model, rate=0.0, decay=0.0, step=step) for step in (0, 1, 1)]
    assert losses[0][1] != losses[1][1]
    assert losses[1][1] == losses[2][1]
    module.train()
    module(PIXELS)
    moved = losses[0][0].collections["state"]
    np.testing.assert_allclose(moved["norm/mean"], module.norm.mean[...], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(moved["norm/var"], module.norm.var[...], rtol=1e-4, atol=1e-6)
    assert (module.norm.mean[...] != 0).any()


@pytest.mark.parametrize("kind", [users.NnxGivenRngs, users.NnxMayHaveRngs])
def test_an_nnx_module_that_is_given_its_generator_in_each_call(kind, problem):
    """As in Flax's own MNIST example: dropout without a generator of its own, `rngs` an argument of the call."""
    module = kind(nnx.Rngs(0))
    model = tmu_jax.wrap(module, init=lambda key: kind(nnx.Rngs(key)), recipe=RECIPE)
    assert model.module.drawn(model.variables, PIXELS) == ("rngs",)
    losses = [one_step(model, rate=0.0, decay=0.0, step=step)[1] for step in (0, 1, 1)]
    assert losses[0] != losses[1] == losses[2]
    module.eval()
    np.testing.assert_allclose(logits_of(model), module(PIXELS, None), rtol=1e-4, atol=1e-5)
    retrained = tmu_jax.unlearn("retrain", problem, model, key=KEY).unwrap()
    assert (retrained.head.kernel[...] != module.head.kernel[...]).any()


def test_a_function_and_its_tree():
    tree = {**users.linear_tree(), "calls": jnp.int32(7)}
    model = tmu_jax.wrap(users.linear, tree, normalization=(0.5, 0.25))
    np.testing.assert_allclose(logits_of(model), users.linear(tree, (PIXELS - 0.5) / 0.25), rtol=1e-4, atol=1e-5)
    chex.assert_trees_all_equal(model.unwrap(), tree)
    state, _ = one_step(model)
    after = dataclasses.replace(model, variables={"params": state.params, **state.collections}).unwrap()
    assert after["calls"] == 7
    assert (after["weights"][0] != tree["weights"][0]).all()


def drops_by_key(tree, images, key, train):
    mask = jax.random.bernoulli(key, shape=images.shape) if train else 1
    return users.linear(tree, images * mask)


def test_a_function_gets_a_key_in_training_alone():
    model = tmu_jax.wrap(drops_by_key, users.linear_tree())
    losses = [float(one_step(model, rate=0.0, step=step)[1]) for step in (0, 1, 1)]
    assert losses[0] != losses[1] == losses[2]
    np.testing.assert_allclose(logits_of(model), users.linear(users.linear_tree(), PIXELS), rtol=1e-4, atol=1e-5)


def embedding_of(model):
    return np.asarray(training.apply(model.module, model.variables, PIXELS, train=False)[0][1])


def test_the_embedding_is_the_last_dense_layers_input_or_what_is_named():
    module = users.Unaware()
    variables = users.variables_of(module)
    first = variables["params"]["Dense_0"]
    hidden = users.flat(PIXELS) @ first["kernel"] + first["bias"]
    by = {
        None: nn.relu(hidden),
        "Dense_0": hidden,
        "Dense_1": module.apply(variables, PIXELS),
        (lambda variables, images: variables["params"]["Dense_0"]["bias"] + images[:, 0, 0, :1]): (
            first["bias"] + PIXELS[:, 0, 0, :1]
        ),
    }
    for embedding, expected in by.items():
        found = embedding_of(tmu_jax.wrap(module, variables, embedding=embedding))
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="'Dense_9' names no layer that was called; there are Dense_0, Dense_1"):
        embedding_of(tmu_jax.wrap(module, variables, embedding="Dense_9"))


def test_the_embedding_of_nnx_modules_and_functions():
    module = users.nnx_net()
    module.eval()
    hidden = nnx.relu(module.norm(module.conv(PIXELS))).mean((1, 2))
    by = {None: nnx.relu(module.layers[0](hidden)), "layers/0": module.layers[0](hidden), "norm": None}
    for embedding, expected in by.items():
        found = embedding_of(tmu_jax.wrap(module, embedding=embedding))
        if expected is None:
            expected = module.norm(module.conv(PIXELS)).reshape(50, -1)
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match=r"names no layer that was called; there are .*head"):
        embedding_of(tmu_jax.wrap(module, embedding="tail"))
    tree = users.linear_tree()
    np.testing.assert_allclose(
        embedding_of(tmu_jax.wrap(users.linear, tree)), users.linear(tree, PIXELS), rtol=1e-4, atol=1e-5
    )
    with pytest.raises(ValueError, match="a function has none"):
        tmu_jax.wrap(users.linear, tree, embedding="head")


class Inside(nn.Module):
    @nn.compact
    def __call__(self, images):
        return nn.remat(nn.Dense)(4)(users.flat(images))


def test_an_embedding_inside_a_transformation_is_named():
    variables = users.variables_of(Inside())
    with pytest.raises(ValueError, match="inside a transformed part"):
        embedding_of(tmu_jax.wrap(Inside(), variables))
    outside = tmu_jax.wrap(Inside(), variables, embedding=lambda variables, images: users.flat(images))
    np.testing.assert_allclose(embedding_of(outside), users.flat(PIXELS), rtol=1e-5)


def test_sigmoid_outputs_are_two_logits_or_normalised_probabilities():
    tree = users.linear_tree()
    one = tmu_jax.wrap(lambda tree, images: users.linear(tree, images)[:, 2], tree, output="sigmoid")
    each = tmu_jax.wrap(users.linear, tree, output="sigmoid")
    z = np.asarray(users.linear(tree, PIXELS), np.float64)
    sigmoid = 1 / (1 + np.exp(-z))
    found = [jax.nn.softmax(training.apply(m.module, m.variables, PIXELS, train=False)[0][0]) for m in (one, each)]
    np.testing.assert_allclose(found[0], np.stack([1 - sigmoid[:, 2], sigmoid[:, 2]], 1), rtol=1e-4)
    np.testing.assert_allclose(found[1], sigmoid / sigmoid.sum(1, keepdims=True), rtol=1e-4)


def test_pixels_are_normalised_and_then_preprocessed():
    seen = {}

    def watching(tree, images):
        seen["shape"], seen["mean"] = images.shape, images.mean((0, 2, 3))
        return users.linear(tree, images)

    mean, std = np.array([0.1, 0.2, 0.3]), np.array([0.5, 0.25, 1.0])
    model = tmu_jax.wrap(
        watching, users.linear_tree(), normalization=(mean, std), preprocess=lambda images: images.transpose(0, 3, 1, 2)
    )
    images = training.normalize(PIXELS, model.normalization)
    training.apply(model.module, model.variables, images, train=False)
    assert seen["shape"] == (50, 3, 4, 4)
    np.testing.assert_allclose(seen["mean"], (PIXELS.mean((0, 1, 2)) - mean) / std, rtol=1e-4)


@pytest.mark.parametrize(
    ("normalization", "match"),
    [
        (((125.3, 123.0, 113.9), (63.0, 62.1, 66.7)), r"divide both by 255: \[0.4914"),
        ((0.5, 0.0), "std .* must be above 0"),
        ((0.5, (0.2, -0.1, 0.2)), "std .* must be above 0"),
        ((0.5, float("nan")), "finite"),
        ((0.5,), r"must be \(mean, std\)"),
    ],
)
def test_normalisations_in_other_units_are_refused_with_the_remedy(normalization, match):
    with pytest.raises(ValueError, match=match):
        tmu_jax.wrap(users.linear, users.linear_tree(), normalization=normalization)


@pytest.mark.parametrize("as_tree", [False, True])
def test_frozen_parts_move_in_no_training(as_tree, problem):
    """Not by the gradient, nor by weight decay, nor by momentum; their batch norm is in evaluation mode."""
    module = users.Averaging(axis_name=None)
    variables = users.variables_of(module)
    names = ("params/Dense_0/kernel", "params/Dense_0/bias", "params/BatchNorm_0/scale", "params/BatchNorm_0/bias")
    frozen = jax.tree_util.tree_map_with_path(
        lambda path, _: training.adapter.name_of(path) in [name[len("params/") :] for name in names],
        variables["params"],
    )
    model = tmu_jax.wrap(module, variables, frozen=frozen if as_tree else lambda name: name in names, recipe=RECIPE)
    after = tmu_jax.unlearn("finetune", problem, model, key=KEY, recipe=RECIPE).unwrap()
    for layer in ("Dense_0", "BatchNorm_0"):
        chex.assert_trees_all_equal(after["params"][layer], variables["params"][layer])
    chex.assert_trees_all_equal(after["batch_stats"], variables["batch_stats"])
    assert (after["params"]["Dense_1"]["kernel"] != variables["params"]["Dense_1"]["kernel"]).all()
    assert (after["ema"]["mean"] != variables["ema"]["mean"]).all()
    _, moved = training.apply(model.module, model.variables, PIXELS, train=True)
    running = nn.Dense(12).apply({"params": variables["params"]["Dense_0"]}, PIXELS.reshape(50, -1))
    norm = {name: variables[name]["BatchNorm_0"] for name in ("params", "batch_stats")}
    running = nn.BatchNorm(use_running_average=True).apply(norm, running)
    expected = 0.5 * variables["ema"]["mean"] + 0.5 * running.mean(0)
    np.testing.assert_allclose(moved["ema"]["mean"], expected, rtol=1e-4, atol=1e-5)
    gold = tmu_jax.unlearn("retrain", problem, model, key=KEY).unwrap()
    chex.assert_trees_all_equal(gold["params"]["Dense_0"], variables["params"]["Dense_0"])
    assert (gold["params"]["Dense_1"]["kernel"] != after["params"]["Dense_1"]["kernel"]).all()


def test_frozen_parts_of_an_nnx_module(problem):
    module = users.nnx_net()
    model = tmu_jax.wrap(module, frozen=lambda name: name.startswith(("params/conv", "params/norm")))
    after = tmu_jax.unlearn("finetune", problem, model, key=KEY, recipe=RECIPE).unwrap()
    chex.assert_trees_all_equal(*(nnx_state(net)["conv"] for net in (after, module)))
    chex.assert_trees_all_equal(*(nnx_state(net)["norm"] for net in (after, module)))
    assert (after.head.kernel[...] != module.head.kernel[...]).any()


def test_what_cannot_be_frozen():
    tree = users.linear_tree()
    with pytest.raises(ValueError, match="leaves nothing to train"):
        tmu_jax.wrap(users.linear, tree, frozen=lambda name: True)
    with pytest.raises(ValueError, match=r"frozen must be a tree of bools .*'params/weight'"):
        tmu_jax.wrap(users.linear, tree, frozen={"weight": True})


def test_an_optimiser_of_ones_own_makes_optaxs_steps():
    tree = users.linear_tree()
    model = tmu_jax.wrap(users.linear, tree)
    state, _ = one_step(model, rate=0.02, optimizer=optax.adamw)

    def loss(tree):
        targets = jax.nn.one_hot(jnp.asarray(DATA.pool.labels[:50]), 4)
        return optax.softmax_cross_entropy(users.linear(tree, PIXELS), targets).mean()

    tx = optax.adamw(0.02)
    updates, _ = tx.update(jax.grad(loss)(tree), tx.init(tree), tree)
    expected = optax.apply_updates(tree, updates)
    after = dataclasses.replace(model, variables={"params": state.params}).unwrap()
    chex.assert_trees_all_close(after, expected, rtol=1e-4, atol=1e-6)


def test_an_augmentation_of_ones_own_sees_pixels_and_a_key_of_each_step(problem):
    """At a rate of 0 the loss tells which images a step saw."""
    tree = users.linear_tree()
    model = tmu_jax.wrap(users.linear, tree, normalization=(0.5, 0.25))
    recipe = dataclasses.replace(RECIPE, augment=users.brighter, learning_rate=1e-30, weight_decay=0.0)
    pool, rows = problem.pool, problem.train.indices[:50]
    one_hot = training.one_hot(pool.labels, 4)
    stream, weights = training.Stream((rows,)), np.ones(len(pool.labels), np.float32)
    _, losses = training.fit(
        model.module, model.variables, model.normalization, pool, stream, one_hot, weights, recipe, KEY
    )
    order = np.random.default_rng(np.asarray(jax.random.key_data(jax.random.split(KEY)[0]))).permutation(rows)
    images = jnp.asarray(pool.images[order], jnp.float32) / 255
    images = users.brighter(jax.random.fold_in(jax.random.split(KEY)[1], 0), images)
    logits = users.linear(tree, (images - 0.5) / 0.25)
    assert losses == pytest.approx([float(optax.softmax_cross_entropy(logits, one_hot[order]).mean())], rel=1e-5)
    with pytest.raises(ValueError, match="augment returned"):
        training.images.augmented(lambda key, images: images[:, :2], KEY, images)


def test_what_is_no_model_is_refused():
    tree = users.linear_tree()
    cases = [
        (lambda: tmu_jax.wrap(users.Dropping, {"params": {}}), TypeError, "must be a Flax module"),
        (lambda: tmu_jax.wrap(users.linear), ValueError, "variables=None"),
        (lambda: tmu_jax.wrap(users.nnx_net(), tree), ValueError, "leave it out"),
        (lambda: tmu_jax.wrap(users.linear, {"act": jax.nn.relu}), TypeError, "eqx.partition"),
        (lambda: tmu_jax.wrap(users.linear, {"w": np.ones(3)}), ValueError, "float64 at 'params/w'"),
        (lambda: tmu_jax.wrap(users.Unaware(), {"params": {"w": jnp.ones(3, jnp.int8)}}), ValueError, "int8"),
        (lambda: tmu_jax.wrap(users.linear, tree, recipe="sgd"), TypeError, "recipe='sgd' must be a Recipe or None"),
        (lambda: tmu_jax.wrap(users.linear, tree, output="softmax"), ValueError, "output='softmax'"),
        (lambda: tmu_jax.wrap(users.linear, tree, embedding=3), TypeError, "embedding=3"),
        (lambda: tmu_jax.wrap(users.linear, tree, preprocess=3), TypeError, "preprocess=3"),
        (lambda: Recipe(optimizer=optax.sgd(0.1)), ValueError, "optax.adamw"),
        (lambda: Recipe(augment="flip"), TypeError, "augment='flip' must be True or False or a function"),
    ]
    for make, error, match in cases:
        with pytest.raises(error, match=match):
            make()


def test_an_output_that_is_no_logits_is_named():
    for output in ({"logits": 1}, jnp.zeros((2, 3, 4)), (1, 2, 3)):
        with pytest.raises(ValueError, match=r"must return logits \[n, classes\]"):
            training.adapter.read_outputs(output, training.adapter.Recorder(None), None, "logits")


def test_adapters_of_equal_models_share_a_program():
    variables = users.variables_of(users.Unaware())
    one, other = (tmu_jax.wrap(users.Unaware(), variables) for _ in range(2))
    assert one.module == other.module
    assert hash(one.module) == hash(other.module)
    assert tmu_jax.wrap(users.Unaware(), variables, output="sigmoid").module != one.module
    lists = [tmu_jax.wrap(users.Averaging(widths), {"params": {}}).module for widths in ([12], [12], [13])]
    assert lists[0] == lists[1]
    assert lists[0] != lists[2]
    assert tmu_jax.wrap(users.nnx_net(0)).module == tmu_jax.wrap(users.nnx_net(1)).module
