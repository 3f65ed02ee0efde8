"""How numbers, findings and names are written; the only place where a figure becomes text."""

import html
import re
import unicodedata
from collections.abc import Mapping

from experiments.report.intervals import Estimate

MISSING = "–"
BETTER, WORSE, NOT_SHOWN = "better", "worse", "no difference shown"
LOWER_IS_BETTER = ("forget_gap", "activation_distance", "kl", "js")
_DIGITS = {"test_accuracy": 2, "retain_accuracy": 2, "activation_distance": 3, "kl": 3, "js": 3, "predictor_brier": 3}
_DIGITS |= {"test_accuracy_outside_heldout": 2, "heldout_predictor_brier": 3}
_DIGITS |= {"rehearsed_distance": 3}
_NAMES = {"retrain": "gold (retrain)", "floor_gold_gold": "gold-gold", "floor_count_matched": "count-matched"}


def text(estimate: Estimate, key: str = "", interval: bool = True) -> str:
    """`85.1`, `85.1 ± 0.2` over seeds, `7.1 [5.2, 9.0]` over images or, where there is no number, a dash.

    Args:
        estimate: the figure.
        key: its readout, which says how many decimals are shown; shares are shown in percent.
        interval: whether to show it.
    """
    if estimate.mean is None:
        return MISSING
    scale, digits = 100.0 if "share" in key else 1.0, _DIGITS.get(key, 1)
    mean, low, high = (scale * (value or 0.0) for value in (estimate.mean, estimate.low, estimate.high))
    if not interval or not estimate.has_interval:
        return _number(mean, digits)
    if estimate.source == "seeds":
        return f"{_number(mean, digits)} ± {_number((high - low) / 2, digits)}"
    return f"{_number(mean, digits)} [{_number(low, digits)}, {_number(high, digits)}]"


def _number(value: float, digits: int) -> str:
    # Adding zero turns the negative zero of a rounded figure into a plain one.
    return f"{round(value, digits) + 0.0:.{digits}f}"


def finding(difference: Estimate, key: str) -> str | None:
    """`better`, `worse` or, where the interval of the difference holds 0, `no difference shown`; None without one."""
    if difference.low is None or difference.high is None:
        return None
    if difference.low <= 0 <= difference.high:
        return NOT_SHOWN
    return BETTER if (difference.high < 0) == (key in LOWER_IS_BETTER) else WORSE


def display_name(method: str) -> str:
    """A method's or floor's name as it stands in headings."""
    return _NAMES.get(method, method.removeprefix("floor_").replace("_", " "))


def plain(value: object) -> str:
    """A text without what moves a terminal's cursor, reorders or cannot be encoded: written as Python escapes it."""
    return "".join(c if unicodedata.category(c) not in ("Cc", "Cf", "Cs") else ascii(c)[1:-1] for c in str(value))


def to_markdown(value: object) -> str:
    """A text as it is read, no part of it taken for markup: HTML, tables, code, links and pictures."""
    return re.sub(r"([|`*\\]|(?<=\])\()", r"\\\1", html.escape(plain(value), quote=False))


def option_words(options: Mapping[str, object]) -> str:
    """A method's options and their values, numbers to three digits."""
    return ", ".join(
        f"{key} {value:.3g}" if isinstance(value, int | float) else f"{key} {value}" for key, value in options.items()
    )
