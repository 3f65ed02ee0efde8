"""What a GPU would be given: the programs of whole jobs, lowered for CUDA on a machine that needs none."""

import collections
import dataclasses
import importlib
import re

import jax
import jax.numpy as jnp
import pytest

from benchmarks import cases, first_call
from benchmarks.inputs import make_inputs
from benchmarks.kernels import build

SCALE = dataclasses.replace(cases.SCALES["tiny"], dtypes=("bfloat16",))
CASES = {case.name: case for case in cases.cases(SCALE)}


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
    for module_name, name in {program for programs in first_call.PROGRAMS.values() for program in programs}:
        module = importlib.import_module(module_name)
        monkeypatch.setattr(module, name, lowering(name, getattr(module, name)))
    return found


def result_types(operation, text):
    """How many results of each element type an operation has in a program."""
    results = re.findall(rf"stablehlo\.{operation}\b.*-> tensor<(\S+)>", text)
    return collections.Counter(result.split("x")[-1] for result in results)


def run(case, lowered):
    # Flax's batch norm itself mixes bfloat16 with float32.
    with jax.numpy_dtype_promotion("standard"):
        kernel = build(case, make_inputs(case))
        lowered.clear()  # the programs that made the inputs
        kernel.run(1)


def test_a_transformer_multiplies_in_bfloat16_on_a_gpu_and_takes_the_batch_whole(lowered):
    run(CASES["train-step-vit-16-bfloat16"], lowered)
    (text,) = lowered.values()
    products = result_types("dot_general", text)
    # Attention's weights and the head are float32.
    assert products["bf16"] > 4 * products["f32"] > 0
    assert text.count("stablehlo.while") == 1  # over steps; a CPU also loops over parts of the batch


def test_a_whole_request_for_a_gpu_has_nothing_made_for_a_cpu(lowered):
    case = CASES["twin-request-small_resnet-200"]
    run(dataclasses.replace(case, settings={**case.settings, "dtype": "bfloat16"}), lowered)
    assert set(lowered) == {"train_steps", "predict_rows", "attack_rows", "_nearest", "_fit"}
    assert not any("xla_cpu" in text for text in lowered.values())
    # Ten convolutions forward, and in training as many weight gradients, and of all but the first an input gradient.
    convolutions = {name: result_types("convolution", text) for name, text in lowered.items()}
    assert convolutions["train_steps"] == {"bf16": 29}
    assert convolutions["predict_rows"] == {"bf16": 10}
    assert set(convolutions["attack_rows"]) == {"f32"}  # gradients of pixels, whose signs count
    # No patches and no Winograd: what is left of products is the head's.
    assert result_types("dot_general", lowered["train_steps"]) == {"f32": 3}
    assert lowered["train_steps"].count("tf.aliasing_output") > 60  # parameters, momenta, statistics are donated
