"""Images, labels and forget requests; NumPy only, nothing here imports JAX."""

from tmu_jax.data.arrays import from_arrays, subset
from tmu_jax.data.problem import forget_indices, forget_rows, forget_subset
from tmu_jax.data.sources import Location, load, locate
from tmu_jax.data.types import Dataset, ForgetProblem, Pool, Split

__all__ = [
    "Dataset",
    "ForgetProblem",
    "Location",
    "Pool",
    "Split",
    "forget_indices",
    "forget_rows",
    "forget_subset",
    "from_arrays",
    "load",
    "locate",
    "subset",
]
