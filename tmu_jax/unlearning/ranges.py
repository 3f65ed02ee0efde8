"""Where a search for a method's recipe looks, and the attempts that it makes: the published recipe first."""

import dataclasses
import math
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from scipy.stats import qmc

from tmu_jax.training import Recipe

if TYPE_CHECKING:
    from tmu_jax.unlearning.method import Method

OF_RECIPE = ("learning_rate", "epochs")
"""What of a method's recipe may have a range, beside its options."""


@dataclasses.dataclass(frozen=True)
class Range:
    """What a number may be.

    Attributes:
      low: the least.
      high: the largest.
      scale: "linear" or "log", how values are spread between the two, or "whole" for whole numbers.
    """

    low: float
    high: float
    scale: Literal["linear", "log", "whole"] = "linear"

    def __post_init__(self) -> None:
        if self.scale not in ("linear", "log", "whole"):
            raise ValueError(f"scale={self.scale!r}; choose 'linear', 'log' or 'whole'")
        least = 0.0 if self.scale == "log" else -math.inf
        if not least < self.low <= self.high < math.inf:
            raise ValueError(
                f"low={self.low}, high={self.high} must be finite and in order, and above 0 where the scale is 'log'"
            )

    def at(self, fraction: float) -> float:
        """The value that so large a part of the range lies below, to three digits.

        Args:
          fraction: 0 <= fraction < 1.

        Returns:
          An int of whole numbers, else a float.
        """
        if self.scale == "whole":
            return int(self.low + math.floor(fraction * (self.high - self.low + 1)))
        if self.scale == "log":
            return float(f"{self.low * (self.high / self.low) ** fraction:.3g}")
        return float(f"{self.low + fraction * (self.high - self.low):.3g}")


def attempt(method: "Method", number: int, seed: int = 0) -> "Method":
    """A method with the recipe of an attempt: 0 is its own, the others are spread evenly over its ranges.

    Args:
      method: with ranges.
      number: of the attempt, from 0 on.
      seed: of the spreading, a scrambled Halton sequence: the first attempts are the same however many follow.

    Returns:
      The method with values for whatever has a range.

    Raises:
      ValueError: for a method without ranges.
    """
    if not method.ranges:
        raise ValueError(f"method={method.name!r} has no ranges to search: it has nothing to tune")
    if number == 0:
        return method
    points = qmc.Halton(len(method.ranges), rng=np.random.default_rng(seed)).random(number)
    values: dict[str, Any] = {
        name: one.at(float(fraction)) for (name, one), fraction in zip(method.ranges.items(), points[-1], strict=True)
    }
    options = {name: value for name, value in values.items() if name in method.options}
    of_recipe = {name: value for name, value in values.items() if name not in options}
    # A range of the recipe's is there only where the recipe is the method's own.
    recipe = dataclasses.replace(method.recipe, **of_recipe) if isinstance(method.recipe, Recipe) else None
    return method.configured(recipe, options)
