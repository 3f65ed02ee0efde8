"""Images, labels and forget requests; NumPy only, nothing here imports JAX."""

from tmu_jax.data.arrays import from_arrays, subset
from tmu_jax.data.faces import load_faces, locate_faces, read_prepared_faces
from tmu_jax.data.identities import FolderData
from tmu_jax.data.image_folder import from_image_folder
from tmu_jax.data.problem import forget_indices, forget_rows, forget_subset
from tmu_jax.data.sources import Location, load, locate
from tmu_jax.data.types import Dataset, ForgetProblem, Pool, Split

__all__ = [
    "Dataset",
    "FolderData",
    "ForgetProblem",
    "Location",
    "Pool",
    "Split",
    "forget_indices",
    "forget_rows",
    "forget_subset",
    "from_arrays",
    "from_image_folder",
    "load",
    "load_faces",
    "locate",
    "locate_faces",
    "read_prepared_faces",
    "subset",
]
