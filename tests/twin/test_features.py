"""The three features against scikit-learn and NumPy, on models small enough to write out."""

import dataclasses

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

import tmu_jax
from tests.tiny import PlainNet, TinyNet, tiny_data
from tmu_jax.data import Split
from tmu_jax.timing import Stopwatch
from tmu_jax.training import Blocks, Normalization, Recipe, TrainedModel
from tmu_jax.twin import features

EPS = 8 / 255


class PixelLogits(nn.Module):
    """Its logits are the normalised pixels, so that an attack's result can be read off them."""

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> tuple[jax.Array, jax.Array]:
        flat = images.reshape((images.shape[0], -1))
        return flat, flat


@pytest.fixture(scope="module")
def problem():
    return tmu_jax.data.forget_subset(tiny_data(), target_classes=[1, 2], num_forget=9)


@pytest.fixture(scope="module")
def model(problem):
    return tmu_jax.train(TinyNet(), problem.train, recipe=Recipe(epochs=8, batch_size=20), key=jax.random.key(0))


@pytest.fixture(scope="module")
def other_model(problem):
    return tmu_jax.train(TinyNet(), problem.train, recipe=Recipe(epochs=8, batch_size=20), key=jax.random.key(1))


@pytest.fixture(scope="module")
def plain():
    """A linear classifier with weights of its own choosing and a different scale for each channel."""
    rng = np.random.default_rng(4)
    dense = {"kernel": rng.normal(0, 0.3, (48, 4)).astype(np.float32), "bias": rng.normal(0, 0.5, 4).astype(np.float32)}
    normalization = Normalization(np.array([0.5, 0.4, 0.3], np.float32), np.array([0.1, 0.25, 0.6], np.float32))
    return TrainedModel(PlainNet(), {"params": {"Dense_0": dense}}, normalization, Recipe())


def log_softmax(logits):
    logits = logits - logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def plain_logits(plain, pixels):
    dense = plain.variables["params"]["Dense_0"]
    flat = ((pixels - plain.normalization.mean) / plain.normalization.std).reshape(len(pixels), -1)
    return flat @ dense["kernel"].astype(np.float64) + dense["bias"]


def numpy_pgd(plain, pixels, labels, eps, num_steps):
    """Ascent on the true label's cross-entropy in pixel units, its gradient written out for a linear classifier."""
    kernel = plain.variables["params"]["Dense_0"]["kernel"].astype(np.float64)
    attacked = pixels
    for _ in range(num_steps):
        residual = np.exp(log_softmax(plain_logits(plain, attacked))) - np.eye(4)[labels]
        gradient = (residual @ kernel.T).reshape(pixels.shape) / plain.normalization.std
        attacked = np.clip(attacked + eps / 3 * np.sign(gradient), pixels - eps, pixels + eps).clip(0, 1)
    return attacked


def normalised(embeddings):
    return embeddings / np.linalg.norm(embeddings, axis=-1, keepdims=True)


def sklearn_nearest(query_embeddings, query_labels, bank_embeddings, bank_labels, k):
    result = np.zeros(len(query_labels))
    for c in np.unique(query_labels):
        bank = normalised(bank_embeddings[bank_labels == c])
        search = NearestNeighbors(n_neighbors=min(k, len(bank)), algorithm="brute").fit(bank)
        result[query_labels == c] = search.kneighbors(normalised(query_embeddings[query_labels == c]))[0].mean(-1)
    return result


@pytest.mark.parametrize("k", [1, 5])
def test_nearest_distance_equals_scikit_learn_class_by_class(problem, model, k):
    # Labels without a relation to the images, or the nearest of all classes would be of the query's own.
    labels = np.random.default_rng(0).permutation(problem.pool.labels)
    pool = dataclasses.replace(problem.pool, labels=labels)
    queries, bank = Split(pool, problem.forget.indices), Split(pool, problem.retain.indices)
    got = features.nearest_distance(model, queries, bank, k=k)
    (_, of_queries), (_, of_bank) = tmu_jax.predict(model, queries), tmu_jax.predict(model, bank)
    expected = sklearn_nearest(of_queries, queries.labels, of_bank, bank.labels, k)
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-5)
    assert got.dtype == np.float32
    one_bank = sklearn_nearest(of_queries, queries.labels * 0, of_bank, bank.labels * 0, k)
    assert np.abs(one_bank - expected).max() > 1e-2
    assert np.ptp(np.linalg.norm(of_bank, axis=-1)) > 0.5
    assert (got <= 2).all()


def test_nearest_distance_over_all_classes_and_without_normalisation(problem, model):
    queries, bank = problem.forget, problem.retain
    of_queries, of_bank = tmu_jax.predict(model, queries)[1], tmu_jax.predict(model, bank)[1]
    got = features.nearest_distance(model, queries, bank, same_class=False)
    one_bank = sklearn_nearest(of_queries, queries.labels * 0, of_bank, bank.labels * 0, 5)
    np.testing.assert_allclose(got, one_bank, rtol=1e-3, atol=1e-5)
    raw = features.nearest_distance(model, queries, bank, same_class=False, normalized=False)
    distances = np.sort(np.linalg.norm(of_queries[:, None] - of_bank, axis=-1))[:, :5]
    np.testing.assert_allclose(raw, distances.mean(-1), rtol=1e-3, atol=1e-5)
    alone = Split(problem.pool, bank.indices[bank.labels == 0])
    assert len(features.nearest_distance(model, queries, alone, same_class=False)) == len(queries)


def test_nearest_distance_averages_what_a_small_bank_has(problem, model):
    of_class = problem.retain.indices[problem.retain.labels == 1][:3]
    bank = Split(problem.pool, np.concatenate([of_class, problem.retain.indices[problem.retain.labels == 2]]))
    queries = Split(problem.pool, problem.forget.indices[problem.forget.labels == 1])
    got = features.nearest_distance(model, queries, bank)
    embeddings = [normalised(tmu_jax.predict(model, s)[1]) for s in (queries, Split(problem.pool, of_class))]
    expected = np.linalg.norm(embeddings[0][:, None] - embeddings[1], axis=-1).mean(1)
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-5)


def test_bank_and_queries_are_embedded_by_the_same_model(problem, model, other_model, monkeypatch):
    seen = []

    def recording(used, split):
        seen.append((used, len(split)))
        return tmu_jax.predict(used, split)

    monkeypatch.setattr(features, "predict", recording)
    queries, bank = problem.heldout, problem.train
    got = features.nearest_distance(other_model, queries, bank)
    assert all(used is other_model for used, _ in seen)
    assert sum(count for _, count in seen) == len(queries) + np.isin(bank.labels, [1, 2]).sum()
    of_queries, of_bank = (tmu_jax.predict(other_model, split)[1] for split in (queries, bank))
    expected = sklearn_nearest(of_queries, queries.labels, of_bank, bank.labels, 5)
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-5)
    mixed = sklearn_nearest(of_queries, queries.labels, tmu_jax.predict(model, bank)[1], bank.labels, 5)
    assert np.abs(mixed - got).min() > 1e-2


def test_a_sample_of_the_bank_is_its_own_nearest(problem, model):
    np.testing.assert_allclose(features.nearest_distance(model, problem.retain, problem.retain, k=1), 0, atol=1e-6)


def test_a_class_missing_from_the_bank_is_an_error(problem, model):
    bank = Split(problem.pool, problem.retain.indices[problem.retain.labels != 2])
    with pytest.raises(ValueError, match=r"bank holds no sample of class \[2\]"):
        features.nearest_distance(model, problem.forget, bank)


@pytest.mark.parametrize("order", ["clean_target", "adversarial_target"])
@pytest.mark.parametrize(("eps", "num_steps"), [(EPS, 5), (0.25 / 255, 5), (EPS, 1)])
def test_adversarial_feature_equals_numpys(problem, plain, eps, num_steps, order):
    samples = problem.heldout
    got, success = features.adversarial(plain, samples, eps=eps, num_steps=num_steps, order=order, block=16)
    pixels = samples.images / 255
    attacked = numpy_pgd(plain, pixels, samples.labels, eps, num_steps)
    clean_log_p, attacked_log_p = (log_softmax(plain_logits(plain, x)) for x in (pixels, attacked))
    target, prediction = (clean_log_p, attacked_log_p) if order == "clean_target" else (attacked_log_p, clean_log_p)
    np.testing.assert_allclose(got, -(np.exp(target) * prediction).sum(-1), rtol=2e-3, atol=1e-4)
    np.testing.assert_array_equal(success, attacked_log_p.argmax(-1) != samples.labels)


def test_the_two_orders_and_radii_differ(problem, plain):
    """So the comparison above can tell them apart, and a larger radius succeeds at least as often."""
    results = [features.adversarial(plain, problem.heldout, eps=eps, block=16) for eps in (0.25 / 255, EPS)]
    swapped, _ = features.adversarial(plain, problem.heldout, eps=EPS, block=16, order="adversarial_target")
    assert np.abs(results[1][0] - swapped).max() > 0.1
    assert np.abs(results[1][0] - results[0][0]).max() > 0.1
    assert results[0][1].sum() < results[1][1].sum()


def test_the_perturbation_is_eps_in_pixel_units(problem):
    """On pixels as logits the true label's pixel goes down and all others up, as far as 0..1 allows."""
    normalization = Normalization(np.array([0.5, 0.4, 0.3], np.float32), np.array([0.1, 0.25, 0.6], np.float32))
    rows, labels = problem.heldout.indices, problem.heldout.labels
    clean, attacked = features.attack_rows(
        {"params": {}}, normalization, jnp.asarray(problem.pool.images), rows[None], labels[None], np.int32(1),
        *features.padded_radii((EPS,)), module=PixelLogits(), num_steps=5,
    )  # fmt: skip
    assert attacked.shape[0] == 5
    assert (np.asarray(attacked[1:]) == 0).all()  # radii that only fill up the program are not run
    attacked = attacked[0]
    pixels = problem.pool.images[rows] / 255
    mean, std = normalization
    restored = [np.asarray(logits).reshape(pixels.shape) * std + mean for logits in (clean, attacked)]
    np.testing.assert_allclose(restored[0], pixels, atol=1e-6)
    uphill = 1 - 2 * np.eye(pixels[0].size)[labels].reshape(pixels.shape)
    np.testing.assert_allclose(restored[1], np.clip(pixels + EPS * uphill, 0, 1), atol=1e-6)
    perturbation = np.abs(restored[1] - pixels)
    assert perturbation.max() <= EPS + 1e-6
    assert (perturbation > EPS - 1e-6).mean() > 0.9
    # Pixels at the end of the range occur, so the clip to it is exercised.
    assert (perturbation < EPS - 1e-3).any()


@pytest.mark.parametrize("num_steps", [1, 5])
@pytest.mark.parametrize("radii", [(EPS,), (4 / 255, 0.25 / 255, 1 / 255), tuple(i / 255 for i in range(7, 0, -1))])
def test_several_radii_equal_numpys_one_by_one(problem, plain, monkeypatch, radii, num_steps):
    samples = problem.heldout
    monkeypatch.setattr(features, "evaluation_blocks", lambda on_cpu, elsewhere: Blocks(5, 3))
    got, success = features.adversarial(plain, samples, eps=radii, num_steps=num_steps)
    assert got.shape == success.shape == (len(radii), len(samples))
    pixels = samples.images / 255
    clean_log_p = log_softmax(plain_logits(plain, pixels))
    for row, eps in enumerate(radii):
        attacked = numpy_pgd(plain, pixels, samples.labels, eps, num_steps)
        log_p = log_softmax(plain_logits(plain, attacked))
        np.testing.assert_allclose(got[row], -(np.exp(clean_log_p) * log_p).sum(-1), rtol=2e-3, atol=1e-4)
        np.testing.assert_array_equal(success[row], log_p.argmax(-1) != samples.labels)


@pytest.mark.parametrize("radii", [(EPS,), (1 / 255, EPS, 2 / 255)])
def test_the_first_gradient_is_computed_once_for_all_radii(problem, plain, monkeypatch, radii):
    directions, attacks, runs = features.ascent_direction, features.attack_batch, []

    def counted_direction(*args):
        jax.debug.callback(lambda _: runs.append("direction"), args[1])
        return directions(*args)

    def counted_attack(logits_fn, images, labels, **options):
        jax.debug.callback(lambda _: runs.append("attack"), images)
        return attacks(logits_fn, images, labels, **options)

    monkeypatch.setattr(features, "ascent_direction", counted_direction)
    monkeypatch.setattr(features, "attack_batch", counted_attack)
    features.attack_rows.clear_cache()
    features.adversarial(plain, problem.heldout, eps=radii, block=len(problem.heldout))
    jax.effects_barrier()
    features.attack_rows.clear_cache()
    # One direction an image, and one attack of the block a radius: the radii that fill up the program are not run.
    assert (runs.count("direction"), runs.count("attack")) == (len(problem.heldout), len(radii))


@pytest.mark.parametrize(
    ("radii", "message"), [((), r"eps=\(\)"), ((EPS, 2.0), r"eps=\(.*2\.0\)"), (0, "eps=0"), (float("nan"), "eps=nan")]
)
def test_bad_radii_are_refused(problem, plain, radii, message):
    with pytest.raises(ValueError, match=message):
        features.adversarial(plain, problem.forget, eps=radii)


def test_block_sizes_and_neighbours_do_not_matter(problem, model):
    whole = features.adversarial(model, problem.forget, eps=EPS, block=32)
    for block in (5, 18):
        parts = features.adversarial(model, problem.forget, eps=EPS, block=block)
        np.testing.assert_allclose(parts[0], whole[0], rtol=1e-3, atol=1e-5)
        np.testing.assert_array_equal(parts[1], whole[1])
    assert whole[0].shape == whole[1].shape == (18,)


def test_measuring_reads_the_model_and_changes_nothing(problem, model):
    before = jax.tree.map(np.array, model.variables)
    features.adversarial(model, problem.forget, eps=EPS, block=32)
    features.nearest_distance(model, problem.forget, problem.retain)
    features.curriculum_loss(model, problem.forget)
    chex.assert_trees_all_equal(model.variables, before)


def test_features_depend_on_the_running_statistics(problem, model):
    """Evaluation mode: with other running statistics, which a train-mode pass ignores, every feature is another."""
    statistics = jax.tree.map(lambda x: x + 0.7, model.variables["batch_stats"])
    shifted = dataclasses.replace(model, variables={**model.variables, "batch_stats": statistics})

    def measure(used):
        return (
            features.nearest_distance(used, problem.forget, problem.retain),
            features.adversarial(used, problem.forget, eps=EPS, block=32)[0],
            features.curriculum_loss(used, problem.forget),
        )

    for first, second in zip(measure(model), measure(shifted), strict=True):
        assert np.abs(first - second).max() > 1e-2


def test_curriculum_loss_equals_numpy(problem, plain):
    got = features.curriculum_loss(plain, problem.forget)
    log_p = log_softmax(plain_logits(plain, problem.forget.images / 255))
    np.testing.assert_allclose(got, -log_p[np.arange(18), problem.forget.labels], rtol=1e-4, atol=1e-4)
    assert np.ptp(got) > 0.1


def test_curriculum_loss_is_finite_for_a_hopeless_prediction(problem, plain):
    certain = jax.tree.map(lambda x: x * 1e4, plain.variables)
    got = features.curriculum_loss(dataclasses.replace(plain, variables=certain), problem.forget)
    log_p = log_softmax(1e4 * plain_logits(plain, problem.forget.images / 255))
    np.testing.assert_allclose(got, -log_p[np.arange(18), problem.forget.labels], rtol=1e-3, atol=0.5)
    assert got.max() > 1e3


def test_progress_counts_samples(problem, plain):
    calls = []
    features.adversarial(plain, problem.forget, eps=EPS, block=16, progress=lambda *call: calls.append(call))
    assert calls == [(16, 18), (18, 18)]


@pytest.mark.parametrize("count", [1, 21, 22, 37])
def test_several_blocks_a_call_equal_one_after_another(problem, plain, monkeypatch, count):
    samples = Split(problem.pool, problem.train.indices[::-1][:count])
    assert len(samples) == count
    alone = features.adversarial(plain, samples, eps=EPS, block=count)
    monkeypatch.setattr(features, "evaluation_blocks", lambda on_cpu, elsewhere: Blocks(7, 3))
    done = []
    together = features.adversarial(plain, samples, eps=EPS, progress=lambda now, all_: done.append((now, all_)))
    np.testing.assert_allclose(together[0], alone[0], rtol=1e-3, atol=1e-5)
    np.testing.assert_array_equal(together[1], alone[1])
    assert done == [(min(now, count), count) for now in range(21, count + 21, 21)]


def test_an_unknown_order_is_refused(problem, plain):
    with pytest.raises(ValueError, match="order"):
        features.adversarial(plain, problem.forget, eps=EPS, block=16, order="both")


def test_float32_pixels_are_attacked(problem, plain):
    """The pool's bytes are scaled to 0..1 first: the clean logits are those of `predict`."""
    images = jnp.asarray(problem.pool.images)
    clean, _ = features.attack_rows(
        plain.variables, plain.normalization, images, problem.forget.indices[None, :16],
        problem.forget.labels[None, :16], np.int32(1), *features.padded_radii((EPS,)), module=plain.module,
        num_steps=5,
    )  # fmt: skip
    np.testing.assert_allclose(clean[0], tmu_jax.predict(plain, problem.forget)[0][:16], rtol=1e-4, atol=1e-4)


def test_one_program_attacks_any_number_of_samples_at_any_radii():
    problem = tmu_jax.data.forget_subset(tiny_data(), target_classes=[0], num_forget=7)
    recipe = Recipe(epochs=1, batch_size=20)
    model = tmu_jax.train(TinyNet(width=6), problem.train, recipe=recipe, key=jax.random.key(0))
    before = features.attack_rows._cache_size()
    features.adversarial(model, problem.forget, eps=1 / 255)
    with Stopwatch() as watch:
        features.adversarial(model, problem.heldout, eps=4 / 255)
        features.adversarial(model, problem.train, eps=[i / 255 for i in range(1, 6)])
    assert features.attack_rows._cache_size() - before == 1
    assert watch.compile_seconds == 0
