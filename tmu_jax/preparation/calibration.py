"""From a bank's answers to gold's: the probability that gold is right, and gold's softmax.

Fitted on held-out images, where M_o plays gold: it never saw them, and its answers are known. Each image that the fit
is judged by has its probability from a fit without it; the two numbers that make a distribution of it, `rest` and
`sharpening`, are of all of them.
"""

import dataclasses
import warnings
from typing import NamedTuple

import numpy as np
import scipy.special
from scipy.optimize import minimize_scalar
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

CROSS_FITS = 10
_LARGEST_EXPONENT = 8.0
_SMALL = 1e-6
_CLOSE = {"xatol": 1e-7}
"""How near exponents are found: what rests on them is to differ by rounding alone from one device to several."""


def bank_features(answers: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """What a bank says of each image, in numbers that are near linear in log-odds.

    Args:
      answers: float32[n, R, classes], log-probabilities of models that never saw the image.
      labels: int32[n].

    Returns:
      float64[n, 4 or 5]: the mean answer's log-odds of the true class, the log-probability of its largest other class,
      its entropy in nats, the models' mean log-odds, and with several models the spread of those.
    """
    log_odds, of_models, mean = _log_odds(answers, labels)
    others = np.array(mean)
    others[np.arange(len(labels)), labels] = 0
    entropy = -np.sum(mean * np.log(np.maximum(mean, _SMALL)), axis=1)
    columns = [log_odds, np.log(np.maximum(others.max(1), _SMALL)), entropy, of_models.mean(1)]
    if answers.shape[1] > 1:
        columns.append(of_models.std(1))
    return np.stack(columns, axis=1)


def _log_odds(answers: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log-odds of the true class by the mean answer [n] and by each model [n, R]; and the mean answer [n, classes]."""
    probabilities = np.exp(answers.astype(np.float64))
    mean = probabilities.mean(1)
    true = probabilities[np.arange(len(labels)), :, labels]
    limited = np.clip(true, _SMALL, 1 - _SMALL)
    mean_true = np.clip(true.mean(1), _SMALL, 1 - _SMALL)
    return np.log(mean_true / (1 - mean_true)), np.log(limited / (1 - limited)), mean


def log_odds(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The true class's log-odds in the softmax of logits [n, classes], float64[n]: its logit above all the others'."""
    values, own = logits.astype(np.float64), (np.arange(len(labels)), labels)
    true = values[own]
    values[own] = -np.inf
    return true - scipy.special.logsumexp(values, axis=1)


class Predicted(NamedTuple):
    """Gold's answers as they are predicted.

    Attributes:
      probability: float64[n], that gold is right.
      targets: float32[n, classes], gold's softmax.
    """

    probability: np.ndarray
    targets: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Calibration:
    """What held-out images teach about a bank.

    Attributes:
      right: the model of the probability that M_o is right; a number where it always or never is.
      true_class: the model of M_o's softmax at the true class.
      rest: exponent of the bank's mean answer, by which the rest is shared out among the other classes.
      sharpening: exponent of the whole distribution: the mean of sharp answers lies farther from each than they do.
      heldout: the held-out images' own numbers, each from a fit without that image.
      heldout_right: bool[n], whether M_o is right on each.
    """

    right: object
    true_class: object
    rest: float
    sharpening: float
    heldout: Predicted
    heldout_right: np.ndarray

    def predict(self, answers: np.ndarray, labels: np.ndarray, features: np.ndarray | None = None) -> Predicted:
        """Gold's answers on other images that are drawn like the held-out ones.

        Args:
          answers: float32[n, R, classes], of the bank.
          labels: int32[n].
          features: float[n, f], further ones, as many as it was fitted with.
        """
        inputs = all_features(answers, labels, features)
        shared = share_out(_probability(self.true_class, inputs), answers, labels, self.rest)
        return Predicted(_probability(self.right, inputs), sharpen(shared, self.sharpening))


def fit_calibration(
    answers: np.ndarray, labels: np.ndarray, gold: np.ndarray, features: np.ndarray | None = None, seed: int = 0
) -> Calibration:
    """Fits on images whose gold answers are known.

    Args:
      answers: float32[n, R, classes], log-probabilities of the bank.
      labels: int32[n].
      gold: float[n, classes], the softmax of the model that plays gold and never saw them: M_o on held-out images.
      features: float[n, f], further features of each image, or None.
      seed: of the parts of the cross-fit.

    Returns:
      The calibration.

    Raises:
      ValueError: for fewer than two images.
    """
    if len(labels) < 2:
        raise ValueError(f"heldout holds {len(labels)} images; a calibration needs at least 2")
    inputs = all_features(answers, labels, features)
    right = gold.argmax(1) == labels
    true = np.clip(gold[np.arange(len(labels)), labels].astype(np.float64), 0, 1)
    rest = _fit_rest(answers, labels, gold)
    probability, of_true = np.empty(len(labels)), np.empty(len(labels))
    for fitted, judged in KFold(min(CROSS_FITS, len(labels)), shuffle=True, random_state=seed).split(inputs):
        probability[judged] = _probability(_fit(inputs[fitted], right[fitted].astype(float)), inputs[judged])
        of_true[judged] = _probability(_fit(inputs[fitted], true[fitted]), inputs[judged])
    shared = share_out(of_true, answers, labels, rest)
    sharpening = _fit_sharpening(shared, labels, gold, round(float(np.sum(1 - probability))))
    heldout = Predicted(probability, sharpen(shared, sharpening))
    return Calibration(_fit(inputs, right.astype(float)), _fit(inputs, true), rest, sharpening, heldout, right)


def share_out(true: np.ndarray, answers: np.ndarray, labels: np.ndarray, exponent: float) -> np.ndarray:
    """Distributions with a given true class's probability, the rest in proportion to the bank's mean answer.

    Args:
      true: float[n], 0..1.
      answers: float32[n, R, classes], log-probabilities.
      labels: int32[n].
      exponent: of the mean answer.

    Returns:
      float64[n, classes], adding up to 1.
    """
    mean = np.exp(answers.astype(np.float64)).mean(1)
    rest = np.maximum(mean, 1e-12) ** exponent
    rest[np.arange(len(labels)), labels] = 0
    found = rest * ((1 - true) / rest.sum(1))[:, None]
    found[np.arange(len(labels)), labels] = true
    return found


def sharpen(distributions: np.ndarray, exponent: float) -> np.ndarray:
    """Distributions float[n, classes] raised to a power and brought to sum 1 again, float32[n, classes]."""
    return _sharpened(distributions, exponent).astype(np.float32)


def shift_to_count(targets: np.ndarray, labels: np.ndarray, num_wrong: int) -> np.ndarray:
    """Shifts the true class's log-probability by one number for all, so that so many distributions are wrong.

    Args:
      targets: float[n, classes].
      labels: int32[n].
      num_wrong: 0..n, distributions whose largest class is not the true one.

    Returns:
      float32[n, classes]; unchanged where the count is met already. Equal margins shift together.

    Raises:
      ValueError: for a number out of range.
    """
    if not 0 <= num_wrong <= len(labels):
        raise ValueError(f"num_wrong={num_wrong} must lie in 0..{len(labels)}")
    return _shifted(targets, labels, num_wrong).astype(np.float32)


def _sharpened(distributions: np.ndarray, exponent: float) -> np.ndarray:
    """`sharpen` in float64."""
    log = exponent * np.log(np.maximum(distributions.astype(np.float64), 1e-12))
    return scipy.special.softmax(log, axis=1)


def _shifted(targets: np.ndarray, labels: np.ndarray, num_wrong: int) -> np.ndarray:
    """`shift_to_count` in float64."""
    log = np.log(np.maximum(targets.astype(np.float64), 1e-12))
    own = np.arange(len(labels)), labels
    others = np.array(log)
    others[own] = -np.inf
    margins = log[own] - others.max(1)
    if int((margins < 0).sum()) == num_wrong:
        return targets
    order = np.sort(margins)
    below = order[num_wrong - 1] if num_wrong else order[0] - 2 * _SMALL
    above = order[num_wrong] if num_wrong < len(order) else order[-1] + 2 * _SMALL
    log[own] -= (below + above) / 2
    shifted = np.exp(log - log.max(1, keepdims=True))
    return shifted / shifted.sum(1, keepdims=True)


def all_features(answers: np.ndarray, labels: np.ndarray, features: np.ndarray | None) -> np.ndarray:
    """What a calibration sees of each image, float64[n, f]: `bank_features` and further ones, where there are any."""
    found = bank_features(answers, labels)
    return found if features is None else np.concatenate([found, features], axis=1)


def _fit(inputs: np.ndarray, targets: np.ndarray) -> object:
    """A logistic regression on targets 0..1: a target t is a right answer of weight t and a wrong one of 1 - t."""
    mean = float(targets.mean())
    if min(mean, 1 - mean) < _SMALL:
        return (targets.sum() + 0.5) / (len(targets) + 1)
    model = make_pipeline(StandardScaler(), LogisticRegression(solver="newton-cholesky", max_iter=1000))
    outcomes = np.repeat([1, 0], len(targets))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        weights = np.concatenate([targets, 1 - targets])
        return model.fit(np.concatenate([inputs, inputs]), outcomes, logisticregression__sample_weight=weights)


def _probability(model: object, inputs: np.ndarray) -> np.ndarray:
    if isinstance(model, float):
        return np.full(len(inputs), model)
    return model.predict_proba(inputs)[:, 1]  # type: ignore[attr-defined]


def _fit_sharpening(shared: np.ndarray, labels: np.ndarray, gold: np.ndarray, num_wrong: int) -> float:
    """The exponent under which the distributions, shifted to their count, come nearest to gold's softmax."""

    def distance(exponent: float) -> float:
        # In float64: where it is flat, the minimum of rounded numbers is anywhere within 1e-4.
        shifted = _shifted(_sharpened(shared, exponent), labels, num_wrong)
        return float(np.linalg.norm(shifted - gold, axis=1).mean())

    return float(minimize_scalar(distance, bounds=(0.5, _LARGEST_EXPONENT), method="bounded", options=_CLOSE).x)


def _fit_rest(answers: np.ndarray, labels: np.ndarray, gold: np.ndarray) -> float:
    """The exponent under which the other classes' shares are likeliest, where gold's softmax is the truth."""
    rest = gold.astype(np.float64)
    rest[np.arange(len(labels)), labels] = 0

    def loss(exponent: float) -> float:
        shares = share_out(np.zeros(len(labels)), answers, labels, exponent)
        return -float(np.sum(rest * np.log(np.maximum(shares, 1e-12))))

    return float(
        minimize_scalar(loss, bounds=(1 / _LARGEST_EXPONENT, _LARGEST_EXPONENT), method="bounded", options=_CLOSE).x
    )
