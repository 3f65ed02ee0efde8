"""Table 1: forget images of each CIFAR-10 class, and compare every method with the retrained gold model.

Run it as `python -m experiments.cifar10`: the first lines printed say what this machine can do. `--preset quick` takes
minutes on a CPU; `--preset paper` is the whole protocol with ResNet-18 and ten requests, a GPU's work.
"""

import dataclasses
import pathlib
import pickle
import shlex
import sys
from collections.abc import Sequence
from typing import Any, Literal

import jax
import tyro
from rich.console import Console

import tmu_jax
from experiments import report, runner
from experiments.plan import Settings, check_methods, check_output, make_requests
from tmu_jax.data import Dataset
from tmu_jax.training import Recipe
from tmu_jax.twin import TwinSettings

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

PRESETS: dict[str, dict[str, Any]] = {
    "quick": {
        "arch": "small_resnet",
        "epochs": 10,
        "batch_size": 64,
        "learning_rate": 0.05,
        "schedule": "cosine",
        "num_train": 2000,
        "requests": "combined",
        "num_forget": 20,
        "curriculum_share": 1.0,
    },
    "paper": {
        "arch": "resnet18",
        "epochs": 30,
        "batch_size": 128,
        "learning_rate": 0.01,
        "schedule": "step",
        "num_train": None,
        "requests": "each",
        "num_forget": 100,
        "curriculum_share": 0.2,
    },
}
PAPER_NUM_TRAIN = 50_000


@dataclasses.dataclass(frozen=True)
class Options:
    """Forget images of CIFAR-10 classes and measure how well each method agrees with retraining (the paper's Table 1).

    A preset only sets the defaults of the other options. Started again with the same --output, a run continues where
    it stopped; classes, seeds, methods and sizes may be added.
    """

    dataset: Literal["auto", "cifar10", "synthetic"] = "auto"
    """Images: auto takes CIFAR-10 where it is found on this machine, else the embedded synthetic set."""
    data_dir: pathlib.Path | None = None
    """Folder with the official CIFAR-10 files, their archive, or a prepared TFDS folder. Default: the usual places."""
    download: bool = False
    """Download the official CIFAR-10 archive (170 MB) when it is not found. Nothing is downloaded otherwise."""
    preset: Literal["auto", "quick", "paper"] = "auto"
    """quick: minutes on a CPU. paper: the paper's protocol. auto: paper if an accelerator and CIFAR-10 are here."""
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
    num_train: int | None = None
    """Training images, a seeded subset with equal class shares. Default: 2000 in quick, all in paper."""
    requests: Literal["each", "combined"] | None = None
    """One request for each class, or one combined over all of them. Default: combined in quick, each in paper."""
    classes: tuple[int, ...] | None = None
    """Classes to forget images of. Default: all."""
    num_forget: int | None = None
    """Forgotten images of each class. Default: 20 in quick, 100 in paper."""
    seeds: tuple[int, ...] = (0,)
    """One repetition for each seed: split, training and unlearning."""
    methods: tuple[str, ...] = DEFAULT_METHODS
    """Unlearning methods, by name."""
    heldout_source: Literal["test", "train"] = "test"
    """Where D_test comes from: the classes' test images, or images kept out of training from the start."""
    ratio: Literal["dataset", "class", "all"] = "dataset"
    """Size of D_test: Eq. 3 over the data set, Eq. 3 over the class, or all test images of the class."""
    threshold: Literal["half", "count"] = "half"
    """Easy when p >= 0.5, or as many hard as the original model gets wrong of D_test."""
    curriculum_share: float | None = None
    """Share of D that the curriculum model is trained on. Default: 1.0 in quick, 0.2 in paper."""
    twin_replay: float = 1.0
    """Share of D that the twin model is fine-tuned on beside D_test."""
    output: pathlib.Path | None = None
    """Folder for records, report and checkpoints. Default: runs/cifar10-PRESET."""


def choose(options: Options) -> tuple[Options, list[str]]:
    """Fills in everything that was left open.

    Args:
      options: the caller's.

    Returns:
      Options with nothing left open but num_train and classes (None: all), and the reasons, a sentence each.

    Raises:
      FileNotFoundError: when CIFAR-10 is asked for outright and is not there.
    """
    why = []
    place = tmu_jax.data.locate("cifar10", options.data_dir) if options.dataset != "synthetic" else None
    dataset = options.dataset
    if dataset == "auto":
        dataset = "cifar10" if place is not None or options.download else "synthetic"
        if place is not None:
            why.append("dataset cifar10: found on this machine")
        elif options.download:
            why.append("dataset cifar10: will be downloaded, as asked")
        elif options.data_dir is not None:
            raise FileNotFoundError(
                f"data_dir={options.data_dir} holds no CIFAR-10; give the folder of its official files, or --download, "
                "or choose --dataset synthetic"
            )
        else:
            why.append("dataset synthetic: CIFAR-10 was not found on this machine (--download fetches it)")
    else:
        why.append(f"dataset {dataset}: asked for")
    accelerator = jax.default_backend() != "cpu"
    preset = options.preset
    if preset == "auto":
        preset = "paper" if accelerator and dataset == "cifar10" else "quick"
        reasons = [] if accelerator else ["no accelerator"]
        reasons += [] if dataset == "cifar10" else ["no CIFAR-10"]
        why.append(f"preset {preset}: " + (" and ".join(reasons) or "an accelerator and CIFAR-10 are at hand"))
    else:
        why.append(f"preset {preset}: asked for")
    defaults = PRESETS[preset]
    chosen = {name: value for name, value in defaults.items() if getattr(options, name) in (None, "auto")}
    output = options.output or pathlib.Path("runs") / f"cifar10-{preset}"
    return dataclasses.replace(options, dataset=dataset, preset=preset, output=output, **chosen), why


def settings_of(options: Options, data: Dataset) -> Settings:
    """The runner's settings from options with nothing left open."""
    assert options.epochs is not None
    assert options.batch_size is not None
    assert options.learning_rate is not None
    assert options.schedule is not None
    assert options.requests is not None
    assert options.num_forget is not None
    assert options.curriculum_share is not None
    classes = tuple(range(data.num_classes)) if options.classes is None else tuple(sorted(options.classes))
    return Settings(
        experiment="cifar10",
        dataset=data.name,
        data_fingerprint=data.fingerprint,
        preset=options.preset,
        arch=options.arch,
        num_train=len(data.train_labels),
        recipe=Recipe(options.epochs, options.batch_size, options.learning_rate, options.schedule),
        requests=options.requests,
        classes=classes,
        num_forget=options.num_forget,
        seeds=tuple(options.seeds),
        methods=tuple(options.methods),
        heldout_source=options.heldout_source,
        ratio=options.ratio,
        twin_settings=TwinSettings(
            threshold=options.threshold,
            curriculum_share=options.curriculum_share,
            twin_replay=options.twin_replay,
        ),
    )


def shortfalls(settings: Settings) -> list[str]:
    """What is smaller than, or other than, the paper's setting, a phrase each."""
    paper = PRESETS["paper"]
    found = []
    if settings.dataset != "cifar10":
        found.append(f"{settings.dataset} images instead of CIFAR-10")
    if settings.arch != paper["arch"]:
        found.append(f"{settings.arch} instead of ResNet-18")
    if settings.num_train != PAPER_NUM_TRAIN:
        found.append(f"{settings.num_train:,} training images instead of {PAPER_NUM_TRAIN:,}")
    if settings.recipe.epochs != paper["epochs"]:
        found.append(f"{settings.recipe.epochs} epochs instead of {paper['epochs']}")
    if settings.recipe.batch_size != paper["batch_size"]:
        found.append(f"batch size {settings.recipe.batch_size} instead of {paper['batch_size']}")
    if settings.recipe.learning_rate != paper["learning_rate"]:
        found.append(f"learning rate {settings.recipe.learning_rate} instead of {paper['learning_rate']}")
    if settings.recipe.schedule != paper["schedule"]:
        found.append(f"{settings.recipe.schedule} schedule instead of two drops of the learning rate")
    if settings.requests != paper["requests"]:
        found.append("one combined request instead of one request a class")
    if settings.num_forget != paper["num_forget"]:
        found.append(f"{settings.num_forget} forgotten images a class instead of {paper['num_forget']}")
    others = {
        "heldout_source": (settings.heldout_source, Options.heldout_source),
        "ratio": (settings.ratio, Options.ratio),
        "threshold": (settings.twin_settings.threshold, Options.threshold),
        "curriculum_share": (settings.twin_settings.curriculum_share, paper["curriculum_share"]),
        "twin_replay": (settings.twin_settings.twin_replay, Options.twin_replay),
    }
    found += [f"{name} {ours} instead of {theirs}" for name, (ours, theirs) in others.items() if ours != theirs]
    return found


def prepare(options: Options) -> tuple[Settings, Dataset, pathlib.Path, list[str]]:
    """Loads the data and checks everything that can be checked before any long work.

    Args:
      options: the caller's.

    Returns:
      Settings, data set, output folder and the reasons for what was chosen.

    Raises:
      ValueError, OSError, pickle.UnpicklingError: with one message that says what is wrong and what would be right.
    """
    check_methods(options.methods)
    chosen, why = choose(options)
    assert chosen.output is not None
    data = tmu_jax.data.load(chosen.dataset, data_dir=chosen.data_dir, download=chosen.download)
    if chosen.num_train is not None and chosen.num_train != len(data.train_labels):
        data = tmu_jax.data.subset(data, chosen.num_train, seed=0)
    settings = settings_of(chosen, data)
    check_output(settings, chosen.output)
    make_requests(settings, data)
    chosen.output.mkdir(parents=True, exist_ok=True)
    return settings, data, chosen.output, why


def announce(settings: Settings, data: Dataset, output: pathlib.Path, why: Sequence[str], console: Console) -> None:
    """The first lines: what runs, on what, why, and how far from the paper's setting it is."""
    short = shortfalls(settings)
    setting = "the paper's setting" if not short else "NOT the paper's setting: " + "; ".join(short)
    console.print(
        f"experiments.cifar10: preset {settings.preset} on {data.name} ({data.source}), {settings.arch}; {setting}",
        highlight=False,
    )
    console.print("why: " + "; ".join(why), highlight=False)
    requests = "one combined request" if settings.requests == "combined" else f"{len(settings.classes)} requests"
    console.print(
        f"work: {len(settings.seeds)} seed(s), {requests}, {settings.num_forget} images of each of "
        f"{len(settings.classes)} classes, methods {' '.join(settings.methods)}; two gold models a request; "
        f"results in {output}",
        highlight=False,
        markup=False,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    console = Console()
    arguments = sys.argv[1:] if arguments is None else arguments
    options = tyro.cli(Options, args=list(arguments), prog="python -m experiments.cifar10")
    tmu_jax.use_compilation_cache()
    try:
        settings, data, output, why = prepare(options)
        return execute(settings, data, output, why, arguments, console)
    except (ValueError, OSError, pickle.UnpicklingError, FloatingPointError) as error:
        hint = ""
        if isinstance(error, FileNotFoundError) and not options.download:
            hint = " (on this command line: --data-dir, --download, or --dataset synthetic)"
        Console(stderr=True).print(f"error: {error}{hint}", style="red", highlight=False, markup=False, soft_wrap=True)
        return 2
    except KeyboardInterrupt:
        console.print("interrupted; the same command continues with the stage that was at work")
        return 130


def execute(
    settings: Settings,
    data: Dataset,
    output: pathlib.Path,
    why: Sequence[str],
    arguments: Sequence[str],
    console: Console,
) -> int:
    """Runs the cells and writes the report; returns the exit status."""
    announce(settings, data, output, why, console)
    command = shlex.join(["python", "-m", "experiments.cifar10", *public_arguments(arguments)])
    config = {
        "experiment": "cifar10",
        **runner.config_of_machine(command, data, shortfalls(settings), why),
    }
    runner.run(settings, data, output, config, console)
    report.write_report(output)
    report.print_table(output, console)
    console.print(f"records, report and pictures: {output}", highlight=False, markup=False)
    return 0


def public_arguments(arguments: Sequence[str]) -> list[str]:
    """The arguments without this machine's folders: what --data-dir and --output name is left out."""
    kept: list[str] = []
    skip = False
    for argument in arguments:
        if skip:
            skip = False
        elif argument in ("--data-dir", "--data_dir", "--output"):
            skip = True
        elif not argument.startswith(("--data-dir=", "--data_dir=", "--output=")):
            kept.append(argument)
    return kept


if __name__ == "__main__":
    sys.exit(main())
