"""Trainings that go on where a process was stopped: the whole state of their loop, kept every few minutes.

Inside `with resumable(folder)` each training loop has a place of its own, by its number. It saves there what it has
come to, and begins with what lies there; the numbers that come out are those of a loop that nobody stopped, to the last
bit.
"""

import contextlib
import contextvars
import dataclasses
import math
import os
import pathlib
import shutil
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from tmu_jax import devices
from tmu_jax.boundary import checked
from tmu_jax.places import check_room, reason
from tmu_jax.stages import stage_hash
from tmu_jax.timing import Stopwatch, add_elapsed

EVERY = 300.0
"""Seconds after which a loop is saved."""
_WORTH = 0.1
"""Share of them that a finished loop must have taken to be saved, for the sake of those after it."""
_OPTIONS = ocp.CheckpointManagerOptions(max_to_keep=1, enable_async_checkpointing=True)

State = TypeVar("State")


@dataclasses.dataclass(frozen=True)
class Position:
    """Where a training loop stands.

    Attributes:
      epoch: from 0 on.
      start: steps of it that are done.
      losses: the mean of each epoch before.
      chunks: of this epoch's steps, float32[...] each, of which the first `count` are real.
    """

    epoch: int = 0
    start: int = 0
    losses: list[float] = dataclasses.field(default_factory=list)
    chunks: list[tuple[jax.Array | np.ndarray, int]] = dataclasses.field(default_factory=list)

    def after(self, count: int, losses: jax.Array) -> "Position":
        """After further steps, whose losses need not be computed yet."""
        return dataclasses.replace(self, start=self.start + count, chunks=[*self.chunks, (losses, count)])

    def mean(self) -> float:
        """The mean loss of this epoch."""
        return float(self._of_steps().mean())

    def _of_steps(self) -> np.ndarray:
        return np.concatenate([np.zeros(0, np.float32), *(np.asarray(chunk)[:count] for chunk, count in self.chunks)])

    def plain(self) -> dict[str, Any]:
        """As JSON."""
        known = {"epoch": self.epoch, "start": self.start, "losses": self.losses}
        return {**known, "of_steps": self._of_steps().tolist()}

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> "Position":
        """From what `plain` gave."""
        of_steps = np.asarray(plain["of_steps"], np.float32)
        chunks: list[tuple[jax.Array | np.ndarray, int]] = [(of_steps, len(of_steps))]
        return cls(plain["epoch"], plain["start"], plain["losses"], chunks)


class Loop:
    """A training loop that nobody keeps, outside of `resumable`."""

    def begin(self, state: State) -> tuple[State, Position]:
        """From where to start: the state given, or the one that was kept."""
        return state, Position()

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """Around the loop."""
        yield

    def reached(self, state: Any, at: Position) -> None:
        """Told of each state that the loop comes to, before it is waited for."""

    def save_if_due(self) -> None:
        """Asked after each."""


class KeptLoop(Loop):
    """One whose state is kept in a folder."""

    def __init__(self, folder: pathlib.Path, every: float, known_by: str) -> None:
        """Args: folder: where; every: seconds after which it is saved; known_by: tells it from any other loop."""
        self._folder, self._every, self._known_by = folder, every, known_by
        self._manager: ocp.CheckpointManager | None = None
        self._saved_at = time.monotonic()
        self._reached: tuple[Any, Position] | None = None
        self._watch = Stopwatch()
        self._earlier = 0.0

    def begin(self, state: State) -> tuple[State, Position]:
        leaves, structure = jax.tree.flatten(state)
        if not self._folder.exists():
            return state, Position()
        try:
            items = {"state": ocp.args.StandardRestore(), "known": ocp.args.JsonRestore()}
            manager = self._opened()
            restored = manager.restore(manager.latest_step(), args=ocp.args.Composite(**items))
            known = restored.known
            if known["known_by"] != self._known_by:
                raise ValueError("it is the state of another training")
            if known.pop("checksum") != stage_hash({"arrays": _plain(restored.state), "known": known}):
                raise ValueError("it is not as it was written")
            kept = [jnp.asarray(restored.state.get(str(i), leaf)) for i, leaf in enumerate(leaves)]
            at, self._earlier = Position.of(known["at"]), known["seconds"]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            self._remove()  # What is damaged, or another's, is done again.
            return state, Position()
        add_elapsed(self._earlier)
        return jax.tree.unflatten(structure, kept), at

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        try:
            with self._watch:
                try:
                    yield
                except KeyboardInterrupt:
                    self._save()
                    raise
                if self._folder.is_dir() or self._watch.so_far() >= _WORTH * self._every:
                    self._save()
        finally:
            self._close()

    def reached(self, state: Any, at: Position) -> None:
        self._reached = state, at

    def save_if_due(self) -> None:
        if time.monotonic() - self._saved_at >= self._every:
            self._save()

    def _save(self) -> None:
        """Saves, in the background but for a copy: the state itself is given away in the next call."""
        if self._reached is None:
            return
        state, at = self._reached
        try:
            # Orbax refuses arrays without entries.
            arrays = {str(i): np.array(leaf) for i, leaf in enumerate(jax.tree.leaves(state)) if np.size(leaf)}
        except RuntimeError:
            return  # Interrupted in a call that has taken the state already: what was saved before it stands.
        seconds = self._earlier + self._watch.so_far()
        known: dict[str, Any] = {"known_by": self._known_by, "at": at.plain(), "seconds": seconds}
        known["checksum"] = stage_hash({"arrays": arrays, "known": known})
        items = {"state": ocp.args.StandardSave(arrays), "known": ocp.args.JsonSave(known)}
        self._saved_at = time.monotonic()
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            check_room(self._folder, sum(array.nbytes for array in arrays.values()))
            manager = self._opened()
            latest = manager.latest_step()
            manager.save(0 if latest is None else latest + 1, args=ocp.args.Composite(**items))
        except (OSError, ValueError, RuntimeError) as error:
            self._give_up(error)

    def _opened(self) -> ocp.CheckpointManager:
        if self._manager is None:
            self._manager = ocp.CheckpointManager(self._folder, options=_OPTIONS)
        return self._manager

    def _close(self) -> None:
        """Waits for what is being saved."""
        manager, self._manager = self._manager, None
        try:
            if manager is not None:
                manager.close()
        except (OSError, ValueError, RuntimeError) as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        """A full disk must not end a training: it goes on, and is saved no more."""
        self._every = math.inf
        why = reason(error)
        sentence = f"the state of a training cannot be saved in {self._folder}: {why}; the training goes on without"
        warnings.warn(sentence, stacklevel=2)

    def _remove(self) -> None:
        self._close()
        if self._folder.is_dir() and not self._folder.is_symlink():
            shutil.rmtree(self._folder)
        else:
            self._folder.unlink()


def _plain(arrays: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {name: np.asarray(array) for name, array in arrays.items()}


@dataclasses.dataclass
class _Loops:
    """The loops of a folder, in their order."""

    folder: pathlib.Path
    every: float
    count: int = 0


_current: contextvars.ContextVar[_Loops | None] = contextvars.ContextVar("loops", default=None)


@contextlib.contextmanager
@checked
def resumable(folder: pathlib.Path | str, *, every: float = EVERY) -> Iterator[None]:
    """Keeps the state of the trainings inside; the same ones, begun again with the same folder, go on from it.

    A training that was killed repeats at most `every` seconds; one that was interrupted (Ctrl-C) repeats nothing. The
    folder is yours to remove when all is done. What `prepare` and the experiments train is kept so by itself.

    Args:
      folder: where, made when the first state is saved; of no other trainings.
      every: seconds after which a training is saved; it waits for a copy of its state, the rest is in the background.

    Raises:
      ValueError: for a number of seconds below 0; in one of several processes that compute together.
    """
    devices.refuse_processes("resumable")
    if not every >= 0:
        raise ValueError(f"every={every} must be seconds, 0 or more")
    token = _current.set(_Loops(pathlib.Path(folder).absolute(), every))
    try:
        yield
    finally:
        _current.reset(token)


def next_loop(*made_from: int | np.ndarray | jax.Array) -> Loop:
    """The loop that begins now.

    Args:
      *made_from: numbers and arrays that tell it from any other loop.
    """
    loops = _current.get()
    if loops is None:
        return Loop()
    loops.count += 1
    known_by = stage_hash({str(i): np.asarray(value) for i, value in enumerate(made_from)})
    return KeptLoop(loops.folder / f"loop-{loops.count}", loops.every, known_by)


INTERRUPTED = 130
"""Exit status after Ctrl-C: that of a shell's commands, 128 + SIGINT."""
_terminated = threading.Event()


class Terminated(KeyboardInterrupt):
    """The process was told to end, by SIGTERM."""


def stop_on_terminate() -> None:
    """Lets SIGTERM, by which schedulers take a machine back, raise `Terminated`: what is at work is saved first."""

    def stop(number: int, frame: Any) -> None:
        _terminated.set()
        raise Terminated

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, stop)


def leave(status: int) -> NoReturn:
    """Ends a command's process, with no delay where SIGTERM or Ctrl-C stopped it.

    A compilation that a signal has interrupted goes on in a thread of XLA, for which Python would wait on leaving, up
    to a minute, or crash.

    Args:
      status: of the process; `INTERRUPTED` after Ctrl-C.
    """
    if _terminated.is_set() or status == INTERRUPTED:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)
