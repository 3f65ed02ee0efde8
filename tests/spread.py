"""Stages of `tests.golden` on several devices.

`python -m tests.spread FILE DEVICES [STAGE ...]` writes their arrays by stage and number, of all stages where none is
named, what those that are models answer on test images, and beside them by the names of compiled programs over how many
devices the images of a call were divided.
With RANK/PROCESSES@PORT for DEVICES it is one of several processes with a device each.
"""

import os
import sys

_, FILE, DEVICES, *STAGES = sys.argv
RANK, _, PROCESSES = DEVICES.partition("@")[0].rpartition("/")
COUNT = 1 if RANK else int(PROCESSES)
os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={COUNT}"

import jax  # noqa: E402
import numpy as np  # noqa: E402

if RANK:
    jax.distributed.initialize(f"localhost:{DEVICES.partition('@')[2]}", int(PROCESSES), int(RANK))

import pytest  # noqa: E402

import tmu_jax  # noqa: E402
from tests import golden  # noqa: E402
from tests.patching import patch_everywhere  # noqa: E402
from tests.tiny import tiny_data  # noqa: E402
from tmu_jax.training import TrainedModel, predict, predict_rows, train_steps  # noqa: E402
from tmu_jax.twin.features import attack_rows  # noqa: E402
from tmu_jax.unlearning.bad_teacher import outputs_of_batch  # noqa: E402

ROWS = {"train_steps": 5, "predict_rows": 3, "attack_rows": 3, "outputs_of_batch": 3}
"""Which argument of a program names the images of its batches, along the last axis."""


def watch_divisions() -> dict[str, int]:
    """By program, the fewest devices that the images of a batch are divided over from now on."""
    fewest: dict[str, int] = {}
    for program in (train_steps, predict_rows, attack_rows, outputs_of_batch):
        name = program.__name__

        def watched(*args, program=program, name=name, **options):
            rows = args[ROWS[name]]
            if rows is None:  # the call brings its own images
                return program(*args, **options)
            of_a_device = rows.sharding.shard_shape(rows.shape) if isinstance(rows, jax.Array) else rows.shape
            fewest[name] = min(rows.shape[-1] // of_a_device[-1], fewest.get(name, sys.maxsize))
            return program(*args, **options)

        patch_everywhere(pytest.MonkeyPatch(), program, watched)
    return fewest


def main() -> None:
    divisions = watch_divisions()
    found = golden.stages()
    found = {what: stage for what, stage in found.items() if what in STAGES or not STAGES}
    values = golden.values_of(found)
    several = {what: golden.arrays_of(value) for what, value in values.items()}
    arrays = {f"{what} {i}": array for what, own in several.items() for i, array in enumerate(own)}
    test = tmu_jax.data.forget_subset(tiny_data(), target_classes=[0], num_forget=1).test
    for what, value in values.items():
        if isinstance(value, TrainedModel):
            arrays[f"outputs of {what}"] = np.asarray(jax.nn.softmax(predict(value, test)[0]))
    np.savez(FILE, **arrays, **{f"divided {name}": np.array(count) for name, count in divisions.items()})


if __name__ == "__main__":
    main()
