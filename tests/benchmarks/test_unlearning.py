"""Whole unlearnings beside torchunlearn's: the order that both go by, our side, and a rival that is not there."""

import dataclasses
import os
import sys

import jax
import numpy as np
import pytest

from benchmarks import cases, inputs, kernels, measure, methods
from benchmarks.arrays import flatten, save_arrays, to_torch
from benchmarks.client import RivalProcess
from benchmarks.inputs import make_inputs
from benchmarks.unlearning import recipe_of
from tmu_jax.data.types import Split
from tmu_jax.training import Normalization, Recipe, TrainedModel, init_variables, loop

TINY = {case.settings["method"]: case for case in cases.cases("tiny") if case.kind == "unlearning"}
IN_ORDER = [one.method for one in methods.UNLEARNINGS if one.exact == "logits"]


@pytest.fixture
def untrained(monkeypatch):
    """The original model of every case as it is before training, which is quick to have."""

    def not_trained(module, data, *, key, recipe):
        variables = init_variables(key, np.zeros((1, 32, 32, 3), np.float32), module=module)
        return TrainedModel(module, variables, Normalization(np.zeros(3), np.ones(3)), recipe)

    inputs._any_images.cache_clear()
    monkeypatch.setattr(inputs.tmu_jax, "train", not_trained)
    yield
    inputs._any_images.cache_clear()


@pytest.mark.parametrize("method", IN_ORDER)
def test_the_rival_gets_the_batches_that_our_method_draws(untrained, monkeypatch, method):
    case, drawn = TINY[method], []
    arrays = make_inputs(case)

    def record(state, images, targets, weights, normalization, rows, rates, count, *rest, **statics):
        drawn.append(np.asarray(rows)[: int(count)])
        return state, np.zeros(len(rows), np.float32)

    monkeypatch.setattr(loop, "train_steps", record)
    kernels.build(case, arrays).run(1)
    np.testing.assert_array_equal(np.concatenate(drawn), arrays["order"])
    of_retain, of_forget = np.split(arrays["order"], [int(arrays["of_retain"])], axis=1)
    assert set(of_retain.ravel()) <= set(arrays["retain"].tolist())
    assert set(of_forget.ravel()) == (set(arrays["forget"].tolist()) if method == "negative_gradient" else set())


@pytest.mark.parametrize("scale", methods.SIZES)
def test_both_sides_take_as_many_images_in_as_many_steps(scale):
    """A batch of each of D_r and D_f on theirs is one of D on ours, and weighs each image alike."""
    for case in cases.cases(scale):
        if case.kind != "unlearning":
            continue
        settings = case.settings
        train, forget, batch = settings["num_train"], settings["num_forget"], settings["batch"]
        few = batch // methods.PARTS
        assert batch % methods.PARTS == 0
        if settings["rival"] in ("RandomLabel", "BadTeacher", "SCRUB", "SalUn"):
            assert train // batch == forget // few == (train - forget) // (batch - few)
        theirs = settings["theirs"]
        if settings["rival"] in ("RandomLabel", "BadTeacher", "SalUn"):
            assert theirs["retain_lambda"] == (batch - few) / batch
            assert theirs.get("forget_lambda", 1 - theirs["retain_lambda"]) == few / batch


def test_every_method_has_its_recipe_and_those_without_training_none():
    recipes = {name: recipe_of(case.settings) for name, case in TINY.items()}
    assert [name for name, recipe in recipes.items() if recipe is None] == ["fisher", "influence"]
    sgd = Recipe(1, 16, 0.01, "constant", optimizer="sgd", weight_decay=5e-4)
    assert recipes["finetune"] == recipes["salun"] == sgd
    assert recipes["bad_teacher"] == Recipe(1, 16, 1e-4, "constant", optimizer="adam", weight_decay=0.0)


def test_a_rival_that_cannot_be_imported_is_an_error_in_its_row_alone(tmp_path, untrained, monkeypatch):
    for name in ("torch", "torchunlearn"):  # whether it is installed here or not
        (tmp_path / f"{name}.py").write_text("raise ModuleNotFoundError(f\"No module named '{__name__}'\")")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    case = TINY["finetune"]
    save_arrays(tmp_path / "inputs.npz", make_inputs(case))

    class Ours:
        def check(self):
            return {}

        def run(self, count):
            return 3.0

    with RivalProcess(sys.executable) as process:
        rows = measure.measure(case, Ours(), process, tmp_path / "inputs.npz", 1, lambda line: None)
    assert [row.rival for row in rows] == [methods.TORCHUNLEARN, methods.TORCHUNLEARN_LAST]
    assert all("No module named 'torch" in row.error and row.ours_seconds == 3.0 for row in rows)


@pytest.mark.slow
def test_the_fisher_information_is_in_the_order_of_pytorchs_names(untrained):
    """Beside the derivatives of each class's log-probability, one after another."""
    case = TINY["fisher"]
    kernel = kernels.build(case, make_inputs(case))
    problem, original = kernel._problem, kernel._original
    rows = problem.retain.indices[:1]
    kernel._problem = dataclasses.replace(problem, retain=Split(problem.pool, rows))
    pixels = problem.pool.images[rows].astype(np.float32) / 255

    def log_probability(bias, label):
        head = {**original.variables["params"]["head"], "bias": bias}
        params = {**original.variables["params"], "head": head}
        logits, _ = original.module.apply({**original.variables, "params": params}, pixels, train=False)
        return jax.nn.log_softmax(logits)[0, label]

    bias = original.variables["params"]["head"]["bias"]
    slopes = np.stack([jax.grad(log_probability)(bias, label) for label in range(10)])
    shares = np.exp([log_probability(bias, label) for label in range(10)])
    found = kernel._information()
    state = to_torch(flatten(jax.device_get(original.variables["params"]), "params"))
    start = sum(state[name].size for name in sorted(state) if name < "head.bias")
    np.testing.assert_allclose(found[start : start + 10], (shares[:, None] * slopes**2).sum(0), rtol=1e-3, atol=1e-7)


@pytest.mark.slow
def test_the_methods_of_torchunlearn_end_where_ours_do(tmp_path):
    pytest.importorskip("torchunlearn")
    from benchmarks.rivals.unlearning import Unlearning

    for case in TINY.values():
        arrays = make_inputs(case)
        theirs = Unlearning(case.settings, arrays, methods.TORCHUNLEARN).check()
        measure.compare(kernels.build(case, arrays).check(), theirs, case.tolerances)
