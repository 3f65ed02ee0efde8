"""The command line: five commands, their options and their exit statuses."""

import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import tyro

from tmu_jax.cache import use_compilation_cache
from tmu_jax.command import auditing, forgetting, options, preparing
from tmu_jax.command.inputs import RefusedError
from tmu_jax.command.parsing import parsed
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
      The exit status: 0 for success; 2 for an option or input that cannot be used and a disk that cannot be written
      to, with one line on stderr; 3 where nothing was forgotten, or a check, an audit or a verification fails; 130
      when interrupted, by SIGTERM too; 141 where whoever read its output has gone; 1 for what nobody expected. A
      traceback is shown with `--debug` alone.
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
    except BrokenPipeError:
        return stop_saying()
    except (RefusedError, OSError) as error:  # A disk that fills up says itself where.
        return _complain(str(error), REFUSED, is_debug)
    except KeyboardInterrupt:
        return _complain("stopped; the same command goes on with what was kept", INTERRUPTED, is_debug)
    except Exception as error:
        words = f"{type(error).__name__}: {error}"
        return _complain(f"unexpected {words[:500]} (--debug shows where it came from)", UNEXPECTED, is_debug)


def _parse(arguments: list[str]) -> options.Options | None:
    """The options; None where help was asked for and given.

    Raises:
      RefusedError: for a command line that is none.
    """
    try:
        return parsed(
            lambda: tyro.extras.subcommand_cli_from_dict(
                options.COMMANDS,
                prog="tmu-jax",
                description="Forget training images of a trained classifier, and show that they are gone.",
                args=arguments,
                config=(tyro.conf.FlagCreatePairsOff,),
            )
        )
    except ValueError as error:
        raise RefusedError(str(error)) from None


def _complain(sentence: str, status: int, is_debug: bool) -> int:
    """Says what is wrong in one line; returns the exit status."""
    if is_debug:
        traceback.print_exc()
    print(ascii_text(f"tmu-jax: {' '.join(sentence.split())}"), file=sys.stderr)
    return status
