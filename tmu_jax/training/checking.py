"""Does a model fit a data set? What finished models and images most often disagree in, in one message."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tmu_jax.boundary import checked
from tmu_jax.cpu import native
from tmu_jax.cpu.convolution import fast_convolutions
from tmu_jax.data import Dataset, Pool, Split
from tmu_jax.timing import Stopwatch
from tmu_jax.training.adapter import Recorder
from tmu_jax.training.function_adapter import FunctionAdapter
from tmu_jax.training.images import normalize, one_hot, pixel_statistics
from tmu_jax.training.inference import predict
from tmu_jax.training.linen import as_adapter
from tmu_jax.training.loop import fit
from tmu_jax.training.recipe import Normalization, Recipe, TrainedModel
from tmu_jax.training.stream import Stream

MOST_IMAGES = 1000
"""Training and test images that accuracies are of, at most."""
TIMED_STEPS = 3
_ROUNDING = 1e-5
BELOW = 2.0
"""Points that an accuracy may lie below what was expected, beside three standard errors."""
_OTHER_UNITS = {
    "normalization=None": (0.0, 1.0),
    "normalization=(0.5, 0.5)": (0.5, 0.5),
    "normalization=(0, 1 / 255)": (0.0, 1 / 255),
    "normalization=((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


@dataclasses.dataclass(frozen=True)
class Check:
    """What `check` finds; `print` it.

    Attributes:
      problems: a sentence each, with the remedy; none where all fits.
      notes: what a reader should know.
      accuracy: percent of test images; None where the model could not be run.
      train_accuracy: percent of training images.
      images_per_second: of training, without compilation.
    """

    problems: tuple[str, ...]
    notes: tuple[str, ...] = ()
    accuracy: float | None = None
    train_accuracy: float | None = None
    images_per_second: float | None = None

    def __str__(self) -> str:
        count = len(self.problems)
        lines = [f"{count} problem{'s' * (count > 1)}" if self.problems else "the model fits the data"]
        lines += [f"  problem: {sentence}" for sentence in self.problems]
        if self.accuracy is not None:
            lines.append(f"  {self.accuracy:.1f} % of test images right, {self.train_accuracy:.1f} % of training ones")
        if self.images_per_second is not None:
            lines.append(f"  training takes {self.images_per_second:.0f} images per second")
        return "\n".join([*lines, *(f"  {sentence}" for sentence in self.notes)])


@checked
def check(model: TrainedModel, data: Dataset, expected_accuracy: float | None = None) -> Check:
    """Whether a model fits a data set, before anything is prepared or unlearned; it takes seconds.

    Args:
      model: from `wrap`, or trained here.
      data: the images that it was trained on, and test images.
      expected_accuracy: percent of test images that it gets right where it comes from. Without it only an accuracy near
        chance is seen, and a normalisation in slightly other units is not.

    Returns:
      All that was found, as far as the model could be run.

    Raises:
      ValueError: for an accuracy that is no percentage.
    """
    if expected_accuracy is not None and not 1 < expected_accuracy <= 100:
        raise ValueError(f"expected_accuracy={expected_accuracy} must be percent, such as 94.0")
    problems = list(_pixels(data))
    recorder = Recorder(None)
    problems += _misfits(model, data.pool, recorder)
    if problems:
        return Check(tuple(problems), _embedding_note(model, recorder))
    test, train = (_some(data, kind) for kind in ("test", "train"))
    outputs = predict(model, test)[0]
    accuracies = [_accuracy(outputs, test), _accuracy(predict(model, train)[0], train)]
    problems += _probabilities(outputs, as_adapter(model.module).output)
    if not problems:
        problems += _accuracies(model, test, accuracies, expected_accuracy)
    try:
        speed = training_speed(model, train)
    except Exception as error:
        problems.append(f"the model runs, and cannot be trained: {_first_line(error)}")
        return Check(tuple(problems), (), accuracies[0], accuracies[1])
    notes = (*_embedding_note(model, recorder), *_convolution_note(model, data))
    return Check(tuple(problems), notes, accuracies[0], accuracies[1], speed)


def refuse_misfit(model: TrainedModel, pool: Pool) -> None:
    """Raises ValueError where a model cannot take a pool's images, or has not as many outputs as there are classes.

    Nothing is computed; what only its answers tell (probabilities, other units) `check` finds.
    """
    for sentence in _misfits(model, pool, Recorder(None)):
        raise ValueError(f"the model does not fit the images: {sentence}")


def refuse_probabilities(model: TrainedModel, data: Dataset) -> None:
    """Raises ValueError where a model returns probabilities, or what is not finite, on test images."""
    for sentence in _probabilities(predict(model, _some(data, "test"))[0], as_adapter(model.module).output):
        raise ValueError(f"the model does not fit the images: {sentence}")


def outputs_on(model: TrainedModel, shape: tuple[int, ...], recorder: Recorder | None = None) -> tuple[Any, Any]:
    """Shapes of the logits and embeddings of two images of this shape; nothing is computed."""
    adapter = as_adapter(model.module)
    if recorder is not None and isinstance(adapter.embedding, str):
        recorder.wanted = adapter.embedding

    def run(variables: Any, images: jax.Array) -> Any:
        pixels = normalize(images, model.normalization)
        return adapter.run(variables, pixels, train=False, keys={}, recorder=recorder)[0]

    with fast_convolutions():
        return jax.eval_shape(run, model.variables, jax.ShapeDtypeStruct((2, *shape), jnp.float32))


def training_speed(model: TrainedModel, images: Split) -> float:
    """Images a second of training steps, compiled before; the model is left intact."""
    recipe = model.recipe or Recipe(batch_size=min(128, len(images)))
    recipe = dataclasses.replace(recipe, epochs=1, learning_rate=1e-12, schedule="constant")
    pool, rows = images.pool, np.resize(images.indices, TIMED_STEPS * recipe.batch_size)
    targets, weights = one_hot(pool.labels, pool.num_classes), np.ones(len(pool.labels), np.float32)
    for _ in range(2):
        with Stopwatch() as watch:
            fit(
                model.module, model.variables, model.normalization, pool, Stream((rows,)), targets, weights, recipe,
                jax.random.key(0),
            )  # fmt: skip
    return len(rows) / watch.seconds


def _misfits(model: TrainedModel, pool: Pool, recorder: Recorder) -> Iterator[str]:
    """What the shapes tell; the recorder learns where the embedding comes from."""
    shape, own = pool.images.shape[1:], model.normalization.mean.size
    if own not in (1, shape[-1]):
        yield f"its normalization is of {own} channels, and the images have {shape[-1]}"
        return
    try:
        logits, embedding = outputs_on(model, shape, recorder)
    except Exception as error:  # Whatever a user's own code raises is what they must read.
        yield _cannot_run(model, shape, error)
    else:
        yield from _outputs(logits, embedding, recorder, pool.num_classes)


def _pixels(data: Dataset) -> Iterator[str]:
    largest = int(_some(data, "train").images.max())
    if largest <= 1:
        yield f"the largest pixel is {largest}, of 0 to 255: they seem to be in units of 0..1; multiply them by 255"


def _cannot_run(model: TrainedModel, shape: tuple[int, ...], error: Exception) -> str:
    height, width, channels = shape
    sentence = f"the model cannot take images float32[n, {height}, {width}, {channels}]: {_first_line(error)}"
    trials = {
        (channels, height, width): "; it takes channels first: give wrap "
        "preprocess=lambda images: images.transpose(0, 3, 1, 2)",
        (width, channels, height): "; the data's images have their channels first: give them as [n, height, width, "
        "channels]",
    }
    for other, remedy in trials.items():
        try:
            outputs_on(model, other)
        except Exception:
            continue
        return sentence + remedy
    return sentence


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]


def _outputs(logits: Any, embedding: Any, recorder: Recorder, classes: int) -> Iterator[str]:
    found = logits.shape[1]
    if found == classes:
        return
    if recorder.source == "second output" and embedding.shape[1] == classes:
        yield (
            f"the first of the model's two outputs has {found} numbers and the second {classes}, as many as there are "
            "classes: it must return (logits, embedding), in this order"
        )
    elif found == 1:
        yield f"the model has one output, and there are {classes} classes" + (
            "; of one logit of class 1: give wrap output='sigmoid'" if classes == 2 else ""
        )
    else:
        yield f"the model has {found} outputs, and the data {classes} classes: their labels must be the same"


def _probabilities(outputs: np.ndarray, output: str) -> Iterator[str]:
    """By logits as `run` gives them: of a sigmoid's z they are (0, z), of several log sigmoid(z)."""
    least, most = (0.0, 1.0) if output == "logits" or outputs.shape[1] == 2 else np.log([0.5, 1 / (1 + np.exp(-1))])
    if not np.isfinite(outputs).all():
        yield "the model's outputs are not all finite"
    elif np.ptp(outputs) and outputs.min() >= least - _ROUNDING and outputs.max() <= most + _ROUNDING:
        remedy = "leave out the softmax or sigmoid, or return their logarithms or log-odds"
        yield f"the model returns probabilities (they all lie in 0..1); it must return logits: {remedy}"


def _accuracies(
    model: TrainedModel, test: Split, accuracies: list[float], expected_accuracy: float | None
) -> Iterator[str]:
    on_test, on_train = accuracies
    chance = 100 * np.bincount(test.labels).max() / len(test)
    least, reason = chance, f"which is no better than one class for all ({chance:.1f} %)"
    if expected_accuracy is not None:
        least, reason = expected_accuracy, f"and {expected_accuracy:g} % were expected"
    error = 300 * math.sqrt(least / 100 * (1 - least / 100) / len(test))
    is_low = on_test < least - error - BELOW if expected_accuracy is not None else max(accuracies) < least + error
    if not is_low:
        return
    sentence = f"it gets {on_test:.1f} % of test and {on_train:.1f} % of training images right, {reason}"
    better, best = _best_other_units(model, test)
    if best > on_test + max(BELOW, error / 2):
        yield f"{sentence}; with {better} it is {best:.1f} %: the normalisation seems to be in other units"
    else:
        yield f"{sentence}: look at the normalisation, the order of the channels and of the classes"


def _best_other_units(model: TrainedModel, test: Split) -> tuple[str, float]:
    """The other preparation of the pixels that gets most test images right, and its percentage."""
    channels = test.pool.images.shape[-1]
    own = pixel_statistics(test)
    units: dict[str, tuple[Any, Any]] = {**_OTHER_UNITS, "the pixels' own mean and standard deviation": own}
    found = {}
    for name, (mean, std) in units.items():
        if np.size(mean) in (1, channels):
            parts = (np.broadcast_to(np.asarray(part, np.float32), channels).copy() for part in (mean, std))
            other = dataclasses.replace(model, normalization=Normalization(*parts))
            found[name] = _accuracy(predict(other, test)[0], test)
    reversed_pool = Pool(np.ascontiguousarray(test.images[..., ::-1]), test.labels, test.num_classes)
    every = Split(reversed_pool, np.arange(len(test), dtype=np.int32))
    found["the channels reversed (preprocess=lambda images: images[..., ::-1])"] = _accuracy(
        predict(model, every)[0], every
    )
    best = max(found, key=lambda name: found[name])
    return best, found[best]


def _embedding_note(model: TrainedModel, recorder: Recorder) -> tuple[str, ...]:
    if recorder.source != "logits":
        return (f"the embedding is the {recorder.source}",) if recorder.source.startswith("input") else ()
    return (
        "the embedding is the logits themselves, for no other is known: a layer before them tells more; give wrap an "
        "embedding",
    )


def _convolution_note(model: TrainedModel, data: Dataset) -> tuple[str, ...]:
    """On a CPU, whether any convolution of the training is XLA's own."""
    if not native.is_wanted():
        return ()

    def run(variables: Any, images: jax.Array) -> Any:
        with fast_convolutions():
            return as_adapter(model.module).run(variables, images, train=False, keys={})[0]

    images = jax.ShapeDtypeStruct((2, *data.pool.images.shape[1:]), jnp.float32)
    program = str(jax.make_jaxpr(run)(model.variables, images))
    slow, fast = (program.count(name) for name in ("conv_general_dilated[", "tmu_jax_forward["))
    if not slow:
        return ("its convolutions are the fast ones for CPUs",) if fast else ()
    is_function = isinstance(model.module, FunctionAdapter)
    layers = "; hand tmu_jax.cpu.conv_general_dilated to your layers" if is_function else ""
    return (
        f"{slow} of {slow + fast} convolutions are XLA's own, which on a CPU is many times slower inside a compiled "
        f"loop: ours takes float32, channels last, square windows, no groups and no dilation{layers}",
    )


def _some(data: Dataset, kind: str) -> Split:
    """At most `MOST_IMAGES` of the training or test images, evenly spread."""
    first, count = (0, len(data.train_labels)) if kind == "train" else (len(data.train_labels), len(data.test_labels))
    return Split(data.pool, np.unique(np.linspace(first, first + count - 1, MOST_IMAGES).astype(np.int32)))


def _accuracy(logits: np.ndarray, split: Split) -> float:
    return 100 * float(np.mean(logits.argmax(-1) == split.labels))
