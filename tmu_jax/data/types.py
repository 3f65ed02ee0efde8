"""The containers that carry images and labels through the package.

Images of the training and the held-out sets lie in one array, the *pool*; every set is a `Split`, a list of row numbers
of that pool. So one copy on the device serves every set, and two sets are compared by comparing row numbers.
"""

import dataclasses
import functools
import hashlib
from typing import Any

import numpy as np

from tmu_jax.data.demand import Images, add_to, join
from tmu_jax.data.ids import Register, check_unique
from tmu_jax.text import ascii_text


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Pool:
    """All images of a problem in one array.

    Equality and hash are by identity, so that a pool can key a cache of device copies.

    Attributes:
        images: uint8[p, height, width, channels], 0..255, in memory or read on demand.
        labels: int32[p], 0..num_classes-1.
        num_classes: the number of classes.
    """

    images: Images
    labels: np.ndarray
    num_classes: int

    def __post_init__(self) -> None:
        _check_images_and_labels("Pool", self.images, self.labels)

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"Pool({len(self)} images of shape {self.images.shape[1:]}, {self.num_classes} classes)"


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Split:
    """Some rows of a pool.

    Attributes:
        pool: the images that the indices count in.
        indices: int32[n], row numbers of `pool`.
    """

    pool: Pool
    indices: np.ndarray

    def __post_init__(self) -> None:
        if self.indices.ndim != 1 or self.indices.dtype != np.int32:
            raise TypeError(f"Split.indices must be int32[n], got {self.indices.dtype}{list(self.indices.shape)}")
        if len(self.indices) and not 0 <= self.indices.min() <= self.indices.max() < len(self.pool):
            raise ValueError(
                f"Split.indices must lie in 0..{len(self.pool) - 1}, the rows of its pool; "
                f"got {self.indices.min()}..{self.indices.max()}"
            )

    @property
    def images(self) -> np.ndarray:
        """uint8[n, height, width, channels]: a copy of the rows."""
        return self.pool.images[self.indices]

    @property
    def labels(self) -> np.ndarray:
        """int32[n]: a copy of the rows' labels."""
        return self.pool.labels[self.indices]

    @property
    def num_classes(self) -> int:
        return self.pool.num_classes

    def __len__(self) -> int:
        return len(self.indices)

    def __repr__(self) -> str:
        return f"Split({len(self)} of {self.pool!r})"


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Labelled training and test images.

    Attributes:
        name: "cifar10", "cifar100", "synthetic" or the caller's own.
        source: where the arrays came from, in words, without any path.
        train_images: uint8[n, height, width, channels], 0..255, in memory or read on demand.
        train_labels: int32[n].
        test_images: uint8[m, height, width, channels], 0..255.
        test_labels: int32[m].
        class_names: one name for each class.
        train_ids: str[n], what each training image is asked for by, no two equal; without them the row's number.
        notes: sentences on what was made of the caller's images and labels; `print` shows them.
    """

    name: str
    source: str
    train_images: Images
    train_labels: np.ndarray
    test_images: Images
    test_labels: np.ndarray
    class_names: tuple[str, ...]
    train_ids: np.ndarray | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_images_and_labels("Dataset.train", self.train_images, self.train_labels)
        _check_images_and_labels("Dataset.test", self.test_images, self.test_labels)
        if self.train_ids is not None and (self.train_ids.shape != self.train_labels.shape):
            raise ValueError(
                f"Dataset.train_ids must have one id for each of {len(self.train_labels)} training images, got shape "
                f"{list(self.train_ids.shape)}"
            )
        if self.train_ids is not None:
            check_unique("Dataset.train_ids", self.train_ids)

    def rows_of(self, ids: Any) -> np.ndarray:
        """The training rows of the images asked for.

        Args:
            ids: a sequence, an array or a column of ids, strings or integers. Where ids are paths, such as
                "ann/0001.jpg", the bare file name serves too if no other training image has it.

        Returns:
            int64[k], in the order of `ids`.

        Raises:
            TypeError: what are no ids, or have no order.
            ValueError: no ids, or unknown, repeated or ambiguous ones: ten of each kind are named, all are counted.
        """
        return self._register.rows_of("ids", ids)

    @functools.cached_property
    def _register(self) -> Register:
        return Register(self.ids)

    @functools.cached_property
    def ids(self) -> np.ndarray:
        """str[n]: the training images' ids; the numbers of their rows where none were given."""
        return np.arange(len(self.train_labels)).astype(str) if self.train_ids is None else self.train_ids

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @functools.cached_property
    def pool(self) -> Pool:
        """The training rows, then the test rows, in one array; the same object at every access."""
        return Pool(
            images=join([self.train_images, self.test_images]),
            labels=np.concatenate([self.train_labels, self.test_labels]),
            num_classes=self.num_classes,
        )

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of names, shapes and contents; not of `source`, ids and notes: all sources of a set agree."""
        digest = hashlib.sha256()
        digest.update(repr((self.name, self.class_names)).encode())
        for array in (self.train_images, self.train_labels, self.test_images, self.test_labels):
            digest.update(repr((array.dtype.str, array.shape)).encode())
            add_to(digest, array)
        return digest.hexdigest()

    def __repr__(self) -> str:
        return (
            f"Dataset({self.name!r}, {self.source}: {len(self.train_labels)} training and {len(self.test_labels)} test "
            f"images of shape {self.train_images.shape[1:]}, {self.num_classes} classes)"
        )

    def __str__(self) -> str:
        return ascii_text("\n".join([repr(self), *self.notes]))


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ForgetProblem:
    """A request to forget some training images, with the sets that the method and its evaluation need.

    `forget` and `retain` together are `train`; `heldout` and `tuned` share no row with `train`.

    Attributes:
        pool: all images: the data set's own pool, or a longer copy where held-out images had to be augmented.
        train: D, what the original model is trained on.
        forget: D_f, the images to remove.
        retain: D_r, `train` without `forget`.
        heldout: D_test, images of the forget classes that the original model never saw, ordered by class.
        test: all test images.
        target_classes: the classes of `forget`, ascending.
        heldout_source: "test" or "train", where `heldout` comes from.
        ratio: "dataset", "class" or "all", how its size was chosen.
        seed: the seed of the draws.
        whole_classes: those of `target_classes` of which nothing is left in `retain`.
        notes: sentences that a report on this problem should carry.
        request: its number in a `tmu_jax.Ledger`; None where it is in none.
        tuned: images of the forget classes that the twin model is fine-tuned on in the place of `heldout`, also never
            seen by the original model; None: on `heldout`.
    """

    pool: Pool
    train: Split
    forget: Split
    retain: Split
    heldout: Split
    test: Split
    target_classes: tuple[int, ...]
    heldout_source: str
    ratio: str
    seed: int
    whole_classes: tuple[int, ...]
    notes: tuple[str, ...]
    request: int | None = None
    tuned: Split | None = None

    @property
    def num_classes(self) -> int:
        return self.pool.num_classes

    @property
    def heldout_images(self) -> Split:
        """`heldout` without augmented copies, which are no images of their own: no statistics may count them."""
        if self.heldout_source != "test":
            return self.heldout
        return Split(self.pool, np.intersect1d(self.heldout.indices, self.test.indices))

    def __repr__(self) -> str:
        return (
            f"ForgetProblem(forget {len(self.forget)} of {len(self.train)} training images, "
            f"classes {list(self.target_classes)}; {len(self.heldout)} held-out images from "
            f"{self.heldout_source!r}, ratio {self.ratio!r}, seed {self.seed})"
        )


def _check_images_and_labels(name: str, images: Images, labels: np.ndarray) -> None:
    if images.ndim != 4 or images.dtype != np.uint8:
        raise TypeError(
            f"{name} images must be uint8[n, height, width, channels], got {images.dtype}{list(images.shape)}"
        )
    if labels.ndim != 1 or labels.dtype != np.int32:
        raise TypeError(f"{name} labels must be int32[n], got {labels.dtype}{list(labels.shape)}")
    if len(images) != len(labels):
        raise ValueError(f"{name} has {len(images)} images but {len(labels)} labels; they must be as many")
