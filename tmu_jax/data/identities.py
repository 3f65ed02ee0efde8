"""From encoded images, sorted by identity, to a data set: which identities, decoding, the split into training and test.

Wherever the images lie: `image_folder` and `faces` give an `Index`. Identities are chosen by the number of their image
files, before anything is decoded.
"""

import concurrent.futures
import dataclasses
import hashlib
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from tmu_jax.data.checks import check_integer, printable
from tmu_jax.data.decoding import decode, fault, strict_pillow
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
    """

    names: Mapping[str, Collection[str]]
    read: Callable[[str, str], bytes]
    num_ignored: int = 0


def assemble(index: Index, choice: Choice, name: str, source: str) -> FolderData:
    """Chooses identities, decodes their images and splits them.

    Args:
        index: all identities.
        choice: which to take, and how.
        name: the data set's name.
        source: where the images lie, in words, without any path.

    Raises:
        ValueError: too few identities, or bad files that are refused.
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
    clause = f", {_count(len(bad_files), 'bad file')} skipped" if bad_files else ""
    size = f"{choice.image_size}x{choice.image_size}"
    data = Dataset(
        name=name,
        source=f"{source}, {len(taken):,} of {len(index.names):,} identities, {size}{clause}",
        class_names=tuple(map(printable, sorted(taken))),
        **_split(taken, choice),
    )
    return FolderData(data, (*map(printable, sorted(bad_identities + bad_files)), *_counts(index, choice)))


def _decode_identities(
    index: Index, identities: Sequence[str], choice: Choice
) -> tuple[dict[str, tuple[list[str], list[np.ndarray]]], list[str]]:
    """Names and images of each identity, ordered by name, and a sentence for each file that is bad."""
    import tqdm

    jobs = [(identity, name) for identity in identities for name in sorted(index.names[identity], key=_name_order)]

    def attempt(job: tuple[str, str]) -> np.ndarray | str:
        try:
            return decode(index.read(*job), choice.image_size)
        except MemoryError:
            raise
        except Exception as error:
            return fault(error)

    decoded: dict[str, tuple[list[str], list[np.ndarray]]] = {identity: ([], []) for identity in identities}
    faults = []
    with strict_pillow(), concurrent.futures.ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        results = tqdm.tqdm(
            pool.map(attempt, jobs), "decoding", total=len(jobs), unit=" images", disable=not choice.progress
        )
        for (identity, name), result in zip(jobs, results, strict=True):
            if isinstance(result, str):
                faults.append(f"{identity}/{name}: {result}")
            else:
                decoded[identity][0].append(name)
                decoded[identity][1].append(result)
    return decoded, faults


def _split(taken: Mapping[str, tuple[list[str], list[np.ndarray]]], choice: Choice) -> dict[str, np.ndarray]:
    """The arrays of the data set: the images that come first by their hashes are for testing."""
    parts: dict[str, list[np.ndarray]] = {"train": [], "test": []}
    labels: dict[str, list[int]] = {"train": [], "test": []}
    for label, identity in enumerate(sorted(taken)):
        names, images = taken[identity]
        num_test = min(max(round(choice.test_share * len(names)), 1), len(names) - 1)
        by_hash = sorted(range(len(names)), key=lambda row: _hash(choice.seed, identity, names[row]))
        is_test = set(by_hash[:num_test])
        for row, image in enumerate(images):
            split = "test" if row in is_test else "train"
            parts[split].append(image)
            labels[split].append(label)
    arrays = {f"{split}_images": np.stack(images) for split, images in parts.items()}
    return arrays | {f"{split}_labels": np.asarray(rows, np.int32) for split, rows in labels.items()}


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


def _counts(index: Index, choice: Choice) -> Iterator[str]:
    num_small = sum(2 <= len(names) < choice.min_images for names in index.names.values())
    if num_small:
        yield f"{_count(num_small, 'identity')} with fewer than min_images={choice.min_images} image files"
    if index.num_ignored:
        yield f"{_count(index.num_ignored, 'file')} ignored: hidden, or by name no image"


def _count(number: int, noun: str) -> str:
    plural = noun[:-1] + "ies" if noun.endswith("y") else noun + "s"
    return f"{number:,} {noun if number == 1 else plural}"
