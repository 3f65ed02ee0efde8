"""Formulas as MathML, made when the site is built: browsers show it by themselves, so no page needs a script for it."""

import html
import re
from typing import Any

from latex2mathml.converter import convert

_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.S)


def on_page_content(content: str, **kwargs: Any) -> str:
    """Converts what the arithmatex extension has marked."""
    return _FORMULA.sub(_as_mathml, content)


def _as_mathml(found: re.Match[str]) -> str:
    tag, bracket, formula = found.groups()
    mathml = convert(html.unescape(formula).strip(), display="block" if bracket == "[" else "inline")
    return f'<{tag} class="arithmatex">{mathml}</{tag}>'
