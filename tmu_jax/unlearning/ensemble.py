"""Several models of one module as one classifier: it answers by the mean of their probabilities."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tmu_jax.training import Adapter, Keys, ModuleLike, Normalization, TrainedModel, Variables, normalize
from tmu_jax.training.adapter import Recorder, Static
from tmu_jax.training.linen import as_adapter

PIXELS = "member_pixels"
"""The collection that holds each member's own normalisation of the pixels."""


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class Ensemble(Adapter):
    """`size` members that share a module; `module` is theirs. Each variable has the members as its leading axis.

    Logits are log (1/size) Σ_m softmax(logits of m), so their softmax is the members' mean; the embedding is that of
    all members side by side. Members are run one after another.
    """

    size: int

    @property
    def streams(self) -> tuple[str, ...]:
        return as_adapter(self.module.value).streams

    def call(self, variables: Variables, images: jax.Array, train: bool, keys: Keys, recorder: Recorder) -> Any:
        member = as_adapter(self.module.value)

        def run(own: Variables) -> tuple[jax.Array, jax.Array, Variables]:
            pixels = normalize(images, Normalization(**own[PIXELS]))
            rest = {name: collection for name, collection in own.items() if name != PIXELS}
            (logits, embedding), changed = member.run(rest, pixels, train=train, keys=keys)
            return jax.nn.log_softmax(logits), embedding, changed

        logs, embeddings, changed = jax.lax.map(run, variables)
        logits = jax.nn.logsumexp(logs, axis=0) - float(np.log(self.size))
        return (logits, jnp.concatenate(list(embeddings), axis=-1)), changed

    def as_given(self, variables: Variables) -> Any:
        member = as_adapter(self.module.value)
        return [member.unwrap(_without_pixels(variables, number)) for number in range(self.size)]

    def fresh(self, key: jax.Array, images: jax.Array) -> Variables:
        raise ValueError("an ensemble has no fresh variables: its members are trained one by one")


def as_one(members: Sequence[TrainedModel]) -> TrainedModel:
    """Models of one module as one; its seconds are the sum of theirs.

    Args:
      members: of one module, with variables of one form.
    """
    first = members[0]
    pixels = [{PIXELS: model.normalization._asdict()} for model in members]
    variables = jax.tree.map(
        lambda *leaves: jnp.stack([jnp.asarray(leaf) for leaf in leaves]),
        *[{**model.variables, **own} for model, own in zip(members, pixels, strict=True)],
    )
    channels = len(first.normalization.mean)
    untouched = Normalization(np.zeros(channels, np.float32), np.ones(channels, np.float32))
    return dataclasses.replace(
        first,
        module=module_of(first.module, len(members)),
        variables=variables,
        normalization=untouched,
        seconds=sum(model.seconds for model in members),
        compile_seconds=sum(model.compile_seconds for model in members),
        losses=(),
        updates=None,
    )


def member_of(model: TrainedModel, number: int) -> TrainedModel:
    """One of the members of what `as_one` made, by its number."""
    module: Any = model.module
    own = jax.tree.map(lambda leaf: leaf[number], model.variables[PIXELS])
    return dataclasses.replace(
        model,
        module=module.module.value,
        variables=_without_pixels(model.variables, number),
        normalization=Normalization(**{name: np.asarray(leaf) for name, leaf in own.items()}),
    )


def module_of(module: ModuleLike, size: int) -> Ensemble:
    """The ensemble of so many models of a module; what is frozen in them is in it."""
    return Ensemble(module=Static(module), size=size, frozen=as_adapter(module).frozen)


def _without_pixels(variables: Variables, number: int) -> Variables:
    return {
        name: jax.tree.map(lambda leaf: leaf[number], collection)
        for name, collection in variables.items()
        if name != PIXELS
    }
