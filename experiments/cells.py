"""The cells of one forget request: its stages, then the records of one method after another."""

import dataclasses
import inspect
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import tmu_jax
from experiments import environment
from experiments.plan import FLOORS, Request, Settings
from experiments.progress import Display
from experiments.records import Record
from experiments.stages import StagedModel, from_stage, prediction_from_stage, prediction_to_stage, to_stage
from tmu_jax import evaluation, twin
from tmu_jax.checkpoint import Stage, StageStore, stage_hash
from tmu_jax.data import Dataset, Split
from tmu_jax.timing import Stopwatch
from tmu_jax.training import Progress, Recipe, TrainedModel
from tmu_jax.unlearning import METHODS, UnlearnedModel

TWIN_METHODS = ("twin", "twin_negative_gradient")


class Cells:
    """The cells of one request: its stages, then one evaluation a method."""

    def __init__(
        self, settings: Settings, data: Dataset, request: Request, store: StageStore, display: Display
    ) -> None:
        """Args: settings, data, request: what to compute; store: where stages lie; display: shows progress."""
        self._settings, self._data, self._request = settings, data, request
        self._store, self._display = store, display
        self._module = tmu_jax.models.create(settings.arch, data.num_classes)
        self._outputs: dict[str, evaluation.Outputs] = {}

    def run(self, todo: Sequence[str]) -> Iterator[tuple[list[Record], list[Record]]]:
        """Yields the records, and the features if there are any, of one method after another, floors last."""
        request, problem = self._request, self._request.problem
        original = self._trained("original", problem.train)
        self._display.advance()
        gold = self._trained("gold", problem.retain, request.name)
        gold_outputs = self._evaluated("gold", gold)
        self._display.advance()
        for name in todo:
            if name == FLOORS:
                yield self._floor_records(original, gold_outputs), []
                continue
            model = self._unlearned(name, original, gold)
            outputs = gold_outputs if name == "retrain" else self._evaluated(f"method {name}", model)
            features = [] if model.prediction is None else self._feature_records(model, gold_outputs)
            yield self._method_records(name, model, outputs, gold_outputs, gold), features

    # ---- stages

    def _key(self, purpose: str) -> jax.Array:
        """A key of its own for each seed and purpose."""
        return jax.random.fold_in(jax.random.key(self._request.seed), zlib.crc32(purpose.encode()))

    def _stage(
        self,
        kind: str,
        what: str,
        produced_by: Mapping[str, Any],
        compute: Callable[[Progress], Stage],
    ) -> Stage:
        description = f"{what}, {self._request.name}, seed {self._request.seed}"
        if self._store.has(kind, produced_by):
            self._display.found(description)

        def made() -> Stage:
            stage = compute(self._display.start(description))
            made_by = {"device": environment.device(), "versions": environment.versions()}
            return stage._replace(metadata={**stage.metadata, **made_by, "git_revision": environment.git_revision()})

        return self._store.get(kind, produced_by, made)

    def _trained(self, purpose: str, split: Split, request_name: str = "") -> StagedModel:
        """The original model or a gold model: a training from scratch on a split."""
        settings = self._settings
        produced_by = {
            "tmu_jax": tmu_jax.__version__,
            "data": settings.data_fingerprint,
            "arch": settings.arch,
            "dtype": str(jnp.dtype(getattr(self._module, "dtype", jnp.float32))),
            "recipe": dataclasses.asdict(settings.recipe),
            "indices": split.indices,
            "seed": self._request.seed,
            "purpose": f"{purpose} {request_name}",
        }
        key = self._key(f"{purpose} {request_name}")
        stage = self._stage(
            purpose.split()[0],
            f"{purpose} model",
            produced_by,
            lambda progress: to_stage(
                tmu_jax.train(self._module, split, key=key, recipe=settings.recipe, progress=progress)
            ),
        )
        return from_stage(stage, self._module, settings.recipe, stage_hash(produced_by))

    def _prediction(self, original: StagedModel) -> twin.TwinPrediction:
        """Twin model, curriculum model, features and prediction, a stage each."""
        problem, settings = self._request.problem, self._settings.twin_settings
        if set(problem.whole_classes) == set(problem.target_classes):
            return twin.all_hard(problem)
        common = {"original": original.stage, "settings": dataclasses.asdict(settings), "seed": self._request.seed}
        sets = {name: getattr(problem, name).indices for name in ("forget", "heldout", "train")}
        by_twin = {**common, **sets}
        of_twin = self._stage(
            "twin",
            "twin model",
            by_twin,
            lambda progress: to_stage(
                twin.train_twin(problem, original, self._key("twin"), settings, progress=progress)
            ),
        )
        twin_model = from_stage(of_twin, self._module, settings.twin_recipe, stage_hash(by_twin))
        exclude = self._request.shared_forget
        by_curriculum = {**common, "train": sets["train"], "exclude": exclude}
        of_curriculum = self._stage(
            "curriculum",
            "curriculum model",
            by_curriculum,
            lambda progress: to_stage(
                twin.train_curriculum(problem, original, self._key("curriculum"), settings, exclude, progress)
            ),
        )
        curriculum = from_stage(of_curriculum, self._module, original.recipe, stage_hash(by_curriculum))

        def measure(progress: Progress) -> Stage:
            with Stopwatch() as watch:
                features = twin.measure_features(problem, original, twin_model, curriculum, settings, progress)
            prediction = twin.predict_labels(problem, features, self._key("predictor"), settings)
            prediction = twin.with_costs(prediction, problem, twin_model, curriculum, watch, settings)
            return prediction_to_stage(prediction)

        by_features = {"twin": twin_model.stage, "curriculum": curriculum.stage, **by_twin}
        return prediction_from_stage(self._stage("prediction", "features and predictor", by_features, measure))

    def _unlearned(self, name: str, original: StagedModel, gold: TrainedModel) -> UnlearnedModel:
        """The model after one method; "original" and "retrain" are the models that are there already."""
        problem = self._request.problem
        if name == "original":
            return METHODS["original"](problem, original, self._key("method original"))
        if name == "retrain":
            fields = {field.name: getattr(gold, field.name) for field in dataclasses.fields(TrainedModel)}
            return UnlearnedModel(**fields, method=name, seconds_by_part={"retraining": gold.seconds})
        options: dict[str, Any] = {}
        takes = inspect.signature(METHODS[name]).parameters
        recipe = takes["recipe"].default if "recipe" in takes else None
        produced_by = {
            "original": original.stage,
            "method": name,
            "recipe": dataclasses.asdict(recipe) if isinstance(recipe, Recipe) else None,
            "forget": problem.forget.indices,
            "train": problem.train.indices,
            "seed": self._request.seed,
        }
        prediction = None
        if name in TWIN_METHODS:
            prediction = options["prediction"] = self._prediction(original)
            produced_by["easy"] = prediction.easy

        def compute(progress: Progress) -> Stage:
            if "progress" in takes:
                options["progress"] = progress
            model = METHODS[name](problem, original, self._key(f"method {name}"), **options)
            stage = to_stage(model)
            return stage._replace(
                metadata={**stage.metadata, "seconds_by_part": model.seconds_by_part, "notes": list(model.notes)}
            )

        stage = self._stage(name, name, produced_by, compute)
        model = from_stage(stage, self._module, original.recipe, "")
        fields = {field.name: getattr(model, field.name) for field in dataclasses.fields(TrainedModel)}
        return UnlearnedModel(
            **fields,
            method=name,
            original=original,
            forget_indices=problem.forget.indices,
            prediction=prediction,
            seconds_by_part=stage.metadata["seconds_by_part"],
            notes=tuple(stage.metadata["notes"]),
        )

    # ---- records

    def _evaluated(self, name: str, model: TrainedModel) -> evaluation.Outputs:
        if name not in self._outputs:
            model_name = name.removeprefix("method ")
            self._display.start(f"evaluating {model_name}, {self._request.name}, seed {self._request.seed}")
            self._outputs[name] = evaluation.outputs(model, self._request.problem)
        return self._outputs[name]

    def _base(self, target: int | str, method: str) -> Record:
        settings, problem = self._settings, self._request.problem
        return {
            "experiment": settings.experiment,
            "dataset": settings.dataset,
            "preset": settings.preset,
            "arch": settings.arch,
            "num_train": settings.num_train,
            "epochs": settings.recipe.epochs,
            "requests": settings.requests,
            "target_class": target,
            "class_name": "all" if isinstance(target, str) else self._data.class_names[target],
            "num_forget": settings.num_forget,
            "num_heldout": int((problem.heldout.labels == target).sum())
            if isinstance(target, int)
            else len(problem.heldout),
            "heldout_source": settings.heldout_source,
            "ratio": settings.ratio,
            "seed": self._request.seed,
            "method": method,
        }

    def _targets(self) -> list[tuple[int | str, int | None]]:
        """Each row's `target_class` and the class to restrict to; a combined request has a pooled row as well."""
        targets: list[tuple[int | str, int | None]] = [(c, c) for c in self._request.problem.target_classes]
        return targets + ([("all", None)] if self._settings.requests == "combined" else [])

    def _method_records(
        self,
        name: str,
        model: UnlearnedModel,
        outputs: evaluation.Outputs,
        gold_outputs: evaluation.Outputs,
        gold: TrainedModel,
    ) -> list[Record]:
        problem = self._request.problem
        cost = {
            "seconds": model.seconds,
            "compile_seconds": model.compile_seconds,
            "retraining_share": model.seconds / gold.seconds,
            "seconds_by_part": model.seconds_by_part,
        }
        records = []
        for target, only_class in self._targets():
            readouts, outside = evaluation.compare(problem, outputs, gold_outputs, only_class)
            record = {
                **self._base(target, name),
                **dataclasses.asdict(readouts),
                "test_accuracy_outside_heldout": outside,
                "predictor_accuracy": None,
                "predictor_auc": None,
            }
            if model.prediction is not None:
                quality = evaluation.prediction_quality(problem, model.prediction, gold_outputs, only_class)
                record |= _quality_fields(*quality)
                record["eps"] = model.prediction.eps
            records.append({**record, **cost, "notes": list(model.notes)})
        return records

    def _floor_records(self, original: TrainedModel, gold_outputs: evaluation.Outputs) -> list[Record]:
        problem = self._request.problem
        second = self._trained("gold replicate", problem.retain, self._request.name)
        second_outputs = self._evaluated("second gold", second)
        original_outputs = self._evaluated("method original", original)
        records = []
        for target, only_class in self._targets():
            found = evaluation.floors(problem, gold_outputs, original_outputs, second_outputs, only_class)
            for name, floor in found.items():
                record = {**self._base(target, name), **_NO_READOUTS, **floor._asdict(), "notes": []}
                if name == "floor_gold_gold":
                    readouts, _ = evaluation.compare(problem, second_outputs, gold_outputs, only_class)
                    record |= dataclasses.asdict(readouts)
                records.append(record)
        return records

    def _feature_records(self, model: UnlearnedModel, gold_outputs: evaluation.Outputs) -> list[Record]:
        """Scaled features with the true labels: the original's correctness on D_test, gold's on D_f."""
        problem, prediction = self._request.problem, model.prediction
        assert prediction is not None
        gold_correct = gold_outputs.forget.argmax(-1) == problem.forget.labels
        whole = np.isin(problem.forget.labels, problem.whole_classes)
        heldout_labels = problem.heldout.labels[~np.isin(problem.heldout.labels, problem.whole_classes)]
        sides = {
            "twin": (prediction.twin_features, prediction.heldout_easy, heldout_labels),
            "original": (prediction.original_features, gold_correct[~whole], problem.forget.labels[~whole]),
        }
        entries = []
        for side, (features, easy, labels) in sides.items():
            for c in np.unique(labels):
                chosen = labels == c
                columns = {
                    column: np.round(features[chosen, i].astype(float), 5).tolist()
                    for i, column in enumerate(twin.FEATURES)
                }
                entries.append(
                    {
                        "target_class": int(c),
                        "seed": self._request.seed,
                        "num_forget": self._settings.num_forget,
                        "problem": side,
                        **columns,
                        "easy": easy[chosen].tolist(),
                    }
                )
        return entries


_NO_READOUTS: Record = dict.fromkeys(
    ("test_accuracy", "retain_accuracy", "activation_distance", "kl", "js", "predictor_accuracy", "predictor_auc",
     "seconds", "compile_seconds", "retraining_share")
)  # fmt: skip


def _quality_fields(on_forget: Any, on_heldout: Any) -> Record:
    fields = {
        "predictor_accuracy": on_forget.accuracy,
        "predictor_auc": on_forget.auc,
        "predictor_brier": on_forget.brier,
        "predicted_hard_share": on_forget.predicted_hard / 100,
        "hard_share": on_forget.hard / 100,
    }
    if on_heldout is not None:
        fields |= {
            "heldout_predictor_accuracy": on_heldout.accuracy,
            "heldout_predictor_auc": on_heldout.auc,
            "heldout_predictor_brier": on_heldout.brier,
        }
    return fields
