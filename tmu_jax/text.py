"""What objects say of themselves: plain ASCII for a terminal, a small escaped table for a notebook."""

import html
from collections.abc import Iterable

_PLAIN = str.maketrans({"–": "-", "—": "-", "−": "-", "’": "'", "“": '"', "”": '"', "…": "...", "×": "x", "±": "+-"})


def ascii_text(text: str) -> str:
    r"""The text without any character that a terminal of another encoding cannot print; the rest as `\xe9`."""
    return text.translate(_PLAIN).encode("ascii", "backslashreplace").decode("ascii")


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
