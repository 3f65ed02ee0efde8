"""The ledger's file: lines of JSON that are only ever added to, each with a code over itself and all before it."""

import contextlib
import dataclasses
import hmac
import json
import os
import pathlib
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from tmu_jax.store import lock_file
from tmu_jax.text import parse_json

FORMAT = 1
NAME = "ledger.jsonl"
_LOCK = "ledger.lock"


@dataclasses.dataclass(frozen=True)
class Request:
    """A request as the ledger knows it; hashes are HMAC-SHA-256 under the ledger's salt, in hexadecimal.

    Attributes:
      number: from 1 on.
      time: when it was opened, UTC, ISO 8601.
      ids: of the images' ids: those that were asked for, then copies that were taken along.
      images: of the images' bytes, in the same order.
      num_asked: how many were asked for.
      stays: of the ids of copies that were known and left in training.
      is_named: whether the ids were given; else they are row numbers, which hold for the same data set alone.
      data: the data set's fingerprint.
      state: "open" or "closed".
      closed: when, UTC, ISO 8601; "" while it is open, and so are the next four.
      method: what removed the images.
      outcome: "forgotten" or "partly".
      weights_before: SHA-256 of the arrays of the model that was to forget (`tmu_jax.training.saving.weights_digest`).
      weights_after: of the one that forgot.
    """

    number: int
    time: str
    ids: tuple[str, ...]
    images: tuple[str, ...]
    num_asked: int
    stays: tuple[str, ...]
    is_named: bool
    data: str
    state: Literal["open", "closed"] = "open"
    closed: str = ""
    method: str = ""
    outcome: str = ""
    weights_before: str = ""
    weights_after: str = ""


class Book:
    """A ledger's file in a folder.

    The whole file is written anew beside the old one and put in its place, so that a reader, or a power cut, meets the
    one or the other. A lock lets one writer in at a time.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        """Prepares; nothing is read or written yet."""
        self.path = folder / NAME

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Waits until no other process or thread writes, and keeps them out; makes the folder."""
        with lock_file(self.path.with_name(_LOCK), lambda: None):
            yield

    def read(self) -> tuple[bytes, list[dict[str, Any]]]:
        """The salt and what was written, line by line; a fresh salt where nothing was.

        Raises:
          ValueError: for a line that is not as it was written, by its file and number.
        """
        if not self.path.exists():
            return secrets.token_bytes(32), []
        lines = [self._line(number, text) for number, text in enumerate(self.path.read_bytes().splitlines(), 1)]
        try:
            salt, of_format = bytes.fromhex(lines[0]["salt"]), lines[0]["format"]
        except (IndexError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{self.path}, line 1 is damaged: it holds no salt") from error
        if of_format != FORMAT:
            raise ValueError(f"{self.path} is of format {of_format}; this version reads {FORMAT}")
        code = ""
        for number, line in enumerate(lines, 1):
            said, code = line.pop("code", None), _code(salt, code, line)
            if said != code:
                raise ValueError(f"{self.path}, line {number} is damaged: it is not as it was written")
        return salt, lines[1:]

    def append(self, salt: bytes, entry: Mapping[str, Any]) -> None:
        """Adds a line; call it while `locked`.

        Args:
          salt: from `read`.
          entry: JSON values.
        """
        _, entries = self.read()
        code, lines = "", []
        for line in ({"format": FORMAT, "salt": salt.hex()}, *entries, entry):
            code = _code(salt, code, line)
            lines.append(json.dumps({**line, "code": code}))
        _write(self.path, "".join(f"{line}\n" for line in lines).encode())

    def _line(self, number: int, text: bytes) -> dict[str, Any]:
        try:
            line = parse_json(text)
        except ValueError as error:
            raise ValueError(f"{self.path}, line {number} is damaged: it is no JSON") from error
        if not isinstance(line, dict):
            raise ValueError(f"{self.path}, line {number} is damaged: it is no JSON object")
        return line


def _code(salt: bytes, before: str, line: Mapping[str, Any]) -> str:
    """Of a line and, by the code of the line before it, of all above it."""
    return hmac.digest(salt, (before + json.dumps(line, sort_keys=True)).encode(), "sha256").hex()


def _write(path: pathlib.Path, content: bytes) -> None:
    """Puts a file in the place of another, whole, and on the disk."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f"{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        pathlib.Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno:  # The system names no file that it cannot fill.
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    if os.name == "posix":  # Elsewhere a folder cannot be opened, and the rename is on the disk with the file.
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
