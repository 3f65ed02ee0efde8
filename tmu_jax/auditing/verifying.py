"""For a third party who has the files alone: is the evidence what was signed, and do its figures follow from it?"""

import dataclasses
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tmu_jax.auditing import evidence, reading
from tmu_jax.auditing.measuring import MOST_NEIGHBOURS
from tmu_jax.boundary import checked
from tmu_jax.data import Dataset
from tmu_jax.text import ascii_text, html_table
from tmu_jax.training import TrainedModel
from tmu_jax.training.saving import read_model, state_of, weights_digest

_KEYS = frozenset(
    "schema made request about data weights settings cost rehearsal debt versions measured figures checks outcome page "
    "signature".split()
)


@dataclasses.dataclass(frozen=True)
class Verification:
    """What `verify` found; `print` it.

    Attributes:
      problems: what does not fit, a sentence each.
      checked: what was looked at and fits.
      not_checked: what was not looked at, and what that would need.
    """

    problems: tuple[str, ...]
    checked: tuple[str, ...]
    not_checked: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether everything that was looked at fits."""
        return not self.problems

    def __str__(self) -> str:
        lines = [f"evidence: {'fits' if self.ok else 'DOES NOT FIT'}"]
        for title, sentences in (("problem", self.problems), ("fits", self.checked), ("open", self.not_checked)):
            lines += [f"  {title:8s} {sentence}" for sentence in sentences]
        return ascii_text("\n".join(lines))

    def _repr_html_(self) -> str:
        rows = [("problem", one) for one in self.problems] + [("fits", one) for one in self.checked]
        return html_table("Verification", [*rows, *(("not checked", one) for one in self.not_checked)])


@checked
def verify(
    evidence_path: pathlib.Path | str,
    *,
    page: pathlib.Path | str | None = None,
    public_key: evidence.PublicKey | None = None,
    model: pathlib.Path | str | TrainedModel | None = None,
    data: Dataset | None = None,
    ids: Sequence[str] | None = None,
    salt: str | None = None,
) -> Verification:
    """Checks evidence that `Audit.write` wrote, without the models that it is about.

    The schema, the signature, and that every figure, check and outcome follows from the measured values are always
    looked at; the rest where it is given.

    Args:
      evidence_path: the JSON file.
      page: the HTML page that came with it.
      public_key: of the signer, learned by another way: an Ed25519 key, its PEM file, or its base64.
      model: the model in service now: a saved folder, or a model in memory.
      data: the data set.
      ids: ids that should have been among those asked for.
      salt: what came with them from `Audit.write`.

    Returns:
      What fits and what does not. Damage and tampering are problems, no errors.

    Raises:
      FileNotFoundError: when a file that was named is not there.
      ValueError: for ids without the salt, or a public key that is none.
    """
    if (ids is None) != (salt is None):
        raise ValueError("ids and salt are of use only together; give both or neither")
    if isinstance(ids, str):
        raise ValueError(f"ids must be a list of ids, got the text {ids!r}")
    known_key = None if public_key is None else evidence.public_key(public_key)
    for name, path in (("evidence_path", evidence_path), ("page", page)):
        if path is not None and not pathlib.Path(path).is_file():
            raise FileNotFoundError(f"{name}={str(path)!r} is not there")
    try:
        document = evidence.parse(pathlib.Path(evidence_path).read_bytes())
    except (ValueError, RecursionError) as error:
        return Verification((f"The evidence cannot be read: {str(error).splitlines()[0]}.",), (), ())
    found = _Found()
    found.look("the schema", _schema, document)
    if found.problems:
        return found.result()
    found.look("the signature", _signature, document, known_key)
    found.look("figures, checks and outcome follow from the measured values", _figures, document)
    found.look("counts agree with one another", _counts, document)
    _optional(found, document, page, model, data, ids, salt)
    if document["signature"] is None:
        found.open.append("Who made it: it is not signed.")
    elif known_key is None:
        found.open.append("Whose key signed it: give public_key, learned from the signer by another way.")
    return found.result()


class _Found:
    """Problems, what fits and what is open, as they are found."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.fits: list[str] = []
        self.open: list[str] = []

    def look(self, what: str, check: Callable[..., list[str]], *args: Any) -> None:
        """Runs one check. What it stumbles over is a problem too: the evidence has not the form that it should have."""
        try:
            problems = check(*args)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, ZeroDivisionError, OverflowError) as error:
            reason = str(error).splitlines() or [type(error).__name__]
            problems = [f"What is needed to look at {what} is missing or of another form: {reason[0][:200]}."]
        self.problems += problems
        if not problems:
            self.fits.append(f"{what[0].upper()}{what[1:]}.")

    def result(self) -> Verification:
        return Verification(tuple(self.problems), tuple(self.fits), tuple(self.open))


def _optional(
    found: _Found,
    document: Mapping[str, Any],
    page: pathlib.Path | str | None,
    model: pathlib.Path | str | TrainedModel | None,
    data: Dataset | None,
    ids: Sequence[str] | None,
    salt: str | None,
) -> None:
    for what, check, given in (
        ("the page", _page, page),
        ("the model's weights", _model, model),
        ("the data", _data, data),
        ("the ids", _ids, None if ids is None or salt is None else (list(ids), salt)),
    ):
        if given is None:
            found.open.append(f"{what[0].upper()}{what[1:]}: not given.")
        else:
            found.look(what, check, document, given)


def _schema(document: Mapping[str, Any]) -> list[str]:
    if document.get("schema") != evidence.SCHEMA:
        return [f"It is of schema {document.get('schema')!r}; this version reads {evidence.SCHEMA!r}."]
    wrong = sorted(_KEYS ^ set(document))
    return [f"Entries are missing or added: {', '.join(wrong[:10])}."] if wrong else []


def _signature(document: Mapping[str, Any], known_key: str | None) -> list[str]:
    signature = document["signature"]
    if signature is None:
        return [] if known_key is None else ["It is not signed, though a public key was given for it."]
    unsigned = {name: value for name, value in document.items() if name != "signature"}
    problems = []
    if not evidence.is_signed_by(unsigned, signature):
        problems.append("The signature does not fit: something was changed after it was signed.")
    if known_key is not None and signature["public_key"] != known_key:
        problems.append("It is signed by another key than the one given.")
    return problems


def _figures(document: Mapping[str, Any]) -> list[str]:
    figures, checks, outcome = reading.read(document["measured"], document["about"])
    problems = _differences(figures, document["figures"], "figures")
    problems += _differences([dataclasses.asdict(check) for check in checks], document["checks"], "checks")
    if outcome != document["outcome"]:
        problems.append(f"The outcome is {outcome!r} by the measured values, not {document['outcome']!r}.")
    return problems


def _counts(document: Mapping[str, Any]) -> list[str]:
    about, measured, weights = document["about"], document["measured"], document["weights"]
    asked, ids = about["asked"], document["request"]["ids"]["values"]
    sizes = {asked, document["request"]["asked"], len(ids), len(set(ids)), len(measured["forget"]["label"])}
    sizes.add(sum(document["request"]["class_counts"].values()))
    problems = []
    if len(sizes) > 1:
        problems.append(f"The number of images asked for is given as {sorted(sizes)}.")
    if about["forgotten"] is not None and about["forgotten"] != asked - about["missing"] + about["extra"]:
        problems.append("Asked, missing and not asked for do not add up to what was forgotten.")
    if about["changed"] != (weights["before"] != weights["after"]):
        problems.append("Whether the weights changed does not fit their hashes.")
    for part in ("forget", "heldout"):
        lengths = {len(column) for column in measured[part].values()}
        if len(lengths) > 1:
            problems.append(f"The columns of {part!r} are of lengths {sorted(lengths)}.")
        for name in [name for name in measured[part] if name.startswith("margin_")]:
            rights = measured[part][name.replace("margin", "right")]
            if any(
                (margin > 0) != bool(right)
                for margin, right in zip(measured[part][name], rights, strict=True)
                if margin
            ):
                problems.append(f"Right answers of {part!r} do not fit their margins ({name}).")
    for part in ("kept", "test"):
        if len({of for _, of in measured[part].values()}) > 1 or any(
            not 0 <= n <= of for n, of in measured[part].values()
        ):
            problems.append(f"The counts of {part!r} cannot be.")
    for when in ("before", "after"):
        binned = [sum(one[f"kept_{when}"][place] for one in measured["neighbours"]) for place in (0, 1)]
        if measured["kept"][when][1] <= MOST_NEIGHBOURS and binned != list(measured["kept"][when]):
            problems.append(f"The neighbours {when} do not add up to the kept images.")
    return problems


def _page(document: Mapping[str, Any], page: pathlib.Path | str) -> list[str]:
    found = evidence.sha256(pathlib.Path(page).read_bytes())
    return [] if found == document["page"]["sha256"] else [f"The page {page} is not the one that the evidence is of."]


def _model(document: Mapping[str, Any], model: pathlib.Path | str | TrainedModel) -> list[str]:
    if isinstance(model, TrainedModel):
        found = weights_digest(state_of(model))
    else:
        found = weights_digest(read_model(model).arrays)
    if found == document["weights"]["after"]:
        return []
    if found == document["weights"]["before"]:
        return ["The model is the one before, which knows the images that were to be forgotten."]
    return ["The model's weights are not those that the audit was made of."]


def _data(document: Mapping[str, Any], data: Dataset) -> list[str]:
    found = evidence.data_digest(data.pool, len(data.pool))
    return [] if found == document["data"]["sha256"] else ["The data is not what the audit was made on."]


def _ids(document: Mapping[str, Any], given: tuple[list[str], str]) -> list[str]:
    ids, salt = given
    known = set(document["request"]["ids"]["values"])
    absent = [one for one, code in zip(ids, evidence.salted(ids, salt), strict=True) if code not in known]
    if not absent:
        return []
    return [
        f"{len(absent)} of {len(ids)} ids are not among those asked for, or the salt is another: "
        f"{', '.join(map(repr, absent[:10]))}."
    ]


def _differences(expected: Any, found: Any, path: str) -> list[str]:
    """Where two JSON values differ, floats by more than rounding; the first place of each branch."""
    if isinstance(expected, Mapping) and isinstance(found, Mapping):
        names = sorted(set(expected) ^ set(found))
        if names:
            return [f"{path} has {names[0]!r} missing or added."]
        return [one for name in expected for one in _differences(expected[name], found[name], f"{path}.{name}")]
    if isinstance(expected, list | tuple) and isinstance(found, list | tuple):
        if len(expected) != len(found):
            return [f"{path} has {len(found)} entries; the measured values give {len(expected)}."]
        pairs = enumerate(zip(expected, found, strict=True))
        return [one for place, pair in pairs for one in _differences(*pair, f"{path}.{place}")]
    if _number(expected) and _number(found):
        equal = math.isclose(expected, found, rel_tol=1e-9, abs_tol=1e-9)
    else:
        equal = type(expected) is type(found) and expected == found
    return [] if equal else [f"{path} is {found!r}; the measured values give {expected!r}."]


def _number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)
