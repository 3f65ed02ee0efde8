"""The three features of a sample: nearest distance (NF), adversarial (AF) and curriculum loss (CF).

Small NF, small AF and small CF say that a gold model would still get the sample right.

References:
  Ji et al., Towards Aligned Data Removal via Twin Machine Unlearning, 2024 (arXiv 2408.11433), Eqs. 4-7.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special

from tmu_jax import devices
from tmu_jax.data import Split
from tmu_jax.training import (
    Blocks,
    ModuleLike,
    Normalization,
    TrainedModel,
    Variables,
    apply,
    evaluation_blocks,
    first_rows,
    in_calls,
    in_float32,
    normalize,
    over_blocks,
    predict,
    unit_pixels,
)
from tmu_jax.twin.attacks import adversarial_cross_entropy, ascent_direction, attack_batch
from tmu_jax.twin.neighbors import mean_nearest_distance

Feature = Literal["NF", "AF", "CF"]
FEATURES: tuple[Feature, ...] = get_args(Feature)
ATTACKED_ON_CPU, ATTACKED_ELSEWHERE = Blocks(32, 8), Blocks(128, 1)
# As many as there are candidates by default (`TwinSettings.eps_candidates`).
_LEAST_RADII = 5


def nearest_distance(
    model: TrainedModel,
    queries: Split,
    bank: Split,
    *,
    k: int = 5,
    same_class: bool = True,
    normalized: bool = True,
) -> np.ndarray:
    """NF: mean distance from each sample to its k nearest of the same class, in embedding space.

    Bank and queries are embedded by the same model.

    Args:
      model: M_t for the twin problem, M_o for the original problem.
      queries: n samples.
      bank: the problem's retain set.
      k: number of neighbours.
      same_class: whether only samples of a query's own class count, or all of the bank.
      normalized: whether each embedding is divided by its L2 norm.

    Returns:
      float32[n]; normalized, in units of the unit sphere (0..2).

    Raises:
      ValueError: when the bank holds no sample of a query's class, or there are no queries.
    """
    if not len(queries):
        raise ValueError("queries holds no images; give at least one")
    classes = np.unique(queries.labels)
    if same_class:
        bank = Split(bank.pool, bank.indices[np.isin(bank.labels, classes)])
    missing = sorted(set(classes.tolist()) - set(np.unique(bank.labels).tolist())) if same_class else []
    if missing:
        raise ValueError(f"bank holds no sample of class {missing}; nearest distances need at least one")

    def embed(split: Split) -> np.ndarray:
        embeddings = predict(model, split)[1]
        if not normalized:
            return embeddings
        return embeddings / np.maximum(np.linalg.norm(embeddings, axis=-1, keepdims=True), 1e-12)

    groups = (queries.labels, bank.labels) if same_class else (None, None)
    return np.asarray(
        mean_nearest_distance(embed(queries), embed(bank), k=k, query_groups=groups[0], bank_groups=groups[1])
    )


def adversarial(
    model: TrainedModel,
    samples: Split,
    *,
    eps: float | Sequence[float],
    num_steps: int = 5,
    order: Literal["clean_target", "adversarial_target"] = "clean_target",
    block: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """AF: cross-entropy between the clean and the adversarial prediction of each sample.

    Several radii at once take less time than one after another: their first gradient is the same.

    Args:
      model: M_t for the twin problem, M_o for the original problem; batch norm in evaluation mode.
      samples: n samples; their labels are the true ones.
      eps: L-infinity radius in pixel units, above 0 and at most 1, or r of them.
      num_steps: steps of eps/3 each.
      order: "clean_target" (the softmax of the clean logits is the target) or "adversarial_target".
      block: samples attacked together; by default 32 on a CPU, where they stay in its cache, and 128 elsewhere.
      progress: called with (samples done, samples in all), a sample being done with all its radii.

    Returns:
      The feature float32[n] in nats, and whether the attack succeeded (the adversarial prediction is wrong, that of the
      clean image right or not), bool[n]; of several radii float32[r, n] and bool[r, n].

    Raises:
      ValueError: when a setting is out of range or there are no samples.
    """
    radii = np.atleast_1d(np.asarray(eps, np.float64))
    if radii.ndim != 1 or not radii.size or not np.all((radii > 0) & (radii <= 1)):
        raise ValueError(f"eps={eps} must be above 0 and at most 1, in pixel units (4/255, say), or some such numbers")
    blocks = evaluation_blocks(ATTACKED_ON_CPU, ATTACKED_ELSEWHERE) if block is None else Blocks(block, 1)
    if num_steps < 1 or blocks.size < 1:
        raise ValueError(f"num_steps={num_steps} and block={blocks.size} must be at least 1")
    if order not in ("clean_target", "adversarial_target"):
        raise ValueError(f"order={order!r}; choose 'clean_target' or 'adversarial_target'")
    if not len(samples):
        raise ValueError("samples holds no images; give at least one")
    # A radius of 0.25/255 is lost in bfloat16's rounding of the pixels.
    module = in_float32(model.module)
    labels = samples.pool.labels
    variables, normalization = devices.replicate((model.variables, model.normalization))
    features, successes = [], []
    done = 0
    calls, counts = zip(*blocks.split(samples.indices), strict=True)
    for call, rows, count in zip(in_calls(samples.pool, calls), calls, counts, strict=True):
        clean, attacked = attack_rows(
            variables,
            normalization,
            *call,
            devices.split(labels[rows], 1),
            blocks.num_blocks(count),
            *padded_radii(radii),
            module=module,
            num_steps=num_steps,
        )
        # Of all blocks and radii, real or not, so that one program serves them.
        entropies = adversarial_cross_entropy(jnp.broadcast_to(clean, attacked.shape), attacked, order=order)
        feature, logits = (
            np.stack([first_rows(of_radius, count) for of_radius in devices.on_host(part)[: len(radii)]])
            for part in (entropies, attacked)
        )
        features.append(feature)
        successes.append(logits.argmax(-1) != samples.labels[done : done + count])
        done += count
        if progress is not None:
            progress(done, len(samples))
    shape = (*np.shape(eps), len(samples))
    return np.concatenate(features, axis=1).reshape(shape), np.concatenate(successes, axis=1).reshape(shape)


def padded_radii(radii: Sequence[float] | np.ndarray) -> tuple[np.ndarray, np.int32]:
    """Radii float32[at least 5] and how many of them are meant, so that one program serves one radius and five."""
    return np.resize(np.asarray(radii, np.float32), max(len(radii), _LEAST_RADII)), np.int32(len(radii))


@functools.partial(jax.jit, static_argnames=("module", "num_steps"))
def attack_rows(
    variables: Variables,
    normalization: Normalization,
    images: jax.Array,
    rows: jax.Array | None,
    labels: jax.Array,
    num_blocks: jax.Array,
    radii: jax.Array,
    num_radii: jax.Array,
    *,
    module: ModuleLike,
    num_steps: int,
) -> tuple[jax.Array, jax.Array]:
    """Logits of rows int32[per_call, size] with their labels, clean and attacked at the first radii; see `Call`.

    Returns (float32[per_call, size, classes], float32[radii, per_call, size, classes]); see `over_blocks`.
    """

    # A jit of its own, so that all its uses share one trace.
    @jax.jit
    def logits_fn(image: jax.Array) -> jax.Array:
        (logits, _), _ = apply(module, variables, normalize(image[None], normalization), train=False)
        return logits[0]

    def attack_block(block: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
        pixels = unit_pixels(images, block)
        uphill, clean = jax.vmap(functools.partial(ascent_direction, logits_fn))(pixels, labels)

        def attack(eps: jax.Array) -> jax.Array:
            attacked = attack_batch(logits_fn, pixels, labels, eps=eps, num_steps=num_steps, uphill=uphill)
            return jax.vmap(logits_fn)(attacked)

        return clean, over_blocks(attack, num_radii, jnp.asarray(radii))

    taken = jnp.asarray(images if rows is None else rows)
    clean, attacked = over_blocks(attack_block, num_blocks, taken, jnp.asarray(labels))
    return clean, attacked.swapaxes(0, 1)


def curriculum_loss(model: TrainedModel, samples: Split) -> np.ndarray:
    """CF: cross-entropy of each sample's true label under the curriculum model, float32[n] in nats."""
    logits, _ = predict(model, samples)
    return -scipy.special.log_softmax(logits, axis=1)[np.arange(len(samples)), samples.labels]
