"""Values that no caller means: drawn by hypothesis, the known troublemakers first."""

import datetime
import decimal
import fractions
import math
import pathlib
from typing import Any

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

FEW, MANY = 12, 125
"""Cases of a property: in the default run, always the same ones; and of a slow run, new ones each time."""

NUMBERS = (0, -1, 1, 2**31, 2**32 + 1, 2**63, 2**64, 10**9, 10**20, -(10**30), 10**400, 0.5, -0.0, 1e-300, 1e300)
NUMBERS += (math.nan, math.inf, -math.inf, True, 1 + 1j, decimal.Decimal("NaN"), fractions.Fraction(1, 3))
TEXTS = ("", "7", "no such", "../..", "\x1b]0;owned\x07", "\x1b[2J", "a\nb\rc", "\0", "\udcff", "\ud800", "\u202eg.exe")
TEXTS += (
    "<script>alert(1)</script>",
    "![p](x.svg)",
    "[x](javascript:alert(1))",
    "x" * 5000,
    "9" * 5000,
    "%s{}",
    "\ufeff",
)
THINGS = (None, b"\xff", [], [[]], [1, [2]], [None], {}, {5}, (), range(3), object(), len, Exception("x"))
THINGS += (pathlib.Path("/proc/x"), datetime.date(2020, 1, 1), [2**64], [math.nan], ["a", 5], iter([1]))
ARRAYS = (
    *(np.zeros(0), np.zeros((0, 4, 4, 3), np.uint8), np.zeros((2, 2)), np.array(5), np.array([2**32 + 1])),
    *(np.array([2**64 - 1], np.uint64), np.array([math.nan, math.inf]), np.array(["a", "\udcff"])),
    *(np.array([None, 1], object), np.array(["2020"], "datetime64[Y]"), np.zeros((3, 4, 4, 3), np.complex64)),
    *(np.full((3, 4, 4, 3), math.nan), np.full((4, 4, 4, 3), 1e30), np.array([True, False])),
    *(np.zeros(3, [("a", "i4")]), np.zeros((2, 10**5, 0))),
)
KNOWN: tuple[Any, ...] = (*NUMBERS, *TEXTS, *THINGS, *ARRAYS)

texts = st.sampled_from(TEXTS) | st.text(st.characters(exclude_characters="/"), max_size=20)
"""Also with surrogates and control characters; what hypothesis makes up names no folder elsewhere."""
numbers = st.sampled_from(NUMBERS) | st.integers() | st.floats()
arrays = hnp.arrays(hnp.scalar_dtypes(), hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
anything = st.sampled_from(KNOWN) | numbers | texts | arrays | st.lists(numbers | texts, max_size=4)


def explore(cases: int) -> settings:
    """How many cases are tried, and how: a default run always tries the same."""
    return settings(
        max_examples=cases,
        derandomize=cases < MANY,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
