"""What the commands of all experiments share: options, what is chosen where one was left open, first lines, errors."""

import dataclasses
import pathlib
import pickle
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import tyro
from rich.console import Console

import tmu_jax
from experiments import report, runner
from experiments.plan import Settings, check_methods
from experiments.report import Body
from tmu_jax.data import Dataset
from tmu_jax.training import Recipe
from tmu_jax.twin import TwinSettings

ERRORS = (ValueError, TypeError, OSError, pickle.UnpicklingError, FloatingPointError)
"""What a caller's values or files may raise: said in one line."""

MAX_LEFT_OUT = 10
"""Sentences on bad files that are printed."""

DEFAULT_METHODS = (
    "original",
    "retrain",
    "finetune",
    "negative_gradient",
    "random_labeling",
    "bad_teacher",
    "twin",
    "twin_negative_gradient",
)

QUICK: dict[str, Any] = {
    "arch": "small_resnet",
    "epochs": 10,
    "batch_size": 64,
    "learning_rate": 0.05,
    "schedule": "cosine",
    "augment": False,
    "num_train": 2000,
    "requests": "combined",
    "num_forget": 20,
    "curriculum_share": 1.0,
}
PAPER: dict[str, Any] = {
    "arch": "resnet18",
    "epochs": 30,
    "batch_size": 128,
    "learning_rate": 0.01,
    "schedule": "step",
    "augment": False,
    "num_train": None,
    "requests": "each",
    "num_forget": 100,
    "curriculum_share": 0.2,
}


@dataclasses.dataclass(frozen=True)
class DataOptions:
    """Where the images of an experiment on CIFAR-10 come from."""

    dataset: Literal["auto", "cifar10", "synthetic"] = "auto"
    """Images: auto takes CIFAR-10 where it is found on this machine, else the embedded synthetic set."""
    data_dir: pathlib.Path | None = None
    """Folder with the official CIFAR-10 files, their archive, or a prepared TFDS folder. Default: the usual places."""
    download: bool = False
    """Download the official CIFAR-10 archive (170 MB) when it is not found. Nothing is downloaded otherwise."""


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """What every experiment takes."""

    preset: Literal["auto", "quick", "paper"] = "auto"
    """quick: minutes on a CPU. paper: the paper's protocol. auto: paper if an accelerator and the data are here."""
    arch: Literal["auto", "small_resnet", "resnet18", "allcnn", "vit"] = "auto"
    """Architecture. auto: small_resnet in quick, resnet18 in paper."""
    epochs: int | None = None
    """Epochs of the original and the gold models. Default: 10 in quick, 30 in paper."""
    batch_size: int | None = None
    """Batch size of the original and the gold models. Default: 64 in quick, 128 in paper."""
    learning_rate: float | None = None
    """Learning rate of the original and the gold models at the start. Default: 0.05 in quick, 0.01 in paper."""
    schedule: Literal["step", "cosine"] | None = None
    """Learning rate: two drops (at 1/2 and 5/6) or a cosine. Default: cosine in quick, step in paper."""
    augment: bool | None = None
    """Random flips and crops in every training. Default: False in quick, False in paper."""
    num_train: int | None = None
    """Training images, a seeded subset with equal class shares. Default: 2000 in quick, all in paper."""
    classes: tuple[str, ...] | None = None
    """Classes to forget images of, by number or by name. Default: all."""
    seeds: tuple[int, ...] = (0,)
    """One repetition for each seed, with independent draws for the split, the trainings and the unlearning."""
    split_seed: int | None = None
    """Holds the split (forgotten and held-out images) still over the repetitions. Default: each seed draws its own."""
    training_seed: int | None = None
    """Holds the trainings of the original and the gold models still. Default: each seed draws its own."""
    unlearning_seed: int | None = None
    """Holds twin and curriculum models, predictor and methods still. Default: each seed draws its own."""
    heldout_source: Literal["test", "train"] = "test"
    """Where D_test comes from: the classes' test images, or images kept out of training from the start."""
    threshold: Literal["half", "count"] = "half"
    """Easy when p >= 0.5, or as many hard as the original model gets wrong of D_test."""
    curriculum_share: float | None = None
    """Share of D that the curriculum model is trained on. Default: 1.0 in quick, 0.2 in paper."""
    twin_replay: float = 1.0
    """Share of D that the twin model is fine-tuned on beside D_test."""
    output: pathlib.Path | None = None
    """Folder for records and report. Default: runs/EXPERIMENT-PRESET."""
    stages: pathlib.Path | None = None
    """Folder for checkpoints, which experiments may share. Default: runs/stages, or OUTPUT/stages with --output."""


@dataclasses.dataclass(frozen=True)
class RequestOptions:
    """How much is forgotten at once."""

    requests: Literal["each", "combined"] | None = None
    """One request for each class, or one combined over all of them. Default: combined in quick, each in paper."""
    num_forget: int | None = None
    """Forgotten images of each class. Default: 20 in quick, 100 in paper."""
    ratio: Literal["dataset", "class", "all"] = "dataset"
    """Size of D_test: Eq. 3 over the data set, over the class, or all test images of the class. Default: dataset."""


@dataclasses.dataclass(frozen=True)
class MethodOptions:
    """What is compared."""

    methods: tuple[str, ...] = DEFAULT_METHODS
    """Unlearning methods, by name."""


SPARE: dict[str, Any] = {"heldout_source": "test", "ratio": "dataset", "threshold": "half", "twin_replay": 1.0}
"""Options that the presets leave alone, with the paper's values."""


class Source(NamedTuple):
    """Where a data set comes from; both are called with the options.

    Attributes:
      load: reads it, and says what was left out of it.
      locate: something where it is at hand, None where it is not.
    """

    load: Callable[[Any], tuple[Dataset, list[str]]]
    locate: Callable[[Any], object]


@dataclasses.dataclass(frozen=True)
class Experiment:
    """One experiment: its values, and how it differs from the plain comparison of methods.

    Attributes:
      name: of the module.
      dataset: the data set it is about.
      title: the data set's name for people.
      num_train: training images of the paper's setting; None where it does not say.
      presets: "quick" and "paper", values of its options.
      classes: names of the classes to forget by default; None: the first `num_classes`.
      num_classes: how many; None: all.
      source: where its data set comes from.
      provide: how to provide the data, in a few words of this command line.
      arms: the settings to compare, made from the plain ones; called with (settings, options, data).
      describe: further phrases of what is short of the paper's setting; called with (settings, options).
      body: the report's main part, from the output folder; None: the comparison of methods.
    """

    name: str
    dataset: str
    title: str
    num_train: int | None
    presets: Mapping[str, Mapping[str, Any]]
    source: Source
    classes: tuple[str, ...] | None = None
    num_classes: int | None = None
    provide: str = "--data-dir, --download, or --dataset synthetic"
    arms: Callable[[Settings, Any, Dataset], list[Settings]] = lambda settings, options, data: [settings]
    describe: Callable[[Settings, Any], list[str]] = lambda settings, options: []
    body: Callable[[pathlib.Path], Body] | None = None


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A run that has been checked and not begun.

    Attributes:
      experiment: which.
      options: with nothing left open but num_train and classes (None: all).
      arms: the settings.
      data: the data set.
      output: folder of the results.
      stages: folder of the checkpoints.
      why: reasons for what was chosen, a sentence each.
      short: what is short of the paper's setting, a phrase each.
      left_out: bad files and the like, a sentence each.
    """

    experiment: Experiment
    options: Any
    arms: list[Settings]
    data: Dataset
    output: pathlib.Path
    stages: pathlib.Path
    why: list[str]
    short: list[str]
    left_out: list[str]

    def config(self, arguments: Sequence[str]) -> dict[str, Any]:
        """What config.json says beside the settings."""
        command = shlex.join(["python", "-m", f"experiments.{self.experiment.name}", *public_arguments(arguments)])
        machine = runner.config_of_machine(command, self.data, self.short, self.why)
        return {"experiment": self.experiment.name, **machine, "left_out": self.left_out}


def cifar(name: str) -> Source:
    """CIFAR-10 or CIFAR-100."""

    def load(options: Any) -> tuple[Dataset, list[str]]:
        return tmu_jax.data.load(name, data_dir=options.data_dir, download=options.download), []

    return Source(load, lambda options: tmu_jax.data.locate(name, options.data_dir))


def choose(experiment: Experiment, options: Any) -> tuple[Any, list[str]]:
    """Fills in everything that was left open.

    Args:
      experiment: which.
      options: the caller's.

    Returns:
      Options with nothing left open but num_train and classes (None: all), and the reasons, a sentence each.

    Raises:
      FileNotFoundError: when a folder was given that does not hold the data.
    """
    title, why = experiment.title, []
    download = getattr(options, "download", False)
    found = options.dataset != "synthetic" and experiment.source.locate(options) is not None
    dataset = options.dataset
    if dataset == "auto":
        dataset = experiment.dataset if found or download else "synthetic"
        if found:
            why.append(f"dataset {dataset}: found on this machine")
        elif download:
            why.append(f"dataset {dataset}: will be downloaded, as asked")
        elif options.data_dir is not None:
            raise FileNotFoundError(f"data_dir={options.data_dir} holds no {title}; give the folder that does")
        else:
            hint = " (--download fetches it)" if "--download" in experiment.provide else ""
            why.append(f"dataset synthetic: {title} was not found on this machine{hint}")
    else:
        why.append(f"dataset {dataset}: asked for")
    accelerator = jax.default_backend() != "cpu"
    preset = options.preset
    if preset == "auto":
        preset = "paper" if accelerator and dataset == experiment.dataset else "quick"
        reasons = [] if accelerator else ["no accelerator"]
        reasons += [] if dataset == experiment.dataset else [f"no {title}"]
        why.append(f"preset {preset}: " + (" and ".join(reasons) or f"an accelerator and {title} are at hand"))
    else:
        why.append(f"preset {preset}: asked for")
    defaults = experiment.presets[preset]
    chosen = {name: value for name, value in defaults.items() if getattr(options, name) in (None, "auto")}
    default_stages = pathlib.Path("runs/stages") if options.output is None else options.output / "stages"
    output = options.output or pathlib.Path("runs") / f"{experiment.name}-{preset}"
    stages = options.stages or default_stages
    return dataclasses.replace(options, dataset=dataset, preset=preset, output=output, stages=stages, **chosen), why


def class_indices(data: Dataset, names: Sequence[str]) -> tuple[int, ...]:
    """Classes by number or by name, ascending.

    Raises:
      ValueError: a name that is no class, or one named twice.
    """
    found = []
    for name in names:
        if name in data.class_names:
            found.append(data.class_names.index(name))
        elif name.isdecimal() and int(name) < data.num_classes:
            found.append(int(name))
        else:
            some = ", ".join(data.class_names[:5])
            raise ValueError(
                f"classes holds {name!r}; a class is a number 0..{data.num_classes - 1} or one of the names {some}, …"
            )
    if len(set(found)) < len(found) or not found:
        raise ValueError(f"classes={list(names)} must name at least one class, each once")
    return tuple(sorted(found))


def settings_of(experiment: Experiment, options: Any, data: Dataset) -> Settings:
    """The plain settings of a run, from options with nothing left open; an arm replaces what it sets by itself."""
    names = options.classes
    if names is None and experiment.classes is not None and options.dataset == experiment.dataset:
        names = experiment.classes
    first = range(min(experiment.num_classes or data.num_classes, data.num_classes))
    classes = tuple(first) if names is None else class_indices(data, names)
    return Settings(
        experiment=experiment.name,
        dataset=data.name,
        data_fingerprint=data.fingerprint,
        preset=options.preset,
        arch=options.arch,
        num_train=len(data.train_labels),
        recipe=Recipe(
            options.epochs,
            options.batch_size,
            options.learning_rate,
            options.schedule,
            augment=options.augment,
        ),
        requests=getattr(options, "requests", "each"),
        classes=classes,
        num_forget=getattr(options, "num_forget", 1),
        seeds=tuple(options.seeds),
        methods=tuple(getattr(options, "methods", ("twin",))),
        heldout_source=options.heldout_source,
        ratio=getattr(options, "ratio", SPARE["ratio"]),
        twin_settings=TwinSettings(
            threshold=options.threshold,
            curriculum_share=options.curriculum_share,
            twin_replay=options.twin_replay,
        ),
        split_seed=options.split_seed,
        training_seed=options.training_seed,
        unlearning_seed=options.unlearning_seed,
    )


def shortfalls(experiment: Experiment, options: Any, settings: Settings) -> list[str]:
    """What is smaller than, or other than, the paper's setting, a phrase each."""
    paper, recipe = experiment.presets["paper"], settings.recipe
    names = {"resnet18": "ResNet-18"}
    pairs = [
        (f"{settings.dataset} images", settings.dataset == experiment.dataset, experiment.title),
        (names.get(settings.arch, settings.arch), settings.arch == paper["arch"], names[paper["arch"]]),
        (
            f"{settings.num_train:,} training images",
            experiment.num_train in (None, settings.num_train),
            f"{experiment.num_train or 0:,}",
        ),
        (f"{recipe.epochs} epochs", recipe.epochs == paper["epochs"], paper["epochs"]),
        (f"batch size {recipe.batch_size}", recipe.batch_size == paper["batch_size"], paper["batch_size"]),
        (
            f"learning rate {recipe.learning_rate}",
            recipe.learning_rate == paper["learning_rate"],
            paper["learning_rate"],
        ),
        (
            f"{recipe.schedule} schedule",
            recipe.schedule == paper["schedule"],
            "two drops of the learning rate" if paper["schedule"] == "step" else paper["schedule"],
        ),
        (
            "flips and crops" if recipe.augment else "no augmentation",
            recipe.augment == paper["augment"],
            "flips and crops" if paper["augment"] else "none",
        ),
    ]
    if "requests" in paper:
        names = {"combined": "one combined request", "each": "one request a class"}
        requests, forgotten = names[settings.requests], f"{settings.num_forget} forgotten images a class"
        pairs.append((requests, settings.requests == paper["requests"], names[paper["requests"]]))
        pairs.append((forgotten, settings.num_forget == paper["num_forget"], paper["num_forget"]))
    twin_settings = settings.twin_settings
    pairs += [
        (f"{name} {value}", value == theirs, theirs)
        for name, value, theirs in (
            ("heldout_source", settings.heldout_source, SPARE["heldout_source"]),
            ("ratio", settings.ratio, SPARE["ratio"]),
            ("threshold", twin_settings.threshold, SPARE["threshold"]),
            ("curriculum_share", twin_settings.curriculum_share, paper["curriculum_share"]),
            ("twin_replay", twin_settings.twin_replay, SPARE["twin_replay"]),
        )
    ]
    found = [f"{ours} instead of {theirs}" for ours, same, theirs in pairs if not same]
    return found + experiment.describe(settings, options)


def prepare(experiment: Experiment, options: Any) -> Prepared:
    """Loads the data and checks everything that can be checked before any long work.

    Args:
      experiment: which.
      options: the caller's.

    Returns:
      The run, ready to begin.

    Raises:
      ERRORS: with one message that says what is wrong and what would be right.
    """
    if hasattr(options, "methods"):
        check_methods(options.methods)
    chosen, why = choose(experiment, options)
    left_out: list[str] = []
    if chosen.dataset == "synthetic":
        data = tmu_jax.data.load("synthetic")
    else:
        data, left_out = experiment.source.load(chosen)
    if chosen.num_train is not None and chosen.num_train != len(data.train_labels):
        data = tmu_jax.data.subset(data, chosen.num_train, seed=0)
    settings = settings_of(experiment, chosen, data)
    arms = experiment.arms(settings, chosen, data)
    short = shortfalls(experiment, chosen, settings)
    prepared = Prepared(experiment, chosen, arms, data, chosen.output, chosen.stages, why, short, left_out)
    runner.remaining(arms, data, chosen.output, prepared.config(()))
    chosen.output.mkdir(parents=True, exist_ok=True)
    return prepared


def announce(prepared: Prepared, console: Console) -> None:
    """The first lines: what runs, on what, why, and how far from the paper's setting it is."""
    short, data, arms = prepared.short, prepared.data, prepared.arms
    setting = "the paper's setting" if not short else "NOT the paper's setting: " + "; ".join(short)
    first = arms[0]
    lines = [
        f"experiments.{prepared.experiment.name}: preset {first.preset} on {data.name} ({data.source}), {first.arch}; "
        f"{setting}",
        "why: " + "; ".join(prepared.why),
    ]
    requests = "one combined request" if first.requests == "combined" else f"{len(first.classes)} requests"
    compared = "" if len(arms) == 1 else f"{len(arms)} arms ({', '.join(arm.variant for arm in arms)}), "
    sizes = ", ".join(dict.fromkeys(str(arm.num_forget) for arm in arms))
    methods = " ".join(dict.fromkeys(name for arm in arms for name in arm.methods))
    lines.append(
        f"work: {compared}{len(first.seeds)} seed(s), {requests}, {sizes} images of each of {len(first.classes)} "
        f"classes, methods {methods}; two gold models a request; results in {prepared.output}, checkpoints in "
        f"{prepared.stages}"
    )
    lines += [f"left out: {sentence}" for sentence in prepared.left_out[:MAX_LEFT_OUT]]
    if len(prepared.left_out) > MAX_LEFT_OUT:
        lines.append(f"left out: {len(prepared.left_out) - MAX_LEFT_OUT} more, all named in config.json")
    for line in lines:
        console.print(line, highlight=False, markup=False)


def execute(prepared: Prepared, arguments: Sequence[str], console: Console) -> None:
    """Runs the cells, writes the report and prints its tables."""
    announce(prepared, console)
    output = prepared.output
    config = prepared.config(arguments)
    runner.run(prepared.arms, prepared.data, output, config, console, prepared.stages)
    body = report.STANDARD if prepared.experiment.body is None else prepared.experiment.body(output)
    report.write_report(output, body)
    report.print_table(output, console, body)
    console.print(f"records, report and pictures: {output}", highlight=False, markup=False)


def main(experiment: Experiment, kind: type, arguments: Sequence[str] | None = None) -> int:
    """The command line of an experiment; returns the exit status."""
    console = Console()
    arguments = sys.argv[1:] if arguments is None else arguments
    options: Any = tyro.cli(kind, args=list(arguments), prog=f"python -m experiments.{experiment.name}")
    tmu_jax.use_compilation_cache()
    try:
        execute(prepare(experiment, options), arguments, console)
    except ERRORS as error:
        missing = isinstance(error, FileNotFoundError) and not getattr(options, "download", False)
        return complain(error, f" (on this command line: {experiment.provide})" if missing else "")
    except KeyboardInterrupt:
        console.print("interrupted; the same command continues with the stage that was at work")
        return 130
    return 0


def complain(error: BaseException, hint: str = "") -> int:
    """Says what is wrong in one line; returns the exit status."""
    Console(stderr=True).print(f"error: {error}{hint}", style="red", highlight=False, markup=False, soft_wrap=True)
    return 2


def public_arguments(arguments: Sequence[str]) -> list[str]:
    """The arguments without this machine's folders: what --data-dir, --output and --stages name is left out."""
    private = ("--data-dir", "--data_dir", "--output", "--stages")
    kept: list[str] = []
    skip = False
    for argument in arguments:
        if skip:
            skip = False
        elif argument in private:
            skip = True
        elif not argument.startswith(tuple(f"{name}=" for name in private)):
            kept.append(argument)
    return kept
