"""The training step and what drives it, against closed forms and hand-written loops."""

import dataclasses
import functools
import math

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

import tmu_jax
from tests.patching import patch_everywhere
from tests.tiny import PlainNet, TinyNet, tiny_data
from tmu_jax import training
from tmu_jax.data import Split
from tmu_jax.training import Recipe, Stream, calls


@pytest.fixture(scope="module")
def problem():
    return tmu_jax.data.forget_subset(tiny_data(), target_classes=[1], num_forget=10)


def test_weighted_cross_entropy_is_the_formula():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(6, 3)).astype(np.float32)
    targets = rng.dirichlet(np.ones(3), 6).astype(np.float32)
    weights = np.array([1, 1, 0.5, 2, -0.1, -1], np.float32)
    log_softmax = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    cross_entropy = -(targets * log_softmax).sum(-1)
    bounded = np.where(weights < 0, np.minimum(cross_entropy, math.log(3)), cross_entropy)
    loss = training.weighted_cross_entropy(*map(jnp.asarray, (logits, targets, weights)))
    np.testing.assert_allclose(loss, (weights * bounded).sum() / 6, rtol=1e-5)


def test_ascent_ends_at_the_loss_of_a_uniform_guess():
    targets, weights = jnp.eye(4)[:1], jnp.array([-1.0])
    gradient = jax.grad(lambda logits: training.weighted_cross_entropy(logits, targets, weights))
    below, above = jnp.array([[3.0, 0, 0, 0]]), jnp.array([[-3.0, 0, 0, 0]])
    assert jnp.abs(gradient(below)).max() > 0
    np.testing.assert_array_equal(gradient(above), 0)


# A bias before batch norm has no gradient but rounding noise, and Adam would take full steps along it.
@pytest.mark.parametrize(("net", "optimizer"), [(TinyNet, "sgd"), (PlainNet, "adam")])
def test_steps_equal_a_loop_written_out(problem, net, optimizer):
    """Two steps of the compiled loop against optax's own optimiser, an eager forward and a hand-written loss."""
    model, data = net(), problem.train
    recipe = Recipe(epochs=1, batch_size=100, learning_rate=0.05, schedule="constant", optimizer=optimizer)
    key = jax.random.key(3)
    normalization = training.pixel_statistics(data)
    variables = model.init(jax.random.key(0), jnp.zeros((1, 4, 4, 3)))
    targets = training.one_hot(data.pool.labels, 4)
    weights = np.linspace(0.5, 1.5, len(targets)).astype(np.float32)
    got, losses = training.fit(
        model, variables, normalization, data.pool, Stream((data.indices,)), targets, weights, recipe, key
    )

    rng = np.random.default_rng(np.asarray(jax.random.key_data(jax.random.split(key)[0])))
    order = rng.permutation(data.indices)[:200].reshape(2, 100)
    core = optax.sgd(0.05, momentum=0.9) if optimizer == "sgd" else optax.adam(0.05)
    tx = optax.chain(optax.add_decayed_weights(5e-4), core)
    params, stats, state = variables["params"], variables.get("batch_stats", {}), tx.init(variables["params"])
    expected_losses = []
    for rows in order:
        images = jnp.asarray((data.pool.images[rows] / 255 - normalization.mean) / normalization.std, jnp.float32)

        def loss_fn(params, images=images, rows=rows, stats=stats):
            (logits, _), new = model.apply(
                {"params": params, "batch_stats": stats}, images, train=True, mutable=["batch_stats"]
            )
            log_p = jax.nn.log_softmax(logits)
            return -jnp.mean(weights[rows] * jnp.sum(targets[rows] * log_p, -1)), new.get("batch_stats", {})

        (loss, stats), gradient = jax.value_and_grad(loss_fn, has_aux=True)(params)
        with jax.numpy_dtype_promotion("standard"):
            updates, state = tx.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        expected_losses.append(float(loss))
    expected = {"params": params, **({"batch_stats": stats} if stats else {})}
    chex.assert_trees_all_close(got, expected, rtol=2e-4, atol=2e-5)
    assert losses == pytest.approx([np.mean(expected_losses)], rel=1e-4)


def test_weight_decay_is_of_every_parameter():
    """Without a gradient a step of SGD shrinks kernels, biases, scales and all alike."""
    model, images = TinyNet(), jax.random.normal(jax.random.key(0), (6, 4, 4, 3))
    variables = model.init(jax.random.key(1), images)
    params = jax.tree.map(lambda leaf: leaf + 0.5, variables["params"])
    tx = training.make_optimizer("sgd", 0.1)
    others = {"batch_stats": variables["batch_stats"]}
    state = training.TrainState(params, others, tx.init(params), jnp.zeros((), jnp.int32))
    rate, decay = jnp.float32(0.2), jnp.float32(0.1)
    step = jax.jit(functools.partial(training.train_step, module=model, optimizer="sgd"))
    new, loss = step(state, images, jnp.eye(4)[jnp.arange(6) % 4], jnp.zeros(6), rate, decay)
    assert loss == 0
    assert {path[-1].key for path, _ in jax.tree_util.tree_leaves_with_path(params)} == {"kernel", "bias", "scale"}
    chex.assert_trees_all_close(new.params, jax.tree.map(lambda leaf: leaf * (1 - 0.2 * 0.1), params), rtol=1e-6)


def test_every_step_augments_anew(problem):
    """At a learning rate of 0 the loss of a step tells which crops it saw: those of the key folded with the step."""
    model, key, rows = PlainNet(), jax.random.key(7), problem.train.indices[:20]
    normalization = training.pixel_statistics(problem.train)
    params = model.init(jax.random.key(0), jnp.zeros((1, 4, 4, 3)))["params"]
    images, targets = problem.pool.images, training.one_hot(problem.pool.labels, 4)
    start = training.TrainState(params, {}, training.make_optimizer("sgd", 0.0).init(params), jnp.int32(3))

    def loss_at(step):
        pixels = jnp.asarray(images[rows], jnp.float32) / 255
        pixels = training.random_flip_and_crop(jax.random.fold_in(key, step), pixels)
        logits, _ = model.apply({"params": params}, training.normalize(pixels, normalization))
        return training.weighted_cross_entropy(logits, jnp.asarray(targets[rows]), jnp.ones(20))

    expected = [loss_at(step) for step in (3, 4, 5)]
    _, losses = training.train_steps(
        start, jnp.asarray(images), targets, np.ones(len(images), np.float32), normalization, np.stack([rows] * 3),
        np.zeros(3, np.float32), np.int32(3), np.float32(0), key, module=model, optimizer="sgd", augment=True,
    )  # fmt: skip
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    assert len(np.unique(losses)) == 3


def test_an_accelerator_is_told_how_many_steps_a_full_call_has(problem, monkeypatch):
    """And what comes out is the same."""
    told, steps = [], training.train_steps

    def spy(*args, **options):
        told.append(options["every_step"])
        return steps(*args, **options)

    recipe = Recipe(epochs=1, batch_size=20)
    patch_everywhere(monkeypatch, steps, spy)
    monkeypatch.setattr(calls, "STEPS_PER_CALL", 4)
    monkeypatch.setattr(calls, "FIRST_STEPS", 4)
    on_cpu = tmu_jax.train(PlainNet(), problem.train, recipe=recipe, key=jax.random.key(0))
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    on_gpu = tmu_jax.train(PlainNet(), problem.train, recipe=recipe, key=jax.random.key(0))
    assert told == [False, False, False, True, True, False]
    chex.assert_trees_all_equal(on_gpu.variables, on_cpu.variables)


@pytest.mark.slow
def test_compiled_equals_eager(problem):
    model, recipe = TinyNet(), Recipe(epochs=1, batch_size=64)
    compiled = tmu_jax.train(model, problem.train, recipe=recipe, key=jax.random.key(0))
    with jax.disable_jit():
        eager = tmu_jax.train(model, problem.train, recipe=recipe, key=jax.random.key(0))
    chex.assert_trees_all_close(compiled.variables, eager.variables, rtol=1e-4, atol=1e-5)


def test_one_trace_serves_every_training_and_method(problem, monkeypatch):
    """The hot step is traced once for trainings and methods that share architecture, optimiser and batch size."""
    chex.clear_trace_counter()
    # The loop's body is traced once more when its carry is checked against its input: two traces, one program.
    patch_everywhere(monkeypatch, training.train_step, chex.assert_max_traces(training.train_step, n=2))
    training.train_steps.clear_cache()
    model, recipe = TinyNet(width=8), Recipe(epochs=1, batch_size=32, schedule="constant")
    before = training.train_steps._cache_size()
    original = tmu_jax.train(model, problem.train, recipe=recipe, key=jax.random.key(0))
    tmu_jax.train(model, problem.retain, recipe=recipe, epochs=2, key=jax.random.key(1))
    for method in ("finetune", "random_labeling", "negative_gradient"):
        tmu_jax.unlearn(method, problem, original, key=jax.random.key(2), recipe=recipe)
    assert training.train_steps._cache_size() - before == 1


def test_fresh_initialisation_of_a_gold_model(problem):
    """Every parameter of a training from scratch starts anew: no leaf equals the other model's or a constant one."""
    recipe = Recipe(epochs=1, batch_size=190, learning_rate=1e-12)
    first, second = (
        tmu_jax.train(TinyNet(), problem.retain, recipe=recipe, key=jax.random.key(seed)) for seed in (0, 1)
    )
    for a, b in zip(*(jax.tree.leaves(model.variables["params"]) for model in (first, second)), strict=True):
        constant = np.ptp(a) < 1e-6  # biases and scales start at a constant
        assert constant or np.abs(a - b).mean() > 0.5 * np.abs(a).mean()
    kernels = [x for x in jax.tree.leaves(first.variables["params"]) if x.ndim == 2]
    assert len(kernels) == 2


def test_training_learns_and_reports(problem):
    model = tmu_jax.train(TinyNet(), problem.train, recipe=Recipe(epochs=15, batch_size=20), key=jax.random.key(0))
    logits, embeddings = tmu_jax.predict(model, problem.train)
    chex.assert_shape([logits, embeddings], [(200, 4), (200, 16)])
    assert (logits.argmax(-1) == problem.train.labels).mean() > 0.9
    assert len(model.losses) == 15
    assert model.losses[-1] < model.losses[0]
    assert model.seconds > 0


def test_predict_keeps_the_order_and_the_last_partial_block(problem):
    model = tmu_jax.train(TinyNet(), problem.train, recipe=Recipe(epochs=1, batch_size=20), key=jax.random.key(0))
    rows = np.arange(270, dtype=np.int32)[::-1].copy()
    logits, _ = tmu_jax.predict(model, Split(problem.pool, rows))
    images = (problem.pool.images[rows] / 255 - model.normalization.mean) / model.normalization.std
    expected, _ = model.module.apply(model.variables, jnp.asarray(images, jnp.float32))
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
    empty, _ = tmu_jax.predict(model, Split(problem.pool, rows[:0]))
    assert empty.shape == (0, 4)


def test_evaluation_changes_no_batch_statistics(problem):
    model = tmu_jax.train(TinyNet(), problem.train, recipe=Recipe(epochs=1, batch_size=20), key=jax.random.key(0))
    before = jax.tree.map(np.array, model.variables)
    alone, _ = tmu_jax.predict(model, Split(problem.pool, np.array([5], np.int32)))
    beside_others, _ = tmu_jax.predict(model, Split(problem.pool, np.arange(5, 25, dtype=np.int32)))
    chex.assert_trees_all_equal(before, model.variables)
    np.testing.assert_allclose(alone[0], beside_others[0], rtol=1e-5)


def test_stream_draws_each_row_once_an_epoch_and_drops_the_rest():
    stream = Stream((np.arange(10, 33, dtype=np.int32),))
    epochs = stream.epochs(5, np.random.default_rng(0))
    first, second = next(epochs), next(epochs)
    assert first.shape == (4, 5) == second.shape
    for epoch in (first, second):
        assert len(np.unique(epoch)) == 20
        assert set(epoch.ravel()) <= set(range(10, 33))
    assert (first != second).any()


def test_stream_of_two_groups_halves_every_batch_and_cycles_the_second():
    stream = Stream((np.arange(40, dtype=np.int32), np.arange(100, 103, dtype=np.int32)), (0.5, 0.5))
    epoch = next(stream.epochs(8, np.random.default_rng(0)))
    assert epoch.shape == (10, 8)
    assert (epoch[:, :4] < 40).all()
    assert sorted(epoch[:, :4].ravel()) == list(range(40))
    counts = np.bincount(epoch[:, 4:].ravel() - 100)
    assert counts.sum() == 40
    assert counts.max() - counts.min() <= 1


def test_stream_smaller_than_a_batch_is_cycled():
    epoch = next(Stream((np.arange(3, dtype=np.int32),)).epochs(8, np.random.default_rng(0)))
    assert epoch.shape == (1, 8)
    assert set(epoch.ravel()) == {0, 1, 2}


def test_stream_refuses_shares_that_split_a_row():
    with pytest.raises(ValueError, match="shares"):
        next(Stream((np.arange(4), np.arange(4)), (0.5, 0.5)).epochs(7, np.random.default_rng(0)))


def test_learning_rates_drop_twice():
    rates = Recipe(epochs=30, learning_rate=0.01).learning_rates(300)
    np.testing.assert_allclose(rates[[0, 149, 150, 249, 250, 299]], [0.01, 0.01, 1e-3, 1e-3, 1e-4, 1e-4], rtol=1e-6)
    cosine = Recipe(schedule="cosine", learning_rate=0.1).learning_rates(100)
    assert cosine[0] == pytest.approx(0.1)
    assert cosine[50] == pytest.approx(0.05)


def test_one_cycle_rises_to_its_peak_and_falls_to_nothing():
    rates = Recipe(schedule="onecycle", learning_rate=0.1).learning_rates(1000)
    assert rates.dtype == np.float32
    # Half-way up, at the peak, half-way down: cosines between a 25th, the learning rate, and next to nothing.
    np.testing.assert_allclose(rates[[0, 150, 300, 650]], [0.004, 0.052, 0.1, 0.05], rtol=1e-3)
    assert np.argmax(rates) == 300
    assert rates[-1] < 1e-5
    assert (np.diff(rates[:301]) > 0).all()
    assert (np.diff(rates[300:]) < 0).all()


def test_pixel_statistics_are_numpys(problem):
    statistics = training.pixel_statistics(problem.retain)
    pixels = problem.retain.images / 255
    np.testing.assert_allclose(statistics.mean, pixels.mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(statistics.std, pixels.std((0, 1, 2)), rtol=1e-5)


def test_flip_and_crop_shifts_within_the_padding():
    images = np.random.default_rng(0).integers(1, 255, (64, 9, 7, 3)).astype(np.float32)
    augmented = np.asarray(training.random_flip_and_crop(jax.random.key(0), jnp.asarray(images), padding=2))
    seen = set()
    for image, result in zip(images, augmented, strict=True):
        matches = []
        for flipped in (False, True):
            source = np.pad(image[:, ::-1] if flipped else image, ((2, 2), (2, 2), (0, 0)))
            matches += [
                (flipped, top, left)
                for top in range(5)
                for left in range(5)
                if np.array_equal(source[top : top + 9, left : left + 7], result)
            ]
        assert len(matches) == 1
        seen.add(matches[0])
    assert len(seen) > 20


def test_noise_is_gaussian_by_its_key_within_the_pixels_and_after_the_crops():
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.uniform(0.4, 0.6, (50, 8, 8, 3)), jnp.float32)
    noisy = training.NoisyImages(0.05)
    keys = jax.random.split(jax.random.key(0))
    first, again, other = (np.asarray(noisy(key, images)) for key in (keys[0], keys[0], keys[1]))
    np.testing.assert_array_equal(first, again)
    noise = first - images
    # 9,600 draws: the standard errors are 0.0005 of the mean and 0.00036 of the deviation.
    assert abs(noise.mean()) < 0.0025
    assert abs(noise.std() - 0.05) < 0.002
    assert abs(np.corrcoef(noise.ravel(), (other - images).ravel())[0, 1]) < 0.05
    assert stats.kstest(noise.ravel() / 0.05, "norm").pvalue > 1e-3
    edges = np.asarray(training.NoisyImages(0.5)(keys[0], images))
    assert (edges.min(), edges.max()) == (0.0, 1.0)
    cropped = training.random_flip_and_crop(keys[0], images)
    np.testing.assert_array_equal(training.NoisyImages(0.0, True)(keys[0], images), cropped)
    assert hash(noisy) == hash(training.NoisyImages(0.05))


def test_augmentation_is_a_program_of_its_own_and_trains(problem):
    recipe = Recipe(epochs=1, batch_size=50, augment=True)
    plain = tmu_jax.train(
        PlainNet(), problem.train, recipe=dataclasses.replace(recipe, augment=False), key=jax.random.key(0)
    )
    augmented = tmu_jax.train(PlainNet(), problem.train, recipe=recipe, key=jax.random.key(0))
    assert plain.losses != augmented.losses


def test_divergence_is_an_error(problem):
    with pytest.raises(FloatingPointError, match="learning_rate"):
        tmu_jax.train(
            PlainNet(), problem.train, recipe=Recipe(epochs=3, batch_size=20, learning_rate=1e6), key=jax.random.key(0)
        )


def test_divergence_names_the_step_its_rate_and_its_rows(problem):
    data, recipe, key = problem.train, Recipe(epochs=1, batch_size=20, learning_rate=0.01), jax.random.key(3)
    order = np.random.default_rng(np.asarray(jax.random.key_data(jax.random.split(key)[0])))
    stream = Stream((data.indices,))
    rows = next(stream.epochs(20, order))
    targets = training.one_hot(data.pool.labels, data.pool.num_classes)
    targets[rows[4, 7]] = np.nan
    variables = TinyNet().init(jax.random.key(0), jnp.zeros((1, *data.pool.images.shape[1:])))
    rate = recipe.learning_rates(len(rows))[4]
    said = f"became nan in step 5 of epoch 1, at learning rate {rate:g}, on rows {rows[4, 0]}, "
    with pytest.raises(FloatingPointError, match=said):
        training.fit(
            TinyNet(), variables, training.pixel_statistics(data), data.pool, stream, targets,
            np.ones(len(data.pool), np.float32), recipe, key,
        )  # fmt: skip


def test_parameters_that_the_last_step_broke_are_an_error(problem):
    recipe = Recipe(epochs=1, batch_size=len(problem.train), optimizer=lambda rate: optax.scale(jnp.inf))
    with pytest.raises(FloatingPointError, match=r"not finite after step \d+ of epoch 1, the last, .*, on rows \d+"):
        tmu_jax.train(PlainNet(), problem.train, recipe=recipe, key=jax.random.key(0))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("epochs", 10**9),
        ("epochs", 2.5),
        ("batch_size", 1),
        ("batch_size", 10**9),
        ("learning_rate", 0.0),
        ("learning_rate", math.inf),
        ("learning_rate", math.nan),
        ("learning_rate", 1e30),
        ("weight_decay", -0.1),
        ("weight_decay", math.inf),
        ("drops", (0.5, 1.5)),
        ("schedule", "linear"),
        ("optimizer", "lion"),
    ],
)
def test_recipe_refuses_what_cannot_work(field, value):
    with pytest.raises((ValueError, TypeError), match=field):
        Recipe(**{field: value})


@pytest.mark.parametrize("classes", [10**9, 10**20])
def test_a_model_that_no_memory_holds_is_refused_by_its_bytes(problem, classes):
    """Its head has 16 weights and a bias for each class, of 4 bytes; as much for their gradient."""
    with pytest.raises(ValueError, match=rf"^model=TinyNet\(.* takes {136 * classes // 10**9:,} GB, more than the"):
        tmu_jax.train(TinyNet(classes), problem.train, key=jax.random.key(0))


def test_training_on_nothing_is_refused(problem):
    with pytest.raises(ValueError, match="data"):
        tmu_jax.train(TinyNet(), Split(problem.pool, np.zeros(0, np.int32)), key=jax.random.key(0))


@pytest.mark.parametrize("count", [0, 1, 7, 20, 21, 22, 50])
def test_evaluation_in_blocks_equals_the_module_applied_to_all_images(problem, monkeypatch, count):
    """Blocks of 7 images, 3 a call: one image, full and partial blocks, full and partial calls."""
    model = tmu_jax.train(TinyNet(), problem.train, recipe=Recipe(epochs=1, batch_size=20), key=jax.random.key(0))
    patch_everywhere(monkeypatch, training.evaluation_blocks, lambda on_cpu, elsewhere: training.Blocks(7, 3))
    every = Split(problem.pool, problem.train.indices[::-1])
    outputs = tmu_jax.predict(model, Split(problem.pool, every.indices[:count]))
    pixels = training.normalize(jnp.asarray(every.images, jnp.float32) / 255, model.normalization)
    expected = [part[:count] for part in model.module.apply(model.variables, pixels, train=False)]
    for ours, direct in zip(outputs, expected, strict=True):
        assert ours.shape == direct.shape
        assert len(ours) == count
        np.testing.assert_allclose(ours, direct, rtol=1e-4, atol=1e-5)


def test_evaluation_is_one_program_for_splits_of_any_size(problem):
    model = tmu_jax.train(
        TinyNet(width=5), problem.train, recipe=Recipe(epochs=1, batch_size=20), key=jax.random.key(0)
    )
    before = training.predict_rows._cache_size()
    for split in (problem.train, problem.forget, problem.test, problem.heldout):
        tmu_jax.predict(model, split)
    assert training.predict_rows._cache_size() - before == 1


class Mixing(nn.Module):
    """Normalises over the batch without keeping statistics, and so must not be taken in parts."""

    @nn.compact
    def __call__(self, images, train=False):
        flat = images.reshape((len(images), -1))
        flat = flat - flat.mean(0, keepdims=True)
        return nn.Dense(4)(flat), flat


class InParts(PlainNet):
    microbatch = 4


def one_step(module, batch=20):
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.normal(size=(batch, 4, 4, 3)), jnp.float32)
    targets = jax.nn.one_hot(jnp.arange(batch) % 4, 4)
    weights = jnp.asarray(rng.uniform(-1, 1, batch), jnp.float32)
    variables = training.init_variables(jax.random.key(0), images[:1], module=module)
    opt_state = training.make_optimizer("sgd", 5e-4).init(variables["params"])
    state = training.TrainState(variables["params"], {}, opt_state, jnp.zeros((), jnp.int32))
    return training.train_step(
        state, images, targets, weights, jnp.float32(0.1), jnp.float32(5e-4), module=module, optimizer="sgd"
    )


def test_microbatches_make_the_step_of_the_whole_batch(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    (whole, whole_loss), (parts, loss) = one_step(PlainNet()), one_step(InParts())
    np.testing.assert_allclose(loss, whole_loss, rtol=1e-5)
    chex.assert_trees_all_close(parts, whole, rtol=1e-5, atol=1e-6)


def test_only_a_module_that_says_so_is_taken_in_microbatches_and_only_on_a_cpu(monkeypatch):
    size = training.step.microbatch_size
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    assert size(InParts(), 20) == 4
    assert size(InParts(), 22) is None
    assert [size(module, 20) for module in (PlainNet(), TinyNet(), Mixing())] == [None] * 3
    assert size(tmu_jax.models.create("vit", 10), 128) == 16
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert size(InParts(), 20) is None


@pytest.mark.parametrize(("rate", "is_said"), [(1e-12, True), (0.05, False)])
def test_a_training_that_learnt_nothing_says_so(problem, caplog, rate, is_said):
    tmu_jax.train(PlainNet(), problem.train, recipe=Recipe(epochs=3, learning_rate=rate), key=jax.random.key(0))
    assert ("no better than that of a guess among 4 classes" in caplog.text) == is_said
