"""The convolution under a user's own layers, in every program that we compile."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tmu_jax
from tests.patching import patch_everywhere
from tests.tiny import tiny_data
from tmu_jax import training
from tmu_jax.cpu.convolution import conv_general_dilated
from tmu_jax.training import Recipe, TrainedModel
from tmu_jax.twin import features
from tmu_jax.unlearning.bad_teacher import random_teacher


class OwnNet(nn.Module):
    """A user's module of plain Flax layers; each width is a program of its own."""

    width: int
    num_classes: int = 4

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> tuple[jax.Array, jax.Array]:
        hidden = nn.Conv(self.width, (3, 3))(images)
        hidden = nn.relu(nn.BatchNorm(use_running_average=not train)(hidden)).mean((1, 2))
        return nn.Dense(self.num_classes)(hidden), hidden


@pytest.fixture(scope="module")
def problem():
    return tmu_jax.data.forget_subset(tiny_data(), target_classes=[1], num_forget=10)


@pytest.fixture
def reached(monkeypatch):
    """Grows by one wherever the fast convolution is traced."""
    calls: list[int] = []

    def counting(images, *args, **kwargs):
        calls.append(len(images))
        return conv_general_dilated(images, *args, **kwargs)

    patch_everywhere(monkeypatch, conv_general_dilated, counting)
    return calls


def untrained(module, problem):
    images = jnp.zeros((1, *problem.pool.images.shape[1:]))
    variables = jax.eval_shape(lambda: module.init(jax.random.key(0), images))
    filled = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 0.1), dict(variables))
    return TrainedModel(module, filled, training.pixel_statistics(problem.train), Recipe())


def test_plain_layers_are_fast_in_every_compiled_program(problem, reached):
    programs = {
        "init_variables": lambda module: training.init_variables(
            jax.random.key(0), jnp.zeros((1, 4, 4, 3)), module=module
        ),
        "predict_rows": lambda module: tmu_jax.predict(untrained(module, problem), problem.forget),
        "attack_rows": lambda module: features.adversarial(untrained(module, problem), problem.forget, eps=0.1),
        "bad_teacher": lambda module: random_teacher(problem, untrained(module, problem), jax.random.key(0)),
        "train_steps": lambda module: tmu_jax.train(
            module, problem.train, key=jax.random.key(0), recipe=Recipe(epochs=1, batch_size=100)
        ),
    }
    for width, (name, program) in enumerate(programs.items(), start=2):
        module = OwnNet(width)
        if name in ("bad_teacher", "train_steps"):  # which also initialise
            programs["init_variables"](module)
        reached.clear()
        program(module)
        assert reached, name


def test_our_models_reach_the_same_convolution(reached):
    images, key = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32), jax.random.key(0)
    model = tmu_jax.models.create("small_resnet", 10)
    jax.eval_shape(lambda images: model.init(key, images), images)
    assert not reached  # outside our programs a layer is Flax's own
    variables = jax.eval_shape(lambda images: model.init(key, images), images)
    jax.eval_shape(lambda *args: training.apply(model, *args, train=False), variables, images)
    assert len(reached) == 10  # stem, two a block, three projected shortcuts


def test_apply_returns_what_the_module_does():
    module, images = OwnNet(3), jax.random.normal(jax.random.key(0), (5, 4, 4, 3))
    variables = training.init_variables(jax.random.key(1), images[:1], module=module)
    ours = jax.jit(lambda v, x: (training.apply(module, v, x, train=True), training.apply(module, v, x, train=False)))
    (outputs, updates), (_, evaluated) = ours(variables, images)
    expected, moved = jax.jit(lambda v, x: module.apply(v, x, train=True, mutable=["batch_stats"]))(variables, images)
    np.testing.assert_allclose(outputs[0], expected[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        updates["batch_stats"]["BatchNorm_0"]["mean"], moved["batch_stats"]["BatchNorm_0"]["mean"], rtol=1e-4
    )
    assert evaluated == {}
