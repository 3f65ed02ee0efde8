"""Each method's stream, targets and weights on a hand-made problem, and what its steps do."""

import dataclasses
import math
import pickle

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tmu_jax
from tests.patching import patch_everywhere
from tests.tiny import PlainNet, TinyNet, tiny_data
from tmu_jax import training, twin
from tmu_jax.training import Normalization, Recipe
from tmu_jax.unlearning import METHODS

KEY = jax.random.key(5)
SHORT = Recipe(epochs=2, batch_size=20, schedule="constant")
RIVALS = ("ssd", "scrub", "salun", "l1_sparse", "unsir", "fisher", "influence", "ntk")


@pytest.fixture(scope="module")
def problem():
    return tmu_jax.data.forget_subset(tiny_data(), target_classes=[1, 2], num_forget=8)


@pytest.fixture(scope="module")
def original(problem):
    return tmu_jax.train(TinyNet(), problem.train, recipe=Recipe(epochs=10, batch_size=20), key=jax.random.key(0))


def relabel_of(name):
    """The module of a method, whose `relabel` says what it trains on."""
    import importlib

    return importlib.import_module(f"tmu_jax.unlearning.{name}")


def drawn(relabelling, batch_size=20):
    return next(relabelling.stream.epochs(batch_size, np.random.default_rng(0)))


def test_finetune_draws_the_retain_set_with_true_labels(problem, original):
    relabelling = relabel_of("finetune").relabel(problem, original, KEY)
    assert set(relabelling.stream.groups[0]) == set(problem.retain.indices)
    assert len(relabelling.stream.groups) == 1
    np.testing.assert_array_equal(relabelling.targets.argmax(-1), problem.pool.labels)
    np.testing.assert_array_equal(relabelling.weights, 1)
    assert not np.isin(drawn(relabelling), problem.forget.indices).any()


def test_random_labeling_mislabels_exactly_the_forget_set(problem, original):
    relabelling = relabel_of("random_labeling").relabel(problem, original, KEY)
    assert set(relabelling.stream.groups[0]) == set(problem.train.indices)
    wrong = relabelling.targets.argmax(-1) != problem.pool.labels
    assert set(np.flatnonzero(wrong)) == set(problem.forget.indices)
    np.testing.assert_array_equal(relabelling.targets.sum(-1), 1)
    np.testing.assert_array_equal(relabelling.weights, 1)
    again = relabel_of("random_labeling").relabel(problem, original, KEY)
    np.testing.assert_array_equal(relabelling.targets, again.targets)


def test_wrong_labels_are_uniform_over_the_other_classes():
    data = tiny_data(num_train=4000, num_test=400)
    problem = tmu_jax.data.forget_subset(data, target_classes=[2], num_forget=900)
    labels = tmu_jax.wrong_targets(problem, problem.forget.indices, KEY)[problem.forget.indices].argmax(-1)
    counts = np.bincount(labels, minlength=4)
    assert counts[2] == 0
    # Each of three classes has 300 expected, standard deviation sqrt(900 · 1/3 · 2/3) = 14.1; 5 of them allowed.
    assert np.abs(counts[[0, 1, 3]] - 300).max() < 71


def test_negative_gradient_halves_its_batches(problem, original):
    relabelling = relabel_of("negative_gradient").relabel(problem, original, KEY, alpha=0.9)
    rows = drawn(relabelling)
    assert rows.shape == (len(problem.retain) // 10, 20)
    assert np.isin(rows[:, :10], problem.retain.indices).all()
    assert np.isin(rows[:, 10:], problem.forget.indices).all()
    np.testing.assert_allclose(relabelling.weights[problem.retain.indices], 1.8, rtol=1e-6)
    np.testing.assert_allclose(relabelling.weights[problem.forget.indices], -0.2, rtol=1e-6)
    np.testing.assert_array_equal(relabelling.targets.argmax(-1), problem.pool.labels)


def test_negative_gradients_loss_is_the_two_means(problem, original):
    """α·mean CE(retain half) − (1−α)·mean min(CE(forget half), log C), and its gradient, written out."""
    alpha = 0.7
    relabelling = relabel_of("negative_gradient").relabel(problem, original, KEY, alpha=alpha)
    rows = drawn(relabelling)[0]
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(20, 4)), jnp.float32)
    labels = problem.pool.labels[rows]

    def one_loss(logits):
        return training.weighted_cross_entropy(
            logits, jnp.asarray(relabelling.targets[rows]), jnp.asarray(relabelling.weights[rows])
        )

    def two_means(logits):
        losses = -jax.nn.log_softmax(logits)[jnp.arange(20), labels]
        return alpha * losses[:10].mean() - (1 - alpha) * jnp.minimum(losses[10:], math.log(4)).mean()

    np.testing.assert_allclose(one_loss(logits), two_means(logits), rtol=1e-5)
    np.testing.assert_allclose(jax.grad(one_loss)(logits), jax.grad(two_means)(logits), rtol=1e-4, atol=1e-6)


def test_bad_teachers_targets(problem, original):
    relabelling = relabel_of("bad_teacher").relabel(problem, original, KEY, retain_share=0.25)
    rows = relabelling.stream.groups[0]
    assert set(problem.forget.indices) <= set(rows)
    retained = np.setdiff1d(rows, problem.forget.indices)
    assert len(retained) == round(0.25 * len(problem.retain))
    assert np.isin(retained, problem.retain.indices).all()
    logits, _ = tmu_jax.predict(original, tmu_jax.data.Split(problem.pool, retained))
    np.testing.assert_allclose(relabelling.targets[retained], jax.nn.softmax(logits), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(relabelling.targets[rows].sum(-1), 1, rtol=1e-5)
    of_original, _ = tmu_jax.predict(original, problem.forget)
    assert np.abs(relabelling.targets[problem.forget.indices] - jax.nn.softmax(of_original)).mean() > 0.1


def test_the_random_teacher_is_fresh_and_knows_nothing(original):
    """Near-uniform outputs that do not depend on how many images are asked about beyond a batch."""
    problem = tmu_jax.data.forget_subset(tiny_data(num_train=1200), target_classes=[1], num_forget=270)
    outputs = relabel_of("bad_teacher").random_teacher(problem, original, KEY)
    assert outputs.shape == (270, 4)
    np.testing.assert_allclose(outputs.sum(-1), 1, rtol=1e-5)
    entropy = -(outputs * np.log(outputs)).sum(-1).mean()
    assert 0.5 * math.log(4) < entropy < math.log(4)
    other = relabel_of("bad_teacher").random_teacher(problem, original, jax.random.key(6))
    assert np.abs(outputs - other).mean() > 0.02
    variables = training.init_variables(KEY, jnp.zeros((1, 4, 4, 3)), module=original.module)
    rows = problem.forget.indices[:256]
    pixels = (problem.pool.images[rows] / 255 - original.normalization.mean) / original.normalization.std
    (logits, _), _ = original.module.apply(
        variables, jnp.asarray(pixels, jnp.float32), train=True, mutable=["batch_stats"]
    )
    np.testing.assert_allclose(outputs[:256], jax.nn.softmax(logits), rtol=1e-3, atol=1e-5)


def test_bad_teachers_gradient_is_the_kls(problem, original):
    relabelling = relabel_of("bad_teacher").relabel(problem, original, KEY, retain_share=0.3)
    rows = drawn(relabelling)[0]
    teacher = jnp.asarray(relabelling.targets[rows])
    logits = jnp.asarray(np.random.default_rng(1).normal(size=(20, 4)), jnp.float32)

    def kl(logits):
        return jnp.mean(jnp.sum(teacher * (jnp.log(teacher) - jax.nn.log_softmax(logits)), -1))

    def one_loss(logits):
        return training.weighted_cross_entropy(logits, teacher, jnp.ones(20))

    np.testing.assert_allclose(jax.grad(one_loss)(logits), jax.grad(kl)(logits), rtol=1e-4, atol=1e-6)


def test_twin_mislabels_exactly_the_hard_samples(problem, original):
    easy = np.arange(16) % 3 == 0
    relabelling = relabel_of("twin").relabel_hard(problem, original, KEY, easy=easy)
    assert set(relabelling.stream.groups[0]) == set(problem.train.indices)
    wrong = relabelling.targets.argmax(-1) != problem.pool.labels
    assert set(np.flatnonzero(wrong)) == set(problem.forget.indices[~easy])
    np.testing.assert_array_equal(relabelling.weights, 1)


def test_twin_negative_gradient_ascends_on_the_hard_alone(problem, original):
    easy = np.arange(16) % 3 == 0
    relabelling = relabel_of("twin").ascend_on_hard(problem, original, KEY, easy=easy, alpha=0.9)
    assert set(relabelling.stream.groups[0]) == set(problem.retain.indices) | set(problem.forget.indices[easy])
    assert set(relabelling.stream.groups[1]) == set(problem.forget.indices[~easy])
    assert set(np.flatnonzero(relabelling.weights < 0)) == set(problem.forget.indices[~easy])


def test_twin_negative_gradient_without_a_hard_sample_learns_all(problem, original):
    relabelling = relabel_of("twin").ascend_on_hard(problem, original, KEY, easy=np.ones(16, bool), alpha=0.9)
    assert len(relabelling.stream.groups) == 1
    assert set(relabelling.stream.groups[0]) == set(problem.train.indices)
    assert (relabelling.weights == 1).all()


@pytest.mark.parametrize("name", ["finetune", "random_labeling", "negative_gradient", "bad_teacher"])
def test_methods_change_the_student_and_leave_the_original(problem, original, name):
    """An optimiser that holds another model's parameters would leave the student as it was."""
    before = jax.tree.map(np.array, original.variables)
    unlearned = tmu_jax.unlearn(name, problem, original, key=KEY, recipe=dataclasses.replace(SHORT, epochs=1))
    chex.assert_trees_all_equal(before, original.variables)
    changed = [np.abs(a - b).max() for a, b in zip(*map(jax.tree.leaves, (before, unlearned.variables)), strict=True)]
    assert min(changed) > 0
    assert unlearned.method == name
    assert unlearned.seconds == unlearned.seconds_by_part["unlearning"] > 0
    assert unlearned.original is original


def test_left_out_images_move_no_batch_statistics(problem, original):
    """Fine-tuning on the retain set ends in the same weights and statistics whatever the forgotten images show."""
    other_images = problem.pool.images.copy()
    other_images[problem.forget.indices] = 255 - other_images[problem.forget.indices]
    pool = tmu_jax.data.Pool(other_images, problem.pool.labels, 4)
    moved = dataclasses.replace(
        problem,
        pool=pool,
        **{
            name: tmu_jax.data.Split(pool, getattr(problem, name).indices)
            for name in ("train", "forget", "retain", "heldout", "test")
        },
    )
    one, other = (tmu_jax.unlearn("finetune", p, original, key=KEY, recipe=SHORT) for p in (problem, moved))
    chex.assert_trees_all_equal(one.variables, other.variables)


def test_retrain_never_sees_a_forgotten_image(problem, original, monkeypatch):
    seen = []
    steps = training.train_steps

    def spy(state, images, targets, weights, normalization, indices, rates, num_steps, *rest, **static):
        seen.append(np.asarray(indices)[: int(num_steps)])
        return steps(state, images, targets, weights, normalization, indices, rates, num_steps, *rest, **static)

    patch_everywhere(monkeypatch, training.train_steps, spy)
    gold = tmu_jax.unlearn("retrain", problem, original, key=KEY)
    rows = np.concatenate([x.ravel() for x in seen])
    assert not np.isin(rows, problem.forget.indices).any()
    assert np.isin(rows, problem.retain.indices).all()
    expected = training.pixel_statistics(problem.retain)
    chex.assert_trees_all_equal(gold.normalization, expected)
    assert gold.recipe == original.recipe


def test_gold_of_an_unlearned_model_has_the_trainings_recipe(problem, original):
    unlearned = tmu_jax.unlearn("finetune", problem, original, key=KEY, recipe=dataclasses.replace(SHORT, epochs=1))
    gold, again = (tmu_jax.unlearn("retrain", problem, model, key=KEY) for model in (original, unlearned))
    assert again.recipe == original.recipe
    assert len(again.losses) == original.recipe.epochs
    chex.assert_trees_all_equal(again.variables, gold.variables)


def test_what_a_model_forgot_is_in_no_later_requests_train(problem, original, monkeypatch):
    """Neither of the last request nor of the one before; a request for the same images may be gone on with."""
    short = dataclasses.replace(SHORT, epochs=1)
    data = tiny_data()
    first = tmu_jax.data.forget_indices(data, [0, 1])
    now = tmu_jax.unlearn("finetune", first, original, key=KEY, recipe=short)
    tmu_jax.unlearn("random_labeling", first, now, key=KEY, recipe=short)
    second = tmu_jax.data.forget_indices(data, [2, 3], removed=[0, 1])
    then = tmu_jax.unlearn("finetune", second, now, key=KEY, recipe=short)
    untouched = tmu_jax.unlearn("original", first, original, key=KEY)
    tmu_jax.unlearn("finetune", second, untouched, key=KEY, recipe=short)  # it forgot nothing
    patch_everywhere(monkeypatch, training.fit, lambda *args, **kwargs: pytest.fail("trained"))
    for method, model, request, count in (
        ("finetune", now, tmu_jax.data.forget_indices(data, [2, 3]), 2),
        ("retrain", then, tmu_jax.data.forget_indices(data, [4], removed=[2, 3]), 2),
        ("twin", then, tmu_jax.data.forget_indices(data, [0, 4], removed=[2, 3]), 1),
    ):
        with pytest.raises(ValueError, match=f"problem holds {count} training images that the model forgot before"):
            tmu_jax.unlearn(method, request, model, key=KEY)


def test_what_a_model_forgot_is_known_after_it_was_pickled_or_saved(problem, original, tmp_path):
    first = tmu_jax.unlearn("finetune", problem, original, key=jax.random.key(0))
    rows = problem.forget.indices
    second = tmu_jax.data.forget_indices(tiny_data(), problem.retain.indices[:3], removed=rows)
    last = tmu_jax.unlearn("finetune", second, first, key=jax.random.key(1))
    last.save(tmp_path / "model")
    asked = tmu_jax.data.forget_indices(tiny_data(), problem.retain.indices[5:7])
    for model in (last, pickle.loads(pickle.dumps(last)), tmu_jax.load(tmp_path / "model", TinyNet())):
        with pytest.raises(ValueError, match=f"holds {len(rows) + 3} training images that the model forgot before"):
            tmu_jax.unlearn("finetune", asked, model, key=jax.random.key(2))
    again = pickle.loads(pickle.dumps(tmu_jax.load(tmp_path / "model", TinyNet())))
    np.testing.assert_array_equal(again.forgotten_before, np.union1d(rows, second.forget.indices))


def test_a_later_request_has_its_own_seconds_and_notes(problem, original):
    short = dataclasses.replace(SHORT, epochs=1)
    first = tmu_jax.unlearn("finetune", problem, original, key=KEY, recipe=short)
    earlier = dataclasses.replace(first, seconds_by_part={"bank": 1e6}, notes=("of the first request",))
    second = tmu_jax.data.forget_indices(tiny_data(), problem.retain.indices[:3], removed=problem.forget.indices)
    for method in ("finetune", "ssd"):
        recipe = {"recipe": short} if method == "finetune" else {}
        later = tmu_jax.unlearn(method, second, earlier, key=KEY, **recipe)
        assert set(later.seconds_by_part) == {"unlearning"}
        assert 0 < later.seconds < 1e5
        assert "of the first request" not in later.notes


# One that trains and one that does not; the others are alike in this.
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in ("ssd", "salun") else [pytest.mark.slow]) for name in RIVALS]
)
def test_rivals_leave_the_original_and_keep_what_it_is(problem, original, name):
    """By the model of a request within classes, with batch norm; the same bits from the same key."""
    before = jax.tree.map(np.array, original.variables)
    options = {"recipe": dataclasses.replace(METHODS[name].recipe, epochs=1)} if METHODS[name].recipe else {}
    options |= {"noise_images": 8} if name == "unsir" else {"alpha": 1.5} if name == "ssd" else {}
    one, again = (tmu_jax.unlearn(name, problem, original, key=KEY, **options) for _ in range(2))
    chex.assert_trees_all_equal(before, original.variables)
    chex.assert_trees_all_equal(one.variables, again.variables)
    changed = [np.any(a != b) for a, b in zip(*map(jax.tree.leaves, (before, one.variables)), strict=True)]
    assert any(changed)
    assert one.recipe == original.recipe
    assert one.seconds == one.seconds_by_part["unlearning"] > 0
    assert jax.tree.structure(one.variables) == jax.tree.structure(original.variables)


@pytest.mark.slow
@pytest.mark.parametrize("name", RIVALS)
def test_rivals_take_a_whole_class_one_image_and_half_precision(name, original):
    data = tiny_data()
    whole = tmu_jax.data.forget_subset(data, target_classes=[1], num_forget="all")
    single = tmu_jax.data.forget_indices(data, [5])
    plain = tmu_jax.train(PlainNet(), single.train, recipe=SHORT, key=jax.random.key(0))
    halves = jax.tree.map(lambda leaf: leaf.astype(jnp.float16), plain.variables)
    options = {"noise_images": 8} if name == "unsir" else {}
    for problem in (whole, single):
        for model in (original, plain, tmu_jax.wrap(PlainNet(), halves, recipe=SHORT)):
            with jax.numpy_dtype_promotion("standard"):  # the module multiplies float32 by its float16
                found = tmu_jax.unlearn(name, problem, model, key=KEY, **options)
                assert np.isfinite(tmu_jax.predict(found, problem.train)[0]).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", RIVALS)
def test_rivals_take_images_on_demand(name, problem, original):
    """The same bits as of images in memory."""
    pytest.importorskip("grain")
    data = tiny_data()
    lazy = tmu_jax.data.from_arrays(
        tmu_jax.data.on_demand(data.train_images), data.train_labels, data.test_images, data.test_labels
    )
    same = tmu_jax.data.forget_subset(lazy, target_classes=[1, 2], num_forget=8)
    options = {"noise_images": 8} if name == "unsir" else {"alpha": 1.5} if name == "ssd" else {}
    found = [tmu_jax.unlearn(name, one, original, key=KEY, **options).variables for one in (problem, same)]
    chex.assert_trees_all_equal(*found)


def test_copies_that_stay_are_in_the_notes_unless_a_ledger_told_of_them(original):
    data = tiny_data()
    images = data.train_images.copy()
    images[40] = images[3]
    copied = tmu_jax.data.from_arrays(images, data.train_labels, data.test_images, data.test_labels)
    problem = tmu_jax.data.forget_indices(copied, [3])
    found = tmu_jax.unlearn("finetune", problem, original, key=jax.random.key(0))
    assert any("40" in note and "3" in note for note in set(found.notes) - set(problem.notes))
    told = dataclasses.replace(problem, request=1)
    assert tmu_jax.unlearn("finetune", told, original, key=jax.random.key(0)).notes == problem.notes


def test_a_model_of_other_images_is_refused(problem, original):
    other = TinyNet(num_classes=7)
    variables = other.init(jax.random.key(0), jnp.zeros((1, *problem.pool.images.shape[1:])))
    for model, said in (
        (dataclasses.replace(original, normalization=Normalization(np.zeros(2), np.ones(2))), "of 2 channels"),
        (tmu_jax.wrap(other, variables, recipe=Recipe(epochs=1)), "has 7 outputs"),
    ):
        with pytest.raises(ValueError, match=f"the model does not fit the images: .*{said}"):
            tmu_jax.unlearn("finetune", problem, model, key=jax.random.key(0))
        with pytest.raises(ValueError, match="the model does not fit the images"):
            tmu_jax.prepare(model, tiny_data(), key=jax.random.key(0))


def test_original_is_untouched(problem, original):
    same = tmu_jax.unlearn("original", problem, original, key=KEY)
    chex.assert_trees_all_equal(same.variables, original.variables)
    assert same.seconds == 0


def test_sanity_of_the_baselines(problem, original):
    """Random labeling drives the forget accuracy far down; fine-tuning does not."""
    longer = dataclasses.replace(SHORT, epochs=15, learning_rate=0.05)
    accuracy = {}
    for name in ("original", "finetune", "random_labeling"):
        options = {} if name == "original" else {"recipe": longer}
        model = tmu_jax.unlearn(name, problem, original, key=KEY, **options)
        accuracy[name] = tmu_jax.evaluate(problem, model).readouts.forget_accuracy
    assert accuracy["random_labeling"] < accuracy["original"] - 40
    assert accuracy["finetune"] > accuracy["random_labeling"] + 40


def test_twin_methods_report_labels_and_every_part(problem, original):
    settings = twin.TwinSettings(
        twin_recipe=Recipe(epochs=1, batch_size=20, schedule="constant"), max_twin_epochs=2, eps_candidates=(2 / 255,)
    )
    unlearned = tmu_jax.unlearn("twin", problem, original, key=KEY, settings=settings, recipe=SHORT)
    labels = unlearned.generalization_labels
    np.testing.assert_array_equal(labels["index"], problem.forget.indices)
    np.testing.assert_array_equal(labels["easy"], labels["probability"] >= 0.5)
    assert set(unlearned.seconds_by_part) == {"twin_model", "curriculum", "features", "predictor", "unlearning"}
    assert unlearned.seconds == pytest.approx(sum(unlearned.seconds_by_part.values()))
    again = tmu_jax.unlearn(
        "twin_negative_gradient", problem, original, key=KEY, prediction=unlearned.prediction, recipe=SHORT
    )
    np.testing.assert_array_equal(again.generalization_labels, labels)


def test_methods_without_labels_say_so(problem, original):
    with pytest.raises(ValueError, match="original"):
        _ = tmu_jax.unlearn("original", problem, original, key=KEY).generalization_labels


def test_a_users_own_method_by_name_and_as_it_is(problem, original, monkeypatch):
    def relabel(problem, original, key):
        return tmu_jax.Relabelling(
            training.Stream((problem.retain.indices[:40],)),
            tmu_jax.true_targets(problem),
            tmu_jax.equal_weights(problem),
        )

    mine = tmu_jax.Method("mine", relabel, SHORT)
    monkeypatch.setitem(METHODS, "mine", mine)
    by_name, as_it_is = (tmu_jax.unlearn(m, problem, original, key=KEY) for m in ("mine", mine))
    chex.assert_trees_all_equal(by_name.variables, as_it_is.variables)
    assert by_name.method == "mine"


def test_a_module_without_batch_norm_unlearns_too(problem):
    original = tmu_jax.train(PlainNet(), problem.train, recipe=SHORT, key=jax.random.key(0))
    assert set(original.variables) == {"params"}
    unlearned = tmu_jax.unlearn(
        "bad_teacher", problem, original, key=KEY, recipe=dataclasses.replace(SHORT, optimizer="adam")
    )
    assert set(unlearned.variables) == {"params"}


def test_a_method_that_is_no_relabelling(problem, original):
    """`run` gets the request, the recipe and the options; what it returns is the unlearned model."""
    seen = []

    def shrink(problem, original, key, *, progress, factor):
        seen.append((len(problem.forget), factor))
        smaller = jax.tree.map(lambda leaf: factor * leaf, original.variables["params"])
        return dataclasses.replace(original, variables={**original.variables, "params": smaller})

    method = tmu_jax.Method("shrink", run=shrink, options={"factor": 0.5})
    model = tmu_jax.unlearn(method, problem, original, key=KEY, factor=0.25)
    assert seen == [(len(problem.forget), 0.25)]
    assert set(model.seconds_by_part) == {"unlearning"}
    expected = jax.tree.map(lambda leaf: 0.25 * leaf, original.variables["params"])
    chex.assert_trees_all_equal(model.variables["params"], expected)
    np.testing.assert_array_equal(model.forget_indices, problem.forget.indices)


def test_what_cannot_be_trained_on_is_refused_by_name(problem, original):
    """An empty group would be waited for without end; short weights would be read beyond their end."""
    arguments = [original.module, original.variables, original.normalization, problem.pool]
    targets, weights = tmu_jax.true_targets(problem), tmu_jax.equal_weights(problem)
    whole = training.Stream((problem.retain.indices,))
    for stream, targets_, weights_, words in (
        (training.Stream((problem.retain.indices[:0],)), targets, weights, r"groups of \[0\] rows"),
        (training.Stream((problem.retain.indices,), (0.5, 0.5)), targets, weights, "give each share a group"),
        (whole, targets[:10], weights, "targets has shape"),
        (whole, targets, weights[:10], "weights has shape"),
    ):
        with pytest.raises(ValueError, match=words):
            training.fit(*arguments, stream, targets_, weights_, SHORT, KEY)


def test_the_published_defaults():
    """Changed silently, any of these changes every table."""
    sgd = {"optimizer": "sgd", "schedule": "cosine", "weight_decay": 5e-4}
    constant = {**sgd, "schedule": "constant"}
    expected = {
        "finetune": ({"epochs": 5, "batch_size": 128, "learning_rate": 0.02, **sgd}, {}),
        "negative_gradient": ({"epochs": 5, "batch_size": 128, "learning_rate": 0.01, **sgd}, {"alpha": 0.95}),
        "random_labeling": ({"epochs": 5, "batch_size": 64, "learning_rate": 0.01, **sgd}, {}),
        "bad_teacher": (
            {"epochs": 1, "batch_size": 256, "learning_rate": 1e-4, "optimizer": "adam", "weight_decay": 0.0},
            {"retain_share": 0.3},
        ),
        "twin": ({"epochs": 5, "batch_size": 64, "learning_rate": 0.01, **sgd}, {}),
        "twin_negative_gradient": ({"epochs": 5, "batch_size": 64, "learning_rate": 0.01, **sgd}, {"alpha": 0.95}),
        "scrub": (
            {"epochs": 3, "batch_size": 256, "learning_rate": 5e-4, **constant},
            {"alpha": 0.001, "gamma": 0.99, "temperature": 4, "max_epochs": 2, "forget_batch": 512, "rewind": False},
        ),
        "salun": ({"epochs": 10, "batch_size": 256, "learning_rate": 0.01, **constant}, {"share": 0.5}),
        "l1_sparse": ({"epochs": 10, "batch_size": 256, "learning_rate": 0.01, **constant}, {"gamma": 1e-4}),
        "unsir": (
            {"epochs": 1, "batch_size": 256, "learning_rate": 0.01, "optimizer": "adam", "weight_decay": 0.0},
            {"noise_images": 256, "noise_steps": 40, "noise_rate": 0.1, "penalty": 0.1}
            | {"copies": 20, "per_class": 1000, "impair": 2.0},
        ),
        "datamodel_matching": (
            {"epochs": 5, "batch_size": 512, "learning_rate": 5e-4, "schedule": "constant"}
            | {"optimizer": "adam", "weight_decay": 0.0},
            {"replay": 3.0, "ridge": 1.0},
        ),
        "ssd": ({}, {"alpha": 10, "dampening": 1, "group": 1}),
        "fisher": ({}, {"alpha": 1e-6, "power": 0.5, "most": 1000}),
        "influence": ({}, {"damping": 0.01, "iterations": 20, "scale": 1, "curvature_images": 1024}),
        "amnesiac": ({}, {"statistics": 1, "repair": 0}),
        "sisa": ({}, {"shards": 5, "slices": 1}),
        "ntk": ({}, {"ridge": 5e-4, "iterations": 20, "scale": 1, "retained": 0, "noise": 0}),
    }
    for name, (recipe, options) in expected.items():
        method = METHODS[name]
        assert {field: getattr(method.recipe, field) for field in recipe} == recipe, name
        assert method.options == options, name
    assert {name for name, method in METHODS.items() if method.recipe is None} == {
        "original",
        "retrain",
        "rewarm_rehearsed",
        "ssd",
        "fisher",
        "influence",
        "amnesiac",
        "ntk",
    }
    assert {name for name, method in METHODS.items() if method.needs == "prediction"} == {
        "twin",
        "twin_negative_gradient",
    }


def test_unknown_names_and_bad_options_are_refused(problem, original, monkeypatch):
    """Before anything is trained, however late the value would be used."""
    patch_everywhere(monkeypatch, training.fit, lambda *args, **kwargs: pytest.fail("trained"))
    prediction = twin.all_hard(problem)
    with pytest.raises(ValueError, match="recpie=1 is no option of method 'twin'; it has: none"):
        tmu_jax.unlearn("twin", problem, original, key=KEY, recpie=1)
    with pytest.raises(ValueError, match=r"beta=1 is no option .* it has: alpha"):
        tmu_jax.unlearn("twin_negative_gradient", problem, original, key=KEY, beta=1)
    with pytest.raises(ValueError, match="alpha=0"):
        tmu_jax.unlearn("twin_negative_gradient", problem, original, key=KEY, alpha=0.0)
    with pytest.raises(ValueError, match="does not fine-tune"):
        tmu_jax.unlearn("retrain", problem, original, key=KEY, recipe=SHORT)
    with pytest.raises(ValueError, match="needs no generalization labels"):
        tmu_jax.unlearn("finetune", problem, original, key=KEY, prediction=prediction)
    other = tmu_jax.data.forget_subset(tiny_data(), target_classes=[1], num_forget=3)
    with pytest.raises(ValueError, match="of 16 images, the request of 3"):
        tmu_jax.unlearn("twin", other, original, key=KEY, prediction=prediction)
    with pytest.raises(ValueError, match="Method"):
        tmu_jax.unlearn(lambda *args: None, problem, original, key=KEY)
    for name in ("", "a/b", "../up", "a b", "x" * 65):
        with pytest.raises(ValueError, match="name="):
            tmu_jax.Method(name, lambda *args: None, SHORT)
    with pytest.raises(ValueError, match="one of relabel and run"):
        tmu_jax.Method("both", lambda *args: None, SHORT, run=lambda *args: None)
    for values, words in (
        ({"needs": "labels"}, "needs='labels'"),
        ({"reference": "golden"}, "reference='golden'"),
        ({"options": {"key": 1}}, "'key'"),
    ):
        with pytest.raises(ValueError, match=words):
            tmu_jax.Method("mine", lambda *args: None, SHORT, **values)
    with pytest.raises(ValueError, match="beside a prediction"):
        tmu_jax.unlearn("twin", problem, original, key=KEY, prediction=prediction, exclude=problem.forget.indices)
    with pytest.raises(ValueError, match="needs a recipe"):
        tmu_jax.Method("bare", lambda *args: None)
    with pytest.raises(ValueError, match=r"method='scrubs' is unknown; choose one of .*'scrub'"):
        tmu_jax.unlearn("scrubs", problem, original, key=KEY)
    with pytest.raises(ValueError, match="alpha"):
        tmu_jax.unlearn("negative_gradient", problem, original, key=KEY, alpha=1.5)
    with pytest.raises(ValueError, match="retain_share"):
        tmu_jax.unlearn("bad_teacher", problem, original, key=KEY, retain_share=0.0)
    for method in ("rewarm", "soft_twin", "rewarm_twin"):
        with pytest.raises(ValueError, match="makes its own of the training's and its options"):
            METHODS[method].configured(SHORT)
    odd = dataclasses.replace(SHORT, batch_size=33)
    for method in ("negative_gradient", "twin_negative_gradient"):
        with pytest.raises(ValueError, match="batch_size=33 must be even"):
            tmu_jax.unlearn(method, problem, original, key=KEY, recipe=odd)
    for changes in ({"curriculum": "first_epoch"}, {"curriculum_data": "train"}):
        settings, rows = twin.TwinSettings(**changes), problem.retain.indices[:3]
        name, value = next(iter(changes.items()))
        with pytest.raises(ValueError, match=f"exclude has no use with {name}='{value}'"):
            tmu_jax.unlearn("twin", problem, original, key=KEY, settings=settings, exclude=rows)
        with pytest.raises(ValueError, match=f"exclude has no use with {name}='{value}'"):
            tmu_jax.predict_generalization(problem, original, KEY, settings, exclude=rows)


def test_whole_numbers_are_integers_whatever_they_were_given_as():
    assert METHODS["ssd"].configured(None, {"group": 2.0}).options["group"].__index__() == 2
    found = METHODS["unsir"].configured(None, {"copies": np.float32(2), "per_class": np.int64(5), "impair": 1})
    assert [type(found.options[name]) for name in ("copies", "per_class")] == [int, int]
    with pytest.raises(ValueError, match=r"group=1\.5"):
        METHODS["ssd"].configured(None, {"group": 1.5})
    with pytest.raises(ValueError, match="epochs=True of method 'rewarm' must be a finite number"):
        METHODS["rewarm"].configured(None, {"epochs": True})


@pytest.mark.parametrize(
    ("name", "once"),
    [
        ("bad_teacher", lambda problem: (0.3 * len(problem.retain) + len(problem.forget)) / 3),
        ("datamodel_matching", lambda problem: 4 * len(problem.forget) / 3),
        ("salun", lambda problem: len(problem.forget)),
        ("unsir", lambda problem: 256 * 2 * 40),
        ("scrub", lambda problem: 2 * len(problem.forget) + len(problem.train) / 3),
        ("finetune", lambda problem: 0),
    ],
)
def test_what_is_done_once_is_counted_once(problem, name, once):
    """A pass of predictions is a third of one of training."""
    work = [METHODS[name].configured(dataclasses.replace(SHORT, epochs=n)).work(problem) for n in (2, 3)]
    assert 3 * work[0] - 2 * work[1] == pytest.approx(once(problem), abs=1e-6)


TWIN = twin.TwinSettings(
    twin_recipe=Recipe(epochs=1, batch_size=20, schedule="constant"), max_twin_epochs=2, eps_candidates=(2 / 255,)
)


def last_fit(monkeypatch, *arguments, **options):
    """What `unlearn` gives to the last `fit`, which is its own; the fits before it are kept, too."""
    calls, fit = [], training.fit

    def spied(module, variables, normalization, pool, stream, targets, weights, recipe, key, **rest):
        calls.append((variables, recipe))
        return fit(module, variables, normalization, pool, stream, targets, weights, recipe, key, **rest)

    with monkeypatch.context() as patched:
        patch_everywhere(patched, fit, spied)
        found = tmu_jax.unlearn(*arguments, key=KEY, settings=TWIN, recipe=SHORT, **options)
    return found, calls


def test_unlearning_starts_from_the_twin_model_where_it_is_told_to(problem, original, monkeypatch):
    kept = {}
    train_twin = twin.train_twin

    def spied(*arguments):
        kept["twin"] = train_twin(*arguments)
        return kept["twin"]

    patch_everywhere(monkeypatch, train_twin, spied)
    for start in ("original", "twin"):
        method = dataclasses.replace(METHODS["twin"], start=start)
        found, calls = last_fit(monkeypatch, method, problem, original)
        begun = calls[-1][0]
        chex.assert_trees_all_equal(begun, original.variables if start == "original" else kept["twin"].variables)
        assert found.original is original
        assert found.recipe == original.recipe
    with pytest.raises(AssertionError):
        chex.assert_trees_all_equal(kept["twin"].variables, original.variables)
    with pytest.raises(ValueError, match="starts from the twin model"):
        tmu_jax.unlearn(method, problem, original, key=KEY, prediction=found.prediction, recipe=SHORT)


def test_noise_is_on_the_images_of_the_unlearning_alone(problem, original, monkeypatch):
    quiet, without = last_fit(monkeypatch, "twin", problem, original)
    noisy, calls = last_fit(monkeypatch, dataclasses.replace(METHODS["twin"], image_noise=0.1), problem, original)
    assert [recipe.augment for _, recipe in without] == [False] * len(without)
    assert [recipe.augment for _, recipe in calls[:-1]] == [False] * (len(calls) - 1)
    assert calls[-1][1].augment == training.NoisyImages(0.1)
    np.testing.assert_array_equal(noisy.prediction.probability, quiet.prediction.probability)
    assert noisy.recipe == original.recipe
    again, _ = last_fit(monkeypatch, dataclasses.replace(METHODS["twin"], image_noise=0.1), problem, original)
    chex.assert_trees_all_equal(noisy.variables, again.variables)
    with pytest.raises(AssertionError):
        chex.assert_trees_all_close(noisy.variables, quiet.variables)


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("finetune", {"start": "twin"}, "start='twin'"),
        ("twin", {"start": "gold"}, "start='gold'"),
        ("twin", {"image_noise": -0.1}, "image_noise=-0.1"),
        ("twin", {"image_noise": 2.0}, "image_noise=2.0"),
        ("ssd", {"image_noise": 0.1}, "without a recipe"),
    ],
)
def test_a_start_or_a_noise_that_cannot_be_is_refused(name, changes, said):
    with pytest.raises(ValueError, match=said):
        dataclasses.replace(METHODS[name], **changes)
