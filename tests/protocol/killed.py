"""A small run of a whole experiment that may kill itself while it writes.

`python -m tests.protocol.killed OUTPUT DIARY [KIND NUMBER DELAY]` goes on with the run in OUTPUT, and writes down in
DIARY what it changes on disk and which steps it trains. With a KIND of `KINDS` it ends by SIGKILL, DELAY seconds after
the NUMBER-th change of this kind has begun; the changes are those that Python itself tells of (`sys.addaudithook`).
"""

import os
import pathlib
import signal
import sys
import threading
import time

from rich.console import Console

import tmu_jax
from experiments.protocol import command
from tests.protocol import tiny_series
from tmu_jax import resuming
from tmu_jax.training import calls

KINDS = ("state", "stage", "records", "report")
"""States of trainings, finished stages, the four files of records, report and pictures."""
RECORDS = ("config.json", "features.json.gz", "samples.json.gz", "results.jsonl")
CHANGES = ("open", "os.mkdir", "os.rename", "os.remove", "shutil.rmtree")


def kind_of(path: pathlib.Path) -> str | None:
    """What a change below the output folder is of; None for locks and the like."""
    if path.parts[:2] == ("stages", ".partial"):
        return "state"
    if path.parts[:1] == ("stages",):
        return None if path.parts[1:2] in ((), (".locks",)) else "stage"
    name = path.name.removesuffix(".tmp")
    if name in RECORDS:
        return "records"
    return "report" if path.suffix and not name.startswith(".") else None


class Watch:
    """Hears of every change, writes it down, and kills at the one that is asked for."""

    def __init__(self, output: pathlib.Path, diary: pathlib.Path, kind: str = "", number: int = 0, delay: float = 0):
        self.output = output
        self.moment = kind, number
        self.delay = delay
        self.counts = dict.fromkeys(KINDS, 0)
        # A thread that waits: within a hook, in whatever thread that is, none can be relied on to start.
        self.is_due = threading.Event()
        threading.Thread(target=self._kill_later, daemon=True).start()
        self.file = os.open(diary, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def note(self, *words: object) -> None:
        os.write(self.file, f"{' '.join(map(str, words))}\n".encode())

    def __call__(self, event: str, args: tuple) -> None:
        if event not in CHANGES or not isinstance(args[0], str | os.PathLike):
            return
        if event == "open" and not args[2] & (os.O_WRONLY | os.O_RDWR):
            return
        path = pathlib.Path(args[1] if event == "os.rename" else args[0])
        kind = kind_of(path.relative_to(self.output)) if path.is_relative_to(self.output) else None
        if kind is None:
            return
        self.counts[kind] += 1
        self.note(kind, self.counts[kind], event, path.relative_to(self.output))
        if (kind, self.counts[kind]) == self.moment:
            if not self.delay:
                os.kill(os.getpid(), signal.SIGKILL)
            self.is_due.set()

    def _kill_later(self) -> None:
        self.is_due.wait()
        time.sleep(self.delay)
        os.kill(os.getpid(), signal.SIGKILL)


def main(output: pathlib.Path, watch: Watch) -> None:
    calls.STEPS_PER_CALL = calls.FIRST_STEPS = 4
    tmu_jax.models.ARCHITECTURES["tiny"] = tiny_series.tiny_architecture

    class NotedLoop(resuming.KeptLoop):
        def __init__(self, folder, *args):
            self.place = folder.relative_to(output / "stages/.partial")
            super().__init__(folder, *args)

        def reached(self, state, at):
            watch.note("steps", at.epoch, at.start, self.place)
            super().reached(state, at)

    resuming.KeptLoop = NotedLoop
    (prepared,) = tiny_series.prepare(output, methods=("finetune", "twin"))
    command.execute(prepared, prepared.arguments(), Console())
    watch.note("ended")


if __name__ == "__main__":
    _, OUTPUT, DIARY, *MOMENT = sys.argv
    WATCH = Watch(
        pathlib.Path(OUTPUT),
        pathlib.Path(DIARY),
        *(kind(one) for kind, one in zip((str, int, float), MOMENT, strict=False)),
    )
    sys.addaudithook(WATCH)
    main(pathlib.Path(OUTPUT), WATCH)
