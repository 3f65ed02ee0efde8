"""One model beside the gold model: readouts, floors, and how good predicted labels are."""

from tmu_jax.evaluation.comparison import (
    Evaluation,
    Outputs,
    compare,
    compare_floors,
    evaluate,
    outputs,
    prediction_quality,
)
from tmu_jax.evaluation.floors import Floor
from tmu_jax.evaluation.readouts import PredictorQuality, Readouts

__all__ = [
    "Evaluation",
    "Floor",
    "Outputs",
    "PredictorQuality",
    "Readouts",
    "compare",
    "compare_floors",
    "evaluate",
    "outputs",
    "prediction_quality",
]
