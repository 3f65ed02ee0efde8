"""The floor of a case: no machine of this peak and this bandwidth could be quicker.

The work is that of the plain algorithm (direct convolutions), so a cleverer one (Winograd's) may come below what the
multiplications alone would allow. Its FLOPs are counted by XLA on the program with `jax.lax`'s own convolutions, not
compiled; loops, which XLA counts once, are counted here. Its bytes are those that cannot be avoided: parameters,
optimiser state and inputs are read (and, in training, written) once, and the output of every convolution and dense
layer is written once and read once for the backward pass.
"""

import contextlib
import functools
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.cases import Case
from benchmarks.inputs import NUM_CLASSES, Arrays
from benchmarks.kernels import variables_of
from tmu_jax import models, training
from tmu_jax.cpu import native
from tmu_jax.training import TrainState

BY_XLA = "counted by XLA on the plain lax program"
BY_HAND = "counted by hand"


class Work(NamedTuple):
    """What a unit of a case must compute and move.

    Attributes:
      flops: operations, or None where they are not counted.
      bytes: unavoidable traffic with memory.
      source: how the FLOPs were counted.
      precision: which matrix-product peak they are held against.
    """

    flops: float | None
    bytes: float
    source: str
    precision: str = "float32"


class Peaks(NamedTuple):
    """What this machine reaches: FLOP/s of a matrix product by precision, and bytes/s of a copy (read and write)."""

    flops_per_second: dict[str, float]
    bytes_per_second: float


def floor_seconds(work: Work, peaks: Peaks) -> float | None:
    """The larger of the time to compute and the time to move, or None where the FLOPs are not counted."""
    if work.flops is None:
        return None
    return max(work.flops / peaks.flops_per_second[work.precision], work.bytes / peaks.bytes_per_second)


def measure_peaks(small: bool = False) -> Peaks:
    """Measures this machine: the best of ten matrix products of each precision, and of copies.

    Args:
      small: sizes for a test, whose result is no peak.

    Returns:
      The peaks.
    """
    on_cpu = jax.default_backend() == "cpu"
    size = 256 if small else 3072 if on_cpu else 16384
    count = 2**18 if small else 2**25 if on_cpu else 2**29
    precisions: dict[str, tuple[Any, Any]] = {"float32": (jnp.float32, None)}
    precisions["float32 highest"] = (jnp.float32, jax.lax.Precision.HIGHEST)
    if not on_cpu:
        precisions["bfloat16"] = (jnp.bfloat16, None)
    flops: dict[str, float] = {}
    for name, (dtype, precision) in precisions.items():
        if on_cpu and name != "float32":
            flops[name] = flops["float32"]
            continue
        matrix = jax.random.normal(jax.random.key(0), (size, size), dtype)
        product = jax.jit(functools.partial(jnp.matmul, precision=precision))
        flops[name] = 2 * size**3 / _best(functools.partial(product, matrix, matrix))
    return Peaks(flops, 2 * 4 * count * COPIES / _best(functools.partial(_copies, jnp.zeros(count, jnp.float32))))


COPIES = 32


@jax.jit
def _copies(values: jax.Array) -> jax.Array:
    """Reads and writes the values so many times; all but the first time in memory that has been touched before."""
    return jax.lax.fori_loop(0, COPIES, lambda _, values: values + 1, values)[:1]


def best_peaks(first: Peaks, second: Peaks) -> Peaks:
    """The better of two measurements: other work on the machine only lowers them."""
    flops = {name: max(value, second.flops_per_second[name]) for name, value in first.flops_per_second.items()}
    return Peaks(flops, max(first.bytes_per_second, second.bytes_per_second))


def _best(call: Callable[[], Any], repeats: int = 10) -> float:
    jax.block_until_ready(call())
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(call())
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def work(case: Case, arrays: Arrays) -> Work | None:
    """The work of a unit of a case, or None where it is not counted."""
    return _COUNTERS[case.kind](case.settings, arrays) if case.kind in _COUNTERS else None


class _Counter:
    """Counts what one architecture on images of one size does."""

    def __init__(self, settings: dict[str, Any], arrays: Arrays) -> None:
        self.dtype = settings["dtype"]
        self.module = models.create(settings["arch"], NUM_CLASSES, dtype=self.dtype)
        self.variables, self.image = variables_of(arrays), arrays["images"].shape[1:]
        self.parameter_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(self.variables))
        self.pixel_bytes = int(np.prod(self.image))

    def _images(self, count: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((count, *self.image), jnp.float32)

    def forward(self, count: int) -> float | None:
        return _flops(lambda v, x: self.module.apply(v, x, train=False), self.variables, self._images(count))

    def attack_step(self, count: int) -> float | None:
        def loss(images: jax.Array, variables: Any, labels: jax.Array) -> jax.Array:
            logits = self.module.apply(variables, images, train=False)[0]
            return training.weighted_cross_entropy(logits, labels, jnp.ones(count))

        labels = jax.ShapeDtypeStruct((count, NUM_CLASSES), jnp.float32)
        return _flops(jax.grad(loss), self._images(count), self.variables, labels)

    def train_step(self, count: int, optimizer: str = "sgd") -> tuple[float | None, float]:
        """FLOPs and bytes of one training step."""
        params, stats = self.variables["params"], self.variables.get("batch_stats", {})
        opt_state = jax.eval_shape(training.make_optimizer(optimizer, 5e-4).init, params)
        state = TrainState(params, stats, opt_state, jnp.zeros((), jnp.int32))
        step = functools.partial(training.train_step, module=self.module, optimizer=optimizer)
        targets, weights = jnp.zeros((count, NUM_CLASSES)), jnp.ones(count)
        rate = jnp.zeros(())
        flops = _flops(step, state, self._images(count), targets, weights, rate, rate)
        moments = sum(leaf.size * 4 for leaf in jax.tree.leaves(opt_state))
        moved = 2 * (self.parameter_bytes + moments) + 2 * self._layer_outputs(count) + count * self.pixel_bytes
        return flops, moved

    def _layer_outputs(self, count: int) -> int:
        """Bytes of the outputs of all convolutions and dense layers."""

        def is_layer(module: nn.Module, _: str) -> bool:
            return isinstance(module, nn.Conv | nn.Dense | nn.DenseGeneral)

        def apply(variables: Any, images: jax.Array) -> Any:
            mutable = ["intermediates", "batch_stats"]
            return self.module.apply(variables, images, train=True, capture_intermediates=is_layer, mutable=mutable)[1]

        captured = jax.eval_shape(apply, self.variables, self._images(count))["intermediates"]
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(captured))


def _flops(function: Callable[..., Any], *args: Any) -> float | None:
    """FLOPs of a function by operations of XLA, which counts them, and with `jax.lax`'s own convolutions."""
    with _plain_convolutions(), mock.patch.object(native, "is_available", return_value=False):
        costs = jax.jit(function).lower(*args).cost_analysis()
    return float(costs["flops"]) if costs and "flops" in costs else None


@contextlib.contextmanager
def _plain_convolutions() -> Iterator[None]:
    """Takes the library's own convolution from under every `nn.Conv` that is traced inside."""

    def intercept(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        module = context.module
        own = getattr(module, "conv_general_dilated", None)
        if not isinstance(module, nn.Conv) or own is None:
            return call(*args, **kwargs)
        object.__setattr__(module, "conv_general_dilated", None)
        try:
            return call(*args, **kwargs)
        finally:
            object.__setattr__(module, "conv_general_dilated", own)

    with nn.intercept_methods(intercept):
        yield


def _scaled(flops: float | None, factor: float) -> float | None:
    return None if flops is None else flops * factor


def _train(settings: dict[str, Any], arrays: Arrays) -> Work:
    flops, moved = _Counter(settings, arrays).train_step(settings["batch"], settings["optimizer"])
    steps = settings["steps_per_unit"]
    return Work(_scaled(flops, steps), moved * steps, BY_XLA, settings["dtype"])


def _evaluation(settings: dict[str, Any], arrays: Arrays) -> Work:
    counter, count = _Counter(settings, arrays), settings["num_images"]
    flops = _scaled(counter.forward(settings["block"]), count / settings["block"])
    return Work(flops, counter.parameter_bytes + count * counter.pixel_bytes, BY_XLA, settings["dtype"])


def _attack(settings: dict[str, Any], arrays: Arrays) -> Work:
    counter, count, steps = _Counter(settings, arrays), settings["num_images"], settings["num_steps"]
    step, forward = counter.attack_step(count), counter.forward(count)
    # The clean logits come with the first gradient.
    flops = None if step is None or forward is None else steps * step + forward
    return Work(flops, (2 * steps + 1) * counter.parameter_bytes + count * counter.pixel_bytes, BY_XLA)


def _distances(settings: dict[str, Any], arrays: Arrays) -> Work:
    queries, bank = arrays["queries"], arrays["bank"]
    flops = 2.0 * len(queries) * bank.size
    return Work(flops, queries.nbytes + bank.nbytes + 4 * len(queries) * settings["k"], BY_HAND, "float32 highest")


def _predictor(settings: dict[str, Any], arrays: Arrays) -> Work:
    samples = settings["num_samples"] * settings["epochs"]
    return Work(_predictor_flops(samples), samples * 4.0 * 4, BY_HAND)


def _predictor_flops(samples: int) -> float:
    """Of training on so many samples: forward, and both gradients but the first layer's input gradient."""
    layers = (3 * 64, 64 * 32, 32)
    return 2.0 * samples * (3 * sum(layers) - layers[0])


def _request(settings: dict[str, Any], arrays: Arrays) -> Work:
    """All trainings, attacks, embeddings and the predictor of a request; distances are left out (small)."""
    counter = _Counter(settings, arrays)
    sizes = {name: len(arrays[name]) for name in ("train", "forget", "retain", "heldout")}
    attack, forward = counter.attack_step(128), counter.forward(128)
    trainings = (
        (settings["twin_epochs"], sizes["train"] + sizes["heldout"], 128),
        (settings["curriculum_epochs"], sizes["train"] - sizes["forget"], 64),
        (settings["unlearning_epochs"], sizes["train"], 64),
    )
    if attack is None or forward is None:
        return Work(None, 0, BY_XLA)
    flops = moved = 0.0
    for epochs, images, batch in trainings:
        step_flops, step_bytes = counter.train_step(batch)
        steps = epochs * max(1, images // batch)
        flops, moved = flops + steps * (step_flops or 0), moved + steps * step_bytes
    # Five radii for the held-out images, whose first gradient is the same, and one for the others; five steps each.
    flops += sizes["heldout"] * (attack + 5 * (4 * attack + forward)) / 128
    flops += sizes["forget"] * (5 * attack + forward) / 128
    # Embeddings and curriculum losses; of the held-out images also what the original and the twin model predict.
    flops += (sizes["train"] + sizes["retain"] + 4 * sizes["heldout"] + 2 * sizes["forget"]) * forward / 128
    return Work(flops + _predictor_flops(100 * sizes["heldout"]), moved, BY_XLA)


_COUNTERS: dict[str, Callable[[dict[str, Any], Arrays], Work]] = {
    "train": _train,
    "evaluation": _evaluation,
    "attack": _attack,
    "distances": _distances,
    "predictor": _predictor,
    "request": _request,
}
