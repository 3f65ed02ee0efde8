"""A parser that draws boxes, made to say what is wrong in one line; the experiments' commands use it too."""

import contextlib
import io
import re
from collections.abc import Callable
from typing import TypeVar

Parsed = TypeVar("Parsed")

_MOST = 600
"""Characters: a value of thousands is not said in full."""


def parsed(parse: Callable[[], Parsed]) -> Parsed | None:
    """What a parser of tyro's returns.

    Args:
      parse: calls it.

    Returns:
      The options; None where help was asked for and given.

    Raises:
      ValueError: for a command line that is none, with what the parser says, without its box.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return parse()
    except SystemExit as stop:
        if not stop.code:
            return None
        raise ValueError(_one_line(said.getvalue())) from None


def _one_line(text: str) -> str:
    """What the parser drew as a box, as a sentence."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    words = [re.sub(r"[^\x20-\x7e]|-{4,}", " ", line).strip() for line in plain.splitlines()]
    title, *rest = [line for line in words if line] or [""]
    sentence = " ".join(rest if rest and rest[0].startswith(title) else [title, *rest])
    return sentence if len(sentence) <= _MOST else f"{sentence[:_MOST]} ..."
