"""Unlearning methods, by name, and the function that applies one."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any, Literal

import jax
import numpy as np

from tmu_jax.boundary import checked
from tmu_jax.data import ForgetProblem
from tmu_jax.data.checks import check_rows
from tmu_jax.data.copies import copies_note, exact_copies
from tmu_jax.stages import Progress, compute, given
from tmu_jax.training import Recipe, TrainedModel
from tmu_jax.training.checking import refuse_misfit
from tmu_jax.twin import DEFAULT_SETTINGS, TwinPrediction, TwinSettings, check_exclude, prediction_stage, trains_afresh
from tmu_jax.unlearning import (
    amnesiac,
    bad_teacher,
    bank_labels,
    datamodel_matching,
    finetune,
    fisher,
    influence,
    l1_sparse,
    negative_gradient,
    ntk,
    random_labeling,
    reference,
    rewarm,
    rewarm_rehearsed,
    salun,
    scrub,
    sisa,
    soft_twin,
    ssd,
    twin,
    unsir,
)
from tmu_jax.unlearning.loading import load
from tmu_jax.unlearning.method import Method
from tmu_jax.unlearning.ranges import Range
from tmu_jax.unlearning.relabelling import Relabelling, equal_weights, true_targets, wrong_targets
from tmu_jax.unlearning.shipped import SHIPPED, with_recipe
from tmu_jax.unlearning.unlearned import UnlearnedModel, refuse_forgotten

MethodName = Literal[
    "original",
    "retrain",
    "finetune",
    "negative_gradient",
    "random_labeling",
    "bad_teacher",
    "twin",
    "twin_negative_gradient",
    "bank_labels",
    "rewarm",
    "soft_twin",
    "rewarm_twin",
    "rewarm_rehearsed",
    "ssd",
    "scrub",
    "salun",
    "l1_sparse",
    "unsir",
    "fisher",
    "influence",
    "datamodel_matching",
    "amnesiac",
    "ntk",
    "sisa",
]
"""The names of the methods that come with the package, for type checkers."""

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        reference.original,
        reference.retrain,
        finetune.finetune,
        negative_gradient.negative_gradient,
        random_labeling.random_labeling,
        bad_teacher.bad_teacher,
        twin.twin,
        twin.twin_negative_gradient,
        bank_labels.bank_labels,
        rewarm.rewarm,
        soft_twin.soft_twin,
        rewarm.rewarm_twin,
        rewarm_rehearsed.rewarm_rehearsed,
        ssd.ssd,
        scrub.scrub,
        salun.salun,
        l1_sparse.l1_sparse,
        unsir.unsir,
        fisher.fisher,
        influence.influence,
        datamodel_matching.datamodel_matching,
        amnesiac.amnesiac,
        ntk.ntk,
        sisa.sisa,
    )
}
"""Methods by name; add your own: `METHODS["mine"] = Method("mine", relabel, Recipe(epochs=2))`, and give
`METHODS["mine"]` where a method is asked for (its name serves too, but a type checker knows only `MethodName`)."""


def as_method(method: str | Method) -> Method:
    """A method by its name, or as it is.

    Raises:
      ValueError: for a name that is none, and what is no method.
    """
    if isinstance(method, str):
        if method not in METHODS:
            raise ValueError(f"method={method!r} is unknown; choose one of {sorted(METHODS)} or give a Method")
        return METHODS[method]
    if not isinstance(method, Method):
        raise ValueError(
            f"method={method!r} must be a name or a Method; a function goes into Method(name, run=function)"
        )
    return method


@checked
def tuned(method: MethodName | Method, recipes: str | pathlib.Path = SHIPPED) -> Method:
    """A method with the recipe that rehearsed best of those that were tried, see `python -m experiments.tune`.

    Args:
      method: a name in `METHODS`, or a method.
      recipes: a name that ships, or the path of a file that `experiments.tune` wrote.

    Returns:
      The method; options that were not searched are its own.

    Raises:
      FileNotFoundError: where there is no such file.
      ValueError: for a broken file, and a method that is unknown or that it does not have.
    """
    return with_recipe(as_method(method), recipes)


@checked
def unlearn(
    method: MethodName | Method,
    problem: ForgetProblem,
    original: TrainedModel,
    *,
    key: jax.Array,
    recipe: Recipe | None = None,
    settings: TwinSettings | None = None,
    prediction: TwinPrediction | None = None,
    exclude: np.ndarray | None = None,
    progress: Callable[[str], Progress] | None = None,
    **options: Any,
) -> UnlearnedModel:
    """Removes a request's images from a trained model.

    Args:
      method: a name in `METHODS`, or a method.
      problem: the request.
      original: the trained model, left intact.
      key: a PRNG key. With that of an experiment's record (and its recipe, settings and `exclude`) the result is the
        record's, to the last bit.
      recipe: of the fine-tuning, in place of the method's own, but for its augmentation, which stays the original's.
      settings: of the twin problem, for a method that needs generalization labels.
      prediction: labels that are known already; a method of the twin problem predicts them here when None. One that
        needs a bank's takes them from `tmu_jax.prepare`.
      exclude: int32, further rows of the pool that the curriculum model must not see, see `predict_generalization`.
      progress: makes the progress function, called with (steps done, steps in all), of each named part.
      **options: of the method, see `Method.options`.

    Returns:
      The unlearned model.

    Raises:
      ValueError: before any work, for a name that is no method, an option that the method does not have, values that
        it cannot use, a model that does not fit the images or lacks what the method takes from it, and a request that
        keeps images which `original` forgot before.
    """
    method = as_method(method).configured(recipe, options)
    if exclude is not None:
        exclude = check_rows("exclude", exclude, "the problem's pool", len(problem.pool), repeated=True).astype(
            np.int32
        )
    refuse_misfit(original, problem.pool)
    # What is asked for anew, in D_f, may be drawn: a method may go on where another has left off.
    refuse_forgotten(original, np.concatenate([problem.retain.indices, problem.heldout.indices]), "problem")
    method.check_request(problem, original)
    model, labels = given(original), None
    if method.needs == "bank" and (prediction is None or prediction.targets is None):
        raise ValueError(
            f"prediction={prediction!r} has no targets: method {method.name!r} learns from a bank of models; "
            "use tmu_jax.prepare(…) and forget(…, method=…)"
        )
    if method.needs == "rehearsal":
        raise ValueError(
            f"method={method.name!r} learns from its rehearsal; use tmu_jax.prepare(…) and forget(…, method=…)"
        )
    if method.needs == "datamodels":
        raise ValueError(
            f"method={method.name!r} learns from datamodels, which are fitted on a bank; "
            "use tmu_jax.prepare(…) and forget(…, method=…)"
        )
    if method.needs is not None:
        if prediction is not None and len(prediction.easy) != len(problem.forget):
            raise ValueError(
                f"prediction is of {len(prediction.easy)} images, the request of {len(problem.forget)}; they must agree"
            )
        if prediction is None:
            check_exclude(exclude, settings or DEFAULT_SETTINGS)
            labels = prediction_stage(problem, model, key, settings or DEFAULT_SETTINGS, exclude)
        elif settings is None and exclude is None:
            labels = given(prediction)
        else:
            raise ValueError("settings and exclude have no use beside a prediction; give one or the other")
    elif any(value is not None for value in (settings, prediction, exclude)):
        raise ValueError(
            f"settings, prediction and exclude have no use: method {method.name!r} needs no generalization labels"
        )
    predicts = method.needs is not None and prediction is None
    method.check_original(original, predicts and trains_afresh(problem, settings or DEFAULT_SETTINGS))
    found = compute(method.stage(problem, model, key, labels), progress)
    # A ledger's request has told of its copies already.
    copies = copies_note(exact_copies(problem)) if problem.request is None else ()
    return dataclasses.replace(found, notes=(*found.notes, *copies)) if copies else found


__all__ = [
    "METHODS",
    "Method",
    "MethodName",
    "Range",
    "Relabelling",
    "UnlearnedModel",
    "as_method",
    "equal_weights",
    "load",
    "true_targets",
    "tuned",
    "unlearn",
    "wrong_targets",
]
