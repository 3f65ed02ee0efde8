"""A tiny experiment that other processes can prepare by themselves, with a method that may kill its process once."""

import dataclasses
import os
import pathlib
import signal
import time

import tmu_jax
from experiments import all as everything
from experiments import cifar10
from experiments.protocol import command
from experiments.protocol.experiment import Source
from tests.tiny import TinyNet, tiny_data
from tmu_jax import twin
from tmu_jax.store import StageStore
from tmu_jax.training import Recipe
from tmu_jax.unlearning import METHODS

DIARY = "TMU_JAX_TEST_DIARY"
"""Variable with the folder where worker processes write down what they do."""
KILL, FAIL, WAIT = "kill", "fail", "wait"
"""Files there: who makes `mortal` removes the first and kills its process; fails, or waits, while there is another."""


def note(name, *words):
    with (pathlib.Path(os.environ[DIARY]) / name).open("a") as file:
        file.write(" ".join(map(str, (os.getpid(), *words))) + "\n")


def noting_steps(done, total):
    diary = pathlib.Path(os.environ[DIARY])
    note("steps", done)
    if (diary / FAIL).exists():
        raise FloatingPointError("as asked")
    while (diary / WAIT).exists():
        time.sleep(0.1)
    if 2 * done >= total and (diary / KILL).exists():
        (diary / KILL).unlink()
        note("killed")
        os.kill(os.getpid(), signal.SIGKILL)


def unlearn(problem, original, key, *, progress):
    report = noting_steps if DIARY in os.environ else progress
    return tmu_jax.unlearn("finetune", problem, original, key=key, progress=lambda stage: report)


MORTAL = tmu_jax.Method("mortal", run=unlearn)


def tiny_architecture(num_classes, dtype):
    return TinyNet(num_classes)


def arms(settings, options, data):
    """With the twin method two, which share all but its labels."""
    tiny = twin.TwinSettings(
        twin_recipe=Recipe(epochs=1, batch_size=20, schedule="constant"), max_twin_epochs=2, eps_candidates=(4 / 255,)
    )
    by_count = dataclasses.replace(tiny, threshold="count")
    default = dataclasses.replace(settings, twin_settings=tiny)
    if "twin" not in settings.methods:
        return [default]
    return [default, dataclasses.replace(default, twin_settings=by_count, methods=("twin",), variant="by count")]


EXPERIMENT = dataclasses.replace(
    cifar10.EXPERIMENT, source=Source(lambda options: (tiny_data(), []), lambda options: None), arms=arms
)


def prepare(output, **changes):
    """A series of this experiment alone."""
    options = cifar10.Options(
        dataset="cifar10", preset="quick", arch="tiny", epochs=3, batch_size=20, num_train=200, requests="each",
        classes=("0", "2"), num_forget=4, methods=("finetune", "twin", "mortal"), output=output, save_minutes=0.0,
    )  # fmt: skip
    return [command.prepare(EXPERIMENT, dataclasses.replace(options, **changes))]


def prepare_small(options):
    """In the place of `experiments.all.series`; nothing is saved before five minutes have gone."""
    return prepare(options.output, methods=("finetune", "mortal"), classes=("0",), save_minutes=5.0)


def prepare_large(options):
    return prepare(options.output)


def main(size, cores, *arguments):
    """`experiments.all` with this series on a cluster of its own; returns the exit status.

    Its machine works on so many cores; where on none, it waits for another, and says at which address.
    """
    import ray

    ray.init("local", num_cpus=int(cores), include_dashboard=False, log_to_driver=False, logging_level="error")
    print(ray.get_runtime_context().gcs_address, flush=True)
    everything.series = {"small": prepare_small, "large": prepare_large}[size]
    return everything.main([*arguments, "--ray", "local", "--cores", "1"])


if DIARY in os.environ:  # A worker imports this module alone, and has no fixtures.
    tmu_jax.models.ARCHITECTURES["tiny"] = tiny_architecture
    METHODS["mortal"] = MORTAL
    save = StageStore.save

    def noting_save(store, name, saved):
        note("made", name)
        save(store, name, saved)

    StageStore.save = noting_save
