"""What is measured: one case a row, its sizes by the scale of the machine. Plain data, without JAX or PyTorch."""

import dataclasses
from typing import Any

ARCHITECTURES = ("resnet18", "allcnn", "vit", "small_resnet")
EAGER, CHANNELS_LAST, COMPILED = "PyTorch eager", "PyTorch eager channels-last", "PyTorch compiled channels-last"
LOADER = "PyTorch compiled channels-last, DataLoader"
COMPILED_PLAIN = "PyTorch compiled"
TORCHATTACKS, TORCHATTACKS_LAST = "torchattacks", "torchattacks, channels-last"
FAISS, SKLEARN = "faiss IndexFlatL2", "scikit-learn NearestNeighbors"
TORCH_LOOP, TORCH_LOOP_LAST = "PyTorch loop", "PyTorch loop, channels-last"


@dataclasses.dataclass(frozen=True)
class Case:
    """One kernel at one size.

    Attributes:
      name: the kernel's name in the table, and what `--only` picks.
      kind: which code runs it, see `kernels.BUILDERS` and `rival_kernels.BUILDERS`.
      settings: sizes, architecture and dtype; plain JSON.
      unit: what `seconds` are the seconds of.
      rivals: names of the rivals beside it.
      tolerances: for each compared output its kind ("relative" to the largest magnitude, or "absolute") and the most
        that it may differ.
      repeats: fixed number of repeats, for what is too long to repeat.
      least: units of work in a repeat, at least.
      call_units: units of a call, on our side, where calls have many. What a call costs beyond its units, the first
        touch of fresh memory above all, counts once in so many. Where a repeat has fewer (at least two), calls of one
        unit beside it tell what a call costs, on all sides, and its seconds are those of a call of so many.
      is_long: one unit is a repeat, and none is spent on finding out how many of them should be.
    """

    name: str
    kind: str
    settings: dict[str, Any]
    unit: str
    rivals: tuple[str, ...] = ()
    tolerances: dict[str, tuple[str, float]] = dataclasses.field(default_factory=dict)
    repeats: int | None = None
    least: int = 1
    call_units: int = 1
    is_long: bool = False


@dataclasses.dataclass(frozen=True)
class Scale:
    """How large the cases of a machine are.

    Attributes:
      name: "cpu", "gpu" or "tiny" (seconds; checks that the outputs agree, its times mean nothing).
      device: "cpu" or "cuda", as PyTorch calls it.
      dtypes: of the classifiers.
      batches: of the training steps.
      epoch_images: images of a timed epoch; None times steps.
      pool: images on the device.
      evaluated: images of an evaluation, by architecture.
      attacked: images of one attack, by architecture.
      distances: (queries, bank, columns) of each case.
      predictor: numbers of samples.
      predictor_epochs: epochs of its training.
      teacher: architecture and batch size of the bad-teacher step.
      request: architecture and training images of the whole request.
      table: preset of Table 1; None leaves it out.
    """

    name: str
    device: str
    dtypes: tuple[str, ...]
    batches: tuple[int, ...]
    epoch_images: int | None
    pool: int
    evaluated: dict[str, int]
    attacked: dict[str, int]
    distances: tuple[tuple[int, int, int], ...]
    predictor: tuple[int, ...]
    predictor_epochs: int
    teacher: tuple[str, int]
    request: tuple[str, int]
    table: str | None


SCALES = {
    "cpu": Scale(
        name="cpu", device="cpu", dtypes=("float32",), batches=(128,), epoch_images=None, pool=2000,
        evaluated={"resnet18": 500, "small_resnet": 2000}, attacked={"small_resnet": 128},
        distances=((1000, 5000, 512), (5000, 45_000, 512)), predictor=(1000, 10_000), predictor_epochs=100,
        teacher=("small_resnet", 256), request=("small_resnet", 1000), table="quick",
    ),
    "gpu": Scale(
        name="gpu", device="cuda", dtypes=("bfloat16", "float32"), batches=(128, 512), epoch_images=50_000,
        pool=50_000, evaluated={"resnet18": 10_000, "vit": 10_000}, attacked={"resnet18": 128},
        distances=((50_000, 50_000, 512),), predictor=(1000, 10_000), predictor_epochs=100,
        teacher=("resnet18", 256), request=("small_resnet", 2000), table="paper",
    ),
    "tiny": Scale(
        name="tiny", device="cpu", dtypes=("float32",), batches=(16,), epoch_images=None, pool=100,
        evaluated={"small_resnet": 40}, attacked={"small_resnet": 8},
        distances=((20, 100, 16),), predictor=(40,), predictor_epochs=5,
        teacher=("small_resnet", 32), request=("small_resnet", 200), table=None,
    ),
}  # fmt: skip

STEPS_PER_REPEAT = 2
STEPS_PER_CALL = 16
"""Training makes a call an epoch, or more calls of 64 steps: 15 steps where 2,000 images are batches of 128."""
_ATTACK = {"num_steps": 5, "eps": 2 / 255}


def cases(scale: Scale) -> tuple[Case, ...]:
    """All cases of a scale, in the order of the table."""
    found = [_train(scale, arch, batch, dtype) for dtype in scale.dtypes for batch in scale.batches
             for arch in ARCHITECTURES]  # fmt: skip
    for dtype in scale.dtypes:
        found += [_evaluation(scale, arch, n, dtype) for arch, n in scale.evaluated.items()]
    found += [_attack(scale, arch, n) for arch, n in scale.attacked.items()]
    found += [_distances(*sizes) for sizes in scale.distances]
    found += [_predictor(n, scale.predictor_epochs) for n in scale.predictor]
    found.append(_bad_teacher(scale))
    found.append(_request(scale))
    if scale.table is not None:
        settings = {"preset": scale.table, "dataset": "synthetic" if scale.table == "quick" else "auto"}
        found.append(Case(f"table-1-{scale.table}", "table", settings, "whole run, process start included", repeats=1))
    return tuple(found)


def optional(scale: Scale) -> frozenset[str]:
    """Names of the cases that run only when they are asked for by name."""
    return frozenset({"table-1-paper"} if scale.table == "paper" else ())


def _tolerance(scale: Scale, dtype: str) -> float:
    """Relative: rounding on a CPU, TensorFloat-32 or bfloat16 on a GPU."""
    return 1e-3 if scale.device == "cpu" else 3e-2 if dtype == "float32" else 1e-1


def _torch_rivals(scale: Scale, arch: str) -> tuple[str, ...]:
    if arch == "vit":  # a transformer has no channels-last
        return (EAGER, COMPILED_PLAIN)
    return (EAGER, CHANNELS_LAST, COMPILED) + ((LOADER,) if scale.epoch_images else ())


def _train(scale: Scale, arch: str, batch: int, dtype: str) -> Case:
    settings = {
        "arch": arch, "batch": batch, "dtype": dtype, "device": scale.device, "pool": scale.pool, "optimizer": "sgd",
        "learning_rate": 0.01, "weight_decay": 5e-4, "soft": False,
        "steps_per_unit": scale.epoch_images // batch if scale.epoch_images else 1,
    }  # fmt: skip
    what = "epoch" if scale.epoch_images else "step"
    unit = f"epoch of {scale.epoch_images} images" if scale.epoch_images else f"step of {batch} images"
    tolerances = {"losses": ("relative", _tolerance(scale, dtype))}
    rivals = _torch_rivals(scale, arch)
    case = Case(f"train-{what}-{arch}-{batch}-{dtype}", "train", settings, unit, rivals, tolerances)
    return case if scale.epoch_images else _calls(case, scale)


def _calls(case: Case, scale: Scale) -> Case:
    """The case with its steps timed as in calls of several, and those of a small network in such calls."""
    if scale.name == "tiny":
        return case
    least = STEPS_PER_CALL if case.settings["arch"] == "small_resnet" else STEPS_PER_REPEAT
    return dataclasses.replace(case, least=least, call_units=STEPS_PER_CALL)


def _bad_teacher(scale: Scale) -> Case:
    arch, batch = scale.teacher
    settings = {
        "arch": arch, "batch": batch, "dtype": scale.dtypes[0], "device": scale.device, "pool": scale.pool,
        "optimizer": "adam", "learning_rate": 1e-4, "weight_decay": 0.0, "soft": True, "steps_per_unit": 1,
    }  # fmt: skip
    tolerances = {"losses": ("relative", _tolerance(scale, scale.dtypes[0]))}
    unit = f"step of {batch} images"
    rivals = tuple(name for name in _torch_rivals(scale, arch) if name != LOADER)
    return _calls(Case(f"bad-teacher-step-{arch}-{batch}", "train", settings, unit, rivals, tolerances), scale)


def _evaluation(scale: Scale, arch: str, num_images: int, dtype: str) -> Case:
    settings = {"arch": arch, "num_images": num_images, "dtype": dtype, "device": scale.device, "block": 250}
    if scale.device != "cpu":
        settings["block"] = 2000
    tolerance = ("relative", _tolerance(scale, dtype))
    tolerances = {"logits": tolerance, "embeddings": tolerance}
    rivals = tuple(name for name in _torch_rivals(scale, arch) if name != LOADER)
    unit = f"{num_images} images"
    return Case(f"evaluation-{arch}-{num_images}-{dtype}", "evaluation", settings, unit, rivals, tolerances)


def _attack(scale: Scale, arch: str, num_images: int) -> Case:
    settings = {"arch": arch, "num_images": num_images, "dtype": "float32", "device": scale.device, **_ATTACK}
    # Where a gradient is within rounding of zero its sign, and so a whole pixel step, may differ.
    loose = 2e-2 if scale.device == "cpu" else 1e-1
    tolerances = {
        "clean_logits": ("relative", _tolerance(scale, "float32")),
        "adversarial_logits": ("relative", loose),
    }
    rivals = (TORCHATTACKS, TORCHATTACKS_LAST)
    return Case(f"pgd-5-{arch}-{num_images}", "attack", settings, f"attack on {num_images} images", rivals, tolerances)


def _distances(num_queries: int, num_bank: int, columns: int) -> Case:
    settings = {"num_queries": num_queries, "num_bank": num_bank, "columns": columns, "k": 5}
    name = f"distances-{num_queries}x{num_bank}x{columns}"
    return Case(name, "distances", settings, "search", (FAISS, SKLEARN), {"distances": ("relative", 1e-4)})


def _predictor(num_samples: int, epochs: int) -> Case:
    settings = {"num_samples": num_samples, "epochs": epochs, "batch": 16, "learning_rate": 0.01, "momentum": 0.9,
                "weight_decay": 5e-4}  # fmt: skip
    tolerances = {"loss": ("relative", 1e-2), "probability": ("absolute", 5e-2)}
    return Case(
        f"predictor-{num_samples}", "predictor", settings, f"{epochs} epochs", (TORCH_LOOP,), tolerances,
        is_long=num_samples >= 10_000,
    )  # fmt: skip


def _request(scale: Scale) -> Case:
    arch, num_train = scale.request
    settings = {
        "arch": arch, "num_train": num_train, "num_forget": max(2, num_train // 100), "dtype": "float32",
        "device": scale.device, "twin_epochs": 5, "curriculum_epochs": 2, "unlearning_epochs": 5, "eps": 1 / 255,
    }  # fmt: skip
    # Both draw their own order, so what follows a training is compared as an accuracy; the rest, number by number.
    tolerances = {
        "heldout_easy": ("absolute", 0.0),
        "nearest_distance": ("relative", 1e-3 if scale.device == "cpu" else 3e-2),
        "adversarial": ("relative", 5e-2 if scale.device == "cpu" else 2e-1),
        "steps": ("absolute", 0.0),
        "test_accuracy": ("absolute", 10.0 if scale.name != "tiny" else 40.0),
        "forget_accuracy": ("absolute", 20.0 if scale.name != "tiny" else 100.0),
    }
    # A request takes long: of PyTorch's two layouts the faster one alone.
    return Case(
        f"twin-request-{arch}-{num_train}", "request", settings, "request", (TORCH_LOOP_LAST,), tolerances, is_long=True
    )
