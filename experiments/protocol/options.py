"""What the command lines of the experiments share: options, and the values of the presets."""

import dataclasses
import pathlib
from typing import Any, Literal, get_args

from tmu_jax.unlearning import MethodName

RIVALS = (
    "ssd",
    "scrub",
    "salun",
    "l1_sparse",
    "unsir",
    "fisher",
    "influence",
    "amnesiac",
    "ntk",
    "sisa",
    "datamodel_matching",
)
"""Methods that a run has where it names them: some take longer than a retraining."""
FROM_BANK = ("bank", "datamodels")
"""What a method needs that only a bank of models gives."""
DEFAULT_METHODS: tuple[str, ...] = tuple(name for name in get_args(MethodName) if name not in RIVALS)

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
    "unlearning_rate_factor": 2.0,
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
    "unlearning_rate_factor": 1.0,
}
FAST = PAPER | {"epochs": 10, "learning_rate": 0.1, "schedule": "onecycle"}
PRESETS = {"quick": QUICK, "fast": FAST, "paper": PAPER}


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

    preset: Literal["auto", "quick", "fast", "paper"] = "auto"
    """quick: minutes on a CPU. paper: the paper's protocol. fast: the paper's, but for the training of original, gold
    and curriculum models: one cycle of the learning rate, and the first two in a third of the epochs. auto: paper if an
    accelerator and the data are here."""
    arch: Literal["auto", "small_resnet", "resnet18", "allcnn", "vit"] = "auto"
    """Architecture. auto: small_resnet in quick, else resnet18."""
    epochs: int | None = None
    """Epochs of the original and the gold models. Default: 10 in quick, 10 in fast, 30 in paper."""
    batch_size: int | None = None
    """Batch size of the original and the gold models. Default: 64 in quick, else 128."""
    learning_rate: float | None = None
    """Learning rate of the original and the gold models, the largest of the schedule. Default: 0.05 in quick, 0.1 in
    fast, 0.01 in paper."""
    schedule: Literal["step", "cosine", "onecycle"] | None = None
    """Learning rate: two drops (at 1/2 and 5/6), a cosine, or up and down once. Default: cosine in quick,
    onecycle in fast, step in paper."""
    augment: bool | None = None
    """Random flips and crops in every training. Default: False."""
    num_train: int | None = None
    """Training images, a seeded subset with equal class shares. Default: 2000 in quick, else all."""
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
    """Share of D that the curriculum model is trained on. Default: 1.0 in quick, else 0.2."""
    unlearning_rate_factor: float | None = None
    """Multiplies the learning rate of every unlearning method. Default: 2.0 in quick, else 1.0."""
    twin_replay: float = 1.0
    """Share of D that the twin model is fine-tuned on beside D_test."""
    output: pathlib.Path | None = None
    """Folder for records and report. Default: runs/EXPERIMENT-PRESET."""
    stages: pathlib.Path | None = None
    """Folder for checkpoints, which experiments may share. Default: runs/stages, or OUTPUT/stages with --output."""
    save_minutes: float = 5.0
    """Minutes after which a training that is at work is saved, so that a killed run goes on from there."""
    wait: bool = False
    """Wait for another run that is at work in the same output folder. Without it both work, and each finds what the
    other has done."""


@dataclasses.dataclass(frozen=True)
class RequestOptions:
    """How much is forgotten at once."""

    requests: Literal["each", "combined"] | None = None
    """One request for each class, or one combined over all of them. Default: combined in quick, else each."""
    num_forget: int | None = None
    """Forgotten images of each class. Default: 20 in quick, else 100."""
    ratio: Literal["dataset", "class", "all"] = "dataset"
    """Size of D_test: Eq. 3 over the data set, over the class, or all test images of the class. Default: dataset."""


@dataclasses.dataclass(frozen=True)
class MethodOptions:
    """What is compared."""

    methods: tuple[str, ...] = DEFAULT_METHODS
    """Unlearning methods, by name. Also ssd, scrub, salun, l1_sparse, unsir, fisher, influence, amnesiac, ntk, sisa and
    datamodel_matching."""


SPARE: dict[str, Any] = {"heldout_source": "test", "ratio": "dataset", "threshold": "half", "twin_replay": 1.0}
"""Options that the presets leave alone, with the paper's values."""
