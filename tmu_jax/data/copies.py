"""Equal images: a forgotten image that has a copy among what stays is not forgotten."""

from collections.abc import Callable

import numpy as np

from tmu_jax.data.checks import name_some
from tmu_jax.data.demand import chunks
from tmu_jax.data.types import ForgetProblem

_CONSEQUENCE = "the model goes on learning what they show."


def exact_copies(problem: ForgetProblem) -> np.ndarray:
    """Images that stay in training, or are held out, with the very pixels of a forgotten one; whatever their labels.

    Returns:
        int32[c, 2], rows of the pool: of the forgotten image (the first such of D_f) and of its copy; in the order of
        D_f, then of the rows.
    """
    images = problem.pool.images
    first: dict[bytes, tuple[int, int]] = {}
    for place, row in enumerate(problem.forget.indices.tolist()):
        first.setdefault(images[row].tobytes(), (place, row))
    is_other = np.zeros(len(images), bool)
    is_other[problem.retain.indices] = is_other[problem.heldout.indices] = True
    every = (image for part in chunks(images) for image in part)
    found = [
        (*first[pixels], row)
        for row, image in enumerate(every)
        if is_other[row] and (pixels := image.tobytes()) in first
    ]
    return np.array([pair for _, *pair in sorted(found)], np.int32).reshape(-1, 2)


def copies_note(pairs: np.ndarray, what: str = "equal to", names: Callable[[int], str] = str) -> tuple[str, ...]:
    """The sentence on copies that a report carries, or none.

    Args:
        pairs: int32[c, 2], of a forgotten image and of its copy.
        what: how the copies are like the forgotten images.
        names: what a row is called.
    """
    if not len(pairs):
        return ()
    listed = [f"{names(copy)} of {names(row)}" for row, copy in pairs.tolist()]
    images = "1 image that stays is" if len(pairs) == 1 else f"{len(pairs)} images that stay are"
    return (f"{images} {what} forgotten ones ({name_some(listed)}): {_CONSEQUENCE}",)


def is_copies_note(sentence: str) -> bool:
    """Whether a sentence is one of `copies_note`, which names images."""
    return sentence.endswith(_CONSEQUENCE)
