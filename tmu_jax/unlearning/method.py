"""What an unlearning method is: a name, a recipe, how it relabels, what it needs, and its options."""

import dataclasses
import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax

from tmu_jax.data import ForgetProblem
from tmu_jax.stages import Progress, Stage, key_for
from tmu_jax.timing import Stopwatch
from tmu_jax.training import ModuleLike, NoisyImages, Recipe, TrainedModel, fit
from tmu_jax.training.packing import pack_recipe
from tmu_jax.twin import TwinPrediction
from tmu_jax.unlearning.needs import NEEDS, Foretell, PredictLogits
from tmu_jax.unlearning.options import checked_options
from tmu_jax.unlearning.ranges import OF_RECIPE, Range
from tmu_jax.unlearning.relabelling import Relabel
from tmu_jax.unlearning.unlearned import UnlearnedModel, as_unlearned, with_variables

_TAKEN = frozenset("problem original key recipe settings prediction exclude progress method easy targets".split())
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


def _every_image(problem: ForgetProblem, **options: Any) -> float:
    return len(problem.train)


@dataclasses.dataclass(frozen=True)
class Method:
    """An unlearning method: most are a relabelling of the images, a stream of them, and a recipe.

    Attributes:
      name: letters, digits, `_`, `.` and `-`.
      relabel: makes the relabelling; see `Relabel`. The original model is fine-tuned on it by `recipe`.
      recipe: the optimisation; its augmentation is the original's. Or a function of the original's own recipe and the
        options, `recipe(training, **options)`, for a method that goes on as the training did.
      needs: "prediction" where `relabel` takes `easy=`, the generalization labels; "bank" where it takes `targets=` as
        well, the distributions that a bank of models gives; "rehearsal" where `run` takes a `Foretell` for
        `prediction=`, "datamodels" where it takes a `PredictLogits`; None: nothing.
      options: what `relabel` (or `run`) takes beside that, with the defaults.
      ranges: where a search for its recipe looks (`tmu_jax.tune`): of options, and of the recipe's "learning_rate" and
        "epochs".
      check: called with the options before any work; raises ValueError for values out of range.
      draws: images that an epoch draws, called with (problem, **options), for estimates of time; all of D by default.
        Of all epochs together where the recipe is a function, but for `draws_an_epoch`: as many as the training has.
      draws_once: the same for what is done once, whatever the epochs; nothing by default.
      run: for methods that are no relabelling: called as `run(problem, original, key, progress=…, **options)`, with
        `prediction=` where it is needed and `recipe=` where there is one; returns a `TrainedModel` or `UnlearnedModel`.
      check_recipe: called with a recipe that is given in place of the method's own; raises ValueError where it cannot
        be used.
      check_request: called with (problem, original) before any work; raises ValueError where the original lacks what
        the method takes from it.
      needs_updates: whether that is what its training kept of D_f's steps, `train(…, updates_of=…)`: the experiments
        train such an original for it.
      module_of: called with (the original's module, **options): the module of the result, where it is another one.
      reference: "original" or "gold" for the two ends of the scale: the experiments have those models already.
      start: whose weights are fine-tuned: "original" (M_o) or "twin" (M_t, of a method that needs a prediction; M_o
        where whole classes are forgotten and there is no twin problem).
      image_noise: standard deviation of Gaussian noise on the images of the fine-tuning, in pixel units 0..1, drawn
        anew for each image of each step; see `NoisyImages`.
      version: of its code; raise it when its numbers change, and models that are kept under the old one are not used.
    """

    name: str
    relabel: Relabel | None = None
    recipe: Recipe | Callable[..., Recipe] | None = None
    needs: Literal["prediction", "bank", "rehearsal", "datamodels"] | None = None
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    ranges: Mapping[str, Range] = dataclasses.field(default_factory=dict)
    check: Callable[..., None] = lambda **options: None
    draws: Callable[..., float] = _every_image
    draws_an_epoch: bool = False
    draws_once: Callable[..., float] = lambda problem, **options: 0.0
    run: Callable[..., TrainedModel] | None = None
    check_recipe: Callable[[Recipe], None] = lambda recipe: None
    check_request: Callable[[ForgetProblem, TrainedModel], None] = lambda problem, original: None
    needs_updates: bool = False
    module_of: Callable[..., ModuleLike] = lambda module, **options: module
    reference: Literal["original", "gold"] | None = None
    start: Literal["original", "twin"] = "original"
    image_noise: float = 0.0
    version: int = 1

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"name={self.name!r} must be 1 to 64 letters, digits, '_', '.' or '-'")
        if self.needs not in NEEDS:
            raise ValueError(f"needs={self.needs!r} of method {self.name!r} must be one of {NEEDS}")
        if self.reference not in ("original", "gold", None):
            raise ValueError(f"reference={self.reference!r} of method {self.name!r} must be 'original', 'gold' or None")
        if self.start not in ("original", "twin") or (self.start == "twin" and self.needs != "prediction"):
            raise ValueError(
                f"start={self.start!r} of method {self.name!r} must be 'original', or 'twin' for one that needs a "
                "prediction"
            )
        if not 0 <= self.image_noise <= 1 or (self.image_noise and self.recipe is None):
            raise ValueError(
                f"image_noise={self.image_noise} of method {self.name!r} must lie in 0..1, and be 0 without a recipe"
            )
        taken = sorted(set(self.options) & _TAKEN)
        if taken:
            raise ValueError(f"options of method {self.name!r} hold {taken[0]!r}, which every method is called with")
        if (self.relabel is None) == (self.run is None):
            raise ValueError(f"method {self.name!r} must have one of relabel and run")
        if self.needs in ("rehearsal", "datamodels") and self.run is None:
            raise ValueError(f"method {self.name!r} needs {self.needs!r} and so must have run: relabel sees no model")
        if self.relabel is not None and self.recipe is None:
            raise ValueError(f"method {self.name!r} relabels and so needs a recipe")
        known = {*self.options, *(OF_RECIPE if isinstance(self.recipe, Recipe) else ())}
        unknown = sorted(set(self.ranges) - known)
        if unknown:
            raise ValueError(f"ranges of method {self.name!r} hold {unknown[0]!r}; it has: {', '.join(sorted(known))}")
        self.check(**self.options)

    @property
    def own_recipe(self) -> dict[str, Any] | None:
        """The recipe as JSON values, its functions by their names; None where it goes by the original's or is none."""
        return json.loads(json.dumps(pack_recipe(self.recipe))) if isinstance(self.recipe, Recipe) else None

    def configured(self, recipe: Recipe | None = None, options: Mapping[str, Any] | None = None) -> "Method":
        """The method with another recipe and other values of its options, checked.

        Raises:
          ValueError: for an option that it does not have, a value out of range, or a recipe where it has none or makes
            its own of its options.
        """
        options = checked_options(self.name, self.options, options or {})
        if recipe is not None:
            if not isinstance(self.recipe, Recipe) and not self.draws_an_epoch:
                why = "does not fine-tune" if self.recipe is None else "makes its own of the training's and its options"
                raise ValueError(f"recipe={recipe!r} has no use: method {self.name!r} {why}")
            self.check_recipe(recipe)
        return dataclasses.replace(self, recipe=recipe or self.recipe, options={**self.options, **options})

    def stage(self, problem: ForgetProblem, original: Stage, key: jax.Array, prediction: Stage | None = None) -> Stage:
        """The unlearning as a stage, whose value is an `UnlearnedModel`.

        Args:
          problem: the request.
          original: the stage of M_o.
          key: a PRNG key, of the whole request.
          prediction: the stage of the generalization labels, or of a `Foretell` or `PredictLogits`, for a method that
            needs them.
        """
        # The key for retraining is the training's own: a gold model can be had again by the key it was made with.
        own_key = key if self.reference is not None else key_for(key, f"method {self.name}")
        parents = {"original": original}
        if self.needs is not None:
            assert prediction is not None, self.name
            parents["prediction"] = prediction
            if self.start == "twin" and (twin := self._twin_of(prediction)) is not None:
                parents["start"] = twin
        return Stage(
            self.name,
            self.name,
            lambda original, progress, prediction=None, start=None: self.apply(
                problem, original, own_key, prediction, progress, start
            ),
            UnlearnedModel,
            self.version,
            parents,
            {
                # Of a function the options and the version tell, and the original's name what it starts from.
                "recipe": dataclasses.asdict(self.recipe) if isinstance(self.recipe, Recipe) else None,
                "options": dict(self.options),
                "key": own_key,
                "train": problem.train.indices,
                "forget": problem.forget.indices,
                # Labels are drawn for every row of the pool, augmented copies included.
                "pool": len(problem.pool.labels),
                # A method may use D_test, whatever ours do.
                "heldout": problem.heldout.images,
                **({"image_noise": self.image_noise} if self.image_noise else {}),
            },
            work=self.work(problem),
        )

    def _twin_of(self, prediction: Stage) -> Stage | None:
        """The stage of the twin model behind a prediction; None where the request has no twin problem."""
        if prediction.is_given:
            raise ValueError(
                f"method {self.name!r} starts from the twin model, which a prediction that is given does not hold; "
                "leave prediction out"
            )
        return next((stage for stage in prediction.with_ancestors() if stage.kind == "twin_model"), None)

    def check_original(self, original: TrainedModel, trains_afresh: bool = False) -> None:
        """Raises ValueError where something is trained as the original was, and how is not known.

        Args:
          original: M_o.
          trains_afresh: whether what the method needs trains a model of fresh parameters.
        """
        if trains_afresh or self.reference == "gold":
            original.check_retrainable()
        if self.recipe is not None and not isinstance(self.recipe, Recipe):
            _ = original.training_recipe

    def work(self, problem: ForgetProblem, training: Recipe | None = None) -> float:
        """About how long it takes, in images trained on; `training` is the original's recipe, where it is known."""
        epochs = 1
        if isinstance(self.recipe, Recipe):
            epochs = self.recipe.epochs
        elif self.draws_an_epoch:
            epochs = (training or Recipe()).epochs
        return epochs * self.draws(problem, **self.options) + self.draws_once(problem, **self.options)

    def apply(
        self,
        problem: ForgetProblem,
        original: TrainedModel,
        key: jax.Array,
        prediction: TwinPrediction | Foretell | PredictLogits | None = None,
        progress: Progress | None = None,
        start: TrainedModel | None = None,
    ) -> UnlearnedModel:
        """Unlearns; its seconds include the making of the relabelling and, where it needs one, the prediction.

        The fine-tuning begins with the variables of `start`, where one is given.
        """
        begun = original if start is None else dataclasses.replace(original, variables=start.variables)
        with Stopwatch() as watch:
            found = self._run(problem, begun, key, prediction, progress)
            jax.block_until_ready(found.variables)
        own = {"seconds_by_part": {"unlearning": watch.seconds}, "compile_seconds": watch.compile_seconds}
        model = found if isinstance(found, UnlearnedModel) else as_unlearned(found, **own)
        parts, compile_seconds, notes = model.seconds_by_part, model.compile_seconds, model.notes
        if self.reference is None and model is found:  # What the method did around another one is its cost too.
            besides = watch.seconds - math.fsum(parts.values())
            parts = {**parts, "unlearning": parts.get("unlearning", 0.0) + max(0.0, besides)}
            compile_seconds = max(compile_seconds, watch.compile_seconds)
        if prediction is not None:
            parts = {**prediction.seconds_by_part, **parts}
        known = prediction if isinstance(prediction, TwinPrediction) else None
        if known is not None:
            compile_seconds += known.compile_seconds
            notes = (*known.notes, *notes)
        return dataclasses.replace(
            model,
            method=self.name,
            original=original,
            forget_indices=problem.forget.indices,
            prediction=known or model.prediction,
            seconds_by_part=parts,
            seconds=math.fsum(parts.values()),
            compile_seconds=compile_seconds,
            notes=notes,
        )

    def _run(
        self,
        problem: ForgetProblem,
        original: TrainedModel,
        key: jax.Array,
        prediction: TwinPrediction | Foretell | PredictLogits | None,
        progress: Progress | None,
    ) -> TrainedModel:
        recipe_or_none = self.recipe
        if recipe_or_none is not None and not isinstance(recipe_or_none, Recipe):
            recipe_or_none = recipe_or_none(original.training_recipe, **self.options)
        if recipe_or_none is not None and original.recipe is not None:
            recipe_or_none = dataclasses.replace(recipe_or_none, augment=original.augment)
        if recipe_or_none is not None and self.image_noise:
            noisy = NoisyImages(self.image_noise, recipe_or_none.augment)
            recipe_or_none = dataclasses.replace(recipe_or_none, augment=noisy)
        if self.run is not None:
            recipe = {} if recipe_or_none is None else {"recipe": recipe_or_none}
            needed = {} if prediction is None else {"prediction": prediction}
            return self.run(problem, original, key, progress=progress, **recipe, **needed, **self.options)
        if self.relabel is None or recipe_or_none is None:
            raise AssertionError(self.name)  # __post_init__ sees to it
        relabel_key, fit_key = jax.random.split(key)
        known = prediction if isinstance(prediction, TwinPrediction) else None
        labels = {} if known is None else {"easy": known.easy}
        if self.needs == "bank":
            if known is None or known.targets is None:
                raise ValueError(
                    f"method {self.name!r} needs a prediction with targets, which a bank gives: see `prepare`"
                )
            labels["targets"] = known.targets
        relabelling = self.relabel(problem, original, relabel_key, **labels, **self.options)
        variables, losses = fit(
            original.module,
            original.variables,
            original.normalization,
            problem.pool,
            relabelling.stream,
            relabelling.targets,
            relabelling.weights,
            recipe_or_none,
            fit_key,
            progress=progress,
        )
        # The recipe stays the training's: a later request, and retraining, go by that one.
        return with_variables(original, variables, losses)
