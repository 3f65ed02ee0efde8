"""Stages on disk: Orbax checkpoints that are found by name, and checked to be what their name says."""

import contextlib
import errno
import hashlib
import json
import logging
import os
import pathlib
import re
import shutil
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import filelock
import numpy as np
import orbax.checkpoint as ocp
from flax import traverse_util

from tmu_jax import devices
from tmu_jax.places import check_room, write_or_keep
from tmu_jax.resuming import EVERY, resumable
from tmu_jax.text import parse_json

_MANIFEST = "manifest.json"
_OPTIONS = ocp.CheckpointManagerOptions(enable_async_checkpointing=False)
_ARRAYS = "arrays"


class Saved(NamedTuple):
    """What is kept of a stage.

    Attributes:
      arrays: a nested dict of NumPy arrays.
      metadata: what else is known of it (seconds, notes), as JSON.
    """

    arrays: dict[str, Any]
    metadata: dict[str, Any]


class StageStore:
    """Checkpoints of stages in one folder, one folder each, under the stage's name.

    Beside its checkpoint a stage has a manifest, written last, with its own name and the checksums of all its files:
    Orbax notices neither a flipped bit nor a folder that was put in another's place, and meets damage with pages of
    text. A folder whose manifest does not agree is not given to it.
    """

    def __init__(
        self,
        directory: pathlib.Path | str,
        warn: Callable[[str], None] = lambda sentence: None,
        save_every: float = EVERY,
    ) -> None:
        """Prepares; nothing is read or written yet.

        Args:
          directory: where the stages lie; made when the first one is written.
          warn: is told, in one sentence, of a stage that is there and cannot be used.
          save_every: seconds after which a training that makes a stage is saved, see `resumable`.

        Raises:
          ValueError: in one of several processes that compute together.
        """
        devices.refuse_processes("a folder of stages")
        self.directory = pathlib.Path(directory).absolute()
        self._warn, self._save_every = warn, save_every

    def path(self, name: str) -> pathlib.Path:
        """Where the stage is or would be."""
        return self.directory / name

    def partial(self, name: str) -> pathlib.Path:
        """Where the state of the trainings that make the stage is kept until it is finished."""
        return self.directory / ".partial" / name

    def has(self, name: str) -> bool:
        """Whether the stage seems to be there; `load` looks closer."""
        return (self.path(name) / _MANIFEST).is_file()

    def load(self, name: str) -> Saved | None:
        """The stage, or None where there is none that can be used: it is to be computed anew then.

        Args:
          name: of the stage.

        Returns:
          The stage as it was saved. What lies in its place and is not this stage, whole and unchanged, is named in a
          warning, and left alone until `save` replaces it.
        """
        return self._load(name, self._warn)

    def _load(self, name: str, warn: Callable[[str], None]) -> Saved | None:
        path = self.path(name)
        if not path.exists() and not path.is_symlink():
            return None
        try:
            _check(path, name)
            items: dict[str, Any] = {"metadata": ocp.args.JsonRestore()}
            if (path / "0" / _ARRAYS).exists():
                items[_ARRAYS] = ocp.args.StandardRestore()
            with ocp.CheckpointManager(path, options=_OPTIONS) as manager:
                restored = manager.restore(0, args=ocp.args.Composite(**items))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            reason = str(error).splitlines() or [type(error).__name__]
            warn(f"stage {name} in {self.directory} cannot be used and is computed anew: {reason[0][:200]}")
            return None
        arrays = traverse_util.flatten_dict(restored[_ARRAYS] if _ARRAYS in items else {})
        for names, dtype, shape in restored.metadata["empty"]:
            arrays[tuple(names)] = np.zeros(shape, dtype)
        whole = {names: np.asarray(array) for names, array in arrays.items()}
        return Saved(traverse_util.unflatten_dict(whole), restored.metadata["of_stage"])

    def load_or_make(self, name: str, make: Callable[[], Saved]) -> Saved:
        """The stage: found, or made and saved. Where several processes ask at once, one makes it and the others wait.

        A training that was stopped goes on where it was saved last.

        Args:
          name: of the stage.
          make: makes it; may ask for other stages, but not for this one.

        Raises:
          OSError: where the stage is not there, and the folder cannot be written or locked; where that shows only when
            it was made, the message says where it is kept instead.
        """
        if self.has(name):
            # Many may read at once. What cannot be read so is named below, when nobody else can be at it.
            found = self._load(name, lambda sentence: None)
            if found is not None:
                # Where it was killed right after the stage was written.
                shutil.rmtree(self.partial(name), ignore_errors=True)
                return found
        path = self.directory / ".locks" / f"{name}.lock"
        with contextlib.ExitStack() as stack:
            try:
                say = f"stage {name} is being made by another process; waiting for it"
                stack.enter_context(lock_file(path, lambda: self._warn(say)))
            except OSError:
                found = self.load(name)  # A folder that can be read alone holds what is never made.
                if found is None:
                    raise
                return found
            found = self.load(name)
            if found is None:
                with resumable(self.partial(name), every=self._save_every):
                    found = make()
                self.save(name, found)
                shutil.rmtree(self.partial(name), ignore_errors=True)
        return found

    def save(self, name: str, saved: Saved) -> None:
        """Writes a stage, in the place of whatever is there.

        Args:
          name: of the stage.
          saved: what to keep.

        Raises:
          TypeError: when the metadata is no JSON; nothing is written then.
          OSError: when it cannot be written there; the message says where it is kept instead.
        """
        write_or_keep(self.path(name), lambda place: write_stage(place, name, saved))


def write_stage(path: pathlib.Path, name: str, saved: Saved) -> None:
    """Writes a stage in the place of whatever is there, whole or not at all.

    Args:
      path: its own folder.
      name: of the stage.
      saved: what to keep.

    Raises:
      TypeError: when the metadata is no JSON; nothing is written then.
      OSError: when it cannot be written.
    """
    flat = traverse_util.flatten_dict(saved.arrays)
    arrays = {names: np.asarray(array) for names, array in flat.items()}
    # Orbax refuses arrays without entries, and a tree without arrays.
    empty = [[names, str(array.dtype), array.shape] for names, array in arrays.items() if not array.size]
    whole = traverse_util.unflatten_dict({names: array for names, array in arrays.items() if array.size})
    metadata = json.loads(json.dumps({"empty": empty, "of_stage": saved.metadata}))
    items: dict[str, Any] = {"metadata": ocp.args.JsonSave(metadata)}
    if whole:
        items[_ARRAYS] = ocp.args.StandardSave(whole)
    path = path.absolute()  # As Orbax asks for.
    _remove(path)
    path.mkdir(parents=True)
    try:
        check_room(path, sum(array.nbytes for array in arrays.values()))
        with _quiet(), ocp.CheckpointManager(path, options=_OPTIONS) as manager:
            manager.save(0, args=ocp.args.Composite(**items))
        temporary = path / f"{_MANIFEST}.tmp"
        temporary.write_text(json.dumps({"name": name, "files": checksums(path / "0")}))
        os.replace(temporary, path / _MANIFEST)
    except (OSError, ValueError, RuntimeError) as error:
        shutil.rmtree(path, ignore_errors=True)
        raise _as_os_error(error) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What Orbax cannot write it raises; its threads would log pages of it as well."""
    logger = logging.getLogger("absl")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def _as_os_error(error: Exception) -> OSError:
    """Orbax's error as the system's own, which it quotes by its number."""
    if isinstance(error, OSError):
        return error
    found = re.search(r"os_error_code='(\d+)'", str(error))
    return OSError(str(error).splitlines()[0]) if found is None else OSError(int(found[1]), os.strerror(int(found[1])))


@contextlib.contextmanager
def lock_file(path: pathlib.Path, say: Callable[[], None]) -> Iterator[None]:
    """Holds a file's lock; it is the system's own, and so is free when its process ends, however it does.

    Args:
      path: of a file that is made for it, with its folder, and stays.
      say: called where another process or thread holds it, before waiting.

    Raises:
      OSError: where the file cannot be made, or its file system knows no locks.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with real_lock(path) as lock:
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            say()
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def real_lock(path: pathlib.Path) -> Iterator[filelock.BaseFileLock]:
    """A lock of the system's to acquire inside, never a mere file that a killed process leaves behind.

    Raises:
      OSError: where the file system knows no locks.
    """
    try:
        yield filelock.FileLock(path, fallback_to_soft=False)
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
            raise
        raise OSError(f"{path.parent} lies on a file system that knows no locks; choose another folder") from error


def _check(path: pathlib.Path, name: str) -> None:
    """Raises ValueError or the like where the folder is not the stage of this name, whole and unchanged; says why."""
    if not path.is_dir():
        raise ValueError("it is no folder" if path.exists() else "it is a link to nothing")
    if not (path / _MANIFEST).is_file():
        raise ValueError("it was not finished, or was emptied")
    manifest = parse_json((path / _MANIFEST).read_text())
    if manifest["name"] != name:
        raise ValueError(f"it is the stage {manifest['name']!r}")
    found = checksums(path / "0")
    differing = sorted(file for file, _ in set(found.items()) ^ set(manifest["files"].items()))
    if differing:
        raise ValueError(f"its file {differing[0]} is not as it was written")


def checksums(folder: pathlib.Path, leave_out: tuple[str, ...] = ()) -> dict[str, str]:
    """SHA-256 of every file below a folder, by its path there, but for those left out."""
    return {
        file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.relative_to(folder).as_posix() not in leave_out
    }


def _remove(path: pathlib.Path) -> None:
    """Removes what is in a stage's place; of a link the link alone."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif path.exists() or path.is_symlink():
        path.unlink()
