"""The stages of a request: which rows and keys they are made from, and that their names see every setting."""

import dataclasses

import jax
import numpy as np
import pytest

import tmu_jax
from experiments.protocol.graph import Graph
from experiments.protocol.requests import FLOORS, make_requests
from tests.protocol.test_run import settings
from tests.tiny import TinyNet, noise_for_training, tiny_data
from tmu_jax import training
from tmu_jax.preparation import BankSettings
from tmu_jax.unlearning import METHODS
from tmu_jax.unlearning import method as method_module

DATA = tiny_data()


def graph(**changes):
    arm = settings(DATA, **changes)
    return Graph(arm, make_requests(arm, DATA)[0], TinyNet())


def names(found, methods=tuple(METHODS)):
    """Names of stages by what they are."""
    chain = {"original": found.original, "gold": found.gold, "second gold": found.second_gold}
    chain |= {stage.kind: stage for stage in found.prediction.with_ancestors()}
    chain |= {stage.kind: stage for stage in found.labels("soft_twin").with_ancestors() if stage.is_kept}
    chain |= {name: found.model(name) for name in methods if METHODS[name].reference is None}
    return {what: stage.name for what, stage in chain.items()}


def changed(**changes):
    before, after = names(graph()), names(graph(**changes))
    return {what for what in before if before[what] != after[what]}


def twin_settings(**changes):
    return dataclasses.replace(settings(DATA).twin_settings, **changes)


ALL = set(names(graph()))
LABELLED = {"twin", "twin_negative_gradient"}
BANKED = {"bank_labels", "soft_twin", "rewarm_twin"}
FROM_BANK = {"bank", "bank_prediction", "rewarm_rehearsed", "datamodel_matching", *BANKED}
AS_TRAINED = {"rewarm", "soft_twin", "rewarm_twin", "rewarm_rehearsed", "sisa"}
"""Methods whose rate and schedule are the training's own."""
UNTRAINED = {"ssd", "fisher", "influence", "amnesiac", "ntk"}
"""Methods that train nothing."""
FROM_FEATURES = {"features", "prediction", *LABELLED}
METHOD_STAGES = {name for name, method in METHODS.items() if method.reference is None}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"recipe": training.Recipe(epochs=5, batch_size=20)}, ALL),
        ({"data_fingerprint": "another"}, ALL),
        ({"training_seed": 9}, ALL),
        ({"num_forget": 9}, ALL - {"original", "bank"}),
        ({"unlearning_seed": 9}, ALL - {"original", "gold", "second gold", "bank", "bank_prediction"}),
        ({"unlearning_rate_factor": 3.0}, METHOD_STAGES - AS_TRAINED - UNTRAINED),
        ({"unlearning_schedule": "step"}, METHOD_STAGES - AS_TRAINED - UNTRAINED),
        ({"bank": BankSettings(epochs_share=0.25)}, FROM_BANK),
        ({"bank": BankSettings(folds=3)}, FROM_BANK),
        ({"bank": BankSettings(repetitions=1)}, FROM_BANK),
        # The twin model that it names after is the rehearsals' own, and no longer the published method's.
        ({"twin_model": True}, {"twin_model", "bank_prediction", *BANKED}),
        ({"twin_settings": twin_settings(twin_replay=0.5)}, {"twin_model", *FROM_FEATURES}),
        ({"twin_settings": twin_settings(curriculum_share=0.5)}, {"curriculum", *FROM_FEATURES}),
        ({"twin_settings": twin_settings(attack_steps=2)}, FROM_FEATURES),
        ({"twin_settings": twin_settings(predictor_batch_size=7)}, FROM_FEATURES - {"features"}),
        ({"twin_settings": twin_settings(threshold="count")}, FROM_FEATURES - {"features"}),
        ({"twin_settings": twin_settings(curriculum_data="train")}, {"curriculum", *FROM_FEATURES}),
        ({"twin_settings": twin_settings(predictor_epochs=200)}, FROM_FEATURES - {"features"}),
        ({"unlearning_start": "twin"}, LABELLED),
        # That method's fine-tuning goes by recipes that it makes itself.
        ({"unlearning_noise": 0.1}, METHOD_STAGES - UNTRAINED - {"rewarm_rehearsed"}),
        ({"tuned_share": 0.25}, ALL),
        ({"preset": "another", "methods": ("twin",), "variant": "an arm"}, set()),
    ],
    ids=lambda value: "-".join(sorted(value)),
)
def test_a_setting_is_in_the_names_of_the_stages_that_it_changes(changes, expected):
    assert changed(**changes) == expected


@pytest.mark.parametrize("ratio", ["class", "all"])
def test_other_held_out_images_are_another_stage(ratio):
    """Other held-out images, maybe with augmented copies: a longer pool, for every row of which labels are drawn."""
    assert len(graph(ratio=ratio).request.problem.heldout) != len(graph().request.problem.heldout)
    assert changed(ratio=ratio) == METHOD_STAGES | {"twin_model", "bank_prediction", *FROM_FEATURES}


def test_a_methods_options_recipe_and_version_are_in_its_name(monkeypatch):
    before = names(graph())
    for name, changes in {
        "negative_gradient": {"options": {"alpha": 0.9}},
        "bad_teacher": {"options": {"retain_share": 0.5}},
        "twin_negative_gradient": {"options": {"alpha": 0.9}},
        "finetune": {"recipe": dataclasses.replace(METHODS["finetune"].recipe, weight_decay=0.0)},
        "twin": {"version": 2},
        "soft_twin": {"options": {"replay": 4.0, "epochs": 6, "rate": 0.1}},
        "rewarm": {"version": 2},
    }.items():
        with monkeypatch.context() as patched:
            patched.setitem(METHODS, name, dataclasses.replace(METHODS[name], **changes))
            after = names(graph())
        assert {what for what in before if before[what] != after[what]} == {name}


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("training", ALL),
        ("twin_model", {"twin_model", *FROM_FEATURES}),  # a rehearsal's is a training
        ("curriculum", {"curriculum", *FROM_FEATURES}),
        ("features", FROM_FEATURES),
        ("prediction", FROM_FEATURES - {"features"}),
        ("bank", FROM_BANK),
        ("bank_prediction", {"bank_prediction", *BANKED}),
        ("rehearsal", {"rewarm_rehearsed"}),
        ("foretelling", {"rewarm_rehearsed"}),
    ],
)
def test_the_version_of_the_code_is_in_the_names_of_all_that_it_makes(monkeypatch, kind, expected):
    from tmu_jax.stages import VERSIONS

    before = names(graph())
    monkeypatch.setitem(VERSIONS, kind, VERSIONS[kind] + 1)
    after = names(graph())
    assert {what for what in before if before[what] != after[what]} == expected


def test_every_field_of_the_twin_settings_belongs_to_one_part():
    fields = [field.name for field in dataclasses.fields(tmu_jax.TwinSettings)]
    from tmu_jax.twin.settings import PARTS

    assert sorted(fields) == sorted(name for part in PARTS.values() for name in part)


def test_requests_of_two_classes_share_the_original_the_bank_and_the_curriculum_alone():
    arm = settings(DATA, requests="each")
    first, second = (Graph(arm, request, TinyNet()) for request in make_requests(arm, DATA))
    ours, others = names(first), names(second)
    assert {what for what in ours if ours[what] == others[what]} == {"original", "bank", "curriculum"}


def test_what_is_planned_is_what_the_methods_need():
    found = graph()
    kinds = [stage.kind for stage in found.stages(("original", "retrain", "twin", FLOORS))]
    assert kinds == ["original", "gold", "twin_model", "curriculum", "features", "prediction", "twin", "gold"]
    assert [stage.kind for stage in found.stages(("retrain",))] == ["original", "gold"]
    labels_alone = graph(unlearn=False)
    assert [stage.kind for stage in labels_alone.stages(("twin",))][-1] == "prediction"
    assert labels_alone.stops_at_labels("twin")
    assert not labels_alone.stops_at_labels("finetune")


def test_the_two_golds_differ_and_every_request_has_its_own():
    arm = settings(DATA, requests="each")
    keys = set()
    for request in make_requests(arm, DATA):
        found = Graph(arm, request, TinyNet())
        keys |= {str(jax.random.key_data(stage.made_from["key"])) for stage in (found.gold, found.second_gold)}
    assert len(keys) == 4


def test_what_is_trained_on_which_rows(monkeypatch):
    """Gold never sees D_f, the twin sees all of D and D_test, the curriculum model neither D_f nor D_test."""
    found = graph(requests="combined")
    problem, seen = found.request.problem, []
    fit = training.fit

    def spy(module, variables, normalization, pool, stream, *rest, **options):
        seen.append(np.unique(np.concatenate(stream.groups)))
        return noise_for_training(module, variables, normalization, pool, stream, *rest, **options)

    from tests.patching import patch_everywhere

    patch_everywhere(monkeypatch, fit, spy)
    assert method_module.fit is spy
    values = {}
    for stage in found.stages(("random_labeling", "finetune", "twin", FLOORS)):
        parents = {argument: values[parent.name] for argument, parent in stage.parents.items()}
        count = len(seen)
        values[stage.name] = stage.make(**parents, progress=lambda done, total: None)
        trained = seen[count:]
        if stage.kind in ("features", "prediction"):
            assert not trained
            continue
        (rows,) = trained
        expected = {
            "original": problem.train.indices,
            "gold": problem.retain.indices,
            "twin_model": np.union1d(problem.train.indices, problem.heldout.indices),
            "random_labeling": problem.train.indices,
            "finetune": problem.retain.indices,
            "twin": problem.train.indices,
        }
        if stage.kind == "curriculum":
            assert not np.isin(rows, [*problem.forget.indices, *problem.heldout.indices]).any()
            assert np.isin(rows, problem.train.indices).all()
        else:
            np.testing.assert_array_equal(rows, np.unique(expected[stage.kind]), err_msg=stage.kind)
    # And the pixels' statistics, which are of the training images alone.
    for stage, split in ((found.original, problem.train), (found.gold, problem.retain)):
        expected_mean = training.pixel_statistics(split).mean
        np.testing.assert_array_equal(values[stage.name].normalization.mean, expected_mean)


def test_a_rehearsal_is_of_images_not_of_their_augmented_copies():
    """Eq. 3 asks for more of a whole class than there are; the preparation has each image once."""
    found = graph(classes=(0,), num_forget="all", ratio="dataset")
    problem = found.request.problem
    assert len(problem.heldout) > len(found.heldout) == len(set(problem.heldout.indices) & set(problem.test.indices))
    rehearsal = found.labels("rewarm_rehearsed").parents["rehearsal"]
    assert rehearsal.made_from["size"] == len(found.heldout)
