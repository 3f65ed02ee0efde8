"""`tmu-jax forget`: from a list of ids to a new model, an answer and its evidence."""

import pathlib
from typing import Literal, NamedTuple

import jax

from tmu_jax.auditing import Audit
from tmu_jax.auditing import audit as library_audit
from tmu_jax.command import inputs, keeping, options, planning, preparing, writing
from tmu_jax.command.inputs import RefusedError, about
from tmu_jax.command.keeping import Start
from tmu_jax.command.progress import Bars
from tmu_jax.command.saying import say
from tmu_jax.data import Dataset, ForgetProblem
from tmu_jax.preparation import Forgotten
from tmu_jax.preparation import forget as library_forget
from tmu_jax.requests import Ledger, Request, find_copies
from tmu_jax.stages import key_for
from tmu_jax.unlearning import Method, as_method

MOST_LINES = 24


class _Asked(NamedTuple):
    """A request that was checked, before anything is written."""

    ledger: Ledger
    folder: pathlib.Path
    output: pathlib.Path
    data: Dataset
    ids: list[str]
    start: Start
    method: Literal["auto"] | Method
    problem: ForgetProblem


def forget(chosen: options.Forget) -> bool:
    """Runs the command; whether the images were forgotten and the audit did not fail."""
    method = _method(chosen)
    inputs.check_number("--budget", chosen.budget, 0, 1)
    inputs.check_seed("--seed", chosen.seed)
    inputs.check_key(chosen.key)
    folder = inputs.check_new_folder("--ledger", chosen.ledger)
    ledger = preparing.open_ledger(folder)
    output, under_way = writing.check_output(chosen.output, ledger.requests)
    ids = inputs.read_ids(chosen.ids)
    model = inputs.read_model(chosen.model)
    data, left_out = inputs.read_data(chosen.data, chosen.test, chosen.image_size)
    inputs.check_fit(chosen.model, model, data)
    rows = inputs.rows_of(data, chosen.ids, ids)
    if under_way is not None and under_way.state == "closed":
        writing.unmark(output)
        say([f"request {under_way.number} was closed on {under_way.closed}; {output} is complete"])
        return True
    start = keeping.find_start(ledger, folder, model, data, seed=None, heldout=chosen.heldout, folds=chosen.folds)
    if isinstance(method, Method) and method.needs in ("bank", "datamodels") and not start.settings.folds:
        raise RefusedError(
            f"--method {chosen.method}: learns from a bank, and --folds 0 makes none; take another one, or "
            "prepare with --folds 2 in another --ledger"
        )
    with about("--ids", chosen.ids):
        problem = ledger.request(data, ids, with_copies=chosen.copies == "take", dry_run=True)
    _only_open(ledger, problem, under_way)
    asked = _Asked(ledger, folder, output, data, ids, start, method, problem)
    notes = [f"  note: {note}" for note in problem.notes]
    say(
        [f"forget {len(rows)} of {preparing.described(data)}", *preparing.left_out_line(left_out), *_why(start), *notes]
    )
    say(_plan(asked, chosen).lines())
    model_bytes = preparing.bytes_of(start.model)
    inputs.check_new_folder("--output", chosen.output, model_bytes)
    inputs.check_new_folder("--ledger", chosen.ledger, preparing.KEPT * model_bytes)
    if chosen.dry_run:
        return True
    with keeping.alone(folder):
        return _run(asked, chosen)


def _method(chosen: options.Forget) -> Literal["auto"] | Method:
    if chosen.method == "auto":
        return "auto"
    with about("--method", chosen.method):
        method = as_method(chosen.method)
        if method.reference == "original":
            raise RefusedError(f"--method {chosen.method}: forgets nothing; choose another one")
        return method.configured(None, {})


def _why(start: Start) -> list[str]:
    return [f"  {start.why}"] if start.why else []


def _only_open(ledger: Ledger, problem: ForgetProblem, under_way: Request | None) -> None:
    """A request starts from the model that the last one left, so one ends before another begins."""
    others = [one for one in ledger.requests if one.state == "open" and one.number != problem.request]
    if others:
        raise RefusedError(
            f"--ids: request {others[0].number}, of {others[0].time}, is still open; finish it first, by the command "
            "with its very ids (--method retrain forgets whatever else does not)"
        )
    if under_way is not None and under_way.number != problem.request:
        raise RefusedError(f"--output: holds what request {under_way.number} left; give a new folder")


def _plan(asked: _Asked, chosen: options.Forget) -> planning.Plan:
    start, removed = asked.start, asked.ledger.removed(asked.data, besides=asked.problem.request)
    stages = preparing.missing(start, asked.data, removed, asked.folder)
    parts = planning.of_stages(stages) + planning.of_request(
        asked.problem, start.model, asked.method, chosen.budget, start.settings.folds, start.prepared
    )
    return planning.plan(start.model, preparing.some_rows(asked.data, removed), parts)


def _run(asked: _Asked, chosen: options.Forget) -> bool:
    ledger, folder, output, data, start = asked.ledger, asked.folder, asked.output, asked.data, asked.start
    takes = chosen.copies == "take"
    problem = ledger.request(data, asked.ids, with_copies=takes, model=start.model if takes else None)
    own = next(one for one in ledger.requests if one.number == problem.request)
    prepared = preparing.prepared_of(start, data, ledger.removed(data, besides=own.number), folder)
    with Bars() as bars:
        found = library_forget(
            prepared,
            problem,
            method=asked.method,
            budget=chosen.budget,
            key=key_for(jax.random.key(chosen.seed), f"request {own.number}"),
            progress=bars,
        )
    if found.outcome == "nothing forgotten":
        say(
            [f"NOTHING WAS FORGOTTEN by {_by(found)}", found.reason, *_open_still(own), *_notes(found, asked)],
            MOST_LINES,
        )
        return False
    writing.mark(output, own)
    seen = prepared.problem(problem)
    copies = find_copies(seen, None if takes else start.model)
    known = writing.ids_of(data, seen)
    audit = library_audit(seen, found, original=start.model, copies=copies, ids=known)
    salt = folder / f"request-{own.number}.salt"
    writing.write_model(found, output, chosen.format)
    writing.write_labels(output / "labels.csv", known, found)
    if len(copies):
        writing.write_copies(output / "copies.csv", writing.known_copies(data, copies))
    writing.write_audit(audit, output, chosen.key, salt)
    is_done = audit.outcome != "failed"
    if is_done or chosen.accept:
        keeping.keep_after(folder, own.number, found, start.settings)
        ledger.close(problem, found)
        writing.unmark(output)
        keeping.drop_before(folder, own.number)
    summary = _summary(asked, chosen, own, found, audit, len(copies), salt)
    say([*summary, *_notes(found, asked)], MOST_LINES)
    return is_done


def _open_still(own: Request) -> list[str]:
    return [f"request {own.number} stays open: give the same command another --method, such as retrain, or --budget"]


def _notes(found: Forgotten, asked: _Asked) -> list[str]:
    """What is said of a result and was not before it, nor is its reason."""
    return [f"note: {note}" for note in found.notes if note not in (found.reason, *asked.problem.notes)]


def _by(found: Forgotten) -> str:
    return found.method.removesuffix(" ()")


def _summary(
    asked: _Asked,
    chosen: options.Forget,
    own: Request,
    found: Forgotten,
    audit: Audit,
    num_copies: int,
    salt: pathlib.Path,
) -> list[str]:
    failed = [check for check in audit.checks if check.status == "failed"]
    lines = [
        f"request {own.number}: {len(found.prepared.forgotten[-1])} images, {found.outcome} by {_by(found)}, "
        f"{100 * found.share:.1f} % of a retraining",
        found.reason,
        f"audit: {audit.outcome}",
        *(f"  failed: {check.name}: {check.sentence}" for check in failed),
        f"in {asked.output}: model/ ({chosen.format}), labels.csv, answer.html, evidence.json",
    ]
    if num_copies:
        lines.append(f"  copies.csv: {num_copies} copies or near copies that stay; look at them")
    lines.append(f"the salt of the evidence's ids: {salt} (for the requester alone)")
    if chosen.key is None:
        lines.append("the evidence is not signed; --key signs it")
    if failed and not chosen.accept and [check.name for check in failed] == ["copies"]:
        lines += [
            f"request {own.number} stays open for its copies alone, which no --method takes away: --accept closes it, "
            "and a second request with their ids, from copies.csv, removes them"
        ]
    elif failed and not chosen.accept:
        lines += [*_open_still(own), "  or --accept to close it as it is"]
    return lines
