"""Gold's answers as a rehearsal foretells them: how M_o answers where the same method left M_t so and so.

A method that is on its way (its `Foretell`, `needs="rehearsal"`) shows the model that it has come to. In a rehearsal,
where M_o is gold, it is learnt how gold's answers on held-out images follow from that model's; in a request, what they
are then on D_f.
"""

from collections.abc import Mapping

import numpy as np
import scipy.special

from tmu_jax.data import ForgetProblem, Split
from tmu_jax.preparation.bank import in_half
from tmu_jax.preparation.calibration import Calibration, Predicted, bank_features, fit_calibration
from tmu_jax.preparation.predicting import as_prediction
from tmu_jax.preparation.prepared import Prepared
from tmu_jax.training import TrainedModel, predict
from tmu_jax.twin import TwinPrediction


class InRehearsal:
    """Foretells M_o's answers on held-out images, each from a fit without it; keeps what it was told by.

    Attributes:
      answers: float16[u, classes], logits of the model that was shown last on all held-out images; None before.
      seconds_by_part: nothing: it learns as it goes.
    """

    def __init__(self, prepared: Prepared) -> None:
        """Args: prepared: the preparation."""
        self._prepared = prepared
        self.answers: np.ndarray | None = None
        self.seconds_by_part: Mapping[str, float] = {}

    def __call__(self, model: TrainedModel, problem: ForgetProblem) -> TwinPrediction:
        """Args: model: what the method made of M_t so far; problem: the rehearsal's."""
        prepared = self._prepared
        self.answers = in_half(predict(model, prepared.heldout)[0])
        calibration = _learn(prepared, self.answers)
        place = np.searchsorted(prepared.heldout.indices, problem.forget.indices)
        found = Predicted(*(values[place] for values in calibration.heldout))
        return as_prediction(prepared.heldout, calibration, found, _features(prepared, problem.forget), problem)


class InRequest:
    """Foretells gold's answers on D_f, by what the rehearsal of the same recipe taught.

    Attributes:
      calibration: how gold's answers follow from the model's and the bank's.
      seconds_by_part: run time of what it learnt from, as far as a request is to bear it.
    """

    def __init__(
        self, prepared: Prepared, answers: np.ndarray | None, seconds_by_part: Mapping[str, float] | None = None
    ) -> None:
        """Prepares.

        Args:
          prepared: the preparation.
          answers: float16[u, classes], the rehearsal's; there must be some.
          seconds_by_part: what the request is to bear of the preparation; nothing by default.

        Raises:
          ValueError: without answers.
        """
        self.seconds_by_part = seconds_by_part or {}
        if answers is None:
            raise ValueError("answers is None: the rehearsal was of a method that learns nothing from it")
        self._prepared = prepared
        self.calibration = _learn(prepared, answers)

    def __call__(self, model: TrainedModel, problem: ForgetProblem) -> TwinPrediction:
        """Args: model: what the method made of the model in service so far; problem: the request."""
        answers = predict(model, problem.forget)[0]
        features = _features(self._prepared, problem.forget)
        found = self.calibration.predict(_as_answers(answers), problem.forget.labels, features)
        return as_prediction(self._prepared.heldout, self.calibration, found, features, problem)


def _learn(prepared: Prepared, answers: np.ndarray) -> Calibration:
    """How M_o's answers on held-out images follow from those of a model and of the bank, where there is one."""
    heldout = prepared.heldout
    gold = scipy.special.softmax(predict(prepared.original, heldout)[0].astype(np.float64), axis=1)
    return fit_calibration(_as_answers(answers), heldout.labels, gold, _features(prepared, heldout))


def _features(prepared: Prepared, images: Split) -> np.ndarray:
    """What the bank says of images, float64[n, f]; nothing, [n, 0], without one."""
    if prepared.bank is None:
        return np.zeros((len(images), 0))
    return bank_features(prepared.bank.answers(images.indices), images.labels)


def _as_answers(logits: np.ndarray) -> np.ndarray:
    """Logits of one model as a bank's answers, float64[n, 1, classes]."""
    return scipy.special.log_softmax(logits.astype(np.float64), axis=1)[:, None]
