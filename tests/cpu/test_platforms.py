"""What a GPU would be given: the programs of a whole request, lowered for CUDA on a machine that needs none."""

import collections
import functools
import re

import jax
import jax.numpy as jnp
import pytest

import tmu_jax
from tests.patching import patch_everywhere
from tmu_jax import training
from tmu_jax.data import synthetic
from tmu_jax.models import ViT
from tmu_jax.training import Recipe
from tmu_jax.twin import TwinSettings, features, neighbors, predictor

PROGRAMS = {
    "train_steps": training.train_steps,
    "predict_rows": training.predict_rows,
    "attack_rows": features.attack_rows,
    "nearest": neighbors._nearest,
    "fit": predictor.fit,
}


@pytest.fixture
def lowered(monkeypatch):
    """Lets Python choose as it does on a GPU, and lowers programs for CUDA instead of running them on this CPU.

    Returns the texts by name, each of the first call of that program; results are zeros.
    """
    found = {}

    def lowering(name, program):
        def call(*args, **kwargs):
            traced = program.trace(*args, **kwargs)
            if name not in found:
                found[name] = traced.lower(lowering_platforms=("cuda",)).as_text()
            return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), traced.out_info)

        return call

    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    for name, program in PROGRAMS.items():
        patch_everywhere(monkeypatch, program, lowering(name, program))
    # Flax's batch norm itself mixes bfloat16 with float32.
    with jax.numpy_dtype_promotion("standard"):
        yield found


def result_types(operation, text):
    """How many results of each element type an operation has in a program."""
    results = re.findall(rf"stablehlo\.{operation}\b.*-> tensor<(\S+)>", text)
    return collections.Counter(result.split("x")[-1] for result in results)


def request(arch):
    """An original model and a request; a model is created in bfloat16 on a GPU."""
    problem = tmu_jax.data.forget_subset(synthetic.generate(200, 60), target_classes=[1, 4], num_forget=6)
    model = tmu_jax.models.create(arch, num_classes=10)
    assert model.dtype == jnp.bfloat16
    return problem, tmu_jax.train(model, problem.train, recipe=Recipe(epochs=1, batch_size=16), key=jax.random.key(0))


def test_a_transformer_multiplies_in_bfloat16_on_a_gpu(lowered, monkeypatch):
    """Of four blocks, which are alike: nine take twice as long to lower."""
    monkeypatch.setitem(tmu_jax.models.ARCHITECTURES, "vit", functools.partial(ViT, depth=4))
    request("vit")
    products = result_types("dot_general", lowered["train_steps"])
    # Attention's weights and the head are float32.
    assert products["bf16"] > 4 * products["f32"] > 0
    assert lowered["train_steps"].count("stablehlo.while") == 1  # over steps


def test_a_whole_request_for_a_gpu_has_nothing_made_for_a_cpu(lowered, monkeypatch):
    problem, original = request("small_resnet")
    # Results are zeros here, so that every label would agree: half of them are said to be easy.
    monkeypatch.setattr(predictor, "only_label", lambda labels: None)
    settings = TwinSettings(twin_recipe=Recipe(epochs=1, batch_size=16), max_twin_epochs=1)
    tmu_jax.unlearn("twin", problem, original, key=jax.random.key(1), settings=settings)
    assert set(lowered) == set(PROGRAMS)
    assert not any("tmu_jax_" in text or "xla_cpu" in text for text in lowered.values())
    # Ten convolutions forward, and in training as many weight gradients, and of all but the first an input gradient.
    convolutions = {name: result_types("convolution", text) for name, text in lowered.items()}
    assert convolutions["train_steps"] == {"bf16": 29}
    assert convolutions["predict_rows"] == {"bf16": 10}
    assert set(convolutions["attack_rows"]) == {"f32"}  # gradients of pixels, whose signs count
    # No patches and no Winograd: what is left of products is the head's.
    assert result_types("dot_general", lowered["train_steps"]) == {"f32": 3}
    assert lowered["train_steps"].count("tf.aliasing_output") > 60  # parameters, momenta, statistics are donated
