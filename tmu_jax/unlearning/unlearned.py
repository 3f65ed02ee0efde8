"""A model after unlearning."""

import dataclasses

import numpy as np

from tmu_jax.training import TrainedModel
from tmu_jax.twin import TwinPrediction

_LABEL_TYPE = np.dtype([("index", np.int32), ("easy", np.bool_), ("probability", np.float32)])


@dataclasses.dataclass(frozen=True, eq=False)
class UnlearnedModel(TrainedModel):
    """A model after unlearning, with what the method learnt on the way.

    Its `recipe` is still that of the original's training.

    Attributes:
      method: the method's name.
      original: the model that was to forget.
      forget_indices: int32[n], the rows of the pool that were forgotten.
      prediction: which samples were predicted easy or hard; None for methods that predict nothing.
      seconds_by_part: run time of each part; `seconds` is their sum.
      notes: what a reader should know: warnings, degenerate cases.
    """

    method: str = ""
    original: TrainedModel | None = None
    forget_indices: np.ndarray | None = None
    prediction: TwinPrediction | None = None
    seconds_by_part: dict[str, float] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()

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


def as_unlearned(model: TrainedModel, **fields: object) -> UnlearnedModel:
    """A trained model with what is known of its unlearning, `fields` of `UnlearnedModel`."""
    known = {field.name: getattr(model, field.name) for field in dataclasses.fields(TrainedModel)}
    return UnlearnedModel(**{**known, **fields})
