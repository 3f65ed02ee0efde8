"""What the command keeps beside a ledger, so that a later request starts where the last one ended.

`prepared/` holds the models that all requests share and `settings.json`, by what they were made; `after-N/` holds what
request N left: the preparation, the model in service, and its settings. `after-N/` counts once the ledger has closed
request N, so that a command that is stopped anywhere leaves either the one or the other.
"""

import contextlib
import dataclasses
import json
import pathlib
import shutil
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import filelock

from tmu_jax.command.inputs import RefusedError, about
from tmu_jax.data import Dataset
from tmu_jax.preparation import Forgotten, Prepared, load_prepared, save_prepared
from tmu_jax.preparation.saving import as_trained, contents
from tmu_jax.requests import Ledger, Request
from tmu_jax.store import real_lock
from tmu_jax.text import parse_json
from tmu_jax.training import TrainedModel
from tmu_jax.training.saving import state_of, weights_digest
from tmu_jax.unlearning import load

_SETTINGS = "settings.json"
PREPARED = "prepared"


@dataclasses.dataclass(frozen=True)
class Settings:
    """By what a preparation was made.

    Attributes:
      seed: of its draws.
      heldout: test images that stand for "never seen"; None: by default.
      folds: of its bank.
      data: a hash of the images that it was made on.
      since: the last request that was closed before it; 0: none.
      known: digests of the weights of the models that lead to it; the last one's model is in service.
    """

    seed: int
    heldout: int | None
    folds: int
    data: str
    since: int
    known: tuple[str, ...]


class Start(NamedTuple):
    """From where a request starts.

    Attributes:
      model: the classifier in service.
      prepared: what the last request left; None: it is still to be prepared, or found in the folder.
      settings: of the preparation.
      why: a sentence on what a user would not expect; empty where there is none.
    """

    model: TrainedModel
    prepared: Prepared | None
    settings: Settings
    why: str


def find_start(
    ledger: Ledger,
    folder: pathlib.Path,
    model: TrainedModel,
    data: Dataset,
    *,
    seed: int | None,
    heldout: int | None,
    folds: int | None,
) -> Start:
    """From where a request starts, or a preparation: nothing is trained or written.

    Args:
      ledger: the ledger.
      folder: its folder.
      model: what the user's function returns.
      data: the images.
      seed: of a new preparation; None: as it was made, or 0. So are the next two.
      heldout: test images.
      folds: of its bank.

    Raises:
      RefusedError: for a preparation by other settings, where a request was closed by other means, and for a ledger
        that is older than what lies beside it.
    """
    digest, now = digest_of(model), contents(data.pool)
    requests = {one.number: one for one in ledger.requests}
    _not_later(folder, requests)
    last = max((one.number for one in requests.values() if one.state == "closed"), default=0)
    fresh = Settings(seed or 0, heldout, 2 if folds is None else folds, now, last, (digest,))
    base = _read(folder / PREPARED)
    if base is None:
        return Start(model, None, fresh, _unknown(last) if last else "")
    own = folder / PREPARED
    if last > base.since:
        own = folder / f"after-{last}"
        found = _read(own)
        if found is not None and found.known[-1] != requests[last].weights_after:
            found = None  # Left by a command that was stopped; something else closed the request.
        if found is None and digest in base.known:
            raise RefusedError(
                f"--ledger {folder}: request {last} was closed by other means than this command, which does not have "
                "the model that it left; let --model return that one"
            )
        base = found or base
    if digest not in base.known:
        return Start(model, None, dataclasses.replace(fresh, known=(*base.known, digest)), _unknown(last))
    _same_settings(folder, base, seed, heldout, folds)
    with about("--ledger", folder):
        served = model if digest == base.known[-1] else load(_model(own, base), model)
        if base.data == now and own.name != PREPARED:
            return Start(served, load_prepared(own, data, model.module), base, f"goes on from request {last}'s model")
    if base.data == now:
        return Start(served, None, base, "")
    why = f"the data is another than what was prepared on: prepared anew, from {_whose(last)} model"
    # Rows that it forgot are those of the former data; in this one the ledger knows what was removed.
    return Start(as_trained(served), None, dataclasses.replace(base, data=now, since=last), why)


def keep_settings(folder: pathlib.Path, start: Start) -> None:
    """Writes by what a preparation is made, before it is."""
    place = folder / PREPARED
    if _read(place) != start.settings:
        start.model.save(_model(place, start.settings), overwrite=True)
        _write(place, start.settings)


def keep_after(folder: pathlib.Path, number: int, found: Forgotten, settings: Settings) -> None:
    """Writes what a request left, from which the next one starts once this one is closed."""
    place = folder / f"after-{number}"
    shutil.rmtree(place, ignore_errors=True)
    own = dataclasses.replace(settings, known=(*settings.known, digest_of(found.model)))
    save_prepared(found.prepared, place)
    found.model.save(_model(place, own))
    _write(place, own)


def drop_before(folder: pathlib.Path, number: int) -> None:
    """Removes what earlier requests left: a later one has taken its place."""
    for other, place in _after(folder).items():
        if other < number:
            shutil.rmtree(place)


@contextlib.contextmanager
def alone(folder: pathlib.Path) -> Iterator[None]:
    """Keeps out a second command that trains in the same folder: both would start from one model."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with real_lock(folder / "command.lock") as lock:
            lock.acquire(timeout=0)
    except filelock.Timeout:
        raise RefusedError(f"--ledger {folder}: another command is at work there; wait until it is done") from None
    try:
        yield
    finally:
        lock.release()


def _after(folder: pathlib.Path) -> dict[int, pathlib.Path]:
    """What requests left, by their numbers."""
    places = {place.name.removeprefix("after-"): place for place in folder.glob("after-*")}
    return {int(number): place for number, place in places.items() if number.isdecimal()}


def _not_later(folder: pathlib.Path, requests: Mapping[int, Request]) -> None:
    """Refuses a ledger that lost its last requests: their images would be trained on again."""
    lost = max((number for number in _after(folder) if number not in requests), default=None)
    if lost is not None:
        raise RefusedError(
            f"--ledger {folder}: after-{lost} is what request {lost} left, and ledger.jsonl knows no such request; put "
            "back the ledger that belongs to it"
        )


def digest_of(model: TrainedModel) -> str:
    """Of a model's weights."""
    return weights_digest(state_of(model))


def _unknown(last: int) -> str:
    if not last:
        return "the model is another than what was prepared: prepared anew"
    return (
        f"the model is none that this ledger's preparation knows: taken as it is, and it must not have been trained on "
        f"what requests up to {last} removed"
    )


def _model(place: pathlib.Path, settings: Settings) -> pathlib.Path:
    """Where the model in service lies; by its name it is never another one than the settings say."""
    return place / f"model-{settings.known[-1][:16]}"


def _whose(last: int) -> str:
    return f"request {last}'s" if last else "the same"


def _same_settings(folder: pathlib.Path, base: Settings, *asked: int | None) -> None:
    for name, value in zip(("seed", "heldout", "folds"), asked, strict=True):
        was: Any = getattr(base, name)
        if value is not None and value != was:
            said = "the default" if was is None else was
            raise RefusedError(
                f"--{name} {value}: the preparation in {folder} was made with {said}; leave the option out, or take "
                "another --ledger"
            )


def _read(place: pathlib.Path) -> Settings | None:
    path = place / _SETTINGS
    if not path.is_file():
        return None
    try:
        found = parse_json(path.read_text("utf-8"))
        return Settings(**{**found, "known": tuple(found["known"])})
    except (ValueError, TypeError, KeyError) as error:
        raise RefusedError(f"--ledger {place.parent}: {path} is damaged; remove {place} and prepare anew") from error


def _write(place: pathlib.Path, settings: Settings) -> None:
    temporary = place / f"{_SETTINGS}.tmp"
    temporary.write_text(json.dumps(dataclasses.asdict(settings), indent=1), "utf-8")
    temporary.replace(place / _SETTINGS)
