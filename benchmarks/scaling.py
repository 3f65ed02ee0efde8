"""How the cost grows with images, classes and seeds: four sizes each, a straight line, and a picture."""

import functools
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import matplotlib
import numpy as np

import tmu_jax
from benchmarks.inputs import NUM_CLASSES
from tmu_jax.data import synthetic
from tmu_jax.training import Recipe
from tmu_jax.twin import TwinSettings

SIZES: dict[str, tuple[int, ...]] = {"images": (500, 1000, 2000, 4000), "classes": (1, 2, 3, 4), "seeds": (1, 2, 3, 4)}
TINY: dict[str, tuple[int, ...]] = {"images": (40, 60, 80, 100), "classes": (1, 2, 3, 4), "seeds": (1, 2, 3, 4)}
BASE_IMAGES, TINY_BASE_IMAGES = 1000, 40
RECIPE = Recipe(epochs=2, batch_size=64, learning_rate=0.05, schedule="cosine")
SETTINGS = TwinSettings(max_twin_epochs=5)


def cost(num_images: int, num_classes: int, num_seeds: int) -> float:
    """Seconds of a small Table 1: for each seed an original model, and for each class a request by `twin`.

    Args:
      num_images: training images.
      num_classes: classes, each a request of its own.
      num_seeds: repetitions.

    Returns:
      Wall-clock seconds, synchronised; the caller has compiled everything before.
    """
    data = synthetic.generate(num_train=num_images, num_test=NUM_CLASSES * 10)
    model = tmu_jax.models.create("small_resnet", NUM_CLASSES)
    start = time.perf_counter()
    for seed in range(num_seeds):
        original_key, unlearning_key = jax.random.split(jax.random.key(seed))
        original = None
        for target in range(num_classes):
            problem = tmu_jax.data.forget_subset(data, target_classes=[target], num_forget=2, seed=seed)
            original = original or tmu_jax.train(model, problem.train, key=original_key, recipe=RECIPE)
            unlearned = tmu_jax.unlearn("twin", problem, original, key=unlearning_key, settings=SETTINGS)
            jax.block_until_ready(unlearned.variables)
    return time.perf_counter() - start


def measure(
    say: Callable[[str], None], tiny: bool = False, measured: Callable[[int, int, int], float] = cost
) -> dict[str, Any]:
    """The cost at every size, and the straight line through it.

    Args:
      say: told of every size.
      tiny: sizes of a test.
      measured: the cost of (images, classes, seeds).

    Returns:
      By axis: "sizes", "seconds", "per_unit", "fixed" (of the line) and "worst" (largest distance from the line, as
      a fraction of the cost).
    """
    sizes, base = (TINY, TINY_BASE_IMAGES) if tiny else (SIZES, BASE_IMAGES)
    found = {}
    for axis, values in sizes.items():
        seconds = []
        for value in values:
            arguments = {"images": base, "classes": 1, "seeds": 1, axis: value}
            call = functools.partial(measured, arguments["images"], arguments["classes"], arguments["seeds"])
            # Programs depend on the number of images, so each is compiled by a first run.
            if axis == "images" or value == values[0]:
                call()
            seconds.append(call())
            say(f"  {value} {axis}: {seconds[-1]:.2f} s")
        found[axis] = {"sizes": list(values), "seconds": seconds, **line(values, seconds)}
    return found


def line(sizes: Sequence[int], seconds: Sequence[float]) -> dict[str, Any]:
    """The least-squares line through the cost, and how far off it is."""
    per_unit, fixed = np.polyfit(sizes, seconds, 1)
    fitted = fixed + per_unit * np.asarray(sizes)
    worst = float(np.max(np.abs(fitted - seconds) / seconds))
    return {
        "per_unit": float(per_unit),
        "fixed": float(fixed),
        "worst": worst,
        "sentence": f"{fixed:.3g} s + {per_unit:.3g} s each; at most {100 * worst:.0f} % off the line",
    }


def draw(found: dict[str, Any], path: pathlib.Path) -> None:
    """Draws the cost against each axis, as SVG and as PNG.

    Args:
      found: from `measure`.
      path: without a suffix.
    """
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(found), figsize=(4 * len(found), 3.2), layout="constrained")
    for axis, (name, part) in zip(np.atleast_1d(axes), found.items(), strict=True):
        sizes = np.asarray(part["sizes"])
        axis.plot(sizes, part["fixed"] + part["per_unit"] * sizes, color="0.6", label="straight line")
        axis.plot(sizes, part["seconds"], "o", color="tab:blue", label="measured")
        axis.set(xlabel=name, ylabel="seconds", ylim=(0, None), title=f"cost against {name}")
    np.atleast_1d(axes)[0].legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    for suffix in (".svg", ".png"):
        figure.savefig(path.with_suffix(suffix), dpi=150)
    pyplot.close(figure)
