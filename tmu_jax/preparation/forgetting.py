"""The request itself: only unlearning is left to do."""

import dataclasses
import math
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import numpy as np

from tmu_jax.boundary import checked
from tmu_jax.data import ForgetProblem
from tmu_jax.data.copies import copies_note, exact_copies
from tmu_jax.evaluation.metrics import accuracy
from tmu_jax.evaluation.outcome import LEAST_POINTS, State
from tmu_jax.preparation.choosing import choose, nearest
from tmu_jax.preparation.datamodels import datamodels_of
from tmu_jax.preparation.estimates import Estimate
from tmu_jax.preparation.findings import Findings
from tmu_jax.preparation.foretelling import InRequest
from tmu_jax.preparation.grid import candidates
from tmu_jax.preparation.judging import expected_accuracy, expected_of_gold, outcome_of, recipe_note, size_note
from tmu_jax.preparation.looking import look
from tmu_jax.preparation.prepared import Prepared
from tmu_jax.preparation.rehearsal import Rehearsal, rehearse
from tmu_jax.stages import Progress, Stage, compute, given, key_for
from tmu_jax.text import ascii_text, html_table, option_words
from tmu_jax.training import predict
from tmu_jax.training.recipe import Format
from tmu_jax.twin import TwinPrediction
from tmu_jax.unlearning import Method, MethodName, UnlearnedModel, as_method

MOST_ROUNDS = 8
"""How often a method is applied to its own result until nothing of a whole class is recognised."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Forgotten:
    """What a request came to; `print` it.

    Attributes:
      model: the classifier after it.
      prepared: what the next request starts from.
      method: the method's name and options, in words.
      share: its cost as a share of retraining, by images trained on.
      expected_accuracy: percent of D_f that a gold model is expected to get right; None where nothing is predicted.
      prediction: labels and distributions, of the rehearsal or the bank; None where the method used none and there is
        no bank.
      rehearsal: of this recipe, the nearest in size; None where none was made, or where what it promises may not be
        claimed of this request.
      debt: forgotten images that each model in use was trained on, by its name.
      notes: what a reader should know: what the findings say, copies that stay, why the outcome is what it is.
      outcome: "forgotten", "partly" or "nothing forgotten": accuracy and margins on D_f, before and after, beside what
        gold is expected to get right.
      reason: the sentence on it, which the notes end with.
      findings: what the request was like, see `look`.
    """

    model: UnlearnedModel
    prepared: Prepared
    method: str
    share: float
    expected_accuracy: Estimate | None
    prediction: TwinPrediction | None
    rehearsal: Rehearsal | None
    debt: dict[str, int]
    notes: tuple[str, ...]
    outcome: State
    reason: str
    findings: Findings

    def save(self, folder: pathlib.Path | str, format: Format = "orbax", *, overwrite: bool = False) -> pathlib.Path:
        """Writes `model`, see `TrainedModel.save`."""
        return self.model.save(folder, format, overwrite=overwrite)

    def unwrap(self) -> Any:
        """The variables of `model` in the user's own form, see `TrainedModel.unwrap`."""
        return self.model.unwrap()

    def __repr__(self) -> str:
        return ascii_text("\n".join(self._lines()))

    def _repr_html_(self) -> str:
        first, *others = self._lines()
        return html_table(first, [("", line) for line in others])

    def _lines(self) -> list[str]:
        count = len(self.prepared.forgotten[-1])
        did = {"forgotten": "forgot", "partly": "partly forgot", "nothing forgotten": "FORGOT NOTHING OF"}[self.outcome]
        lines = [f"{did} {count} images by {self.method}: {100 * self.share:.1f} % of a retraining"]
        if self.expected_accuracy is not None:
            lines.append("expected of gold: {:.1f} % of them right ({:.1f} to {:.1f})".format(*self.expected_accuracy))
        if self.rehearsal is not None:
            of = self.rehearsal
            lines.append(
                f"rehearsed: agreement {of.agreement.value:.1f} ({of.agreement.low:.1f} to {of.agreement.high:.1f}), "
                f"gap {of.gap.value:.1f}, distance {of.distance.value:.3f}, test accuracy {-of.test_loss.value:+.1f}"
            )
        seen = sum(count > 0 for count in self.debt.values())
        lines.append(f"models in use that were trained on forgotten images: {seen} of {len(self.debt)}")
        return [*lines, *self.notes]


@checked
def forget(
    prepared: Prepared,
    request: Sequence[int] | np.ndarray | ForgetProblem,
    *,
    method: MethodName | Literal["auto"] | Method = "auto",
    budget: float = 0.05,
    key: jax.Array | None = None,
    progress: Callable[[str], Progress] | None = None,
    **options: Any,
) -> Forgotten:
    """Removes training images from the model in service.

    Args:
      prepared: from `prepare`, or the last request's.
      request: rows of `data.train_images`, of any classes; or a request for them, as a `tmu_jax.Ledger` makes it.
      method: a name in `METHODS`, a method, or "auto": the recipe with the best rehearsal within the budget. The
        request is looked at first (`look`): where D_f is not drawn like the held-out images, "auto" takes only what
        does not assume it; where those were trained on, no rehearsal says anything, and it takes `rewarm`. A method
        that is named is applied to its own result, at most `MOST_ROUNDS` times, until a whole class is gone.
      budget: the share of retraining that "auto" may spend.
      key: a PRNG key; the preparation's own and the number of the request by default.
      progress: makes the progress function of each named part.
      **options: of the method; with "auto" there are none.

    Returns:
      The model, what was predicted of gold, the rehearsal, what became of the request, and what the next one starts
      from.

    Raises:
      ValueError: before any work, for images that cannot be forgotten, and a method or budget that cannot be used.
    """
    problem = prepared.problem(request)
    if method != "auto":
        method = _usable(prepared, as_method(method).configured(None, options))
        method.check_request(problem, prepared.model)
    elif options:
        raise ValueError(f"options {sorted(options)} have no use with method='auto'; name the method")
    key = key_for(prepared.key, f"forget {len(prepared.forgotten)}") if key is None else key
    findings = look(problem, prepared)
    is_unseen = findings.allows("heldout_unseen")
    is_believed = is_unseen and findings.allows("random_draw")
    rehearsal, most_rounds = None, MOST_ROUNDS
    if isinstance(method, str):
        prepared, method, rehearsal = _chosen(prepared, problem, budget, findings, progress)
        most_rounds = 1
    elif is_unseen:
        rehearsal = nearest(prepared, method, len(problem.forget))
    if method.needs == "rehearsal" and rehearsal is None:
        # What it learns from, whether its promise is asked for or not.
        rehearsal = rehearse(prepared, method, progress=progress)
        prepared = dataclasses.replace(prepared, rehearsals=(*prepared.rehearsals, rehearsal))
    by_bank = None if prepared.bank is None else prepared.prediction(problem)
    prediction, needed = _learnt(prepared, problem, method, rehearsal, by_bank)
    model, rounds = _apply(prepared, problem, method, key, needed, most_rounds, progress)
    prediction = prediction or model.prediction
    # What a method predicted itself, and then taught, is no judge of it.
    of_gold = expected_of_gold(problem, findings, prepared.original, prepared.bank, by_bank)
    outcome = outcome_of(problem, findings, prepared.model, model, of_gold)
    copies = copies_note(exact_copies(problem)) if problem.request is None else ()
    recipe = () if rehearsal is None else (*recipe_note(prepared), *size_note(rehearsal, problem))
    notes = (*problem.notes, *model.notes, *findings.notes, *recipe)
    again = (f"{method.name} was applied {rounds} times, for a whole class must go",) if rounds > 1 else ()
    after = prepared.after(problem.forget.indices, model)
    return Forgotten(
        model=model,
        prepared=after,
        method=f"{method.name} ({option_words(method.options)})",
        share=1.0 if method.reference == "gold" else rounds * prepared.share(method, problem),
        expected_accuracy=expected_accuracy(prediction.probability) if prediction is not None and is_believed else None,
        prediction=prediction,
        rehearsal=rehearsal if is_believed else None,
        debt=after.debt(),
        notes=tuple(dict.fromkeys((*notes, *copies, *again, outcome.sentence))),
        outcome=outcome.state,
        reason=outcome.sentence,
        findings=findings,
    )


def _usable(prepared: Prepared, method: Method) -> Method:
    """The method, if it forgets and has what it needs; else a ValueError."""
    if method.reference == "original":
        raise ValueError("method='original' forgets nothing; choose another one")
    own = prepared.original.module
    if method.module_of(own, **method.options) != own:
        raise ValueError(
            f"method={method.name!r} answers by a model of another kind, from which no later request can start; call "
            "`unlearn`"
        )
    if method.needs in ("bank", "datamodels") and prepared.bank is None:
        raise ValueError(f"method={method.name!r} learns from a bank, and folds=0 left none; prepare with folds=2")
    if method.start == "twin":
        raise ValueError(
            f"method={method.name!r} starts from the published twin model, which `unlearn` trains; call it"
        )
    return method


def _learnt(
    prepared: Prepared,
    problem: ForgetProblem,
    method: Method,
    rehearsal: Rehearsal | None,
    by_bank: TwinPrediction | None,
) -> tuple[TwinPrediction | None, Stage | None]:
    """The prediction, where there is one before the method is applied; and what the method learns from, as a stage."""
    if method.needs == "rehearsal":
        assert rehearsal is not None
        return None, given(InRequest(prepared, rehearsal.answers))
    prediction = prepared.prediction(problem, published=True) if method.needs == "prediction" else by_bank
    needed = datamodels_of(prepared) if method.needs == "datamodels" else prediction
    return prediction, given(needed) if method.needs is not None else None


def _apply(
    prepared: Prepared,
    problem: ForgetProblem,
    method: Method,
    key: jax.Array,
    needed: Stage | None,
    most_rounds: int,
    progress: Callable[[str], Progress] | None,
) -> tuple[UnlearnedModel, int]:
    """The model after the request, and how often the method was applied: more than once where whole classes stay."""
    model = compute(method.stage(problem, given(prepared.model), key, needed), progress)
    rounds = 1
    is_whole = set(problem.whole_classes) == set(problem.target_classes) and method.reference is None
    while is_whole and rounds < most_rounds and _accuracy(model, problem) > LEAST_POINTS:
        again = compute(method.stage(problem, given(model), key_for(key, f"round {rounds}"), needed), progress)
        parts = {
            name: seconds + model.seconds_by_part.get(name, 0.0) for name, seconds in again.seconds_by_part.items()
        }
        model = dataclasses.replace(
            again,
            original=prepared.model,
            losses=(*model.losses, *again.losses),
            seconds_by_part=parts,
            seconds=math.fsum(parts.values()),
            compile_seconds=model.compile_seconds + again.compile_seconds,
        )
        rounds += 1
    return model, rounds


def _accuracy(model: UnlearnedModel, problem: ForgetProblem) -> float:
    """Percent of D_f that a model gets right."""
    return accuracy(predict(model, problem.forget)[0], problem.forget.labels)


def _chosen(
    prepared: Prepared,
    problem: ForgetProblem,
    budget: float,
    findings: Findings,
    progress: Callable[[str], Progress] | None,
) -> tuple[Prepared, Method, Rehearsal | None]:
    """What "auto" takes: the best rehearsal, or `rewarm` at the training's own peak where rehearsals say nothing."""
    if findings.allows("heldout_unseen"):
        prepared, rehearsal = choose(prepared, problem, budget, findings.allows("random_draw"), progress)
        return prepared, as_method(rehearsal.method).configured(None, rehearsal.options), rehearsal
    found = candidates(prepared.original.training_recipe, len(problem.retain), len(problem.forget), budget, ())
    return prepared, next(method for method in found if method.options["peak"] == 1.0), None
