"""The twin problem, part by part: what each model is trained on, which model measures what, and the labels."""

import dataclasses

import chex
import jax
import numpy as np
import pytest

import tmu_jax
from tests.patching import patch_everywhere
from tests.tiny import TinyNet, tiny_data
from tmu_jax import training, twin
from tmu_jax.data import Split
from tmu_jax.stages import given, ignore_progress
from tmu_jax.statistics import separation
from tmu_jax.training import Recipe
from tmu_jax.twin import ProblemFeatures, TwinSettings, predictor
from tmu_jax.twin import features as feature_functions
from tmu_jax.twin import settings as twin_settings

KEY = jax.random.key(7)
QUICK = TwinSettings(
    twin_recipe=Recipe(epochs=2, batch_size=20, learning_rate=0.05, schedule="constant"), eps_candidates=(0.02, 0.1)
)


@pytest.fixture(scope="module")
def data():
    """So noisy that a model can know its training images and still be wrong on a quarter of the others."""
    rng, clear = np.random.default_rng(1), tiny_data(num_train=400, num_test=160)
    train, test = (
        np.clip(images + rng.normal(0, 130, images.shape), 0, 255).astype(np.uint8)
        for images in (clear.train_images, clear.test_images)
    )
    return tmu_jax.data.from_arrays(train, clear.train_labels, test, clear.test_labels)


@pytest.fixture(scope="module")
def problem(data):
    return tmu_jax.data.forget_subset(data, target_classes=[1, 2], num_forget=30)


@pytest.fixture(scope="module")
def mixed(data):
    """All of class 3 and a part of class 1, in alternating order."""
    whole, part = (np.flatnonzero(data.train_labels == c) for c in (3, 1))
    rows = np.concatenate([np.stack([whole[:25], part[:25]], axis=1).ravel(), whole[25:]])
    problem = tmu_jax.data.forget_indices(data, rows, ratio="all")
    assert problem.whole_classes == (3,)
    return problem


@pytest.fixture(scope="module")
def original(problem):
    recipe = Recipe(epochs=8, batch_size=20, learning_rate=0.05)
    return tmu_jax.train(TinyNet(width=32), problem.train, recipe=recipe, key=jax.random.key(0))


@pytest.fixture
def no_training(monkeypatch):
    def forbidden(*_, **__):
        raise AssertionError("nothing is to be trained")

    for function in (training.fit, training.train, training.predict, predictor.fit):
        patch_everywhere(monkeypatch, function, forbidden)


def features_of(problem, twin_features, original_features, easy, whole=()):
    assert len(twin_features) == (~np.isin(problem.heldout.labels, whole)).sum()
    assert len(original_features) == (~np.isin(problem.forget.labels, whole)).sum()
    return ProblemFeatures(
        np.asarray(twin_features, np.float32), np.asarray(original_features, np.float32), np.asarray(easy), 0.02, (0.1,)
    )


def separable(problem, hard_share=0.3, column=0, whole=(), seed=0):
    """Features of which one tells hard from easy, on a scale of its own for each class, and the answers."""
    rng = np.random.default_rng(seed)

    def draw(labels):
        hard = np.zeros(len(labels), bool)
        for c in np.unique(labels):
            of_class = np.flatnonzero(labels == c)
            hard[rng.permutation(of_class)[: round(hard_share * len(of_class))]] = True
        values = rng.uniform(0, 1, (len(labels), 3))
        values[:, column] = (10.0**labels) * (1 + hard + rng.uniform(-0.3, 0.3, len(labels)))
        return values, hard

    heldout = problem.heldout.labels[~np.isin(problem.heldout.labels, whole)]
    forget = problem.forget.labels[~np.isin(problem.forget.labels, whole)]
    (of_twin, twin_hard), (of_original, original_hard) = draw(heldout), draw(forget)
    return features_of(problem, of_twin, of_original, ~twin_hard, whole), original_hard


# Settings


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("twin_replay", 0.0),
        ("twin_replay", 1.5),
        ("curriculum_share", 0.0),
        ("curriculum_share", -0.1),
        ("features", ()),
        ("features", ("NF", "XF")),
        ("features", ("NF", "NF")),
        ("scaling", "both"),
        ("threshold", 0.5),
        ("curriculum_data", "all"),
        ("predictor_epochs", 0),
        ("attack_order", "clean"),
        ("eps_candidates", ()),
        ("eps_candidates", (1.0, 2.0)),
        ("eps_candidates", (0.0,)),
    ],
)
def test_settings_refuse_what_cannot_work(field, value):
    with pytest.raises((ValueError, TypeError), match=field):
        TwinSettings(**{field: value})


def test_default_settings_are_the_papers():
    settings = TwinSettings()
    recipe = settings.twin_recipe
    assert (recipe.learning_rate, recipe.batch_size, recipe.epochs, recipe.optimizer) == (0.01, 128, 5, "sgd")
    assert (settings.num_neighbors, settings.attack_steps, settings.curriculum_epochs) == (5, 5, 2)
    np.testing.assert_allclose(np.array(settings.eps_candidates) * 255, [0.25, 0.5, 1, 2, 4])


# The twin model


def capture_fit(monkeypatch):
    """Replaces `fit` by a function that keeps its arguments and trains nothing."""
    calls = []

    def fit(module, variables, normalization, pool, stream, targets, weights, recipe, key, **options):
        calls.append(locals())
        return variables, [0.0]

    patch_everywhere(monkeypatch, training.fit, fit)
    return calls


@pytest.mark.parametrize("source", ["test", "train"])
def test_twin_model_is_fine_tuned_on_d_and_d_test_with_true_labels(data, original, monkeypatch, source):
    problem = tmu_jax.data.forget_subset(data, target_classes=[1, 2], num_forget=30, heldout_source=source)
    calls = capture_fit(monkeypatch)
    twin.train_twin(problem, original, KEY)
    (call,) = calls
    (rows,), shares = call["stream"]
    assert shares == (1.0,)
    assert sorted(rows) == sorted([*problem.train.indices, *problem.heldout.indices])
    assert len(np.unique(rows)) == len(rows)
    assert np.isin(problem.forget.indices, rows).all()
    assert call["variables"] is original.variables
    assert call["normalization"] is original.normalization
    assert call["pool"] is problem.pool
    np.testing.assert_array_equal(call["targets"][rows], np.eye(4)[problem.pool.labels[rows]])
    np.testing.assert_array_equal(call["weights"][rows], 1)
    assert call["options"]["max_epochs"] == 10
    assert call["recipe"] == twin_settings.TWIN_RECIPE


def test_twin_replay_draws_a_share_of_d_and_all_of_d_test(problem, original, monkeypatch):
    calls = capture_fit(monkeypatch)
    for key in (KEY, KEY, jax.random.key(8)):
        twin.train_twin(problem, original, key, TwinSettings(twin_replay=0.25))
    drawn = []
    for call in calls:
        rows = call["stream"].groups[0]
        assert np.isin(problem.heldout.indices, rows).all()
        drawn.append(np.setdiff1d(rows, problem.heldout.indices))
        assert len(drawn[-1]) == 100 == len(rows) - len(problem.heldout)
        assert np.isin(drawn[-1], problem.train.indices).all()
    np.testing.assert_array_equal(drawn[0], drawn[1])
    # Two independent draws of 100 of 400 share 25 on average.
    assert len(np.intersect1d(drawn[0], drawn[2])) < 50


def test_twin_model_is_tuned_on_other_images_than_the_features_are_of(data, original, monkeypatch):
    """With a share of D apart: M_t sees those of its classes, not D_test; features and labels are of D_test alone."""
    problem = tmu_jax.data.forget_subset(data, target_classes=[1, 2], num_forget=30, tuned_share=0.25)
    with monkeypatch.context() as patched:
        calls = capture_fit(patched)
        twin.train_twin(problem, original, KEY)
    rows = calls[0]["stream"].groups[0]
    assert sorted(rows) == sorted([*problem.train.indices, *problem.tuned.indices])
    assert not np.isin(problem.heldout.indices, rows).any()
    found = twin.measure_features(problem, original, original, (original,) * 2, QUICK)
    assert found.twin.shape == (len(problem.heldout), 3)
    right = training.predict(original, problem.heldout)[0].argmax(-1) == problem.heldout.labels
    np.testing.assert_array_equal(found.easy, right)
    # What M_t knows is asked of the images that it was tuned on.
    accuracy = 100 * np.mean(training.predict(original, problem.tuned)[0].argmax(-1) == problem.tuned.labels)
    assert accuracy < QUICK.enough_accuracy
    assert any(f"{accuracy:.1f} % of the images it was tuned on" in note for note in found.notes)


def test_twin_model_leaves_out_what_is_held_out_for_whole_classes(mixed, original, monkeypatch):
    calls = capture_fit(monkeypatch)
    twin.train_twin(mixed, original, KEY)
    of_class_1 = mixed.heldout.indices[mixed.heldout.labels == 1]
    assert sorted(calls[0]["stream"].groups[0]) == sorted([*mixed.train.indices, *of_class_1])


@pytest.mark.parametrize(
    ("correct", "epochs"), [([100], 2), ([95], 2), ([94, 95, 0], 3), ([94, 94, 94, 96], 5), ([0, 0, 0, 0, 0], 5)]
)
def test_twin_model_goes_on_while_it_is_below_95_percent(data, original, monkeypatch, correct, epochs):
    """After the recipe's two epochs, and after each further one, it is asked for its accuracy on D_test."""
    problem = tmu_jax.data.forget_subset(data, target_classes=[0, 1, 2, 3], num_forget=20)
    assert len(problem.heldout) == 100
    answers = iter(correct)

    def predict(model, split):
        assert set(split.indices) == set(problem.heldout.indices)
        right = np.arange(100) < next(answers)
        return np.eye(4)[np.where(right, split.labels, (split.labels + 1) % 4)], None

    patch_everywhere(monkeypatch, training.predict, predict)
    settings = dataclasses.replace(QUICK, max_twin_epochs=5)
    assert len(twin.train_twin(problem, original, KEY, settings).losses) == epochs


def test_a_recipe_longer_than_the_most_epochs_is_run_in_full(problem, original):
    settings = dataclasses.replace(QUICK, max_twin_epochs=1)
    assert len(twin.train_twin(problem, original, KEY, settings).losses) == 2


@pytest.fixture(scope="module")
def twin_model(problem, original):
    return twin.train_twin(problem, original, KEY, dataclasses.replace(QUICK, max_twin_epochs=40))


def test_twin_model_knows_d_test_and_leaves_the_original_alone(problem, original, twin_model):
    accuracy = {
        name: np.mean(tmu_jax.predict(model, problem.heldout)[0].argmax(-1) == problem.heldout.labels)
        for name, model in (("original", original), ("twin", twin_model))
    }
    assert accuracy["original"] < 0.95 <= accuracy["twin"]
    again = tmu_jax.train(original.module, problem.train, recipe=original.recipe, key=jax.random.key(0))
    chex.assert_trees_all_equal(again.variables, original.variables)
    assert twin_model.seconds > 0
    assert twin_model.recipe.learning_rate == 0.05


@pytest.mark.parametrize(("enough", "is_warned"), [(0.0, False), (100.0, True)])
def test_a_twin_model_that_does_not_know_d_test_is_in_the_notes(problem, original, enough, is_warned):
    """Here M_o stands in for the twin model: it was never shown D_test, and gets some of it wrong."""
    right = tmu_jax.predict(original, problem.heldout)[0].argmax(-1) == problem.heldout.labels
    assert not right.all()
    settings = dataclasses.replace(QUICK, enough_accuracy=enough)
    features = twin.measure_features(problem, original, original, (original, original), settings)
    warnings = [note for note in features.notes if f"{100 * right.mean():.1f} % of D_test" in note]
    assert len(warnings) == int(is_warned)
    prediction = twin.predict_labels(problem, features, KEY, settings)
    assert set(features.notes) <= set(prediction.notes)


def with_wrong_labels():
    """A data set in which 30 images of class 1 are called 2, and their rows."""
    data = tiny_data(num_train=400, num_test=160)
    rows = np.flatnonzero(data.train_labels == 1)[:30]
    labels = data.train_labels.copy()
    labels[rows] = 2
    return tmu_jax.data.from_arrays(data.train_images, labels, data.test_images, data.test_labels), rows


def test_images_that_are_drawn_otherwise_are_in_the_notes():
    """Learnt by heart under wrong labels: the curriculum model, which never saw them, finds them far harder."""
    changed, rows = with_wrong_labels()
    for asked, is_warned in ((rows, True), (np.flatnonzero(changed.train_labels == 2)[60:90], False)):
        problem = tmu_jax.data.forget_indices(changed, asked, ratio="all")
        recipe = Recipe(epochs=8, batch_size=20, learning_rate=0.05)
        original = tmu_jax.train(TinyNet(width=32), problem.train, recipe=recipe, key=jax.random.key(0))
        found = tmu_jax.unlearn("twin", problem, original, key=KEY, settings=QUICK)
        assert any("D_f is not drawn like D_test" in note for note in found.notes) == is_warned


def test_copies_made_by_augmentation_are_no_draws(original, monkeypatch):
    """Whether D_f is drawn like D_test is asked of images alone."""
    problem = tmu_jax.data.forget_indices(tiny_data(num_train=400, num_test=40), range(40))
    assert len(problem.heldout) > len(problem.heldout_images)
    compared = []

    def spy(*args):
        compared.append([len(part) for part in args])
        return separation(*args)

    patch_everywhere(monkeypatch, separation, spy)
    twin.measure_features(problem, original, original, (original,) * 2, QUICK)
    images = len(problem.heldout_images)
    assert compared == [[40, images, 40, images]]


@pytest.mark.parametrize("is_finished", [True, False])
def test_a_finished_model_was_trained_on_a_test_set_that_is_taken_from_its_images(data, is_finished):
    problem = tmu_jax.data.forget_subset(data, target_classes=[1], num_forget=40, heldout_source="train")
    seen = problem.train if not is_finished else Split(problem.pool, np.arange(400, dtype=np.int32))
    recipe = Recipe(epochs=30, batch_size=20, learning_rate=0.1)
    original = tmu_jax.train(TinyNet(width=32), seen, recipe=recipe, key=jax.random.key(0))
    features = twin.measure_features(problem, original, original, (original, original), QUICK)
    assert any("D_test was trained on: M_o is right on" in note for note in features.notes) == is_finished


def test_the_cost_is_that_of_every_part(problem, original):
    curriculum = [dataclasses.replace(original, seconds=s, compile_seconds=0.25) for s in (4.0, 7.0)]
    original = dataclasses.replace(original, seconds=7.0, compile_seconds=0.125)
    found = twin.measure_features(problem, original, original, tuple(curriculum), QUICK)
    parts = dict(found.seconds_by_part)
    own = parts.pop("features")
    assert own > 0
    assert parts == {"twin_model": 7.0, "curriculum": 11.0}
    assert found.compile_seconds >= 0.625
    once = twin.measure_features(problem, original, original, (curriculum[0],) * 2, QUICK)
    assert once.seconds_by_part["curriculum"] == 4.0
    labelled = twin.predict_labels(problem, found, KEY)
    assert {**parts, "features": own}.items() <= labelled.seconds_by_part.items()
    assert labelled.compile_seconds >= found.compile_seconds


# The curriculum model


def capture_train(monkeypatch):
    calls = []

    def train(model, split, **options):
        calls.append((model, split, options))
        return split

    patch_everywhere(monkeypatch, training.train, train)
    return calls


@pytest.mark.parametrize("source", ["test", "train"])
def test_curriculum_images_are_of_d_without_any_forget_set(data, original, monkeypatch, source):
    problem = tmu_jax.data.forget_subset(data, target_classes=[1, 2], num_forget=30, heldout_source=source)
    others = tmu_jax.data.forget_subset(data, target_classes=[0], num_forget=30, heldout_source=source).forget.indices
    calls = capture_train(monkeypatch)
    allowed = set(problem.train.indices) - set(problem.forget.indices) - set(problem.heldout.indices) - set(others)
    for share in (1.0, 0.2):
        settings = TwinSettings(curriculum_share=share)
        twin.train_curriculum(problem, original, KEY, settings, exclude=others)
        module, split, options = calls[-1]
        assert len(set(split.indices)) == len(split) == round(share * len(allowed))
        assert set(split.indices) <= allowed
        assert module is original.module
        assert split.pool is problem.pool
        assert options["recipe"].epochs == 2
        assert options["recipe"].learning_rate == original.recipe.learning_rate


def test_curriculum_images_may_be_all_of_d_or_d_test_too(problem, original, monkeypatch):
    calls = capture_train(monkeypatch)
    others = problem.retain.indices[:50]
    train, heldout = set(problem.train.indices), set(problem.heldout.indices)
    for data, allowed in (("train", train), ("train_and_heldout", train | heldout)):
        settings = TwinSettings(curriculum_data=data, curriculum_share=1.0)
        twin.train_curriculum(problem, original, KEY, settings, exclude=others)
        assert sorted(calls[-1][1].indices) == sorted(allowed)
        assert set(problem.forget.indices) <= set(calls[-1][1].indices)


def test_a_curriculum_model_of_all_of_d_is_shared_by_every_request(data):
    """Its name holds no forget set; with D_test in its images each request has its own."""
    model = given(None, {"given": "M_o"})

    def name(target, curriculum_data):
        problem = tmu_jax.data.forget_subset(data, target_classes=[target], num_forget=30)
        stages = twin.prediction_stage(problem, model, KEY, TwinSettings(curriculum_data=curriculum_data))
        return next(stage.name for stage in stages.with_ancestors() if stage.kind == "curriculum")

    assert name(1, "train") == name(2, "train")
    assert name(1, "unseen") != name(2, "unseen")
    assert name(1, "train_and_heldout") != name(2, "train_and_heldout")


def test_a_curriculum_model_that_saw_one_of_the_two_alone_gives_no_warning():
    """The losses of images that it was trained on lie lower whatever the draw was."""
    changed, rows = with_wrong_labels()
    problem = tmu_jax.data.forget_indices(changed, rows, ratio="all")
    recipe = Recipe(epochs=4, batch_size=20, learning_rate=0.05)
    original = tmu_jax.train(TinyNet(width=32), problem.retain, recipe=recipe, key=jax.random.key(0))
    for curriculum_data, is_warned in (("unseen", True), ("train_and_heldout", True), ("train", False)):
        settings = dataclasses.replace(QUICK, curriculum_data=curriculum_data)
        found = twin.measure_features(problem, original, original, (original,) * 2, settings)
        assert any("not drawn like" in note for note in found.notes) == is_warned


def test_curriculum_draw_is_random_over_classes(problem, original, monkeypatch):
    calls = capture_train(monkeypatch)
    for key in (KEY, KEY, jax.random.key(8)):
        twin.train_curriculum(problem, original, key, TwinSettings(curriculum_share=0.5))
    first, again, other = (split.indices for _, split, _ in calls)
    np.testing.assert_array_equal(first, again)
    # Two halves of 340 share 85 on average; the smallest classes allowed are of 70, of which a half is 35.
    assert 60 < len(np.intersect1d(first, other)) < 110
    assert np.bincount(problem.pool.labels[first], minlength=4).min() > 20


def test_curriculum_without_an_image_is_refused(problem, original, monkeypatch):
    capture_train(monkeypatch)
    with pytest.raises(ValueError, match="exclude"):
        twin.train_curriculum(problem, original, KEY, exclude=problem.retain.indices)


def test_curriculum_model_is_freshly_initialised(problem, original):
    """With a vanishing learning rate its weights are Flax's initial distribution, whatever the original's are."""
    still = dataclasses.replace(original, recipe=dataclasses.replace(original.recipe, learning_rate=1e-12))
    models = [twin.train_curriculum(problem, still, jax.random.key(seed)) for seed in (0, 1)]
    for name, fan_in in (("Dense_0", 48), ("Dense_1", 32)):
        kernels = [np.asarray(model.variables["params"][name]["kernel"]) for model in (*models, original)]
        assert kernels[0].std() == pytest.approx(fan_in**-0.5, rel=0.25)
        for i, j in ((0, 1), (0, 2), (1, 2)):
            assert abs(np.corrcoef(kernels[i].ravel(), kernels[j].ravel())[0, 1]) < 0.5
        for model in models:
            np.testing.assert_allclose(model.variables["params"][name]["bias"], 0, atol=1e-6)
    assert np.abs(original.variables["params"]["Dense_1"]["bias"]).max() > 1e-3


# Features


def test_choose_eps_takes_the_success_share_nearest_the_hard_share():
    shares = (0.02, 0.1, 0.25, 0.6, 0.9)
    for hard_share, expected in ((0.0, 0), (0.07, 1), (0.2, 2), (0.4, 2), (0.45, 3), (0.76, 4), (1.0, 4)):
        assert twin.choose_eps(shares, hard_share) == expected
    assert twin.choose_eps((0.3, 0.1, 0.5), 0.12) == 1


@pytest.mark.parametrize("is_mixed", [False, True])
def test_each_feature_is_measured_by_the_model_of_its_problem(problem, mixed, original, monkeypatch, is_mixed):
    """D_test: the twin model and a bank of D; D_f: the original and a bank of D_r; CF: each problem's own model."""
    problem = mixed if is_mixed else problem
    twin_model, *curricula = (dataclasses.replace(original) for _ in range(3))
    names = {id(original): 1, id(twin_model): 2, id(curricula[0]): 3, id(curricula[1]): 4}
    kept = {
        name: getattr(problem, name).indices[~np.isin(getattr(problem, name).labels, problem.whole_classes)]
        for name in ("heldout", "forget")
    }
    easy = tmu_jax.predict(original, problem.heldout)[0].argmax(-1) == problem.heldout.labels
    easy = easy[~np.isin(problem.heldout.labels, problem.whole_classes)]
    success = {0.01: 0.0, 0.02: float(1 - easy.mean()), 0.03: 1.0}
    tried = []

    def nearest_distance(model, queries, bank, *, k, same_class, normalized):
        assert (same_class, normalized) == (False, False)
        which = {tuple(problem.train.indices): 10, tuple(problem.retain.indices): 20}[tuple(bank.indices)]
        return queries.indices + 1000.0 * names[id(model)] + 10000.0 * which + 1e6 * k

    def adversarial(model, samples, *, eps, num_steps, order, progress):
        tried.append((names[id(model)], eps))
        assert (num_steps, order) == (4, "adversarial_target")
        progress(len(samples) - 1, len(samples))
        progress(len(samples), len(samples))
        values = [samples.indices + 1000.0 * names[id(model)] + 1e6 * radius for radius in np.atleast_1d(eps)]
        successes = [np.arange(len(samples)) < round(success[radius] * len(samples)) for radius in np.atleast_1d(eps)]
        return tuple(np.stack(found).reshape(*np.shape(eps), -1) for found in (values, successes))

    def curriculum_loss(model, samples):
        return samples.indices + 1000.0 * names[id(model)]

    for function in (nearest_distance, adversarial, curriculum_loss):
        patch_everywhere(monkeypatch, getattr(feature_functions, function.__name__), function)
    settings = TwinSettings(
        num_neighbors=3,
        bank="all",
        normalize_embeddings=False,
        attack_steps=4,
        attack_order="adversarial_target",
        eps_candidates=(0.01, 0.02, 0.03),
    )
    calls = []
    got = twin.measure_features(
        problem, original, twin_model, curricula, settings, progress=lambda *call: calls.append(call)
    )
    heldout, forget = kept["heldout"], kept["forget"]
    assert 0 < easy.mean() < 1
    np.testing.assert_array_equal(got.easy, easy)
    assert got.eps == 0.02
    assert got.success_shares == pytest.approx(tuple(success.values()))
    assert tried == [(2, (0.01, 0.02, 0.03)), (1, 0.02)]
    np.testing.assert_allclose(
        got.twin, np.stack([heldout + 2000 + 100_000 + 3e6, heldout + 2000 + 2e4, heldout + 3000], axis=-1)
    )
    np.testing.assert_allclose(
        got.original, np.stack([forget + 1000 + 200_000 + 3e6, forget + 1000 + 2e4, forget + 4000], axis=-1)
    )
    total = len(heldout) + len(forget)
    assert calls == [(done, total) for done in (len(heldout) - 1, len(heldout), total - 1, total)]


def test_every_setting_belongs_to_one_part():
    fields = [field.name for field in dataclasses.fields(TwinSettings)]
    assert sorted(name for names in twin_settings.PARTS.values() for name in names) == sorted(fields)
    parts = {name: TwinSettings().part(name) for name in twin_settings.PARTS}
    assert parts["features"]["bank"] == "class"
    # Parts without the settings that came later keep the names that they had.
    assert "curriculum_data" not in parts["curriculum"]
    assert "predictor_epochs" not in parts["predictor"]
    other = TwinSettings(curriculum_data="train", predictor_epochs=200)
    assert other.part("curriculum") == {**parts["curriculum"], "curriculum_data": "train"}
    assert other.part("predictor") == {**parts["predictor"], "predictor_epochs": 200}
    assert "bank" not in parts["predictor"]


def test_the_first_epochs_models_are_fine_tuned_on_their_own_retain_set(problem, original, monkeypatch):
    """CF of "first_epoch": M_t goes on with D, M_o with D_r, one epoch each, from where they stand."""
    calls = []

    def fit(module, variables, normalization, pool, stream, targets, weights, recipe, key, **options):
        calls.append((variables, stream.groups[0], recipe))
        return {"params": len(calls)}, [0.5]

    patch_everywhere(monkeypatch, training.fit, fit)
    monkeypatch.setattr(jax, "block_until_ready", lambda variables: variables)
    other = dataclasses.replace(original, variables={"params": "M_t"})
    settings = TwinSettings(curriculum="first_epoch")
    prediction = twin.prediction_stage(problem, given(original), KEY, settings)
    stages = {stage.kind: stage for stage in prediction.with_ancestors()}["features"].parents
    of_twin = stages["of_twin"].make(model=other, progress=ignore_progress)
    of_original = stages["of_original"].make(model=original, progress=ignore_progress)
    assert (stages["of_twin"].parents["model"].kind, stages["of_original"].parents["model"].kind) == (
        "twin_model",
        "given",
    )
    assert [call[0] for call in calls] == [other.variables, original.variables]
    np.testing.assert_array_equal(calls[0][1], problem.train.indices)
    np.testing.assert_array_equal(calls[1][1], problem.retain.indices)
    assert all(call[2].epochs == 1 and call[2].learning_rate == 0.02 for call in calls)
    assert (of_twin.variables["params"], of_original.variables["params"]) == (1, 2)


def test_one_fresh_curriculum_model_serves_both_problems(problem, original):
    prediction = twin.prediction_stage(problem, given(original), KEY)
    features = {stage.kind: stage for stage in prediction.with_ancestors()}["features"]
    assert features.parents["of_twin"] is features.parents["of_original"]
    assert [stage.kind for stage in prediction.with_ancestors()].count("curriculum") == 1


def numpy_scaled(values, statistics_of):
    """Winsorised at Tukey's fences and brought to 0..1 by the range of another sample, column by column."""
    columns = []
    for value, reference in zip(values.T, statistics_of.T, strict=True):
        first, third = np.percentile(reference, [25, 75])
        fences = first - 1.5 * (third - first), third + 1.5 * (third - first)
        inside = np.clip(reference, *fences)
        low, high = inside.min(), inside.max()
        columns.append(np.clip((np.clip(value, *fences) - low) / (high - low), 0, 1))
    return np.stack(columns, axis=-1)


@pytest.mark.parametrize(
    ("scaling", "num_forget", "own"),
    [
        (None, (25, 12), (True, False)),
        (None, (20, 19), (True, False)),
        ("per_problem", (25, 12), (True, True)),
        ("twin", (25, 12), (False, False)),
    ],
)
def test_features_are_scaled_class_by_class(scaling, num_forget, own):
    rng = np.random.default_rng(0)
    heldout_labels = rng.permutation(np.repeat([2, 5], [30, 40]))
    forget_labels = rng.permutation(np.repeat([2, 5], num_forget))
    of_twin = rng.lognormal(sigma=1.5, size=(70, 3)) * 10.0 ** heldout_labels[:, None]
    of_original = 3 * rng.lognormal(sigma=1.5, size=(sum(num_forget), 3)) * 10.0 ** forget_labels[:, None]
    features = ProblemFeatures(of_twin.astype(np.float32), of_original.astype(np.float32), np.ones(70, bool), 0.1, ())
    got = twin.scale_features(features, heldout_labels, forget_labels, TwinSettings(scaling=scaling))
    for c, is_own in zip((2, 5), own, strict=True):
        twin_rows, original_rows = heldout_labels == c, forget_labels == c
        np.testing.assert_allclose(got[0][twin_rows], numpy_scaled(of_twin[twin_rows], of_twin[twin_rows]), atol=1e-5)
        reference = of_original[original_rows] if is_own else of_twin[twin_rows]
        np.testing.assert_allclose(
            got[1][original_rows], numpy_scaled(of_original[original_rows], reference), atol=1e-5
        )


def test_a_constant_feature_becomes_zero():
    rng = np.random.default_rng(0)
    of_twin, of_original = rng.uniform(size=(30, 3)), rng.uniform(size=(30, 3))
    of_twin[:, 1] = of_original[:, 1] = 0.7
    features = ProblemFeatures(of_twin, of_original, np.ones(30, bool), 0.1, ())
    labels = np.zeros(30, np.int32)
    for scaled in twin.scale_features(features, labels, labels):
        np.testing.assert_array_equal(scaled[:, 1], 0)
        np.testing.assert_allclose(scaled[:, [0, 2]].max(0), 1)


# Labels


def test_labels_are_recovered_from_a_telling_feature(problem):
    features, hard = separable(problem)
    prediction = twin.predict_labels(problem, features, KEY)
    assert prediction.easy.shape == prediction.probability.shape == (60,)
    assert np.mean(prediction.easy == ~hard) > 0.95
    assert np.mean(prediction.heldout_easy_predicted == features.easy) > 0.95
    np.testing.assert_array_equal(prediction.easy, prediction.probability >= 0.5)
    np.testing.assert_array_equal(prediction.heldout_easy, features.easy)
    assert prediction.eps == features.eps
    assert prediction.notes == problem.notes
    assert set(prediction.seconds_by_part) == {"predictor"}


def test_the_predictor_sees_only_the_features_it_is_given(problem):
    features, hard = separable(problem, column=2)
    shuffled = features._replace(twin=features.twin.copy(), original=features.original.copy())
    shuffled.twin[:, :2] = np.random.default_rng(9).uniform(size=(len(features.twin), 2))
    shuffled.original[:, :2] = 0.5
    first, second = (
        twin.predict_labels(problem, used, KEY, TwinSettings(features=("CF",))) for used in (features, shuffled)
    )
    np.testing.assert_array_equal(first.probability, second.probability)
    assert np.mean(first.easy == ~hard) > 0.95
    blind = twin.predict_labels(problem, features, KEY, TwinSettings(features=("NF",)))
    assert np.mean(blind.easy == ~hard) < 0.9


def test_the_predictor_takes_the_columns_and_the_epochs_that_it_is_given(problem):
    features, _ = separable(problem, column=2)
    of_twin, of_original = twin.scale_features(features, problem.heldout.labels, problem.forget.labels)
    found = {}
    for epochs in (100, 200):
        settings = TwinSettings(features=("NF", "CF"), predictor_epochs=epochs)
        params = predictor.fit(of_twin[:, [0, 2]], features.easy, key=KEY, epochs=epochs)
        assert params["hidden_0"]["kernel"].shape == (2, 64)
        found[epochs] = twin.predict_labels(problem, features, KEY, settings).probability
        np.testing.assert_array_equal(found[epochs], predictor.predict_probability(params, of_original[:, [0, 2]]))
    assert np.abs(found[100] - found[200]).max() > 1e-3


@pytest.mark.parametrize(("value", "word"), [(True, "easy"), (False, "hard")])
@pytest.mark.parametrize("threshold", ["half", "count"])
def test_a_single_label_goes_to_everything_and_is_said(problem, monkeypatch, value, word, threshold):
    def forbidden(*_, **__):
        raise AssertionError("there is nothing to learn from one label")

    patch_everywhere(monkeypatch, predictor.fit, forbidden)
    features, _ = separable(problem)
    features = features._replace(easy=np.full(len(features.easy), value))
    prediction = twin.predict_labels(problem, features, KEY, TwinSettings(threshold=threshold))
    np.testing.assert_array_equal(prediction.easy, value)
    np.testing.assert_array_equal(prediction.heldout_easy_predicted, value)
    np.testing.assert_array_equal(prediction.probability, float(value))
    assert any(f"all forgotten samples are predicted {word}" in note for note in prediction.notes)


def test_a_predictor_that_calls_nothing_hard_is_in_the_notes(problem):
    rng = np.random.default_rng(0)
    easy = np.ones(len(problem.heldout), bool)
    easy[3] = False
    noise = features_of(problem, rng.uniform(size=(len(easy), 3)), rng.uniform(size=(60, 3)), easy)
    prediction = twin.predict_labels(problem, noise, KEY)
    assert prediction.easy.all()
    assert any("no forgotten sample hard" in note for note in prediction.notes)


def test_count_calls_the_least_certain_hard_class_by_class(problem):
    """M_o's share of errors on D_test, class by class, times the class's forgotten samples."""
    features, _ = separable(problem)
    heldout_labels, forget_labels = problem.heldout.labels, problem.forget.labels
    easy = features.easy.copy()
    easy[heldout_labels == 1], easy[heldout_labels == 2] = True, True
    easy[np.flatnonzero(heldout_labels == 1)[:5]] = False
    easy[np.flatnonzero(heldout_labels == 2)[:22]] = False
    prediction = twin.predict_labels(problem, features._replace(easy=easy), KEY, TwinSettings(threshold="count"))
    for c, num_hard in ((1, 5), (2, 22)):
        expected = round(num_hard / (heldout_labels == c).sum() * 30)
        of_class = forget_labels == c
        assert (~prediction.easy[of_class]).sum() == expected
        hard, kept = (prediction.probability[of_class & (prediction.easy == value)] for value in (False, True))
        assert hard.max() <= kept.min()
        assert (~prediction.heldout_easy_predicted[heldout_labels == c]).sum() == num_hard


# Requests


@pytest.mark.parametrize("classes", [[3], [0, 3]])
def test_a_whole_class_is_all_hard_without_any_training(data, original, no_training, classes):
    problem = tmu_jax.data.forget_subset(data, target_classes=classes, num_forget="all", ratio="all")
    prediction = twin.predict_generalization(problem, original, KEY)
    assert len(prediction.easy) == 100 * len(classes)
    assert not prediction.easy.any()
    np.testing.assert_array_equal(prediction.probability, 0)
    assert prediction.notes == problem.notes
    assert "hard by definition" in prediction.notes[0]
    assert prediction.seconds_by_part == {}


def test_a_whole_class_beside_a_part_of_another(mixed):
    """The predictor sees the part's samples alone, and its answers land on their places in the request."""
    features, hard = separable(mixed, whole=(3,))
    prediction = twin.predict_labels(mixed, features, KEY)
    in_whole = mixed.forget.labels == 3
    assert in_whole.sum() == 100
    assert not prediction.easy[in_whole].any()
    np.testing.assert_array_equal(prediction.probability[in_whole], 0)
    assert np.mean(prediction.easy[~in_whole] == ~hard) > 0.9
    assert prediction.easy[~in_whole].any()
    assert len(prediction.heldout_probability) == (mixed.heldout.labels == 1).sum()
    assert len(prediction.original_features) == 25


def test_all_of_it_on_a_mixed_request(mixed, original):
    progressed = set()

    def progress(name):
        return lambda done, total: progressed.add((name, done <= total))

    prediction = tmu_jax.predict_generalization(mixed, original, KEY, QUICK, progress=progress)
    part = mixed.forget.labels == 1
    assert not prediction.easy[~part].any()
    assert prediction.twin_features.shape == ((mixed.heldout.labels == 1).sum(), 3)
    for scaled in (prediction.twin_features, prediction.original_features):
        assert scaled.min() == 0
        assert scaled.max() == 1
    np.testing.assert_array_equal(prediction.easy[part], prediction.probability[part] >= 0.5)
    of_class = mixed.heldout.indices[mixed.heldout.labels == 1]
    easy = tmu_jax.predict(original, tmu_jax.data.Split(mixed.pool, of_class))[0].argmax(-1) == 1
    np.testing.assert_array_equal(prediction.heldout_easy, easy)
    assert prediction.eps in QUICK.eps_candidates
    assert set(prediction.seconds_by_part) == {"twin_model", "curriculum", "features", "predictor"}
    assert min(prediction.seconds_by_part.values()) > 0
    assert progressed == {(name, True) for name in ("twin_model", "curriculum", "features")}


def test_one_image(data, original):
    """One image has one stand-in, and gets its label: whether the original model is right on that."""
    labels = set()
    for row in range(8):
        problem = tmu_jax.data.forget_indices(data, [row], seed=row)
        prediction = twin.predict_generalization(problem, original, KEY, QUICK)
        right = tmu_jax.predict(original, problem.heldout)[0].argmax(-1) == problem.heldout.labels
        assert len(right) == 1 == len(prediction.easy)
        assert prediction.easy[0] == right[0]
        assert any("every held-out sample is" in note for note in prediction.notes)
        labels.add(bool(right[0]))
    assert labels == {False, True}


def test_the_prediction_is_a_function_of_the_key(problem, original):
    first, second, other = (
        twin.predict_generalization(problem, original, jax.random.key(seed), QUICK) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first.probability, second.probability)
    np.testing.assert_array_equal(first.twin_features, second.twin_features)
    assert np.abs(first.twin_features - other.twin_features).max() > 1e-3
