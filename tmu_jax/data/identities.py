"""From encoded images, sorted by identity, to a data set: which identities, decoding, the split into training and test.

Wherever the images lie: `image_folder` and `faces` give an `Index`. Identities are chosen by the number of their image
files, before anything is decoded.
"""

import dataclasses
import functools
import hashlib
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import numpy as np

from tmu_jax.boundary import check_fields
from tmu_jax.data.checks import check_integer, name_some, printable
from tmu_jax.data.decoding import decode_all
from tmu_jax.data.ids import as_ids
from tmu_jax.data.types import Dataset

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
BAD_FILES = ("skip", "refuse")


@dataclasses.dataclass(frozen=True)
class FolderData:
    """A data set, and what of its source is not in it.

    Attributes:
        data: the data set.
        skipped: a sentence for each file and identity that was left out as bad, by names relative to the folder, then
            counts of the files that are no images and of the identities with too few.
    """

    data: Dataset
    skipped: tuple[str, ...]

    if not TYPE_CHECKING:  # A type checker knows the attributes that there are.

        def __getattr__(self, name: str) -> NoReturn:
            # Whoever gives it in the place of a data set learns which part of it to give.
            raise AttributeError(
                f"a FolderData has no {name!r}; the data set is its `.data`, and `.skipped` what is not in it"
            )


@dataclasses.dataclass(frozen=True)
class Choice:
    """Which identities to take, and how; see `from_image_folder` for the meaning of each value."""

    image_size: int = 64
    num_classes: int | None = None
    min_images: int = 2
    test_share: float = 0.2
    bad_files: str = "skip"
    seed: int = 0
    progress: bool = True

    def __post_init__(self) -> None:
        check_fields(self)
        check_integer("image_size", self.image_size, 8)
        if self.num_classes is not None:
            check_integer("num_classes", self.num_classes, 2)
        check_integer("min_images", self.min_images, 2)
        check_integer("seed", self.seed, 0)
        if not 0 < self.test_share < 1:
            raise ValueError(f"test_share must lie between 0 and 1, both excluded, got {self.test_share}")
        if self.bad_files not in BAD_FILES:
            raise ValueError(f"bad_files must be one of {BAD_FILES}, got {self.bad_files!r}")


class Index(NamedTuple):
    """Where the images of all identities are; nothing is decoded yet.

    Attributes:
        names: for each identity the names of its images, such as "0001_01.jpg".
        read: gives the encoded image of an identity and a name; called by many threads at once.
        num_ignored: the number of files that are no images by their names.
        prefix: what stands before the names of its files in sentences, such as "val/".
    """

    names: Mapping[str, Collection[str]]
    read: Callable[[str, str], bytes]
    num_ignored: int = 0
    prefix: str = ""


Decoded = Mapping[str, tuple[list[str], list[np.ndarray]]]
"""By identity the names of its images and the images, ordered by name."""


def assemble(
    index: Index, choice: Choice, name: str, source: str, test: Index | None = None, notes: Sequence[str] = ()
) -> FolderData:
    """Chooses identities, decodes their images and splits them.

    Args:
        index: all identities.
        choice: which to take, and how.
        name: the data set's name.
        source: where the images lie, in words, without any path.
        test: where the test images lie; None draws them from the others.
        notes: sentences for `Dataset.notes`.

    Raises:
        ValueError: too few identities, no test images of them, or bad files that are refused.
    """
    ranked = sorted(
        (identity for identity, names in index.names.items() if len(names) >= choice.min_images),
        key=lambda identity: (-len(index.names[identity]), identity),
    )
    _check_enough(len(ranked), choice, "image files")
    bad_identities = [
        f"{identity}: {_count(len(names), 'image file')}, an identity needs 2"
        for identity, names in index.names.items()
        if len(names) < 2
    ]
    wanted = len(ranked) if choice.num_classes is None else choice.num_classes
    bad_files: list[str] = []
    taken: dict[str, tuple[list[str], list[np.ndarray]]] = {}
    notes = [*notes]
    while ranked and len(taken) < wanted:
        missing = wanted - len(taken)
        tried, ranked = ranked[:missing], ranked[missing:]
        decoded, faults = _decode_identities(index, tried, choice)
        bad_files += faults
        if choice.bad_files == "refuse" and (bad_files or bad_identities):
            _refuse(sorted(bad_identities + bad_files))
        for identity, (names, images) in decoded.items():
            if len(images) >= choice.min_images:
                taken[identity] = names, images
            else:
                readable = _count(len(images), "readable image")
                bad_identities.append(f"{identity}: {readable}, fewer than min_images={choice.min_images}")
    _check_enough(len(taken), choice, "readable images")
    if test is None:
        arrays = _split(taken, choice)
        notes.append(
            f"The test images are {choice.test_share:.0%} of all images, drawn at random: a model that was trained on "
            "all of them has seen these."
        )
    else:
        tested, faults = _decode_identities(test, sorted(taken), choice)
        bad_files += faults
        bad_identities += [
            f"{test.prefix}{identity}: no such identity to train on"
            for identity in test.names.keys() - index.names.keys()
        ]
        if choice.bad_files == "refuse" and (faults or bad_identities):
            _refuse(sorted(bad_identities + bad_files))
        arrays = _apart(taken, tested, test, notes)
    clause = f", {_count(len(bad_files), 'bad file')} skipped" if bad_files else ""
    size = f"{choice.image_size}x{choice.image_size}"
    data = Dataset(
        name=name,
        source=f"{source}, {len(taken):,} of {len(index.names):,} identities, {size}{clause}",
        class_names=tuple(map(printable, sorted(taken))),
        notes=tuple(notes),
        **arrays,
    )
    return FolderData(data, (*map(printable, sorted(bad_identities + bad_files)), *_counts(index, choice, test)))


def _decode_identities(index: Index, identities: Sequence[str], choice: Choice) -> tuple[Decoded, list[str]]:
    """Names and images of each identity, and a sentence for each file that is bad."""
    jobs = [
        (identity, name) for identity in identities for name in sorted(index.names.get(identity, ()), key=_name_order)
    ]
    results = decode_all([functools.partial(index.read, *job) for job in jobs], choice.image_size, choice.progress)
    decoded: dict[str, tuple[list[str], list[np.ndarray]]] = {identity: ([], []) for identity in identities}
    faults = []
    for (identity, name), result in zip(jobs, results, strict=True):
        if isinstance(result, str):
            faults.append(f"{index.prefix}{identity}/{name}: {result}")
        else:
            decoded[identity][0].append(name)
            decoded[identity][1].append(result)
    return decoded, faults


def _split(taken: Decoded, choice: Choice) -> dict[str, Any]:
    """The arrays of the data set: some images of each identity are for testing."""
    parts: dict[str, dict[str, tuple[list[str], list[np.ndarray]]]] = {"train": {}, "test": {}}
    for identity, (names, images) in taken.items():
        is_test = drawn_for_testing(names, identity, choice.test_share, choice.seed)
        for part, wanted in (("train", False), ("test", True)):
            kept = [row for row in range(len(names)) if is_test[row] == wanted]
            parts[part][identity] = [names[row] for row in kept], [images[row] for row in kept]
    return _arrays("train", parts["train"], sorted(taken)) | _arrays("test", parts["test"], sorted(taken))


def _apart(taken: Decoded, tested: Decoded, test: Index, notes: list[str]) -> dict[str, Any]:
    """The arrays where the test images lie apart."""
    without = [identity for identity in sorted(taken) if not tested[identity][0]]
    if len(without) == len(taken):
        raise ValueError(
            f"the test folder {test.prefix!r} must hold images of the identities to train on, such as "
            f"{name_some(sorted(taken), 3)}; it holds the folders {name_some(sorted(test.names), 3)}"
        )
    if without:
        notes.append(f"There are no test images of {name_some(without)}.")
    return _arrays("train", taken, sorted(taken)) | _arrays("test", tested, sorted(taken))


def _arrays(part: str, decoded: Decoded, identities: Sequence[str]) -> dict[str, Any]:
    images = [image for identity in identities for image in decoded[identity][1]]
    labels = [label for label, identity in enumerate(identities) for _ in decoded[identity][0]]
    arrays = {f"{part}_images": np.stack(images), f"{part}_labels": np.asarray(labels, np.int32)}
    if part == "train":
        names = [f"{identity}/{name}" for identity in identities for name in decoded[identity][0]]
        arrays["train_ids"] = as_ids("the names of the files", names)
    return arrays


def drawn_for_testing(names: Sequence[str], identity: str, share: float, seed: int) -> list[bool]:
    """Whether each image of a class is for testing: those that come first by their hashes, at least one, not all."""
    num_test = min(max(round(share * len(names)), 1), len(names) - 1)
    by_hash = sorted(range(len(names)), key=lambda row: _hash(seed, identity, names[row]))
    chosen = set(by_hash[:num_test])
    return [row in chosen for row in range(len(names))]


def _hash(seed: int, identity: str, name: str) -> bytes:
    text = f"{seed}/{identity}/{_name_order(name)[0]}"
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


def _name_order(name: str) -> tuple[str, str]:
    """The name without its suffix comes first, as some sources of one data set keep the suffix and some do not."""
    stem, suffix = os.path.splitext(name)
    return (stem if suffix.lower() in SUFFIXES else name), name


def _check_enough(found: int, choice: Choice, what: str) -> None:
    least = f"the number of identities with at least min_images={choice.min_images} {what}"
    if choice.num_classes is None and found < 2:
        raise ValueError(f"{least} must be 2 or more, got {found}")
    if choice.num_classes is not None and found < choice.num_classes:
        raise ValueError(f"num_classes must be at most {found}, {least}, got {choice.num_classes}")


def _refuse(defects: Sequence[str]) -> None:
    named = "; ".join(map(printable, defects[:10])) + ("; ..." if len(defects) > 10 else "")
    raise ValueError(
        f'bad_files="refuse", and {len(defects)} of the files and identities are bad: {named}. '
        'bad_files="skip" would leave them out'
    )


def _counts(index: Index, choice: Choice, test: Index | None) -> Iterator[str]:
    num_small = sum(2 <= len(names) < choice.min_images for names in index.names.values())
    if num_small:
        yield f"{_count(num_small, 'identity')} with fewer than min_images={choice.min_images} image files"
    if num_ignored := index.num_ignored + (0 if test is None else test.num_ignored):
        yield f"{_count(num_ignored, 'file')} ignored: hidden, or by name no image"


def _count(number: int, noun: str) -> str:
    plural = noun[:-1] + "ies" if noun.endswith("y") else noun + "s"
    return f"{number:,} {noun if number == 1 else plural}"
