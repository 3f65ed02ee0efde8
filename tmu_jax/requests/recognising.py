"""Recognising images by hashes of their ids and bytes, in whatever order and under whatever names they come back."""

import hmac
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from tmu_jax.data import Dataset
from tmu_jax.data.demand import Images
from tmu_jax.requests.record import Request


class Hashed(NamedTuple):
    """What a ledger knows a data set's images by: HMAC-SHA-256, in hexadecimal.

    Attributes:
      ids: of each training image's id [n].
      images: of the shape and bytes of each image of the pool [p].
      is_named: whether the ids were given; else they are row numbers.
      data: the data set's fingerprint.
    """

    ids: list[str]
    images: list[str]
    is_named: bool
    data: str

    @classmethod
    def of(cls, data: Dataset, salt: bytes) -> "Hashed":
        """Of a data set, under a ledger's salt."""
        ids = [_code(salt, f"id {name}".encode("utf-8", "surrogatepass")) for name in data.ids.tolist()]
        return cls(ids, image_codes(salt, data.pool.images), data.train_ids is not None, data.fingerprint)

    def knows_ids(self, one: Request) -> bool:
        """Whether ids mean the same as when a request was made: row numbers shift where images come and go."""
        return (one.is_named and self.is_named) or one.data == self.data

    def gone(self, requests: Iterable[Request]) -> dict[int, int]:
        """Which request removed each row of the pool that is removed: by id, or by bytes but for copies left then."""
        found: dict[int, int] = {}
        for one in requests:
            ids, images, stays = (set(codes) for codes in (one.ids, one.images, one.stays))
            has_ids = self.knows_ids(one)
            for row, image in enumerate(self.images):
                code = self.ids[row] if has_ids and row < len(self.ids) else None
                if code in ids or (image in images and code not in stays):
                    found.setdefault(row, one.number)
        return found

    def asks(self, one: Request, rows: np.ndarray) -> bool:
        """Whether a request is open and asks for exactly these rows."""
        codes, asked = self._codes(one)
        return one.state == "open" and sorted(codes[row] for row in rows) == sorted(asked[: one.num_asked])

    def with_taken(self, one: Request, rows: np.ndarray) -> np.ndarray:
        """The rows that a request asks for, and those of the copies that it took along."""
        codes, known = self._codes(one)
        taken = set(known[one.num_asked :])
        copies = [row for row in range(len(self.ids)) if codes[row] in taken and row not in rows]
        return np.concatenate([rows, np.array(copies, np.int64)])

    def test_copies(self, rows: np.ndarray) -> list[int]:
        """Test images that show the picture of one of the rows: rows of the pool. They are not unseen."""
        pictures = {self.images[row] for row in rows}
        return [row for row in range(len(self.ids), len(self.images)) if self.images[row] in pictures]

    def _codes(self, one: Request) -> tuple[list[str], tuple[str, ...]]:
        """What to compare with a request: ids where they mean the same, else bytes; ours and its."""
        return (self.ids, one.ids) if self.knows_ids(one) else (self.images, one.images)


def image_codes(salt: bytes, images: Images) -> list[str]:
    """The HMAC of the shape and bytes of each image uint8[n, h, w, c]."""
    shape = f"image {images.shape[1:]} ".encode()
    return [_code(salt, shape + image.tobytes()) for image in images]


def _code(salt: bytes, content: bytes) -> str:
    return hmac.digest(salt, content, "sha256").hex()
