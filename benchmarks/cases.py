"""What is measured: one case a row, its sizes by the scale. Plain data, without JAX or PyTorch."""

import dataclasses
import os
from typing import Any

from benchmarks.methods import unlearning_cases

EAGER, CHANNELS_LAST, COMPILED = "PyTorch eager", "PyTorch eager channels-last", "PyTorch compiled channels-last"
COMPILED_PLAIN = "PyTorch compiled"
TORCHATTACKS, TORCHATTACKS_LAST = "torchattacks", "torchattacks, channels-last"
FAISS, SKLEARN = "faiss IndexFlatL2", "scikit-learn NearestNeighbors"
TORCH_LOOP, TORCH_LOOP_LAST = "PyTorch loop", "PyTorch loop, channels-last"
THREADS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclasses.dataclass(frozen=True)
class Case:
    """One kernel at one size.

    Attributes:
      name: the kernel's name in the table, and what `--only` picks.
      kind: which code runs it, see `kernels.BUILDERS` and `rivals`.
      settings: sizes and architecture; plain JSON.
      unit: what `seconds` are the seconds of.
      rivals: names of the rivals beside it.
      tolerances: for each compared output its kind ("relative" to the largest magnitude, or "absolute") and the most
        that it may differ.
      least: units of work in a repeat, at least.
      is_long: one unit is a repeat, and none is spent on finding out how many of them should be.
    """

    name: str
    kind: str
    settings: dict[str, Any]
    unit: str
    rivals: tuple[str, ...] = ()
    tolerances: dict[str, tuple[str, float]] = dataclasses.field(default_factory=dict)
    least: int = 1
    is_long: bool = False


@dataclasses.dataclass(frozen=True)
class Scale:
    """How large the cases are.

    Attributes:
      batch: of the training steps, by architecture.
      pool: images on the device.
      evaluated: images of an evaluation, by architecture.
      attacked: images of one attack by `small_resnet`.
      distances: (queries, bank, columns) of each case.
      predictor: numbers of samples.
      predictor_epochs: epochs of its training.
      teacher: batch size of the bad teacher's step.
      request: training images of the whole request.
      has_table: whether the quick main job is run.
    """

    batch: dict[str, int]
    pool: int
    evaluated: dict[str, int]
    attacked: int
    distances: tuple[tuple[int, int, int], ...]
    predictor: tuple[int, ...]
    predictor_epochs: int
    teacher: int
    request: int
    has_table: bool


SCALES = {
    "full": Scale(
        batch=dict.fromkeys(("resnet18", "allcnn", "vit", "small_resnet"), 128), pool=2000,
        evaluated={"resnet18": 500, "small_resnet": 2000}, attacked=128,
        distances=((1000, 5000, 512), (5000, 45_000, 512)), predictor=(1000, 10_000), predictor_epochs=100,
        teacher=256, request=1000, has_table=True,
    ),
    # A test: the outputs are compared, the times mean nothing.
    "tiny": Scale(
        batch={"small_resnet": 16}, pool=100, evaluated={"small_resnet": 40}, attacked=8, distances=((20, 100, 16),),
        predictor=(40,), predictor_epochs=5, teacher=32, request=200, has_table=False,
    ),
}  # fmt: skip


def cases(name: str, device: str = "cpu") -> tuple[Case, ...]:
    """All cases of a scale, in the order of the table; the device is "cpu" or "cuda", as PyTorch calls it."""
    scale, on_cpu = SCALES[name], device == "cpu"
    exact = ("relative", 1e-3 if on_cpu else 3e-2)  # rounding on a CPU, TensorFloat-32 on a GPU

    def case(name: str, kind: str, settings: dict[str, Any], *args: Any, **kwargs: Any) -> Case:
        return Case(name, kind, {"device": device, **settings}, *args, **kwargs)

    def step(name: str, arch: str, batch: int, **settings: Any) -> Case:
        every = {"arch": arch, "batch": batch, "pool": scale.pool, "optimizer": "sgd", "learning_rate": 0.01,
                 "weight_decay": 5e-4, "soft": False, **settings}  # fmt: skip
        # A call makes up to 64 steps; what it costs beside them, fresh memory above all, is shared by some.
        least = 16 if arch == "small_resnet" else 2
        return case(name, "train", every, f"step of {batch} images", _torch(arch), {"losses": exact}, least=least)

    found = [step(f"train-step-{arch}-{batch}", arch, batch) for arch, batch in scale.batch.items()]
    for arch, count in scale.evaluated.items():
        settings = {"arch": arch, "num_images": count, "block": 250}
        found.append(
            case(f"evaluation-{arch}-{count}", "evaluation", settings, f"{count} images", _torch(arch),
                 {"logits": exact, "embeddings": exact})
        )  # fmt: skip
    found.append(
        case(f"pgd-5-small_resnet-{scale.attacked}", "attack",
             {"arch": "small_resnet", "num_images": scale.attacked, "num_steps": 5, "eps": 2 / 255},
             f"attack on {scale.attacked} images", (TORCHATTACKS, TORCHATTACKS_LAST),
             # Where a gradient is within rounding of zero its sign, and so a whole pixel step, may differ.
             {"clean_logits": exact, "adversarial_logits": ("relative", 2e-2 if on_cpu else 1e-1)})
    )  # fmt: skip
    for queries, bank, columns in scale.distances:
        settings = {"num_queries": queries, "num_bank": bank, "columns": columns, "k": 5}
        found.append(
            case(f"distances-{queries}x{bank}x{columns}", "distances", settings, "search", (FAISS, SKLEARN),
                 {"distances": ("relative", 1e-4)})
        )  # fmt: skip
    for count in scale.predictor:
        settings = {"num_samples": count, "epochs": scale.predictor_epochs, "batch": 16, "learning_rate": 0.01,
                    "momentum": 0.9, "weight_decay": 5e-4}  # fmt: skip
        found.append(
            case(f"predictor-{count}", "predictor", settings, f"{scale.predictor_epochs} epochs", (TORCH_LOOP,),
                 {"loss": ("relative", 1e-2), "probability": ("absolute", 5e-2)}, is_long=count >= 10_000)
        )  # fmt: skip
    adam = {"optimizer": "adam", "learning_rate": 1e-4, "weight_decay": 0.0, "soft": True}
    found.append(step(f"bad-teacher-step-small_resnet-{scale.teacher}", "small_resnet", scale.teacher, **adam))
    found.append(_request(case, name, scale.request, on_cpu))
    found += unlearning_cases(case, name, on_cpu)
    if scale.has_table:
        found.append(case("table-1-quick", "table", {}, "whole run, process start included", is_long=True))
    return tuple(found)


def _torch(arch: str) -> tuple[str, ...]:
    return (EAGER, COMPILED_PLAIN) if arch == "vit" else (EAGER, CHANNELS_LAST, COMPILED)


def _request(case: Any, scale: str, num_train: int, on_cpu: bool) -> Case:
    settings = {"arch": "small_resnet", "num_train": num_train, "num_forget": max(2, num_train // 100),
                "twin_epochs": 5, "curriculum_epochs": 2, "unlearning_epochs": 5, "eps": 1 / 255}  # fmt: skip
    # Both draw their own order, so what follows a training is compared as an accuracy; the rest, number by number.
    tolerances = {
        "heldout_easy": ("absolute", 0.0),
        "nearest_distance": ("relative", 1e-3 if on_cpu else 3e-2),
        "adversarial": ("relative", 5e-2 if on_cpu else 2e-1),
        "test_accuracy": ("absolute", 40.0 if scale == "tiny" else 10.0),
        "forget_accuracy": ("absolute", 100.0 if scale == "tiny" else 20.0),
    }
    # A request takes long: of PyTorch's two layouts the faster one alone.
    return case(f"twin-request-small_resnet-{num_train}", "request", settings, "request", (TORCH_LOOP_LAST,),
                tolerances, is_long=True)  # fmt: skip
