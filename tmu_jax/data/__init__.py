"""Images, labels and forget requests; NumPy only, nothing here imports JAX."""

from tmu_jax.data.arrays import from_arrays, subset
from tmu_jax.data.demand import ImagesOnDemand, image_files, on_demand
from tmu_jax.data.faces import load_faces, locate_faces, read_prepared_faces
from tmu_jax.data.heldout import HeldoutSource, Ratio
from tmu_jax.data.identities import FolderData
from tmu_jax.data.image_folder import from_image_folder
from tmu_jax.data.image_table import from_csv
from tmu_jax.data.npz import from_npz
from tmu_jax.data.pairs import from_source
from tmu_jax.data.problem import forget_indices, forget_rows, forget_subset
from tmu_jax.data.sources import DatasetName, Location, load, locate
from tmu_jax.data.tfds_builder import from_tfds
from tmu_jax.data.types import Dataset, ForgetProblem, Pool, Split

__all__ = [
    "Dataset",
    "DatasetName",
    "FolderData",
    "ForgetProblem",
    "HeldoutSource",
    "ImagesOnDemand",
    "Location",
    "Pool",
    "Ratio",
    "Split",
    "forget_indices",
    "forget_rows",
    "forget_subset",
    "from_arrays",
    "from_csv",
    "from_image_folder",
    "from_npz",
    "from_source",
    "from_tfds",
    "image_files",
    "load",
    "load_faces",
    "locate",
    "locate_faces",
    "on_demand",
    "read_prepared_faces",
    "subset",
]
