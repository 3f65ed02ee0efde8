"""The generalization-label predictor: a small network from three features to the probability of "easy".

Training is one pure function, so that a leading axis of problems (classes, seeds) is a `jax.vmap` of `fit`. Problems
of unequal size are padded at the end with rows of weight 0, which change nothing:

    fit_one = functools.partial(predictor.fit, epochs=100)
    params = jax.vmap(fit_one)(features, labels, key=keys, weights=weights)
    probability = jax.vmap(predictor.predict_probability)(params, features)
"""

import functools
from typing import Any, Literal, NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpy.typing import ArrayLike

Params = dict[str, Any]


class Network(nn.Module):
    """ReLU layers of the given widths and one output, the logit of "easy".

    References:
        Ji et al. 2024, Towards Aligned Data Removal via Twin Machine Unlearning (arXiv 2408.11433): 3, 64, 32, 1.
    """

    hidden: tuple[int, ...] = (64, 32)

    @nn.compact
    def __call__(self, features: jax.Array) -> jax.Array:
        for layer, width in enumerate(self.hidden):
            features = nn.relu(nn.Dense(width, name=f"hidden_{layer}")(features))
        return nn.Dense(1, name="output")(features)[..., 0]


@functools.partial(jax.jit, static_argnames=("epochs", "batch_size", "hidden"))
def fit(
    features: jax.Array,
    labels: jax.Array,
    *,
    key: jax.Array,
    weights: jax.Array | None = None,
    epochs: int = 100,
    batch_size: int = 16,
    learning_rate: float = 0.01,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    hidden: tuple[int, ...] = (64, 32),
) -> Params:
    """Trains the predictor on the samples whose generalization label is known, in one compiled program.

    SGD with momentum on the sigmoid cross-entropy, weight decay added to the gradient of every parameter. The order is
    drawn anew in every epoch; the last, partial batch is the mean over the rows it has. With few samples and one
    label prevailing the batch must stay small, or training ends before a single sample is called hard. The last bias
    starts at the log-odds of the easy share. Where all labels agree (`only_label`) training is still well defined but
    there is nothing to learn: callers then give every sample that label.

    Args:
        features: float32[n, d], scaled (`apply_scaling`).
        labels: [n], bool, integer or float: 1 easy, 0 hard.
        key: `jax.random.key`; one part initialises the network, the other one shuffles.
        weights: float32[n], the weight of each sample in its batch's mean; 0 leaves a row out altogether, so that a
            problem padded at the end trains as if it were not padded. All 1 by default.
        epochs: passes over the samples, static.
        batch_size: samples a step, static; all of them where they are fewer.
        learning_rate: of SGD.
        momentum: of SGD.
        weight_decay: added to the gradient.
        hidden: widths of the hidden layers, static.

    Returns:
        The network's parameters, for `predict_probability`.

    Raises:
        ValueError: if there are no samples, or epochs or batch_size is below 1.
    """
    chex.assert_rank([features, labels], [2, 1])
    chex.assert_equal_shape_prefix([features, labels], 1)
    num_samples = features.shape[0]
    if num_samples < 1 or epochs < 1 or batch_size < 1:
        raise ValueError(
            f"number of samples, epochs and batch_size must be at least 1, got {num_samples}, {epochs} and {batch_size}"
        )
    batch_size = min(batch_size, num_samples)
    labels = labels.astype(features.dtype)
    weights = jnp.ones_like(labels) if weights is None else weights.astype(features.dtype)
    chex.assert_equal_shape([labels, weights])
    # A row of weight 0 may hold anything, NaN included, which 0 times its gradient would let through.
    features = jnp.where(weights[:, None] > 0, features, 0.0)
    labels = jnp.where(weights > 0, labels, 0.0)

    network = Network(hidden)
    init_key, shuffle_key = jax.random.split(key)
    params = network.init(init_key, features[:1])["params"]
    params["output"]["bias"] = jnp.full_like(params["output"]["bias"], _log_odds(labels, weights))
    optimizer = optax.chain(optax.add_decayed_weights(weight_decay), optax.sgd(learning_rate, momentum=momentum))

    def loss(params: Params, features: jax.Array, labels: jax.Array, shares: jax.Array) -> jax.Array:
        logits = network.apply({"params": params}, features)
        return jnp.sum(shares * optax.sigmoid_binary_cross_entropy(logits, labels))

    def step(state: tuple[Params, optax.OptState], batch: tuple[jax.Array, ...]) -> tuple[Any, None]:
        (params, opt_state), (has_rows, *rows) = state, batch
        updates, new_opt_state = optimizer.update(jax.grad(loss)(params, *rows), opt_state, params)
        new_state = optax.apply_updates(params, updates), new_opt_state
        # An empty batch is no step: momentum and weight decay would move the parameters without any sample.
        return jax.tree.map(lambda new, old: jnp.where(has_rows, new, old), new_state, state), None

    def epoch(state: tuple[Params, optax.OptState], epoch_key: jax.Array) -> tuple[Any, None]:
        # All that does not depend on the parameters is made for the whole epoch: a step is small beside its overheads.
        rows, row_weights = _batches(epoch_key, weights, batch_size)
        sums = jnp.sum(row_weights, axis=1)
        shares = row_weights / jnp.maximum(sums, jnp.finfo(sums.dtype).tiny)[:, None]
        return jax.lax.scan(step, state, (sums > 0, features[rows], labels[rows], shares))

    (params, _), _ = jax.lax.scan(epoch, (params, optimizer.init(params)), jax.random.split(shuffle_key, epochs))
    return params


@jax.jit
def predict_probability(params: Params, features: jax.Array) -> jax.Array:
    """Probability of "easy" under a fitted predictor.

    Args:
        params: from `fit`.
        features: float32[n, d], scaled as those of the training.

    Returns:
        float32[n], 0..1.
    """
    chex.assert_rank(features, 2)
    hidden = tuple(params[f"hidden_{layer}"]["bias"].shape[0] for layer in range(len(params) - 1))
    logits = Network(hidden).apply({"params": params}, features)
    return jax.nn.sigmoid(jnp.asarray(logits))


def decide_easy(
    probability: ArrayLike, threshold: Literal["half", "count"] = "half", *, num_hard: int | None = None
) -> np.ndarray:
    """Turns probabilities into generalization labels.

    Args:
        probability: float[n], the probability of easy.
        threshold: "half": easy where it is at least 0.5. "count": the `num_hard` samples with the lowest probability
            are hard, the earlier sample first where they are equal.
        num_hard: 0..n, with "count" only.

    Returns:
        bool[n], True for easy.

    Raises:
        ValueError: on another threshold, a probability outside 0..1, or a `num_hard` out of range, missing or
            without use.
    """
    probability = np.asarray(probability)
    if probability.ndim != 1 or not np.all((probability >= 0) & (probability <= 1)):
        raise ValueError(f"probability must be a vector of values in 0..1, got shape {probability.shape}")
    if threshold == "half":
        if num_hard is not None:
            raise ValueError(f"num_hard is only for threshold 'count', got {num_hard} with 'half'")
        return probability >= 0.5
    if threshold != "count":
        raise ValueError(f"threshold must be 'half' or 'count', got {threshold!r}")
    if num_hard is None or not 0 <= num_hard <= probability.size:
        raise ValueError(f"num_hard must lie in 0..{probability.size} with threshold 'count', got {num_hard}")
    easy = np.ones(probability.size, bool)
    easy[np.argsort(probability, kind="stable")[:num_hard]] = False
    return easy


def only_label(labels: ArrayLike) -> bool | None:
    """The label that all samples share, True for easy; None where both occur and a predictor can be trained.

    Args:
        labels: [n], 1 or True for easy, 0 or False for hard.

    Returns:
        True, False or None.

    Raises:
        ValueError: if there are no labels.
    """
    easy = np.asarray(labels).astype(bool)
    if easy.size == 0:
        raise ValueError("labels must not be empty")
    return bool(easy[0]) if np.all(easy == easy[0]) else None


class Scaling(NamedTuple):
    """How each of d features is brought to 0..1; float64[d] each."""

    low: np.ndarray  # values below are raised to it: Q1 - 1.5 IQR
    high: np.ndarray  # values above are lowered to it: Q3 + 1.5 IQR
    minimum: np.ndarray  # of the values so limited; becomes 0
    maximum: np.ndarray  # of the values so limited; becomes 1


def fit_scaling(features: ArrayLike) -> Scaling:
    """Limits outliers to Tukey's fences, then finds the range of each feature.

    Args:
        features: float[n, d], finite, n at least 1. The quantiles are interpolated linearly.

    Returns:
        The scaling, to be used on these features or on others.

    Raises:
        ValueError: if the features are not finite, not of two axes, or none.

    References:
        Tukey 1977, Exploratory Data Analysis, for the fences at 1.5 interquartile ranges.
    """
    values = _checked_features(features)
    if values.shape[0] == 0:
        raise ValueError("features must have at least one row, got none")
    lower, upper = np.quantile(values, [0.25, 0.75], axis=0)
    low, high = lower - 1.5 * (upper - lower), upper + 1.5 * (upper - lower)
    limited = np.clip(values, low, high)
    return Scaling(low, high, limited.min(axis=0), limited.max(axis=0))


def apply_scaling(scaling: Scaling, features: ArrayLike) -> np.ndarray:
    """Limits and scales features to 0..1; a feature that was constant when fitted becomes 0.

    Args:
        scaling: from `fit_scaling`.
        features: float[n, d], finite.

    Returns:
        float32[n, d], 0..1; what lies beyond the fitted range is put on its end.

    Raises:
        ValueError: if the features are not finite or do not have the scaling's number of columns.
    """
    values = _checked_features(features)
    if values.shape[1:] != scaling.low.shape:
        raise ValueError(f"features must have {scaling.low.size} columns as the scaling has, got {values.shape[1]}")
    spread = scaling.maximum - scaling.minimum
    limited = np.clip(values, scaling.low, scaling.high)
    scaled = (limited - scaling.minimum) / np.where(spread > 0, spread, 1.0)
    return np.where(spread > 0, np.clip(scaled, 0.0, 1.0), 0.0).astype(np.float32)


def _log_odds(labels: jax.Array, weights: jax.Array) -> jax.Array:
    """Log-odds of the easy share, which is kept half a sample away from 0 and 1."""
    total = jnp.maximum(jnp.sum(weights > 0), 1).astype(labels.dtype)
    easy = jnp.sum(weights * labels) / jnp.maximum(jnp.sum(weights), jnp.finfo(weights.dtype).tiny)
    easy = jnp.clip(easy, 0.5 / total, 1.0 - 0.5 / total)
    return jnp.log(easy) - jnp.log1p(-easy)


def _batches(key: jax.Array, weights: jax.Array, batch_size: int) -> tuple[jax.Array, jax.Array]:
    """Rows int32[batches, batch_size] in random order and their weights, rows of weight 0 last.

    The order is that of 30 random bits a row, drawn from the row's own number: rows added at the end do not change it.
    """
    draws = jax.vmap(lambda row: jax.random.bits(jax.random.fold_in(key, row)))(jnp.arange(len(weights))) % 2**30
    rows = jnp.argsort(jnp.where(weights > 0, draws, jnp.uint32(2**30)))
    missing = -len(rows) % batch_size
    row_weights = jnp.pad(weights[rows], (0, missing))
    return jnp.pad(rows, (0, missing)).reshape(-1, batch_size), row_weights.reshape(-1, batch_size)


def _checked_features(features: ArrayLike) -> np.ndarray:
    values = np.asarray(features, np.float64)
    if values.ndim != 2 or not np.all(np.isfinite(values)):
        raise ValueError(f"features must be finite, of shape [samples, features], got shape {values.shape}")
    return values
