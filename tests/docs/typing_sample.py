"""What a type checker sees of misspelt names; read by `test_types.py`, never run."""

import jax

import tmu_jax
from tmu_jax.data import ForgetProblem


def right(problem: ForgetProblem, original: tmu_jax.TrainedModel, prepared: tmu_jax.Prepared, key: jax.Array) -> None:
    """Nothing here is an error."""
    tmu_jax.unlearn("twin", problem, original, key=key)
    tmu_jax.unlearn(tmu_jax.METHODS["mine"], problem, original, key=key)
    name: tmu_jax.MethodName = "soft_twin"
    tmu_jax.forget(prepared, [1], method=name)
    tmu_jax.forget(prepared, [1], method="auto")
    tmu_jax.TwinSettings(scaling="twin", features=("NF", "CF"))
    tmu_jax.data.forget_subset(tmu_jax.data.load("cifar10"), [0], "all", heldout_source="train", ratio="class")
    tmu_jax.models.create("vit", 10)


def misspelt(
    problem: ForgetProblem, original: tmu_jax.TrainedModel, prepared: tmu_jax.Prepared, key: jax.Array
) -> None:
    """Each line that ends in `wrong` is an error."""
    tmu_jax.unlearn("twni", problem, original, key=key)  # wrong
    tmu_jax.forget(prepared, [1], method="autp")  # wrong
    tmu_jax.rehearse(prepared, "rewram")  # wrong
    tmu_jax.Recipe(schedule="cosin")  # wrong
    tmu_jax.data.forget_indices(tmu_jax.data.load("cifar10"), [1], heldout_source="tets")  # wrong
    tmu_jax.data.forget_indices(tmu_jax.data.load("cifar10"), [1], ratio="classs")  # wrong
    tmu_jax.data.load("cifar11")  # wrong
    tmu_jax.models.create("resnet", 10)  # wrong
    tmu_jax.TwinSettings(features=("NF", "CE"))  # wrong
    tmu_jax.TwinSettings(scaling="each")  # wrong
    tmu_jax.TwinSettings(threshold="halve")  # wrong
