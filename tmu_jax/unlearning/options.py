"""Options of methods: their names and kinds, whatever their values mean."""

import math
import numbers
from collections.abc import Mapping
from typing import Any


def checked_options(method: str, defaults: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Values for some of a method's options, whole numbers as `int` where the default is one.

    Args:
      method: its name.
      defaults: of all of its options.
      options: what is given for some.

    Raises:
      ValueError: for an option that it does not have, and where a number is due for what is none, or not finite.
    """
    unknown = sorted(set(options) - set(defaults))
    if unknown:
        known = ", ".join(sorted(defaults)) or "none"
        raise ValueError(f"{unknown[0]}={options[unknown[0]]!r} is no option of method {method!r}; it has: {known}")
    found = dict(options)
    for name, value in options.items():
        default = defaults[name]
        if isinstance(default, bool) or not isinstance(default, int | float):
            continue
        if isinstance(value, bool) or not (isinstance(value, numbers.Real) and math.isfinite(value)):
            raise ValueError(f"{name}={value!r} of method {method!r} must be a finite number")
        if isinstance(default, int) and float(value).is_integer():
            found[name] = int(float(value))
    return found
