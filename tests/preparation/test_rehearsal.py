"""A rehearsal equals what a direct computation on the planted problem gives, and its grid keeps to its budget."""

import dataclasses

import jax
import numpy as np
import pytest

import tmu_jax
from tests.preparation.made import DATA, KEY, RECIPE, gathered_rows
from tests.tiny import TinyNet
from tmu_jax.data import Split
from tmu_jax.evaluation import metrics
from tmu_jax.preparation import Estimate, candidates, rehearse, rehearse_candidates
from tmu_jax.preparation.judging import recipe_note
from tmu_jax.preparation.prepared import Prepared
from tmu_jax.preparation.rehearsal import rehearsal_stage, twin_loss
from tmu_jax.stages import VERSIONS, given, key_for
from tmu_jax.training import Recipe, predict
from tmu_jax.unlearning import Method

OPTIONS = {"share": 0.5, "epochs": 2, "peak": 1.0}


def test_it_equals_a_direct_computation(ready):
    """M_t forgets the held-out images by the public `unlearn`, and is compared with M_o by hand."""
    found = rehearse(ready, "rewarm", **OPTIONS)
    key = key_for(key_for(ready.key, "rehearsal"), "rewarm 0")
    problem = ready.twin_problem(ready.heldout.indices)
    model = tmu_jax.unlearn("rewarm", problem, ready.twin, key=key, **OPTIONS)
    ours, gold, before = (predict(m, ready.heldout)[0] for m in (model, ready.original, ready.twin))
    labels = ready.heldout.labels
    right, gold_right = ours.argmax(-1) == labels, gold.argmax(-1) == labels
    assert found.forget_accuracy.value == pytest.approx(100 * right.mean())
    assert found.gold_accuracy == pytest.approx(100 * gold_right.mean())
    assert found.gap.value == pytest.approx(100 * abs(right.mean() - gold_right.mean()))
    assert found.agreement.value == pytest.approx(100 * (right == gold_right).mean())
    assert found.distance.value == pytest.approx(metrics.activation_distance(ours, gold))
    assert found.untouched["distance"] == pytest.approx(metrics.activation_distance(before, gold))
    others = Split(ready.test.pool, np.setdiff1d(ready.test.indices, ready.heldout.indices))
    gold, ours, twin = (
        100 * np.mean(predict(m, others)[0].argmax(-1) == others.labels) for m in (ready.original, model, ready.twin)
    )
    assert found.test_loss.value == pytest.approx(gold - ours)
    assert twin_loss(ready).value == pytest.approx(gold - twin)
    assert twin_loss(dataclasses.replace(ready, twin=None)) is None
    assert found.share == pytest.approx(2 * 100 / (RECIPE.epochs * 200))


def test_a_recipe_that_did_not_train_the_model_is_seen_in_the_twin_model(ready):
    other = dataclasses.replace(ready.original, recipe=dataclasses.replace(RECIPE, epochs=1, learning_rate=1e-4))
    mismatched = tmu_jax.prepare(other, DATA, heldout=40, folds=0, key=KEY)
    assert "points fewer of the test images right" in recipe_note(mismatched)[0]
    assert recipe_note(ready) == ()
    warmed = dataclasses.replace(mismatched, twin=dataclasses.replace(ready.twin, recipe=RECIPE))
    assert recipe_note(warmed) == ()  # M_o's recipe did not train it, and it says nothing of M_o's


def test_it_goes_by_the_rates_of_a_request_whatever_the_twin_model_was_trained_by(ready):
    slow = dataclasses.replace(ready.twin, recipe=dataclasses.replace(RECIPE, learning_rate=1e-6))
    found, again = (rehearse(one, "rewarm", **OPTIONS) for one in (ready, dataclasses.replace(ready, twin=slow)))
    assert found.distance == again.distance
    assert found.distance.value != pytest.approx(found.untouched["distance"], abs=1e-3)


def test_gold_is_the_original_whatever_is_in_service_by_now(ready):
    """Another model in service changes neither of the two ends that a rehearsal lies between."""
    other = tmu_jax.train(TinyNet(), ready.heldout, key=jax.random.key(8), recipe=RECIPE)
    found = rehearse(dataclasses.replace(ready, model=other), "rewarm", **OPTIONS)
    assert found == dataclasses.replace(rehearse(ready, "rewarm", **OPTIONS), seconds=found.seconds)


def test_no_forgotten_image_is_gathered_and_all_else_is_retained(ready, monkeypatch):
    with gathered_rows(monkeypatch) as rows:
        rehearse(ready, "rewarm", size=10, share=1.0, epochs=3)
    gathered = np.unique(np.concatenate([part.ravel() for part in rows]))
    assert np.isin(gathered, ready.train.indices).all()
    assert len(gathered) > 195


def test_distributions_of_a_rehearsal_are_cross_fitted(ready):
    problem = ready.twin_problem(ready.heldout.indices[5:25])
    prediction = ready.twin_prediction(problem)
    np.testing.assert_allclose(prediction.probability, ready.calibration.heldout.probability[5:25].astype(np.float32))


def test_subsets_are_drawn_anew_and_their_interval_is_over_images_or_repeats(ready):
    found = rehearse(ready, "rewarm", size=4, repeats=3, **OPTIONS)
    assert (found.size, found.repeats) == (4, 3)
    low, value, high = found.agreement.low, found.agreement.value, found.agreement.high
    assert 0 <= low <= value <= high <= 100
    assert low < value or value == 0
    assert found.distance.value - found.distance.low == pytest.approx(found.distance.high - found.distance.value)
    one = rehearse(ready, "rewarm", size=1, **OPTIONS)
    assert one.agreement.value in (0.0, 100.0)


def test_every_method_forgets_the_same_images(ready, monkeypatch):
    """What they are compared by is not who drew the easier ones; repeats have none in common where there are enough."""
    drawn, problem = [], Prepared.twin_problem
    monkeypatch.setattr(Prepared, "twin_problem", lambda self, rows: drawn.append(rows) or problem(self, rows))
    rehearse(ready, "rewarm", size=10, repeats=2, **OPTIONS)
    rehearse(ready, "soft_twin", size=10, repeats=2, epochs=1)
    np.testing.assert_array_equal(drawn[:2], drawn[2:])
    assert not set(drawn[0]) & set(drawn[1])
    drawn.clear()
    rehearse(ready, "rewarm", size=30, repeats=3, **OPTIONS)
    counts = np.unique(np.concatenate(drawn), return_counts=True)[1]
    assert [len(set(rows)) for rows in drawn] == [30] * 3
    assert set(counts) == {2, 3}  # 90 of 40 images


def test_nothing_is_certain_of_ten_images_that_all_agree(ready):
    """The untouched model stands for a method that leaves all as it was, and M_o for M_t, so that all agree."""
    same = dataclasses.replace(ready, twin=ready.original)
    found = rehearse(same, Method("nothing", run=lambda problem, original, key, progress: original), size=10)
    assert (found.agreement.value, found.gap.value) == (100, 0)
    assert found.agreement.low < 75
    assert found.gap.high == pytest.approx(100 - found.agreement.low)


@pytest.mark.parametrize(
    ("method", "kind"), [("rewarm_rehearsed", "foretelling"), ("rewarm_twin", "bank_prediction"), ("rewarm", None)]
)
def test_what_a_method_learns_from_is_in_the_name_of_its_rehearsal(ready, method, kind, monkeypatch):
    prepared = given(ready, {"ready": 1})

    def name():
        return rehearsal_stage(prepared, tmu_jax.METHODS[method], 10).name

    before = name()
    for other in ("foretelling", "bank_prediction"):
        with monkeypatch.context() as patch:
            patch.setitem(VERSIONS, other, VERSIONS[other] + 1)
            assert (name() != before) == (other == kind)
    noisy = dataclasses.replace(tmu_jax.METHODS["finetune"], image_noise=0.1)
    names = {rehearsal_stage(prepared, one, 10).name for one in (noisy, tmu_jax.METHODS["finetune"])}
    assert len(names) == 2


def test_its_progress_is_told_from_that_of_the_request(ready):
    begun = []
    rehearse(
        ready, "rewarm", size=10, progress=lambda part: begun.append(part) or (lambda done, total: None), **OPTIONS
    )
    assert begun == ["rehearsal of rewarm"]


def test_the_same_key_rehearses_alike_and_another_does_not(ready):
    first, again = (rehearse(ready, "rewarm", size=20, **OPTIONS) for _ in range(2))
    assert first.distance == again.distance
    other = rehearse(ready, "rewarm", size=20, key=jax.random.key(9), **OPTIONS)
    assert other.distance != first.distance


def test_the_grid_that_ships():
    """Written down: recipes are chosen among these, and a changed grid changes what every run chooses from."""
    found = [(m.name, dict(m.options)) for m in candidates(Recipe(epochs=10), 1000, 20, 0.1)]
    settled = {"share": 0.8, "epochs": 1, "replay": pytest.approx(1.5), "settling_epochs": 4, "rate": 0.2}
    twice = [(peak, epochs, part) for epochs, part in ((1, 0.96), (2, 0.46)) for peak in (0.5, 1.0)]
    assert found == [
        *[("rewarm", {"share": 1.0, "epochs": 1, "peak": peak}) for peak in (0.5, 1.0, 2.0)],
        *[("rewarm_rehearsed", {**settled, "peak": peak}) for peak in (0.5, 1.0)],
        *[("rewarm_twin", {"share": s, "epochs": e, "peak": p, "copies": 2}) for p, e, s in twice],
        *[
            ("soft_twin", {"replay": pytest.approx(1000 / 6 / 20 - 1), "epochs": 6, "rate": rate})
            for rate in (0.05, 0.1)
        ],
    ]


@pytest.mark.parametrize("budget", [0.05, 0.1, 0.25, 0.6])
def test_every_candidate_keeps_to_its_budget(ready, budget):
    problem = ready.problem(np.arange(20))
    found = candidates(RECIPE, len(problem.retain), 20, budget)
    assert {"rewarm"} <= {method.name for method in found}
    for method in found:
        share = method.work(problem) / ready.retraining_work(problem)
        if method.name == "rewarm_rehearsed":  # Never a whole epoch less than the budget buys.
            assert share == pytest.approx(budget, rel=0.02)
        assert budget / 2 < share < budget * 1.02 or (method.options.get("share") == 1.0 and share < budget)
    assert {m.name for m in candidates(RECIPE, 180, 20, budget, ())} == {"rewarm"}


@pytest.mark.parametrize(("budget", "said"), [(0.0, "budget=0.0"), (1.5, "budget=1.5"), (0.001, "less than one step")])
def test_a_budget_that_buys_nothing(budget, said):
    with pytest.raises(ValueError, match=said):
        candidates(RECIPE, 200, 20, budget)


def test_candidates_are_ranked_by_what_was_rehearsed(ready):
    found = rehearse_candidates(ready, 0.2, size=20)
    assert [one.misalignment for one in found] == sorted(one.misalignment for one in found)
    assert len({(one.method, str(one.options)) for one in found}) == len(found) > 4


def test_misalignment_adds_up_what_is_to_be_small(ready):
    one = rehearse(ready, "rewarm", size=20, **OPTIONS)
    loss = max(0.0, one.test_loss.value)
    assert one.misalignment == pytest.approx(
        100 - one.agreement.value + one.gap.value + loss + 100 * one.distance.value
    )
    assert isinstance(one.gap, Estimate)


@pytest.mark.parametrize(
    ("method", "options", "said"),
    [
        ("rewarmed", {}, "method='rewarmed' is unknown"),
        ("rewarm", {"size": 0}, "size=0"),
        ("rewarm", {"size": 41}, "there are 40 held-out images"),
        ("rewarm", {"share": 0.0}, "share=0.0"),
        ("rewarm", {"rate": 1}, "rate=1 is no option"),
        ("retrain", {}, "cannot be rehearsed"),
        ("twin", {}, "cannot be rehearsed"),
    ],
)
def test_what_cannot_be_rehearsed(ready, method, options, said):
    with pytest.raises(ValueError, match=said):
        rehearse(ready, method, **options)
