"""What is said on the terminal: ASCII, in lines of at most 80 columns."""

import os
import sys
import textwrap
from collections.abc import Iterable

from tmu_jax.text import ascii_text

WIDTH = 80
UNHEARD = 141
"""Exit status of a command whose reader has gone: that of a shell's commands, 128 + SIGPIPE."""


def say(sentences: Iterable[str], most: int | None = None) -> None:
    """Prints lines, the long ones wrapped.

    Args:
      sentences: what to say; lines of it stay lines, with their indentation.
      most: lines; what is beyond is cut, and said to be. None: all.
    """
    lines: list[str] = []
    for line in "\n".join(sentences).splitlines():
        text = ascii_text(line)
        indent = " " * (len(text) - len(text.lstrip()))
        lines += textwrap.wrap(text, WIDTH, subsequent_indent=f"{indent}  ") or [""]
    if most is not None and len(lines) > most:
        lines = [*lines[: most - 1], "  ..."]
    print("\n".join(lines), flush=True)


def stop_saying() -> int:
    """After a `BrokenPipeError`: whoever read the output has gone, as `head` does. Returns the exit status.

    What is still to be printed goes nowhere, for Python would complain of it on leaving.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return UNHEARD
