"""What is known before any request: models, a bank's answers, a calibration; and what each request makes of it."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import jax
import numpy as np
import scipy.special

from tmu_jax.data import ForgetProblem, Split
from tmu_jax.preparation.asking import checked_rows, rows_of_problem
from tmu_jax.preparation.bank import Bank, BankModel, BankSettings
from tmu_jax.preparation.calibration import Calibration, Predicted, all_features, fit_calibration
from tmu_jax.preparation.knowledge import knowledge
from tmu_jax.preparation.predicting import as_prediction
from tmu_jax.stages import key_for
from tmu_jax.text import html_table
from tmu_jax.training import TrainedModel, predict
from tmu_jax.twin import (
    DEFAULT_SETTINGS,
    TwinPrediction,
    all_hard,
    measure_features,
    predict_labels,
    train_curriculum,
)
from tmu_jax.twin.request import has_twin_problem
from tmu_jax.unlearning import Method

if TYPE_CHECKING:
    from tmu_jax.preparation.rehearsal import Rehearsal


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Prepared:
    """Everything that requests share. A request leaves it as it is and returns the next one.

    Attributes:
      model: the classifier in service: M_o, or what the last request made of it.
      original: M_o, trained on all of D; gold in every rehearsal.
      twin: M_t, trained on D and the held-out images, see `prepare`; None: no rehearsals.
      train: D without what was forgotten.
      heldout: images that M_o never saw, rows ascending.
      test: all test images; the held-out ones may be among them.
      bank: answers of models that never saw an image; None: the published features.
      bank_settings: how the bank was made.
      calibration: of the bank, on the held-out images.
      forgotten: int32[n] each, rows of each request so far.
      removed: int32[n], rows of the pool that were removed before it was prepared: they are in none of the sets.
      rehearsals: what was rehearsed, for `forget(…, method="auto")`.
      key: of all that is drawn.
      know_alike: whether M_t was trained from scratch and knew D as M_o did when it was prepared; then the calibration
        also sees how well M_t knows each held-out image, and M_o each of D_f.
      costs: of each part of the preparation, in trainings of M_o.
      seconds: run time of each part.
    """

    model: TrainedModel
    original: TrainedModel
    twin: TrainedModel | None
    train: Split
    heldout: Split
    test: Split
    bank: Bank | None
    bank_settings: BankSettings
    key: jax.Array
    calibration: Calibration | None = None
    know_alike: bool = False
    forgotten: tuple[np.ndarray, ...] = ()
    removed: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int32))
    rehearsals: "tuple[Rehearsal, ...]" = ()
    costs: Mapping[str, float] = dataclasses.field(default_factory=dict)
    seconds: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def problem(self, request: Sequence[int] | np.ndarray | ForgetProblem) -> ForgetProblem:
        """The request to forget training images, as the methods take it.

        Args:
          request: rows of the training images, no two equal, of any classes; or a request for some of them from
            `tmu_jax.data` or a `tmu_jax.Ledger`, whose held-out images give way to the preparation's.

        Returns:
          The problem; D is what earlier requests left of it.

        Raises:
          TypeError: indices that are no integers.
          ValueError: none, repeated, out of range or forgotten already, of other images, or nothing would stay.
        """
        asked = request if isinstance(request, ForgetProblem) else None
        indices = rows_of_problem(request, self.train) if isinstance(request, ForgetProblem) else request
        rows = checked_rows(indices, self.train, self._all_forgotten(), self.removed)
        retain = np.setdiff1d(self.train.indices, rows).astype(np.int32)
        if not len(retain):
            raise ValueError(f"indices names all {len(rows)} images that are left; at least one must stay")
        pool = self.train.pool
        classes = np.unique(pool.labels[rows])
        heldout = self.heldout.indices[np.isin(self.heldout.labels, classes)]
        return ForgetProblem(
            pool=pool,
            train=self.train,
            forget=Split(pool, rows),
            retain=Split(pool, retain),
            heldout=Split(pool, heldout),
            test=self.test,
            target_classes=tuple(classes.tolist()),
            heldout_source="test",
            ratio="all",
            seed=0,
            whole_classes=tuple(np.setdiff1d(classes, pool.labels[retain]).tolist()),
            notes=() if asked is None else asked.notes,
            request=None if asked is None else asked.request,
        )

    def twin_problem(self, rows: np.ndarray) -> ForgetProblem:
        """The rehearsal: to forget held-out images from M_t, which knows them, and M_o is gold.

        Args:
          rows: int32[n], of `heldout`; the other held-out images are neither drawn nor forgotten.
        """
        pool = self.train.pool
        return ForgetProblem(
            pool=pool,
            train=Split(pool, np.concatenate([self.train.indices, rows])),
            forget=Split(pool, rows),
            retain=self.train,
            heldout=Split(pool, rows[:0]),
            test=self.test,
            target_classes=tuple(np.unique(pool.labels[rows]).tolist()),
            heldout_source="test",
            ratio="all",
            seed=0,
            whole_classes=(),
            notes=("a rehearsal: held-out images are forgotten from the twin model",),
        )

    def prediction(self, problem: ForgetProblem, published: bool = False) -> TwinPrediction:
        """Which forgotten images gold is predicted to get right, and with a bank its softmax on them.

        Args:
          problem: from `problem`.
          published: take the paper's features where there is a bank too: a curriculum model is trained then. They are
            measured with this preparation's twin model, which is not M_o fine-tuned as the paper's is.
        """
        if published and not has_twin_problem(problem):
            return all_hard(problem)
        if self.bank is None or published:
            if self.twin is None:
                raise ValueError("the preparation has no twin model, which the published features need")
            key = key_for(self.key, f"request {len(self.forgotten)}")
            curriculum = train_curriculum(problem, self.model, key_for(key, "curriculum"))
            measured = measure_features(problem, self.model, self.twin, (curriculum, curriculum))
            return predict_labels(problem, measured, key_for(key, "predictor"), DEFAULT_SETTINGS)
        assert self.calibration is not None
        labels = problem.forget.labels
        answers = self.bank.answers(problem.forget.indices)
        known = self.known(self.original, problem.forget)
        predicted = self.calibration.predict(answers, labels, known)
        features = all_features(answers, labels, known)
        return as_prediction(self.heldout, self.calibration, predicted, features, problem)

    def twin_prediction(self, problem: ForgetProblem) -> TwinPrediction:
        """The same for a rehearsal: each held-out image's numbers are from a fit without it.

        Raises:
          ValueError: without a bank.
        """
        if self.bank is None or self.calibration is None:
            raise ValueError("folds=0 leaves no bank, and only a bank predicts for a rehearsal; prepare with folds=2")
        place = np.searchsorted(self.heldout.indices, problem.forget.indices)
        predicted = Predicted(*(values[place] for values in self.calibration.heldout))
        known = self.known(self.twin, problem.forget)
        features = all_features(self.bank.answers(problem.forget.indices), problem.forget.labels, known)
        return as_prediction(self.heldout, self.calibration, predicted, features, problem)

    def known(self, model: TrainedModel | None, images: Split) -> np.ndarray | None:
        """How well M_o knows images of D, or M_t held-out ones, float64[n, 1]; None unless they `know_alike`."""
        return knowledge(model, images) if self.know_alike and model is not None else None

    def calibrated(self) -> "Prepared":
        """The same with the calibration of its bank: fitted on the held-out images, which M_o never saw."""
        if self.bank is None:
            return self
        gold = scipy.special.softmax(predict(self.original, self.heldout)[0], axis=1)
        answers, known = self.bank.answers(self.heldout.indices), self.known(self.twin, self.heldout)
        return dataclasses.replace(self, calibration=fit_calibration(answers, self.heldout.labels, gold, known))

    def debt(self) -> dict[str, int]:
        """How many forgotten images each model in use was trained on, by the model's name; models without debt too."""
        gone = self._all_forgotten()
        found = {"original (rehearsals)": len(gone)}
        if self.twin is not None:
            found["twin (rehearsals)"] = len(gone)
        for repetition, models in enumerate(self.bank.models if self.bank is not None else []):
            for fold, model in enumerate(models):
                found[f"bank {repetition}.{fold}"] = int(np.isin(model.trained, gone).sum())
        return found

    def after(self, rows: np.ndarray, model: TrainedModel) -> "Prepared":
        """What the next request starts from: the rows are gone, and the model is the one that forgot them."""
        left = np.setdiff1d(self.train.indices, rows).astype(np.int32)
        bank = None if self.bank is None else self.bank.without(rows)
        return dataclasses.replace(
            self, model=model, train=Split(self.train.pool, left), forgotten=(*self.forgotten, rows), bank=bank
        )

    def retraining_work(self, problem: ForgetProblem | None = None) -> float:
        """Images that a retraining trains on: the budget of a request is a share of it."""
        return self.original.training_recipe.epochs * len(self.train if problem is None else problem.retain)

    def share(self, method: Method, problem: ForgetProblem) -> float:
        """What a method costs, as a share of a retraining, by images trained on, of the published features too."""
        work = method.work(problem, self.original.training_recipe)
        if method.needs == "prediction" and has_twin_problem(problem):
            work += DEFAULT_SETTINGS.curriculum_epochs * DEFAULT_SETTINGS.curriculum_share * len(problem.train)
        return work / self.retraining_work(problem)

    def _all_forgotten(self) -> np.ndarray:
        return np.concatenate([*self.forgotten, np.zeros(0, np.int32)])

    def __str__(self) -> str:
        """The table of costs: a line for each part, in trainings of M_o and in seconds."""
        parts = [
            f"  {name:12s} {cost:6.2f} trainings  {self.seconds.get(name, 0.0):8.1f} s"
            for name, cost in self.costs.items()
        ]
        return "\n".join([repr(self), *parts])

    def _repr_html_(self) -> str:
        parts = [
            (name, f"{cost:.2f} trainings, {self.seconds.get(name, 0.0):.1f} s") for name, cost in self.costs.items()
        ]
        return html_table(repr(self), parts)

    def __repr__(self) -> str:
        bank = "no bank" if self.bank is None else f"a bank of {len(self.bank)} models"
        cost = sum(self.costs.values())
        return (
            f"Prepared({len(self.train)} training images, {sum(map(len, self.forgotten))} forgotten in "
            f"{len(self.forgotten)} requests, {len(self.heldout)} held out, {bank}; cost {cost:.2f} trainings)"
        )


def bank_of(models: list[BankModel], settings: BankSettings, num_rows: int, key: jax.Array) -> Bank | None:
    """The bank of models that come repetition by repetition; None without any."""
    if not models:
        return None
    seed = int(np.asarray(jax.random.key_data(key_for(key, "bank draws"))).ravel()[-1])
    by_repetition = [models[i : i + settings.folds] for i in range(0, len(models), settings.folds)]
    return Bank(by_repetition, num_rows, seed)
