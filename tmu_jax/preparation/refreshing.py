"""Paying the debt: bank models that were trained on forgotten images are trained anew without them."""

import dataclasses
from collections.abc import Callable

import numpy as np

from tmu_jax.boundary import checked
from tmu_jax.data import Split
from tmu_jax.preparation.bank import Bank, train_bank_model
from tmu_jax.preparation.prepared import Prepared, bank_of
from tmu_jax.stages import Progress, ignore_progress, key_for


@checked
def refresh(prepared: Prepared, budget: float, *, progress: Callable[[str], Progress] | None = None) -> Prepared:
    """Retrains the bank's most indebted models without the forgotten images, and fits the calibration anew.

    Args:
      prepared: after some requests.
      budget: what it may cost, in trainings of M_o.
      progress: makes the progress function of each named part.

    Returns:
      The preparation with as many fresh models as the budget buys, the most indebted first; `debt` says what is left.

    Raises:
      ValueError: for a budget that is no number above 0, without a bank, without debt, or where the budget buys no
        model.
    """
    if not budget > 0:
        raise ValueError(f"budget={budget} must be above 0: it is what the bank may cost, in trainings")
    if prepared.bank is None:
        raise ValueError("folds=0 left no bank, so there is nothing to refresh")
    gone = np.concatenate([*prepared.forgotten, np.zeros(0, np.int32)])
    owed = {
        (repetition, fold): int(np.isin(model.trained, gone).sum())
        for repetition, models in enumerate(prepared.bank.models)
        for fold, model in enumerate(models)
    }
    order = sorted((place for place, count in owed.items() if count), key=lambda place: -owed[place])
    if not order:
        raise ValueError("no model of the bank was trained on a forgotten image; there is nothing to refresh")
    recipe = prepared.bank_settings.recipe(prepared.original.training_recipe)
    one = prepared.original.training_recipe.epochs * (len(prepared.train) + len(gone))
    models = [list(repetition) for repetition in prepared.bank.models]
    spent = seconds = 0.0
    for repetition, fold in order:
        old = models[repetition][fold]
        rows = np.setdiff1d(old.trained, gone).astype(np.int32)
        cost = recipe.epochs * len(rows) / one
        if spent + cost > budget:
            break
        key = key_for(prepared.key, f"refresh {len(prepared.forgotten)} of {repetition}.{fold}")
        report = ignore_progress if progress is None else progress("bank")
        trained = Split(prepared.train.pool, rows)
        fresh = train_bank_model(prepared.original.module, recipe, trained, old.rows, key, report)
        models[repetition][fold] = fresh
        spent, seconds = spent + cost, seconds + fresh.seconds
    if not spent:
        raise ValueError(f"budget={budget} trainings buys no model of the bank; one costs {cost:.2f}")
    flat = [model for repetition in models for model in repetition]
    bank = bank_of(flat, prepared.bank_settings, len(prepared.train.pool), prepared.key)
    assert isinstance(bank, Bank)
    costs = {**prepared.costs, "refreshed": prepared.costs.get("refreshed", 0.0) + spent}
    timed = {**prepared.seconds, "refreshed": prepared.seconds.get("refreshed", 0.0) + seconds}
    return dataclasses.replace(prepared, bank=bank, costs=costs, seconds=timed).calibrated()
