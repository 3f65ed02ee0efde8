"""What an experiment is, and from its options to settings: what is chosen where one was left open."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax

import tmu_jax
from experiments.protocol.options import SPARE
from experiments.protocol.settings import Settings
from experiments.report.write import Body
from tmu_jax.data import Dataset
from tmu_jax.training import Recipe
from tmu_jax.twin import TwinSettings


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
      presets: "quick", "fast" and "paper", values of its options.
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


def cifar(*names: Literal["cifar10", "cifar100"]) -> Source:
    """CIFAR-10 or CIFAR-100: of several names the one that the options give, else the first."""

    def chosen(options: Any) -> Literal["cifar10", "cifar100"]:
        return next((name for name in names if name == options.dataset), names[0])

    def load(options: Any) -> tuple[Dataset, list[str]]:
        return tmu_jax.data.load(chosen(options), data_dir=options.data_dir, download=options.download), []

    return Source(load, lambda options: tmu_jax.data.locate(chosen(options), options.data_dir))


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
        elif name in map(str, range(data.num_classes)):
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
        unlearning_rate_factor=options.unlearning_rate_factor,
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
            ("unlearning_rate_factor", settings.unlearning_rate_factor, paper["unlearning_rate_factor"]),
            ("twin_replay", twin_settings.twin_replay, SPARE["twin_replay"]),
        )
    ]
    found = [f"{ours} instead of {theirs}" for ours, same, theirs in pairs if not same]
    return found + experiment.describe(settings, options)
