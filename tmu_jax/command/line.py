"""The command line: five commands, their options and their exit statuses."""

import contextlib
import io
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import tyro

from tmu_jax.cache import use_compilation_cache
from tmu_jax.command import auditing, forgetting, options, preparing
from tmu_jax.command.inputs import RefusedError
from tmu_jax.command.saying import stop_saying
from tmu_jax.resuming import stop_on_terminate
from tmu_jax.text import ascii_text

DONE, UNEXPECTED, REFUSED, NOT_FORGOTTEN, INTERRUPTED = 0, 1, 2, 3, 130
"""Exit statuses; `saying.UNHEARD` is another."""

_RUN: dict[type, Callable[[Any], bool]] = {
    options.Check: auditing.check,
    options.Prepare: preparing.prepare,
    options.Forget: forgetting.forget,
    options.Audit: auditing.audit,
    options.Verify: auditing.verify,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs `tmu-jax`.

    Args:
      arguments: of the command line; the process's own by default.

    Returns:
      The exit status: 0 for success; 2 for an option or input that cannot be used, with one line on stderr; 3 where
      nothing was forgotten, or a check, an audit or a verification fails; 130 when interrupted, by SIGTERM too; 141
      where whoever read its output has gone; 1 for what nobody expected. A traceback is shown with `--debug` alone.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    is_debug = "--debug" in arguments
    stop_on_terminate()
    try:
        chosen = _parse(arguments)
        if chosen is None:
            sys.stdout.flush()
            return DONE
        use_compilation_cache()
        return DONE if _RUN[type(chosen)](chosen) else NOT_FORGOTTEN
    except RefusedError as error:
        return _complain(str(error), REFUSED, is_debug)
    except KeyboardInterrupt:
        return _complain("stopped; the same command goes on with what was at work", INTERRUPTED, is_debug)
    except BrokenPipeError:
        return stop_saying()
    except Exception as error:
        words = f"{type(error).__name__}: {error}"
        return _complain(f"unexpected {words[:500]} (--debug shows where it came from)", UNEXPECTED, is_debug)


def _parse(arguments: list[str]) -> options.Options | None:
    """The options; None where help was asked for and given.

    Raises:
      RefusedError: for a command line that is none.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.extras.subcommand_cli_from_dict(
                options.COMMANDS,
                prog="tmu-jax",
                description="Forget training images of a trained classifier, and show that they are gone.",
                args=arguments,
                config=(tyro.conf.FlagCreatePairsOff,),
            )
    except SystemExit as stop:
        if not stop.code:
            return None
        raise RefusedError(_one_line(said.getvalue())) from None


def _one_line(text: str) -> str:
    """What the parser drew as a box, as a sentence."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    words = [re.sub(r"[^\x20-\x7e]", " ", line).strip() for line in plain.splitlines()]
    return " ".join(line for line in words if line)


def _complain(sentence: str, status: int, is_debug: bool) -> int:
    """Says what is wrong in one line; returns the exit status."""
    if is_debug:
        traceback.print_exc()
    print(ascii_text(f"tmu-jax: {' '.join(sentence.split())}"), file=sys.stderr)
    return status
