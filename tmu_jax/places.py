"""Folders to write into: refused before any work where they cannot be; and where else what was computed goes."""

import errno
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable
from typing import TypeVar

Written = TypeVar("Written")

_PROBE = bytes(65536)
"""What a quota that is used up does not take, though the disk has room."""


def check_folder(said: str, folder: os.PathLike[str] | str, num_bytes: int = 0) -> pathlib.Path:
    """A folder that can be made, or written into; nothing is left there.

    Args:
      said: what the message begins with: the argument and its value.
      folder: where.
      num_bytes: about how much is to be written.

    Returns:
      The folder.

    Raises:
      TypeError: for what is no path.
      ValueError: for a path that cannot be, a file in its place or above it, a folder that must not be written to, and
        one whose disk has less room.
    """
    if not isinstance(folder, str | os.PathLike):
        raise TypeError(f"{said} must be the path of a folder, got a {type(folder).__name__}")
    place = pathlib.Path(folder)
    try:
        if b"\0" in str(place).encode("utf-8"):  # Orbax writes to paths of no other encoding.
            raise ValueError("holds a null character")
        above = next(one for one in (place.absolute(), *place.absolute().parents) if one.exists() or one.is_symlink())
        if not above.is_dir():
            what = "is a file" if above.exists() else "is a link to nothing"
            raise ValueError(what if above == place.absolute() else f"lies in {above}, which {what}")
        with tempfile.TemporaryFile(dir=above) as probe:
            probe.write(_PROBE)
        free = shutil.disk_usage(above).free
    except (OSError, UnicodeError) as error:
        raise ValueError(f"{said} cannot be written to ({reason(error)}); give another folder") from error
    except ValueError as error:
        raise ValueError(f"{said} {error}; give a folder") from None
    if free < num_bytes:
        raise ValueError(
            f"{said} has {free / 1e6:,.0f} MB free, and about {num_bytes / 1e6:,.0f} MB are to be written; make room, "
            "or give another folder"
        )
    return place


def check_room(folder: pathlib.Path, num_bytes: int) -> None:
    """Raises OSError where a folder's disk has not the room: before it is half written."""
    if shutil.disk_usage(folder).free < num_bytes:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def write_or_keep(place: pathlib.Path, write: Callable[[pathlib.Path], Written]) -> Written:
    """Writes into a folder, or where its disk does not take it into another one: what was computed must not be lost.

    Args:
      place: the folder; what was half written is the writer's own to remove.
      write: called with it, and where that fails with a new folder of the same name.

    Returns:
      What `write` returns.

    Raises:
      OSError: where it could not be written to `place`, though elsewhere: the message says where, and why.
    """
    try:
        return write(place)
    except OSError as error:
        why = f"{str(place)!r} cannot be written ({reason(error)})"
        for other in (tempfile.gettempdir(), pathlib.Path.cwd(), pathlib.Path("~").expanduser()):
            kept = None
            try:
                kept = pathlib.Path(tempfile.mkdtemp(prefix="tmu_jax-kept-", dir=other)) / place.name
                write(kept)
            except OSError:
                if kept is not None:
                    shutil.rmtree(kept.parent, ignore_errors=True)
                continue
            raise OSError(f"{why}; it is kept in {str(kept)!r}, to be put in place once that can be written") from error
        raise OSError(f"{why}, nor could it be kept anywhere else") from error


def reason(error: BaseException) -> str:
    """Why a file could not be written, in a few words."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
