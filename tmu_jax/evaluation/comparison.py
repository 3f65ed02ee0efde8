"""One unlearned model against the gold model: the readouts, the floors, and how good the predictor was."""

import dataclasses
from typing import NamedTuple

import numpy as np

from tmu_jax.boundary import checked
from tmu_jax.data import ForgetProblem
from tmu_jax.evaluation import metrics
from tmu_jax.evaluation.floors import Floor, floor_count_matched, floor_gold_gold, floor_majority
from tmu_jax.evaluation.readouts import PredictorQuality, Readouts, predictor_quality, readouts
from tmu_jax.text import ascii_text, html_table
from tmu_jax.training import TrainedModel, predict
from tmu_jax.twin import TwinPrediction
from tmu_jax.unlearning import UnlearnedModel


class Outputs(NamedTuple):
    """A model's logits on the sets of a problem, float32[n, classes] each."""

    test: np.ndarray
    forget: np.ndarray
    retain: np.ndarray
    heldout: np.ndarray


def outputs(model: TrainedModel, problem: ForgetProblem) -> Outputs:
    """Runs a model in evaluation mode over the test, forget, retain and held-out images."""
    return Outputs(*(predict(model, getattr(problem, name))[0] for name in Outputs._fields))


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What `evaluate` finds; `print` it for a table.

    Attributes:
      method: the method's name.
      readouts: accuracies, and the distances to gold (None without one).
      test_accuracy_outside_heldout: percent, on the test images that are not in D_test; None where there are none.
      floors: "floor_gold_gold" (with a second gold model), "floor_majority", "floor_count_matched" (with the original).
      predictor: the labels against gold's correctness on D_f (None without a prediction or gold).
      heldout_predictor: the same on D_test, which the predictor was trained on.
      seconds: run time of the method, without compilation.
    """

    method: str
    readouts: Readouts
    test_accuracy_outside_heldout: float | None
    floors: dict[str, Floor]
    predictor: PredictorQuality | None
    heldout_predictor: PredictorQuality | None
    seconds: float

    def __str__(self) -> str:
        lines = [f"{self.method or 'model'} ({self.seconds:.1f} s)"]
        for name, value in dataclasses.asdict(self.readouts).items():
            lines.append(f"  {name:24s} {'-' if value is None else f'{value:8.3f}'}")
        for title, quality in (("D_f", self.predictor), ("D_test", self.heldout_predictor)):
            if quality is not None:
                area = "-" if quality.auc is None else f"{quality.auc:.1f}"
                lines.append(
                    f"  predictor on {title:11s} {quality.accuracy:8.3f}  AUC {area}, Brier {quality.brier:.3f}, "
                    f"{quality.predicted_hard:.0f} % predicted hard, {quality.hard:.0f} % are"
                )
        for name, floor in self.floors.items():
            lines.append(
                f"  {name:24s} {floor.forget_accuracy:8.3f}  gap {floor.forget_gap:.1f}, agreement "
                f"{floor.agreement:.1f}"
            )
        return ascii_text("\n".join(lines))

    def _repr_html_(self) -> str:
        readouts = [(name.replace("_", " "), value) for name, value in dataclasses.asdict(self.readouts).items()]
        rows = [(name, None if value is None else f"{value:.3f}") for name, value in readouts]
        for name, floor in self.floors.items():
            found = f"forget accuracy {floor.forget_accuracy:.1f}, gap {floor.forget_gap:.1f}"
            rows.append((name.replace("_", " "), f"{found}, agreement {floor.agreement:.1f}"))
        return html_table(f"{self.method or 'model'} ({self.seconds:.1f} s)", rows)


def original_heldout_accuracy(problem: ForgetProblem, original: Outputs, target_class: int) -> float:
    """The original model's accuracy in percent on *all* held-out images of a class."""
    if problem.heldout_source == "test":
        logits, labels = original.test, problem.test.labels
    else:
        logits, labels = original.heldout, problem.heldout.labels
    of_class = labels == target_class
    return metrics.accuracy(logits[of_class], labels[of_class])


def compare(
    problem: ForgetProblem,
    model: Outputs,
    gold: Outputs | None = None,
    target_class: int | None = None,
) -> tuple[Readouts, float | None]:
    """Readouts from logits.

    Args:
      problem: the request.
      model: the unlearned model's outputs.
      gold: the gold model's.
      target_class: restricts the forget set to one class; all of it when None.

    Returns:
      The readouts, and the test accuracy outside D_test (None where no test image is outside).
    """
    chosen = _of_class(problem.forget.labels, target_class)
    found = readouts(
        test=(model.test, problem.test.labels),
        forget=(model.forget[chosen], problem.forget.labels[chosen]),
        retain=(model.retain, problem.retain.labels),
        gold_forget_logits=None if gold is None else gold.forget[chosen],
    )
    outside = ~np.isin(problem.test.indices, problem.heldout.indices)
    accuracy = metrics.accuracy(model.test[outside], problem.test.labels[outside]) if outside.any() else None
    return found, accuracy


def compare_floors(
    problem: ForgetProblem,
    gold: Outputs,
    original: Outputs | None = None,
    second_gold: Outputs | None = None,
    target_class: int | None = None,
) -> dict[str, Floor]:
    """The three floors, as far as the models for them are given.

    Args:
      problem: the request.
      gold: the gold model's outputs.
      original: the original model's, for "floor_count_matched".
      second_gold: another gold model's, for "floor_gold_gold".
      target_class: restricts the forget set to one class.

    Returns:
      The floors by name.
    """
    chosen = _of_class(problem.forget.labels, target_class)
    labels = problem.forget.labels[chosen]
    gold_correct = metrics.correct(gold.forget[chosen], labels)
    found = {}
    if second_gold is not None:
        found["floor_gold_gold"] = floor_gold_gold(gold.forget[chosen], second_gold.forget[chosen], labels)
    found["floor_majority"] = floor_majority(gold_correct)
    if original is not None:
        classes = np.unique(labels)
        found["floor_count_matched"] = floor_count_matched(
            [original_heldout_accuracy(problem, original, c) for c in classes],
            [100.0 * gold_correct[labels == c].mean() for c in classes],
            [int((labels == c).sum()) for c in classes],
        )
    return found


def prediction_quality(
    problem: ForgetProblem,
    prediction: TwinPrediction,
    gold: Outputs,
    target_class: int | None = None,
) -> tuple[PredictorQuality, PredictorQuality | None]:
    """How good the predicted labels are, on D_f (against gold's correctness) and on D_test (against the original's).

    Args:
      problem: the request.
      prediction: the labels.
      gold: the gold model's outputs.
      target_class: restricts both sets to one class.

    Returns:
      The quality on D_f and on D_test; the latter is None for whole classes, which have no twin problem, and where the
      prediction is of other held-out images, or of none.
    """
    chosen = _of_class(problem.forget.labels, target_class)
    labels = problem.forget.labels[chosen]
    on_forget = predictor_quality(
        prediction.probability[chosen], prediction.easy[chosen], metrics.correct(gold.forget[chosen], labels)
    )
    heldout_labels = problem.heldout.labels
    heldout_labels = heldout_labels[~np.isin(heldout_labels, problem.whole_classes)]
    chosen = _of_class(heldout_labels, target_class)
    if not chosen.any() or len(prediction.heldout_easy) != len(chosen):
        return on_forget, None
    return on_forget, predictor_quality(
        prediction.heldout_probability[chosen],
        prediction.heldout_easy_predicted[chosen],
        prediction.heldout_easy[chosen],
    )


@checked
def evaluate(
    problem: ForgetProblem,
    model: TrainedModel,
    *,
    gold: TrainedModel | None = None,
    second_gold: TrainedModel | None = None,
    target_class: int | None = None,
) -> Evaluation:
    """All readouts of one unlearned model, with the floors beside them.

    Args:
      problem: the request.
      model: the unlearned model.
      gold: the model retrained without D_f; without it only the accuracies are known.
      second_gold: another one, for the gold-gold floor.
      target_class: restricts the forget set to one class.

    Returns:
      The evaluation.

    Raises:
      ValueError: when `target_class` is not among the problem's.
    """
    if target_class is not None and target_class not in problem.target_classes:
        raise ValueError(f"target_class={target_class} is not forgotten here; choose one of {problem.target_classes}")
    of_model = outputs(model, problem)
    of_gold = None if gold is None else outputs(gold, problem)
    found, outside = compare(problem, of_model, of_gold, target_class)
    found_floors: dict[str, Floor] = {}
    on_forget = on_heldout = None
    unlearned = model if isinstance(model, UnlearnedModel) else None
    if of_gold is not None:
        original = unlearned.original if unlearned is not None else None
        of_original = None if original is None else outputs(original, problem)
        found_floors = compare_floors(
            problem,
            of_gold,
            of_original,
            None if second_gold is None else outputs(second_gold, problem),
            target_class,
        )
        if unlearned is not None and unlearned.prediction is not None:
            on_forget, on_heldout = prediction_quality(problem, unlearned.prediction, of_gold, target_class)
            if on_heldout is not None and of_original is not None:
                is_of_ours = _is_of_heldout(problem, unlearned.prediction, of_original)
                on_heldout = on_heldout if is_of_ours else None
    name = unlearned.method if unlearned is not None else ""
    return Evaluation(name, found, outside, found_floors, on_forget, on_heldout, model.seconds)


def _is_of_heldout(problem: ForgetProblem, prediction: TwinPrediction, original: Outputs) -> bool:
    """Whether a prediction is of these held-out images: `forget` takes the preparation's in place of the request's."""
    stays = ~np.isin(problem.heldout.labels, problem.whole_classes)
    right = metrics.correct(original.heldout[stays], problem.heldout.labels[stays])
    return np.array_equal(right, prediction.heldout_easy)


def _of_class(labels: np.ndarray, target_class: int | None) -> np.ndarray:
    return np.ones(len(labels), bool) if target_class is None else labels == target_class
