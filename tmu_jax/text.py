"""What objects say of themselves: plain ASCII for a terminal, a small escaped table for a notebook."""

import html
import json
from collections.abc import Iterable, Mapping
from typing import Any

_PLAIN = str.maketrans({"–": "-", "—": "-", "−": "-", "’": "'", "“": '"', "”": '"', "…": "...", "×": "x", "±": "+-"})
_STEERING = {code: f"\\x{code:02x}" for code in (*range(32), 127) if chr(code) not in "\n\t"}


def ascii_text(text: str) -> str:
    r"""The text without what a terminal of another encoding cannot print, or is steered by; such as `\xe9`, `\x1b`."""
    return text.translate(_PLAIN | _STEERING).encode("ascii", "backslashreplace").decode("ascii")


def parse_json(text: str | bytes, **options: Any) -> Any:
    """What a JSON text says; of anything else, lists in lists without end included, a ValueError.

    Args:
      text: the text.
      **options: of `json.loads`.
    """
    try:
        return json.loads(text, **options)
    except RecursionError:
        raise ValueError("it holds lists or objects in one another without end") from None


def html_table(caption: str, rows: Iterable[tuple[str, object]]) -> str:
    """A table of two columns, escaped, for `_repr_html_`.

    Args:
      caption: above it.
      rows: what, and its value; rows whose value is None are left out.

    Returns:
      HTML without style or script.
    """
    escaped = [(html.escape(str(name)), html.escape(str(value))) for name, value in rows if value is not None]
    lines = [f'<tr><th scope="row" style="text-align:left">{name}</th><td>{value}</td></tr>' for name, value in escaped]
    return f"<table><caption>{html.escape(caption)}</caption><tbody>{''.join(lines)}</tbody></table>"


def option_words(options: Mapping[str, object]) -> str:
    """Options and their values, numbers to three digits."""
    return ", ".join(
        f"{name} {value:.3g}" if isinstance(value, int | float) else f"{name} {value}"
        for name, value in options.items()
    )
