"""Runs the cells of an experiment: trains what is missing, evaluates, and keeps records that survive an interruption.

A stage (original, gold, twin model, curriculum model, features, prediction, unlearned model) is found by a hash of what
produced it, so a run that is started again continues where it stopped and requests share what they have in common.
"""

import dataclasses
import inspect
import json
import os
import pathlib
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

import tmu_jax
from experiments import environment
from experiments.progress import Display
from tmu_jax import evaluation, twin
from tmu_jax.checkpoint import Stage, StageStore, stage_hash
from tmu_jax.data import Dataset, ForgetProblem, Split
from tmu_jax.timing import Stopwatch
from tmu_jax.training import Normalization, Progress, Recipe, TrainedModel
from tmu_jax.unlearning import METHODS, UnlearnedModel

TWIN_METHODS = ("twin", "twin_negative_gradient")
FLOORS = "floors"
MAY_GROW = ("classes", "num_forget", "seeds", "methods")
"""Settings that may differ from those of an output folder: they add cells and alter none."""

Record = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything that determines a run's cells, with nothing left to choose.

    Attributes:
      experiment: the command's name.
      dataset: name of the data set.
      data_fingerprint: of its contents, after `num_train` was applied.
      preset: which preset set the defaults.
      arch: architecture.
      num_train: number of training images.
      recipe: how the original and the gold models are trained.
      requests: "each" (one request a class) or "combined" (one request over all classes).
      classes: classes to forget images of.
      num_forget: forgotten images of each class.
      seeds: one repetition each.
      methods: names in `METHODS`.
      heldout_source: "test" or "train".
      ratio: "dataset", "class" or "all".
      twin_settings: of the twin problem.
      compute: backend and version of the package; models made by two of them do not mix in one table.
    """

    experiment: str
    dataset: str
    data_fingerprint: str
    preset: str
    arch: str
    num_train: int
    recipe: Recipe
    requests: str
    classes: tuple[int, ...]
    num_forget: int
    seeds: tuple[int, ...]
    methods: tuple[str, ...]
    heldout_source: str = "test"
    ratio: str = "dataset"
    twin_settings: twin.TwinSettings = twin.DEFAULT_SETTINGS
    compute: str = dataclasses.field(default_factory=lambda: f"{jax.default_backend()}, tmu_jax {tmu_jax.__version__}")

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        return json.loads(json.dumps(dataclasses.asdict(self)))


@dataclasses.dataclass(frozen=True)
class Request:
    """One forget request of a run.

    Attributes:
      name: "class 3" or "all classes".
      seed: the repetition.
      problem: the request itself.
      shared_forget: int32, forgotten rows of every request that shares this one's curriculum model.
    """

    name: str
    seed: int
    problem: ForgetProblem
    shared_forget: np.ndarray


def check_methods(methods: Sequence[str]) -> None:
    """Raises ValueError for a name that is no method, or a repeated one."""
    unknown = [name for name in methods if name not in METHODS]
    if unknown:
        raise ValueError(f"methods holds {unknown[0]!r}; choose from {' '.join(METHODS)}")
    if len(set(methods)) < len(methods):
        raise ValueError(f"methods={list(methods)} names one twice")
    if not methods:
        raise ValueError(f"methods is empty; choose from {' '.join(METHODS)}")
    if FLOORS in methods:
        raise ValueError(f"methods holds {FLOORS!r}, which names the floors; register the method under another name")


def make_requests(settings: Settings, data: Dataset) -> list[Request]:
    """All forget requests of a run, checked before any long work starts.

    Args:
      settings: of the run.
      data: its data set.

    Returns:
      The requests, seed by seed.

    Raises:
      ValueError: when a request cannot be made from this data.
    """
    for name in ("classes", "seeds"):
        values = getattr(settings, name)
        if not values or len(set(values)) < len(values):
            raise ValueError(f"{name}={list(values)} must name at least one, each once")

    def subset(classes: Sequence[int], seed: int) -> ForgetProblem:
        return tmu_jax.data.forget_subset(
            data,
            target_classes=classes,
            num_forget=settings.num_forget,
            seed=seed,
            heldout_source=settings.heldout_source,
            ratio=settings.ratio,
        )

    requests = []
    for seed in settings.seeds:
        if settings.requests == "combined":
            problem = subset(settings.classes, seed)
            requests.append(Request("all classes", seed, problem, problem.forget.indices))
            continue
        # One curriculum model serves the requests of all classes, those that are added later included.
        every = np.concatenate(
            [tmu_jax.data.forget_rows(data, c, settings.num_forget, seed) for c in range(data.num_classes)]
        )
        requests += [Request(f"class {c}", seed, subset([c], seed), every) for c in settings.classes]
    return requests


def check_output(settings: Settings, output: pathlib.Path) -> None:
    """Refuses an output folder whose cells this run would alter.

    Args:
      settings: of the new run.
      output: its folder.

    Raises:
      ValueError: naming the fields that differ.
    """
    path = output / "config.json"
    if not path.exists():
        return
    before, now = _flat(json.loads(path.read_text()).get("settings", {})), _flat(settings.plain())
    may_grow = [name for name in MAY_GROW if not (name == "classes" and settings.requests == "combined")]
    differing = [name for name in now if name not in may_grow and before.get(name) != now[name]]
    if differing:
        changes = "; ".join(f"{name}: {_short(before.get(name))} there, now {_short(now[name])}" for name in differing)
        raise ValueError(f"output={output} holds another run ({changes}); choose another --output or those settings")


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as `outer.inner: value`."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def run(
    settings: Settings,
    data: Dataset,
    output: pathlib.Path,
    config: Mapping[str, Any],
    console: Console,
) -> list[Record]:
    """Computes every cell of a run that the folder does not hold yet.

    Args:
      settings: of the run.
      data: its data set.
      output: the folder for config.json, results.jsonl, features.json and stages/.
      config: what config.json says beside the settings (command, versions, device, shortfalls, …).
      console: where progress is shown.

    Returns:
      All records of the folder.

    Raises:
      ValueError: before any work, when a request cannot be made or the folder holds another run.
    """
    check_methods(settings.methods)
    check_output(settings, output)
    requests = make_requests(settings, data)
    output.mkdir(parents=True, exist_ok=True)
    table = RecordTable(output, config)
    plan = [(request, todo) for request in requests if (todo := table.missing(settings, request))]
    if not plan:
        return table.records
    _write(output / "config.json", json.dumps({**config, "settings": _grown(settings, output)}, indent=1))
    with Display(console) as display:
        display.expect(sum(len(("original", "gold", *todo)) for _, todo in plan))
        for request, todo in plan:
            for records, features in Cells(settings, data, request, StageStore(output / "stages"), display).run(todo):
                table.add(records, features)
                display.advance()
    return table.records


def _grown(settings: Settings, output: pathlib.Path) -> dict[str, Any]:
    """The settings, their growing fields joined with those the folder was made with."""
    now = settings.plain()
    path = output / "config.json"
    if path.exists():
        before = json.loads(path.read_text())["settings"]
        for name in ("classes", "seeds", "methods"):
            now[name] = before[name] + [value for value in now[name] if value not in before[name]]
    return now


class RecordTable:
    """The records of an output folder: results.jsonl, and features.json for the picture."""

    def __init__(self, output: pathlib.Path, config: Mapping[str, Any]) -> None:
        """Reads what is there; `config` gives what every new record carries."""
        self._results, self._features_path = output / "results.jsonl", output / "features.json"
        carried = ("data_source", "why", "shortfalls", "versions", "device", "git_revision", "command")
        self._common = {key: config[key] for key in carried}
        self.records: list[Record] = []
        if self._results.exists():
            self.records = [json.loads(line) for line in self._results.read_text().splitlines()]
        self.features: list[Record] = []
        if self._features_path.exists():
            self.features = json.loads(self._features_path.read_text())

    def missing(self, settings: Settings, request: Request) -> list[str]:
        """The request's methods, and "floors", that have no records yet."""
        done = {
            (record["target_class"], record["method"])
            for record in self.records
            if record["seed"] == request.seed and record["num_forget"] == settings.num_forget
        }
        first = request.problem.target_classes[0]
        todo = [name for name in settings.methods if (first, name) not in done]
        return todo + ([] if (first, "floor_majority") in done else [FLOORS])

    def add(self, records: Sequence[Record], features: Sequence[Record]) -> None:
        """Adds records and writes the files anew, atomically."""
        self.records += [{**record, **self._common} for record in records]
        _amortise(self.records)
        known = {_feature_cell(entry) for entry in self.features}
        self.features += [entry for entry in features if _feature_cell(entry) not in known]
        # The records last: a cell that has its records is done.
        _write(self._features_path, json.dumps(self.features))
        _write(self._results, "".join(json.dumps(record) + "\n" for record in self.records))


def _feature_cell(entry: Record) -> tuple[Any, ...]:
    return tuple(entry[key] for key in ("target_class", "seed", "num_forget", "problem"))


def _amortise(records: Sequence[Record]) -> None:
    """Divides the seconds of each shared part among its users, in `seconds_amortised`.

    The methods of a cell share what they predict with; the curriculum model is shared by the requests as well.
    """
    for record in records:
        if record.get("seconds") is None:
            continue
        kin = [
            other
            for other in records
            if other.get("seconds_by_part") is not None
            and all(other[key] == record[key] for key in ("requests", "seed", "num_forget"))
        ]
        cell = [other for other in kin if other["target_class"] == record["target_class"]]
        users = {
            part: sum(part in other["seconds_by_part"] for other in (kin if across_requests else cell))
            for part in record["seconds_by_part"]
            for across_requests in [part == "curriculum" and record["requests"] == "each"]
        }
        own = ("unlearning", "retraining")
        saved = sum(s * (1 - 1 / users[p]) for p, s in record["seconds_by_part"].items() if p not in own)
        record["seconds_amortised"] = record["seconds"] - saved
        scale = record["seconds_amortised"] / record["seconds"] if record["seconds"] else 1.0
        record["retraining_share_amortised"] = record["retraining_share"] * scale


def _write(path: pathlib.Path, text: str) -> None:
    """Writes a file so that it is whole at any time."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    os.replace(temporary, path)


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

    def _trained(self, purpose: str, split: Split, request_name: str = "") -> "_StagedModel":
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
            lambda progress: _to_stage(
                tmu_jax.train(self._module, split, key=key, recipe=settings.recipe, progress=progress)
            ),
        )
        return _from_stage(stage, self._module, settings.recipe, stage_hash(produced_by))

    def _prediction(self, original: "_StagedModel") -> twin.TwinPrediction:
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
            lambda progress: _to_stage(
                twin.train_twin(problem, original, self._key("twin"), settings, progress=progress)
            ),
        )
        twin_model = _from_stage(of_twin, self._module, settings.twin_recipe, stage_hash(by_twin))
        exclude = self._request.shared_forget
        by_curriculum = {**common, "train": sets["train"], "exclude": exclude}
        of_curriculum = self._stage(
            "curriculum",
            "curriculum model",
            by_curriculum,
            lambda progress: _to_stage(
                twin.train_curriculum(problem, original, self._key("curriculum"), settings, exclude, progress)
            ),
        )
        curriculum = _from_stage(of_curriculum, self._module, original.recipe, stage_hash(by_curriculum))

        def measure(progress: Progress) -> Stage:
            with Stopwatch() as watch:
                features = twin.measure_features(problem, original, twin_model, curriculum, settings, progress)
            prediction = twin.predict_labels(problem, features, self._key("predictor"), settings)
            prediction = twin.with_costs(prediction, problem, twin_model, curriculum, watch, settings)
            return _prediction_to_stage(prediction)

        by_features = {"twin": twin_model.stage, "curriculum": curriculum.stage, **by_twin}
        return _prediction_from_stage(self._stage("prediction", "features and predictor", by_features, measure))

    def _unlearned(self, name: str, original: "_StagedModel", gold: TrainedModel) -> UnlearnedModel:
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
            stage = _to_stage(model)
            return stage._replace(
                metadata={**stage.metadata, "seconds_by_part": model.seconds_by_part, "notes": list(model.notes)}
            )

        stage = self._stage(name, name, produced_by, compute)
        model = _from_stage(stage, self._module, original.recipe, "")
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


# ---- models and predictions as stages


@dataclasses.dataclass(frozen=True, eq=False)
class _StagedModel(TrainedModel):
    """A trained model that knows the hash of its stage, so that later stages can name what they came from."""

    stage: str = ""


def _to_stage(model: TrainedModel) -> Stage:
    arrays = {"variables": model.variables, "normalization": model.normalization._asdict()}
    metadata = {
        "seconds": model.seconds,
        "compile_seconds": model.compile_seconds,
        "losses": list(model.losses),
    }
    return Stage(arrays, metadata)


def _from_stage(stage: Stage, module: nn.Module, recipe: Recipe, name: str) -> _StagedModel:
    return _StagedModel(
        module=module,
        variables=jax.tree.map(jnp.asarray, stage.arrays["variables"]),
        normalization=Normalization(**stage.arrays["normalization"]),
        recipe=recipe,
        seconds=stage.metadata["seconds"],
        compile_seconds=stage.metadata["compile_seconds"],
        losses=tuple(stage.metadata["losses"]),
        stage=name,
    )


_PREDICTION_METADATA = ("eps", "seconds_by_part", "compile_seconds", "notes")


def _prediction_to_stage(prediction: twin.TwinPrediction) -> Stage:
    fields = {field.name: getattr(prediction, field.name) for field in dataclasses.fields(prediction)}
    metadata = {name: fields.pop(name) for name in _PREDICTION_METADATA}
    return Stage(fields, metadata)


def _prediction_from_stage(stage: Stage) -> twin.TwinPrediction:
    metadata = {name: stage.metadata[name] for name in _PREDICTION_METADATA}
    metadata["notes"] = tuple(metadata["notes"])
    return twin.TwinPrediction(**stage.arrays, **metadata)


def config_of_machine(command: str, data: Dataset, shortfalls: Sequence[str], why: Sequence[str]) -> Record:
    """What config.json says beside the settings; the records carry it too."""
    return {
        "command": command,
        "data_source": data.source,
        "why": list(why),
        "shortfalls": list(shortfalls),
        "versions": environment.versions(),
        "device": environment.device(),
        "git_revision": environment.git_revision(),
    }
