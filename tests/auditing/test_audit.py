"""An untouched model fails, a retrained one passes, and every way of answering wrongly is found."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import tmu_jax
from tests.auditing.made import NET, RECIPE, audited, data, gold, original, problem, retrained
from tests.preparation.made import prepared
from tmu_jax.auditing.measuring import Seen, measure
from tmu_jax.auditing.reading import read
from tmu_jax.data import Split
from tmu_jax.data.problem import forget_indices
from tmu_jax.requests import Copies
from tmu_jax.training import Recipe

ABOUT = {
    "asked": 80, "forgotten": 80, "missing": 0, "extra": 0, "changed": True, "copies": {}, "likeness": None,
    "alike": None, "unseen": None,
}  # fmt: skip


def status(found):
    return {check.name: check.status for check in found.checks}


def test_an_untouched_model_fails():
    found = tmu_jax.audit(problem(), original(), original=original())
    assert not found.passed
    assert found.outcome == "failed"
    assert status(found) == {
        "rows": "cannot tell", "changed": "failed", "copies": "passed", "membership": "failed", "accuracy": "failed",
        "probe": "cannot tell", "use": "passed",
    }  # fmt: skip
    assert found.figures["membership"]["after"]["auc"]["low"] > 80


def test_a_hair_of_change_does_not_help():
    """Weights that differ by a part in a million: only the statistics can tell."""
    moved = jax.tree.map(lambda leaf: leaf * jnp.asarray(1 + 1e-6, leaf.dtype), original().variables)
    found = tmu_jax.audit(problem(), dataclasses.replace(original(), variables=moved), original=original())
    assert status(found)["changed"] == "passed"
    assert status(found)["membership"] == status(found)["accuracy"] == "failed"


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_retrained_model_passes(seed):
    found = tmu_jax.audit(problem(seed), gold(seed), original=original())
    assert found.passed, str(found)


def test_a_second_retrained_model_passes_beside_the_first():
    found = audited()
    assert found.passed, str(found)
    assert status(found)["gold"] == status(found)["rows"] == "passed"
    beside = found.figures["gold"]
    assert beside["after"]["distance"]["high"] < beside["before"]["distance"]["low"]
    untouched = tmu_jax.audit(problem(), original(), original=original(), gold=gold(), second_gold=gold(key=2))
    assert status(untouched)["gold"] == "failed"
    assert set(untouched.figures["gold"]) == {"before", "after", "second"}
    assert "a second retrained model: right or wrong alike" in str(untouched)


def test_wrong_labels_for_all_of_them_betray_them_too():
    found = tmu_jax.unlearn("random_labeling", problem(), original(), key=jax.random.key(3), recipe=RECIPE)
    audit = tmu_jax.audit(problem(), found)
    assert status(audit)["membership"] == status(audit)["accuracy"] == "failed"
    assert "less than images it never saw" in str(audit)


def test_a_ruined_model_fails():
    """Its answers give nothing away, for they are all the same."""
    ruined = jax.tree.map(jnp.zeros_like, original().variables)
    found = tmu_jax.audit(problem(), dataclasses.replace(original(), variables=ruined), original=original())
    assert status(found)["membership"] == "passed"
    assert status(found)["use"] == "failed"


def test_rows_must_be_those_asked_for():
    asked = forget_indices(data(), problem().forget.indices[1:], ratio="all")
    audit = tmu_jax.audit(asked, retrained())
    assert status(audit)["rows"] == "failed"
    assert "0 are missing, 1 were not asked for" in str(audit)


def test_equal_copies_that_stay_fail_it_and_near_ones_are_named():
    rows = problem().retain.indices[:3]
    pairs = np.stack([problem().forget.indices[:3], rows], axis=1).astype(np.int32)
    cosines = np.ones(3, np.float32)
    near = tmu_jax.audit(problem(), gold(), original=original(), copies=Copies(pairs[:0], pairs, cosines, 0.98))
    assert near.passed
    assert "Copies that stay among the training images: 3 near copy." in str(near)
    equal = Copies(pairs[:1], pairs[1:], cosines[1:], 0.98)
    assert status(tmu_jax.audit(problem(), gold(), original=original(), copies=equal))["copies"] == "failed"


def test_copies_are_looked_for():
    """Among what stays in training: one that is held out teaches the model nothing."""
    images = data().train_images.copy()
    train, heldout = problem().retain.indices[5], problem().heldout.indices[0] - len(images)
    images[train] = images[problem().forget.indices[0]]
    tests = data().test_images.copy()
    tests[heldout] = images[problem().forget.indices[0]]
    changed = tmu_jax.data.from_arrays(images, data().train_labels, tests, data().test_labels)
    asked = forget_indices(changed, problem().forget.indices, ratio="all")
    found = tmu_jax.audit(asked, gold(), original=original())
    assert found.document["about"]["copies"]["equal pixels"] == 1
    assert status(found)["copies"] == "failed"


def test_few_images_show_nothing():
    """One image: not even the untouched model could be told."""
    one = forget_indices(data(), [0], ratio="all")
    found = tmu_jax.audit(one, gold(), original=original())
    assert found.outcome == "nothing shown"
    assert not found.passed
    assert "Nor could the untouched model be told" in str(found)


def test_the_bounds_share_five_percent_among_the_statistical_checks():
    alone = tmu_jax.audit(problem(), gold(), original=original())
    for found, parts in ((alone, 4), (audited(), 5)):
        checks = {check.name: check for check in found.checks}
        two_sided, one_sided = scipy.stats.norm.ppf([1 - 0.05 / parts / 2, 1 - 0.05 / parts])
        chance = {name: found.figures[name]["after"]["chance"] for name in ("membership", "probe")}
        assert checks["membership"].high == pytest.approx(50 + two_sided * chance["membership"])
        assert checks["membership"].low == pytest.approx(50 - two_sided * chance["membership"])
        assert checks["probe"].high == pytest.approx(50 + one_sided * chance["probe"])


def test_augmented_copies_are_no_unseen_images():
    """Eq. 3 asks for more than there are, and copies fill up: they are not drawn independently, and are not counted."""
    few = tmu_jax.data.from_arrays(
        data().train_images, data().train_labels, data().test_images[::10], data().test_labels[::10]
    )
    asked = forget_indices(few, problem().forget.indices)
    assert (
        len(asked.heldout) > len(asked.heldout_images) == len(np.intersect1d(asked.heldout.indices, asked.test.indices))
    )
    document = tmu_jax.audit(asked, gold(), original=original()).document
    assert document["measured"]["heldout"]["label"] == asked.heldout_images.labels.tolist()
    counts = np.bincount(asked.heldout_images.labels, minlength=10)[list(asked.target_classes)]
    assert tmu_jax.look(asked, original())["heldout_images"].value == counts.min()


def test_bounds_of_a_single_image_lie_between_0_and_100():
    alone = forget_indices(data(), [3], ratio="all")
    found = {check.name: check for check in tmu_jax.audit(alone, gold(), original=original()).checks}
    assert (found["membership"].low, found["membership"].high) == (0, 100)
    assert found["membership"].status == "cannot tell"


def test_without_held_out_images_nothing_can_be_told():
    alone = dataclasses.replace(problem(), heldout=Split(problem().pool, problem().heldout.indices[:0]))
    found = tmu_jax.audit(alone, gold(), original=original())
    assert found.outcome == "nothing shown"
    assert "too few held-out images" in str(found)
    assert tmu_jax.audit(alone, gold(), original=original(), gold=gold(key=2)).passed


def test_what_is_no_random_draw_cannot_be_told():
    before, after = Seen(original(), problem()), Seen(gold(), problem())
    measured = measure(problem(), before, after, None, None, None, 0)
    checks = {check.name: check for check in read(measured, {**ABOUT, "alike": False})[1]}
    assert checks["membership"].status == checks["accuracy"].status == "cannot tell"
    assert read(measured, {**ABOUT, "alike": False})[2] == "nothing shown"
    assert read(measured, {**ABOUT, "unseen": False})[2] == "nothing shown"
    assert read(measured, ABOUT)[2] == "passed"


def test_a_request_is_looked_at_without_a_preparation():
    """Images with wrong labels that were learnt by heart: an honest retraining is not condemned for them."""
    labels = data().train_labels.copy()
    rows = problem().forget.indices[:40]
    labels[rows] = (labels[rows] + 1) % data().num_classes
    wrong = tmu_jax.data.from_arrays(data().train_images, labels, data().test_images, data().test_labels)
    recipe = dataclasses.replace(RECIPE, epochs=60)
    asked = forget_indices(wrong, rows, ratio="all")
    before = tmu_jax.train(NET, asked.train, key=jax.random.key(0), recipe=recipe)
    after = tmu_jax.unlearn("retrain", asked, before, key=jax.random.key(1))
    found = tmu_jax.audit(asked, after)
    assert found.document["about"]["alike"] is False
    assert found.outcome == "nothing shown"
    assert "no random draw of its classes" in str(found)
    drawn = tmu_jax.audit(problem(), gold(), original=original())
    assert drawn.document["about"]["alike"] is True
    assert f"AUC {drawn.document['about']['likeness']:.0f} at most, beside the 50" in str(drawn)


def test_a_request_by_a_preparation(tmp_path):
    """What was predicted, rehearsed, owed and paid stands in it."""
    ready = prepared(repetitions=1, recipe=Recipe(epochs=3, batch_size=20, learning_rate=0.05))
    rows = np.arange(30, 60)
    found = tmu_jax.forget(ready, rows, method="soft_twin", rate=0.2, epochs=1)
    audit = tmu_jax.audit(ready.problem(rows), found)
    assert status(audit)["rows"] == "passed"
    assert audit.document["about"]["alike"] is True
    assert audit.document["debt"] == found.debt
    assert audit.figures["still_right"]["expected"]["value"] == pytest.approx(found.expected_accuracy.value, abs=1e-3)
    right = np.array(audit.document["measured"]["forget"]["right_after"], bool)
    assert audit.figures["still_right"]["predicted_right"] == int((right & found.prediction.easy).sum())
    assert "helper models" in str(audit)
    assert audit.document["settings"]["method"] == found.method
    again = tmu_jax.load(found.save(tmp_path / "after"), ready.model.module)
    chex.assert_trees_all_equal(again.variables, found.unwrap(), found.model.variables)


def test_neighbours_are_binned_by_distance():
    """Beside distances of NumPy's own: quarters of the kept images, the nearest first."""
    seen = Seen(original(), problem())
    apart = np.linalg.norm(seen.kept_embeddings[:, None] - seen.forget_embeddings[None], axis=-1).min(1)
    right = seen.kept.argmax(-1) == problem().retain.labels
    found = audited().document["measured"]["neighbours"]
    order = np.argsort(apart)
    for one, rows in zip(found, np.split(order, 4), strict=True):
        assert one["kept_before"] == [int(right[rows].sum()), 80]
        assert one["from"] <= apart[rows].min() * (1 + 1e-5)
    assert sum(one["test_after"][1] for one in found) == 500


def test_a_probe_finds_what_lies_in_the_embedding():
    """Embeddings with a mark on forgotten images are told; with the classes' shares different and no mark, not."""
    seen = Seen(original(), problem())
    rng = np.random.default_rng(0)

    def probed(mark):
        seen.forget_embeddings = rng.normal(size=(80, 64)) + 3 * np.eye(64)[problem().forget.labels] + mark
        seen.heldout_embeddings = rng.normal(size=(500, 64)) + 3 * np.eye(64)[problem().heldout.labels]
        measured = measure(problem(), seen, seen, None, None, None, 0)
        return read(measured, ABOUT)[0]["probe"]["after"]["auc"]["value"]

    assert probed(0.0) == pytest.approx(50, abs=12)
    assert probed(np.eye(64)[20] * 4) > 90


def test_whole_classes_do_not_count_in_what_is_lost():
    rows = np.flatnonzero(data().train_labels == 3)
    whole = forget_indices(data(), rows, ratio="all")
    found = tmu_jax.audit(whole, gold(), original=original())
    assert found.figures["accuracy"]["test"]["after"]["of"] == int(np.sum(data().test_labels != 3))


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({}, ValueError, "original is needed"),
        ({"original": 1, "ids": ["a"]}, ValueError, "ids has 1 entries, the request 80 images"),
        ({"original": 1, "ids": ["a"] * 80}, ValueError, "ids holds 'a' twice"),
        ({"original": 1, "second_gold": 1}, ValueError, "second_gold has no use without gold"),
        ({"result": "model"}, TypeError, "result='model' must be a Forgotten or a TrainedModel, not a str"),
    ],
)
def test_calls_that_cannot_be(options, error, said):
    models = {"original": original(), "second_gold": gold()}
    given = {name: models.get(name, value) for name, value in options.items()}
    with pytest.raises(error, match=said):
        tmu_jax.audit(problem(), given.pop("result", gold()), **given)


@pytest.mark.slow
def test_retrained_models_fail_one_audit_in_twenty_at_most():
    """30 requests, each retrained: more than 5 failures would be a chance of one in a hundred at 5 %."""
    outcomes = [tmu_jax.audit(problem(seed), gold(seed), original=original()).outcome for seed in range(30)]
    assert outcomes.count("failed") <= 5
    assert outcomes.count("passed") >= 25


@pytest.mark.slow
def test_a_convolutional_network_too():
    wide = tmu_jax.models.create("small_resnet", num_classes=10)
    recipe = dataclasses.replace(RECIPE, epochs=15)
    first = tmu_jax.train(wide, problem().train, key=jax.random.key(0), recipe=recipe)
    second = tmu_jax.train(wide, problem().retain, key=jax.random.key(1), recipe=recipe)
    assert tmu_jax.audit(problem(), first, original=first).outcome == "failed"
    assert tmu_jax.audit(problem(), second, original=first).passed
