"""Requests in turn: what is gone stays gone, who owes what, and what `auto` takes."""

import dataclasses
import re

import chex
import numpy as np
import pytest

import tmu_jax
from tests.patching import patch_everywhere
from tests.preparation.made import CALL, DATA, RECIPE, gathered_rows
from tests.tiny import TinyNet, tiny_data
from tmu_jax import forget, refresh, training
from tmu_jax.command.planning import of_request
from tmu_jax.data import Split
from tmu_jax.preparation import Estimate, judging
from tmu_jax.preparation.calibration import Predicted
from tmu_jax.preparation.choosing import is_rehearsed
from tmu_jax.preparation.judging import expected_accuracy
from tmu_jax.preparation.predicting import as_prediction
from tmu_jax.preparation.rehearsal import Rehearsal
from tmu_jax.training import predict
from tmu_jax.unlearning.rewarm import relabel as rewarm_relabel

FIRST, SECOND = np.arange(0, 12), np.arange(40, 52)


@pytest.fixture(scope="module")
def in_turn(ready):
    first = forget(ready, FIRST, method="soft_twin")
    return first, forget(first.prepared, SECOND, method="soft_twin")


@pytest.mark.parametrize("method", ["rewarm", "soft_twin", "rewarm_twin", "bank_labels", "finetune"])
def test_what_an_earlier_request_forgot_is_never_gathered_again(ready, method, monkeypatch):
    first = forget(ready, FIRST, method="rewarm")
    with gathered_rows(monkeypatch) as rows:
        forget(first.prepared, SECOND, method=method)
    gathered = np.unique(np.concatenate([part.ravel() for part in rows]))
    assert not np.isin(gathered, FIRST).any()
    assert np.isin(SECOND, gathered).any() == (method in ("soft_twin", "rewarm_twin", "bank_labels"))


def test_no_bank_and_no_problem_hold_it_any_more(in_turn):
    after = in_turn[1].prepared
    for models in after.bank.models:
        assert not any(np.isin([*FIRST, *SECOND], model.rows).any() for model in models)
    with pytest.raises(ValueError, match="holds 3, which an earlier request forgot already"):
        after.problem([3])


def test_requests_in_turn_leave_the_data_of_one_request(ready, in_turn):
    one = forget(ready, [*FIRST, *SECOND], method="rewarm").prepared
    np.testing.assert_array_equal(one.train.indices, in_turn[1].prepared.train.indices)
    assert one.debt() == in_turn[1].debt
    assert len(in_turn[1].prepared.forgotten) == 2


def test_the_second_request_starts_from_the_first_ones_model(in_turn):
    assert in_turn[1].model.original is in_turn[0].model
    assert in_turn[0].prepared.model is in_turn[0].model


def test_a_request_with_held_out_images_of_its_own_is_evaluated(ready):
    """`forget` takes the preparation's in their place, so what is predicted of those is not of these."""
    own = tmu_jax.data.forget_indices(DATA, FIRST, ratio="all")
    assert len(own.heldout) != len(ready.problem(own).heldout)
    found = forget(ready, own, method="soft_twin")
    evaluated = tmu_jax.evaluate(own, found.model, gold=ready.original)
    assert evaluated.predictor is not None
    assert evaluated.heldout_predictor is None
    asked = tmu_jax.evaluate(ready.problem(own), found.model, gold=ready.original)
    assert asked.predictor == evaluated.predictor
    assert asked.heldout_predictor is not None


def test_held_out_images_in_another_order_are_not_taken_for_the_preparations(ready):
    problem = ready.problem(FIRST)
    found = forget(ready, problem, method="soft_twin")
    turned = dataclasses.replace(problem, heldout=Split(problem.pool, problem.heldout.indices[::-1]))
    for one, is_known in ((problem, True), (turned, False)):
        of_class = tmu_jax.evaluate(one, found.model, gold=ready.original, target_class=problem.target_classes[0])
        assert (of_class.heldout_predictor is not None) == is_known


def test_an_ensemble_is_no_model_that_a_later_request_could_start_from(ready):
    with pytest.raises(ValueError, match="method='sisa' answers by a model of another kind"):
        forget(ready, FIRST, method="sisa")


def test_of_a_whole_class_nothing_is_sure_whatever_was_rounded(ready):
    """The other classes of a sharpened distribution may all have rounded to 0."""
    problem = ready.problem(np.flatnonzero(DATA.train_labels == 1))
    sure = np.eye(4, dtype=np.float32)[problem.forget.labels]
    predicted = Predicted(np.ones(len(sure)), sure)
    found = as_prediction(ready.heldout, ready.calibration, predicted, np.zeros((len(sure), 5)), problem)
    np.testing.assert_allclose(found.targets.sum(1), 1, rtol=1e-6)
    assert not found.targets[:, 1].any()


@pytest.mark.parametrize("method", ["soft_twin", "rewarm_twin", "rewarm"])
def test_a_later_request_goes_by_the_trainings_own_rates(ready, method, monkeypatch):
    """From the rates that the steps were given: each request's peak is the same, whatever was forgotten before."""
    steps, peaks = training.train_steps, []

    def spy(*args, **kwargs):
        peaks.append(float(np.max(args[6])))
        return steps(*args, **kwargs)

    patch_everywhere(monkeypatch, steps, spy)
    now, found = ready, []
    for rows in (FIRST, SECOND, np.arange(80, 92)):
        peaks.clear()
        now = forget(now, rows, method=method).prepared
        found.append(max(peaks))
        assert now.model.recipe == RECIPE
    assert found == pytest.approx([found[0]] * 3)
    assert found[0] > 0


def test_the_debt_of_each_model_is_what_it_was_trained_on(in_turn):
    """Of every repetition the two models' training rows are the two halves: together they owe each image once."""
    debt = in_turn[1].debt
    assert debt["bank 0.0"] + debt["bank 0.1"] == debt["bank 1.0"] + debt["bank 1.1"] == 24
    assert debt["original (rehearsals)"] == debt["twin (rehearsals)"] == 24
    assert "trained on forgotten images: 6 of 6" in repr(in_turn[1])


def test_refreshing_pays_the_debt_of_what_the_budget_buys(in_turn, monkeypatch):
    after = in_turn[1].prepared
    owed = {name: count for name, count in after.debt().items() if name.startswith("bank")}
    with gathered_rows(monkeypatch) as rows:
        fresh = refresh(after, 0.3)
    gathered = np.unique(np.concatenate([part.ravel() for part in rows]))
    assert not np.isin(gathered, [*FIRST, *SECOND]).any()
    left = {name: count for name, count in fresh.debt().items() if name.startswith("bank")}
    assert sorted(left.values())[0] == 0
    assert sum(count > 0 for count in left.values()) == 3
    assert left[max(owed, key=owed.get)] == 0  # the most indebted one first
    assert fresh.costs["refreshed"] == pytest.approx(0.25, rel=0.2)
    paid = refresh(after, 2.0)
    assert sum(count for name, count in paid.debt().items() if name.startswith("bank")) == 0
    with pytest.raises(ValueError, match="nothing to refresh"):
        refresh(paid, 2.0)
    with pytest.raises(ValueError, match=r"budget=0\.01 trainings buys no model"):
        refresh(after, 0.01)
    assert fresh.seconds["refreshed"] > 0
    for budget in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match=f"budget={budget} must be above 0"):
            refresh(after, budget)


def test_nothing_to_refresh_without_a_bank(bare):
    with pytest.raises(ValueError, match=r"no bank"):
        refresh(bare, 1.0)


def test_a_request_of_several_classes_and_of_one_image(ready):
    assert forget(ready, [0, 1, 2, 3], method="rewarm").prepared.forgotten[0].tolist() == [0, 1, 2, 3]
    found = forget(ready, [7], method="soft_twin")
    assert found.prediction.targets.shape == (1, 4)
    assert 0 <= found.expected_accuracy.low <= found.expected_accuracy.high <= 100


def test_the_cost_of_the_published_method_holds_its_curriculum_model(ready):
    problem, twin = ready.problem(np.arange(20)), tmu_jax.METHODS["twin"]
    work = twin.work(problem, RECIPE) + 2 * 0.2 * 200  # two epochs of a fifth of D
    assert ready.share(twin, problem) == pytest.approx(work / (RECIPE.epochs * 180))


def test_the_request_before_it_is_left_intact(ready):
    before = ready.train.indices.copy()
    forget(ready, FIRST, method="rewarm")
    np.testing.assert_array_equal(ready.train.indices, before)
    assert ready.forgotten == ()


def rehearsal(method, misalignment, size=20, **options):
    known = tmu_jax.METHODS[method].configured(None, options)
    return Rehearsal(
        method, dict(known.options), size, 1, 0.2, Estimate(0, 0, 0), 0, Estimate(0, 0, 0),
        Estimate(100 - misalignment, 0, 0), Estimate(0, 0, 0), Estimate(0, 0, 0), {}, 0.0,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        (Estimate(9.0, 4.0, 14.0), "9 points fewer"),
        (Estimate(-30.0, -34.0, -26.0), "30 points more"),
        (Estimate(-9.0, -14.0, -4.0), None),  # it was trained on a fifth more images
        (Estimate(9.0, -1.0, 19.0), None),  # too few test images to tell
        (Estimate(2.0, 1.5, 2.5), None),
    ],
)
def test_a_recipe_that_did_not_train_the_model_is_said(ready, loss, said, monkeypatch):
    monkeypatch.setattr(judging, "twin_loss", lambda prepared: loss)
    tried = (rehearsal("rewarm", 30, peak=0.5),)
    notes = forget(dataclasses.replace(ready, rehearsals=tried), np.arange(20), budget=0.2).notes
    found = [note for note in notes if "trained by the model's recipe" in note]
    assert len(found) == (said is not None)
    assert said is None or said in found[0]


def test_auto_takes_the_best_rehearsal_within_the_budget(ready):
    tried = (
        rehearsal("rewarm", 30, peak=0.5),
        rehearsal("soft_twin", 20, rate=0.2, epochs=2),
        rehearsal("rewarm_twin", 10, epochs=4),  # beyond the budget
        rehearsal("rewarm", 5, size=2, peak=0.1),  # of another size
    )
    found = forget(dataclasses.replace(ready, rehearsals=tried), np.arange(20), budget=0.2)
    assert found.method.startswith("soft_twin")
    assert found.rehearsal is tried[1]
    assert "rehearsed: agreement 80.0" in repr(found)


@pytest.mark.parametrize(
    ("count", "budget", "is_new"),
    [(20, 0.2, False), (20, 0.9, True), (2, 0.2, True)],
    ids=["as before", "a larger budget", "another size"],
)
def test_a_plan_shows_the_rehearsals_that_auto_will_make(ready, count, budget, is_new):
    """Those at hand are for twenty images, more or less, within a fifth of a retraining."""
    known = dataclasses.replace(ready, rehearsals=(rehearsal("rewarm", 30, peak=0.5),))
    problem = known.problem(np.arange(count))
    parts = of_request(problem, known.model, "auto", budget, 2, known)
    assert [name.startswith("rehearsals of") for name, _ in parts] == [True] * is_new + [False]
    assert is_rehearsed(known, problem, budget, alike=True) != is_new


def test_auto_takes_what_is_cheaper_where_it_rehearsed_better(ready):
    """A recipe that spends the budget was rehearsed, so no more are; the best one costs less than half of it."""
    costly, cheap = rehearsal("soft_twin", 20, rate=0.2, epochs=2), rehearsal("rewarm", 10, share=0.2, epochs=1)
    found = forget(dataclasses.replace(ready, rehearsals=(costly, cheap)), np.arange(20), budget=0.2)
    assert found.rehearsal is cheap
    assert 0 < found.share < 0.1


def test_auto_rehearses_recipes_of_the_requests_own_size_where_fewer_images_are_held_out(ready):
    """81 images of 200 with 40 held out: each kind of recipe is rehearsed, and none costs more than the budget."""
    rows = np.sort(np.random.default_rng(0).permutation(200)[:81])
    found = forget(ready, rows, budget=0.9)
    problem = ready.problem(rows)
    tried = {one.method: tmu_jax.METHODS[one.method].configured(None, one.options) for one in found.prepared.rehearsals}
    assert set(tried) == {"rewarm", "rewarm_rehearsed", "rewarm_twin", "soft_twin"}
    assert all(ready.share(method, problem) <= 0.9 * 1.05 for method in tried.values())
    assert found.rehearsal.misalignment == min(one.misalignment for one in found.prepared.rehearsals)
    assert any(note.startswith("rehearsed with 40 images at once") for note in found.notes)


def test_rehearsals_of_a_method_of_ones_own_are_no_matter_of_autos(ready):
    own, ours = dataclasses.replace(rehearsal("rewarm", 1), method="own"), rehearsal("rewarm", 30, peak=0.5)
    found = forget(dataclasses.replace(ready, rehearsals=(own, ours)), np.arange(20), budget=0.2)
    assert found.method.startswith("rewarm ")


def test_options_that_are_no_numbers_are_shown_and_a_start_that_is_not_there_is_refused(ready):
    def relabel(problem, original, key, manner):
        return rewarm_relabel(problem, original, key, 0.1, 1, 1.0)

    own = tmu_jax.Method("own", relabel, RECIPE, options={"manner": "soft"})
    assert forget(ready, [1, 2], method=own).method == "own (manner soft)"
    from_twin = dataclasses.replace(tmu_jax.METHODS["twin"], start="twin")
    with pytest.raises(ValueError, match="method='twin' starts from the published twin model"):
        forget(ready, [1, 2], method=from_twin)


@pytest.mark.parametrize(("count", "sets"), [(10, 3), (20, 1)])
def test_few_images_are_rehearsed_on_three_sets_where_so_many_are_held_out(ready, count, sets):
    """Of 40 held out."""
    found = forget(ready, np.arange(count), budget=0.3)
    assert {(one.size, one.repeats) for one in found.prepared.rehearsals} == {(count, sets)}


def test_auto_rehearses_where_nothing_was(ready):
    found = forget(ready, np.arange(20), budget=0.2)
    assert len(found.prepared.rehearsals) > 4
    best = min(found.prepared.rehearsals, key=lambda one: one.misalignment)
    assert found.rehearsal is best
    assert found.method.startswith(best.method)
    assert found.share < 0.25


def test_memorised_images_with_wrong_labels_are_forgotten_and_said_to_be_no_random_draw():
    """Forty of them: gold gets none right, the original all, and what learns from held-out images is not asked."""
    labels = DATA.train_labels.copy()
    labels[:40] = (labels[:40] + 1) % 4
    data = tmu_jax.data.from_arrays(DATA.train_images, labels, DATA.test_images, DATA.test_labels)
    recipe = dataclasses.replace(RECIPE, epochs=60, learning_rate=0.3)
    ready = tmu_jax.prepare(TinyNet(width=64), data, **{**CALL, "recipe": recipe})
    problem = ready.problem(np.arange(40))

    def accuracy(model):
        return 100 * float(np.mean(predict(model, problem.forget)[0].argmax(-1) == problem.forget.labels))

    assert accuracy(ready.original) > 90
    found = forget(ready, np.arange(40), budget=0.2)
    assert found.method.startswith("rewarm (")
    assert found.findings["random_draw"].value > 80
    assert any("not drawn like the held-out images" in note for note in found.notes)
    gold = tmu_jax.train(TinyNet(width=64), problem.retain, key=CALL["key"], recipe=recipe)
    assert accuracy(gold) < 10
    # A dense network this small needs more than the grid's rates to let go of what it has learnt by heart.
    gone = forget(ready, np.arange(40), method="rewarm", epochs=12, peak=4.0)
    assert accuracy(gone.model) < 20
    assert gone.outcome != "nothing forgotten"
    assert "of gold" in gone.reason
    by_twin = forget(ready, np.arange(40), method="twin")
    assert any("not drawn like the held-out images" in note for note in by_twin.notes)
    assert (by_twin.outcome == "nothing forgotten") == (accuracy(by_twin.model) > 85)
    kept = forget(ready, np.arange(40), method="finetune")
    assert accuracy(kept.model) > 90
    assert kept.outcome == "nothing forgotten"
    assert kept.notes[-1] == kept.reason
    assert repr(kept).startswith("FORGOT NOTHING OF 40 images by finetune")


def test_a_whole_class_goes_until_it_is_gone(ready):
    """One round of ascent leaves most of it; a fine-tuning without it does so after eight, and that is said."""
    whole = np.flatnonzero(DATA.train_labels == 2)
    problem = tmu_jax.data.forget_indices(DATA, whole, ratio="all")
    once = tmu_jax.unlearn("twin_negative_gradient", problem, ready.model, key=CALL["key"], alpha=0.6)
    assert np.mean(predict(once, problem.forget)[0].argmax(-1) == 2) > 0.5
    found = forget(ready, whole, method="twin_negative_gradient", alpha=0.6)
    assert found.outcome == "forgotten"
    rounds = int(re.search(r"gradient was applied (\d) times, for a whole class must go", repr(found)).group(1))
    assert 1 < rounds <= 8
    assert found.share == pytest.approx(rounds * 5 * 2 * 200 / (8 * 150))
    assert found.model.original is ready.model
    assert len(found.model.losses) == 5 * rounds
    kept = forget(ready, whole, method="finetune")
    assert (kept.outcome, len(kept.model.losses)) == ("nothing forgotten", 8 * 5)
    assert "of gold 0 % is expected (no image of the class stays)" in kept.reason
    assert found.model.seconds == pytest.approx(sum(found.model.seconds_by_part.values()))


def test_where_heldout_images_were_trained_on_auto_rehearses_nothing():
    """Every test image was: what a rehearsal would say of unseen ones is false."""
    everything = tmu_jax.data.Split(DATA.pool, np.arange(320, dtype=np.int32))
    recipe = dataclasses.replace(RECIPE, epochs=40, learning_rate=0.2)
    model = tmu_jax.train(TinyNet(width=64), everything, recipe=recipe, key=CALL["key"])
    ready = tmu_jax.prepare(model, DATA, **{**CALL, "recipe": None, "heldout": 60}, twin_epochs_share=0.05)
    found = forget(ready, FIRST, budget=0.2)
    assert found.method.startswith("rewarm (")
    assert "peak 1)" in found.method
    assert found.rehearsal is None
    assert found.expected_accuracy is None
    assert found.prepared.rehearsals == ()
    assert any("the held-out images were trained on" in note for note in found.notes)


def test_an_equal_image_that_stays_is_listed_and_a_ledgers_problem_is_taken(ready):
    images = DATA.train_images.copy()
    images[11] = images[3]
    data = dataclasses.replace(DATA, train_images=images)
    other = dataclasses.replace(
        ready,
        **{name: tmu_jax.data.Split(data.pool, getattr(ready, name).indices) for name in ("train", "heldout", "test")},
    )
    problem = tmu_jax.data.forget_indices(data, [3, 2])
    by_problem, by_rows = (forget(other, request, method="finetune") for request in (problem, [3, 2]))
    assert any("1 image that stays is equal to forgotten ones (11 of 3)" in note for note in by_rows.notes)
    assert by_rows.notes == by_problem.notes
    chex.assert_trees_all_equal(by_problem.model.variables, by_rows.model.variables)


def test_problems_that_are_not_of_the_preparation(ready):
    with pytest.raises(ValueError, match="of other images than the preparation"):
        forget(ready, tmu_jax.data.forget_indices(tiny_data(), [1]))
    removed = tmu_jax.data.forget_indices(DATA, [1], removed=[5, 9])
    with pytest.raises(ValueError, match=r"keeps 2 images .* rows 5, 9; prepare with removed=ledger.removed"):
        forget(ready, removed)
    with pytest.raises(ValueError, match="ask with heldout_source='test'"):
        forget(ready, tmu_jax.data.forget_indices(DATA, [1], heldout_source="train"))


def test_what_was_right_before_is_what_the_model_in_service_got_right(ready):
    """Not what M_o did: after an earlier request the two differ."""
    weak = tmu_jax.train(TinyNet(), ready.train, key=CALL["key"], recipe=dataclasses.replace(RECIPE, epochs=1))
    problem = ready.problem(FIRST)
    was, of_original = (
        100 * np.mean(predict(model, problem.forget)[0].argmax(-1) == problem.forget.labels)
        for model in (weak, ready.original)
    )
    assert abs(was - of_original) > 5
    reason = forget(dataclasses.replace(ready, model=weak), FIRST, method="rewarm").reason
    assert f"{was:.0f} % of them were right before" in reason


def test_expected_accuracy_is_the_mean_probability():
    found = expected_accuracy(np.array([1.0, 0.5, 0.0, 0.5], np.float32))
    assert found.value == 50
    assert found.high - found.value == pytest.approx(1.96 * 100 * np.sqrt(0.5) / 4, rel=1e-3)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"method": "amnesia"}, "method='amnesia' is unknown"),
        ({"method": "original"}, "forgets nothing"),
        ({"method": "soft_twin", "share": 1}, "share=1 is no option"),
        ({"rate": 0.1}, "have no use with method='auto'"),
        ({"budget": 0.0001}, "less than one step"),
        ({"budget": 2.0}, "budget=2.0"),
    ],
)
def test_requests_that_cannot_be(ready, options, said):
    with pytest.raises(ValueError, match=said):
        forget(ready, FIRST, **options)


def test_methods_of_a_bank_need_one(bare):
    with pytest.raises(ValueError, match="learns from a bank, and folds=0 left none"):
        forget(bare, FIRST, method="soft_twin")
    assert forget(bare, FIRST, budget=0.2).method.startswith("rewarm")
