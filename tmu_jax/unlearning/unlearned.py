"""A model after unlearning."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from tmu_jax.data.checks import name_some
from tmu_jax.training import TrainedModel, Variables, are_finite
from tmu_jax.twin import TwinPrediction

_LABEL_TYPE = np.dtype([("index", np.int32), ("easy", np.bool_), ("probability", np.float32)])


@dataclasses.dataclass(frozen=True, eq=False)
class UnlearnedModel(TrainedModel):
    """A model after unlearning, with what the method learnt on the way.

    Its `recipe` is still that of the original's training. Neither a pickle nor a copy of it holds `original`: what is
    handed on must not carry the model that knew the forgotten images.

    Attributes:
      method: the method's name.
      original: the model that was to forget.
      forget_indices: int32[n], the rows of the pool that were forgotten.
      prediction: which samples were predicted easy or hard; None for methods that predict nothing.
      seconds_by_part: run time of each part; `seconds` is their sum.
      notes: what a reader should know: warnings, degenerate cases.
      forgotten_before: int32[k], rows that it is known to have forgotten without the models that did: of one that was
        pickled, or saved and loaded, all of them.
    """

    method: str = ""
    original: TrainedModel | None = None
    forget_indices: np.ndarray | None = None
    prediction: TwinPrediction | None = None
    seconds_by_part: dict[str, float] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    forgotten_before: np.ndarray | None = None

    @property
    def generalization_labels(self) -> np.ndarray:
        """Each forgotten sample's predicted label: a structured array with `index`, `easy` and `probability`.

        Raises:
          ValueError: when the method predicts no labels.
        """
        if self.prediction is None or self.forget_indices is None:
            raise ValueError(f"method {self.method!r} predicts no generalization labels; the twin methods do")
        labels = np.empty(len(self.forget_indices), _LABEL_TYPE)
        labels["index"] = self.forget_indices
        labels["easy"] = self.prediction.easy
        labels["probability"] = self.prediction.probability
        return labels

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "original": None, "forgotten_before": forgotten_rows(self)}

    def kept(self) -> dict[str, Any]:
        return {
            "method": self.method,
            "notes": list(self.notes),
            "seconds_by_part": dict(self.seconds_by_part),
            "forgotten": forgotten_rows(self).tolist(),
        }

    def _rows(self) -> list[tuple[str, object]]:
        count = None if self.forget_indices is None else len(self.forget_indices)
        return [
            ("method", self.method),
            ("forgotten", count),
            *super()._rows(),
            *(("note", note) for note in self.notes),
        ]


def forgotten_rows(model: TrainedModel) -> np.ndarray:
    """Rows that a model forgot, by this request and by the ones before it, int32[k], ascending."""
    found = [np.zeros(0, np.int32)]
    one: TrainedModel | None = model
    while isinstance(one, UnlearnedModel):
        # The method "original" forgets nothing, whatever its request.
        if one.forget_indices is not None and one.method != "original":
            found.append(one.forget_indices.astype(np.int32))
        if one.forgotten_before is not None:
            found.append(one.forgotten_before)
        one = one.original
    return np.unique(np.concatenate(found))


def refuse_forgotten(model: TrainedModel, rows: np.ndarray, argument: str) -> None:
    """Raises ValueError where a model would be trained again on rows int32[n] that it forgot before."""
    again = np.intersect1d(rows, forgotten_rows(model))
    if len(again):
        raise ValueError(
            f"{argument} holds {len(again)} training images that the model forgot before, "
            f"rows {name_some(map(str, again))}: they would be trained on again; leave them out, by removed=rows or by "
            "the requests of a tmu_jax.Ledger"
        )


def as_unlearned(model: TrainedModel, **fields: object) -> UnlearnedModel:
    """A trained model with what is known of its unlearning, `fields` of `UnlearnedModel`.

    Without the updates that its training kept: they are of the forgotten images, and of other parameters than these.
    """
    known = {field.name: getattr(model, field.name) for field in dataclasses.fields(TrainedModel)}
    return UnlearnedModel(**{**known, "updates": None, **fields})


def with_parameters(original: TrainedModel, params: Any, notes: Sequence[str] = ()) -> UnlearnedModel:
    """The original model with other parameters: the result of a method that trains nothing.

    Raises:
      FloatingPointError: where one of them is not finite.
    """
    if not are_finite(params):
        raise FloatingPointError(
            "the parameters are not finite after the method's step; try smaller values of its options, and look "
            "whether the model's own outputs on these images are finite"
        )
    return with_variables(original, {**original.variables, "params": params}, notes=notes)


def with_variables(
    original: TrainedModel, variables: Variables, losses: Sequence[float] = (), notes: Sequence[str] = ()
) -> UnlearnedModel:
    """The original model with other variables, and nothing of what an earlier request left in it but its rows."""
    bare = dataclasses.replace(original, variables=variables, losses=tuple(losses), seconds=0.0, compile_seconds=0.0)
    return as_unlearned(bare, notes=tuple(notes))
