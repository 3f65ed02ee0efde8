"""What is predicted of gold's answers on the images of a request: labels, probabilities and distributions."""

import numpy as np

from tmu_jax.data import ForgetProblem, Split
from tmu_jax.preparation.calibration import Calibration, Predicted, shift_to_count
from tmu_jax.twin import TwinPrediction

_SMALL = 1e-12


def as_prediction(
    known: Split, calibration: Calibration, predicted: Predicted, features: np.ndarray, problem: ForgetProblem
) -> TwinPrediction:
    """Labels and distributions from what is predicted of each image; nothing of a whole class is known to gold.

    Args:
      known: the held-out images that the calibration was fitted on, rows ascending.
      calibration: the fit.
      predicted: what it says of the forgotten images.
      features: float[n, f], what it says so from.
      problem: the request, of n forgotten images.
    """
    labels = problem.forget.labels
    whole = np.isin(labels, problem.whole_classes)
    probability = np.where(whole, 0.0, predicted.probability)
    targets = np.array(predicted.targets)
    targets[whole] = np.maximum(targets[whole], _SMALL)  # What was sharpened may have rounded all others to 0.
    targets[whole, labels[whole]] = 0
    targets[whole] /= targets[whole].sum(1, keepdims=True)
    if not whole.all():
        expected_wrong = round(float(np.sum(1 - probability[~whole])))
        targets[~whole] = shift_to_count(targets[~whole], labels[~whole], expected_wrong)
    heldout = problem.heldout.indices[~np.isin(problem.heldout.labels, problem.whole_classes)]
    if not np.isin(heldout, known.indices).all():  # Augmented copies are not among ours.
        heldout = heldout[:0]
    place = np.searchsorted(known.indices, heldout)
    of_heldout = calibration.heldout.probability[place]
    return TwinPrediction(
        probability=probability.astype(np.float32),
        easy=probability >= 0.5,
        heldout_probability=of_heldout.astype(np.float32),
        heldout_easy_predicted=of_heldout >= 0.5,
        heldout_easy=calibration.heldout_right[place],
        twin_features=np.zeros((0, features.shape[1]), np.float32),
        original_features=features.astype(np.float32),
        eps=0.0,
        seconds_by_part={},
        compile_seconds=0.0,
        notes=problem.notes,
        targets=targets,
    )
