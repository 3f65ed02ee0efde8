"""The floor of a case: the arithmetic of the plain algorithm at this machine's peak for matrix products.

FLOPs are those of direct convolutions, counted by XLA on a program that is not compiled (a cleverer algorithm, as
Winograd's, may come below the floor); loops, which XLA counts once, are counted here.
"""

import math
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.arrays import Arrays
from benchmarks.cases import Case
from benchmarks.classifiers import classifier, variables_of
from benchmarks.inputs import NUM_CLASSES
from tmu_jax.training import weighted_cross_entropy


def peak_flops(size: int = 3072, repeats: int = 10) -> float:
    """FLOP/s of the best of some float32 matrix products of this size, at full precision."""
    matrix = jax.random.normal(jax.random.key(0), (size, size))
    product = jax.jit(lambda a: jnp.matmul(a, a, precision=jax.lax.Precision.HIGHEST))
    jax.block_until_ready(product(matrix))
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(product(matrix))
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds)


def work(case: Case, arrays: Arrays) -> float | None:
    """FLOPs of a unit of a case, or None where they are not counted."""
    settings = case.settings
    if case.kind == "distances":
        return 2.0 * len(arrays["queries"]) * arrays["bank"].size
    if case.kind == "predictor":
        # Forward, and both gradients but the first layer's input gradient.
        layers = (3 * 64, 64 * 32, 32)
        return 2.0 * settings["num_samples"] * settings["epochs"] * (3 * sum(layers) - layers[0])
    if case.kind not in ("train", "evaluation", "attack"):
        return None
    module, variables = classifier(settings["arch"]), variables_of(arrays)

    def loss(params: Any, images: jax.Array, *, train: bool) -> jax.Array:
        of_batch = {**variables, "params": params}
        (logits, _), _ = module.apply(of_batch, images, train=train, mutable=["batch_stats"])
        targets = jnp.zeros((len(images), NUM_CLASSES))
        return weighted_cross_entropy(logits, targets, jnp.ones(len(images)))

    def flops(function: Callable[..., Any], count: int) -> float:
        images = jax.ShapeDtypeStruct((count, *arrays["images"].shape[1:]), jnp.float32)
        costs = jax.jit(function).lower(variables["params"], images).cost_analysis()
        return float(costs["flops"]) if costs else math.nan

    def forward(params: Any, images: jax.Array) -> Any:
        return module.apply({**variables, "params": params}, images, train=False)

    if case.kind == "train":
        return flops(jax.grad(lambda *args: loss(*args, train=True)), settings["batch"])
    if case.kind == "evaluation":
        return flops(forward, settings["block"]) * settings["num_images"] / settings["block"]
    # The clean logits come with the first gradient.
    gradient = flops(jax.grad(lambda *args: loss(*args, train=False), argnums=1), settings["num_images"])
    return settings["num_steps"] * gradient + flops(forward, settings["num_images"])
