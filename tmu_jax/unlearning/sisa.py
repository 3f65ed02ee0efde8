"""SISA: sharded, isolated, sliced, aggregated. What is kept is exactly what would be without the forgotten images.

D is divided into shards, each with a model of its own that sees no other shard, and a shard into slices. A model is
trained on its first slice, goes on with the first two, and so on; its state after each slice is kept. A request
retrains the models of the shards that hold forgotten images, each from the state before the first slice that does. The
answer is the mean of the models' probabilities.

    state_k of a shard = training of state_{k−1} on slices 1, …, k, for ⌊k a⌋ − ⌊(k−1) a⌋ epochs,
    a = 2 epochs / (slices + 1)

so that all slices together draw about as many images as `epochs` passes over the shard would. With one slice a shard's
model is `tmu_jax.train` on its images. Nothing in a state may come from a later slice, or a retraining from it would
still owe that: the pixels' statistics are the first slice's, and each slice has its own optimiser and its own course of
learning rates.

It is another classifier than the original: an ensemble of models that saw a part of D each. `unlearn("sisa", …)` trains
its shards on D first, a part of its seconds by itself, and then forgets. Who keeps them trains once (`train`) and
forgets often (`forget`).

The authors' code goes on with one optimiser through all slices where a retraining from a kept state begins with a fresh
one, which is another training for any optimiser that has a state; here each slice begins with a fresh one. Its models
answer by votes unless it is told to take outputs; a readout of outputs needs the mean.

References:
  Bourtoule et al., Machine Unlearning, 2021 (arXiv 1912.03817), SISA training.
"""

import dataclasses

import jax
import numpy as np

from tmu_jax import training
from tmu_jax.data import ForgetProblem, Split
from tmu_jax.stages import Progress
from tmu_jax.timing import Stopwatch
from tmu_jax.training import ModuleLike, Recipe, Stream, TrainedModel, fit, one_hot
from tmu_jax.unlearning.ensemble import as_one, module_of
from tmu_jax.unlearning.method import Method
from tmu_jax.unlearning.unlearned import UnlearnedModel, as_unlearned


@dataclasses.dataclass(frozen=True, eq=False)
class Shard:
    """One shard and its model.

    Attributes:
      slices: int32[n] each, rows of the pool.
      states: the model after each slice; the last one answers.
      key: of its training.
    """

    slices: tuple[np.ndarray, ...]
    states: tuple[TrainedModel, ...]
    key: jax.Array


def divided(data: Split, key: jax.Array, shards: int, slices: int) -> list[tuple[np.ndarray, ...]]:
    """The slices of each shard, int32[n] each: a random division by the key, of sizes that differ by one at most."""
    rows = np.asarray(jax.random.permutation(key, data.indices))
    return [tuple(np.sort(one) for one in np.array_split(shard, slices)) for shard in np.array_split(rows, shards)]


def train(
    module: ModuleLike, data: Split, *, key: jax.Array, recipe: Recipe, shards: int, slices: int = 1
) -> list[Shard]:
    """Trains the shards of an ensemble.

    Args:
      module: of every model.
      data: D.
      key: of the division and the trainings.
      recipe: of each model; its epochs are over the shard.
      shards: how many models.
      slices: of each shard.

    Raises:
      ValueError: for fewer images than slices, or too few epochs for so many slices.
    """
    check_division(len(data), recipe.epochs, shards, slices)
    slices_of, keys = _division(data, key, shards, slices)
    return [
        Shard(rows, trained_on(module, data, rows, own_key, recipe), own_key)
        for own_key, rows in zip(keys, slices_of, strict=True)
    ]


def forget(shards: list[Shard], data: Split, rows: np.ndarray, recipe: Recipe) -> list[Shard]:
    """The shards without some rows: those that hold none are as they were, the others retrained where they must be.

    Args:
      shards: as `train` or `forget` left them.
      data: D.
      rows: of the pool, to be forgotten.
      recipe: as the shards were trained by.

    Raises:
      ValueError: where a shard's first slice would be left without an image.
    """
    _check_left([shard.slices for shard in shards], rows)
    found = []
    for shard in shards:
        hit = [number for number, one in enumerate(shard.slices) if np.isin(one, rows).any()]
        if not hit:
            found.append(shard)
            continue
        left = tuple(one[~np.isin(one, rows)] for one in shard.slices)
        before = shard.states[: hit[0]]
        states = trained_on(shard.states[0].module, data, left, shard.key, recipe, before)
        found.append(Shard(left, states, shard.key))
    return found


def _division(
    data: Split, key: jax.Array, shards: int, slices: int
) -> tuple[list[tuple[np.ndarray, ...]], list[jax.Array]]:
    """The slices of each shard, and the key of its training."""
    divide_key, *keys = jax.random.split(key, shards + 1)
    return divided(data, divide_key, shards, slices), keys


def _check_left(slices_of: list[tuple[np.ndarray, ...]], rows: np.ndarray) -> None:
    """Raises ValueError where a shard's first slice consists of these rows."""
    if any(np.isin(slices[0], rows).all() for slices in slices_of):
        raise ValueError("a shard's first slice is left without an image; take fewer shards or slices")


def trained_on(
    module: ModuleLike,
    data: Split,
    slices: tuple[np.ndarray, ...],
    key: jax.Array,
    recipe: Recipe,
    states: tuple[TrainedModel, ...] = (),
) -> tuple[TrainedModel, ...]:
    """The states of a shard after each of its slices, from those that are there already."""
    share, pool, found = 2 * recipe.epochs / (len(slices) + 1), data.pool, list(states)
    for number in range(len(states), len(slices)):
        rows = np.sort(np.concatenate(slices[: number + 1]))
        own = dataclasses.replace(recipe, epochs=int((number + 1) * share) - int(number * share))
        if number == 0:
            found.append(training.train(module, Split(pool, rows), key=key, recipe=own))
            continue
        before = found[-1]
        with Stopwatch() as watch:
            variables, losses = fit(
                before.module,
                before.variables,
                before.normalization,
                pool,
                Stream((rows,)),
                one_hot(pool.labels, pool.num_classes),
                np.ones(len(pool.labels), np.float32),
                own,
                jax.random.fold_in(key, number + 1),  # `train` above takes the keys that 0 and 1 give.
            )
            jax.block_until_ready(variables)
        found.append(
            dataclasses.replace(
                before,
                variables=variables,
                losses=tuple(losses),
                seconds=watch.seconds,
                compile_seconds=watch.compile_seconds,
            )
        )
    return tuple(dataclasses.replace(state, recipe=recipe) for state in found)


def model_of(shards: list[Shard]) -> TrainedModel:
    """The ensemble as one model: its softmax is the mean of the shards'."""
    return as_one([shard.states[-1] for shard in shards])


def run(
    problem: ForgetProblem,
    original: TrainedModel,
    key: jax.Array,
    *,
    recipe: Recipe,
    progress: Progress | None,
    shards: int,
    slices: int,
) -> UnlearnedModel:
    """Trains the shards on D and forgets.

    Args:
      problem: the request.
      original: gives its module; its parameters are not used.
      key: of the division and the trainings.
      recipe: of each shard, the original's.
      progress: called with (parts done, of 2): the shards on D, the request.
      shards: how many models.
      slices: of each shard.
    """
    check_division(len(problem.train), recipe.epochs, shards, slices)
    _check_left(_division(problem.train, key, shards, slices)[0], problem.forget.indices)
    with Stopwatch() as before:
        trained = train(original.module, problem.train, key=key, recipe=recipe, shards=shards, slices=slices)
    if progress is not None:
        progress(1, 2)
    with Stopwatch() as watch:
        left = forget(trained, problem.train, problem.forget.indices, recipe)
        model = model_of(left)
        jax.block_until_ready(model.variables)
    if progress is not None:
        progress(2, 2)
    retrained = sum(one is not other for one, other in zip(left, trained, strict=True))
    note = (
        f"an ensemble of {shards} models, trained for this and then retrained where they held forgotten images: "
        f"{retrained} of {shards} were"
    )
    return as_unlearned(
        model,
        seconds_by_part={"shards": before.seconds, "unlearning": watch.seconds},
        compile_seconds=before.compile_seconds + watch.compile_seconds,
        notes=(note,),
    )


def check(shards: int, slices: int) -> None:
    """Raises ValueError for options out of range."""
    for name, value in (("shards", shards), ("slices", slices)):
        if value < 1 or value != int(value):
            raise ValueError(f"{name}={value} must be a whole number, at least 1")


def check_division(num_images: int, epochs: int, shards: int, slices: int) -> None:
    """Raises ValueError where images or epochs do not suffice for a division."""
    check(shards, slices)
    if num_images < shards * slices:
        raise ValueError(f"shards={shards}, slices={slices}: {num_images} images do not fill so many; take fewer")
    if 2 * epochs < slices + 1:
        raise ValueError(
            f"slices={slices} leave some without an epoch of the recipe's {epochs}; take at most {2 * epochs - 1}"
        )


def check_request(problem: ForgetProblem, original: TrainedModel) -> None:
    """Raises ValueError where no model like the original can be trained."""
    original.check_retrainable()


def draws(problem: ForgetProblem, shards: int, slices: int) -> float:
    """Images of an epoch of all shards' training, and of those that a request touches if it is spread at random."""
    touched = 1 - (1 - 1 / shards) ** len(problem.forget)
    return len(problem.train) + touched * len(problem.retain)


sisa = Method(
    "sisa",
    run=run,
    recipe=lambda training, shards, slices: training,
    options={"shards": 5, "slices": 1},
    check=check,
    check_request=check_request,
    draws=draws,
    draws_an_epoch=True,
    version=2,
    module_of=lambda module, shards, slices: module_of(module, shards),
)
