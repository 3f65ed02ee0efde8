"""Everything that determines the cells of a run, and whether an output folder may hold it."""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax

import tmu_jax
from experiments.report.files import read_config, read_records
from tmu_jax import twin
from tmu_jax.data import HeldoutSource, Ratio
from tmu_jax.data.checks import check_seed
from tmu_jax.models import Architecture
from tmu_jax.preparation import BankSettings
from tmu_jax.training import Recipe, Schedule
from tmu_jax.unlearning.shipped import ships

_RATE_FACTORS = (1e-3, 1e3)
"""What is beyond is a slip of the keyboard."""
_ADDED = (
    "unlearning_start",
    "unlearning_noise",
    "tuned_share",
    "twin_model",
    "twin_settings.curriculum_data",
    "twin_settings.predictor_epochs",
)
"""Settings that folders were made without before; those have their defaults."""
MAY_GROW = ("classes", "num_forget", "seeds", "methods", "by_class")
"""Settings that may differ from those of an output folder: they add cells and alter none."""


class Seeds(NamedTuple):
    """What a repetition draws at random: independent streams, one for each purpose.

    Attributes:
      split: which images are forgotten, and which are D_test.
      training: initialisation and order of the original and the gold models.
      unlearning: of the twin and curriculum models, the predictor and the methods.
    """

    split: int
    training: int
    unlearning: int


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything that determines the cells of one arm of a run, with nothing left to choose.

    Attributes:
      experiment: the command's name.
      dataset: name of the data set.
      data_fingerprint: of its contents, after `num_train` was applied.
      preset: which preset set the defaults.
      arch: architecture.
      num_train: number of training images.
      recipe: how the original and the gold models are trained.
      requests: "each" (one request a class) or "combined" (one request over all classes).
      classes: classes to forget images of.
      num_forget: forgotten images of each class, or "all".
      seeds: one repetition each.
      methods: names in `METHODS`.
      heldout_source: "test" or "train".
      ratio: "dataset", "class" or "all".
      twin_settings: of the twin problem.
      variant: the arm's name where a run compares several, "default" otherwise.
      unlearning_schedule: learning rate of every method's fine-tuning; None: each method's own.
      unlearning_rate_factor: multiplies the learning rate of every method's fine-tuning.
      unlearning_start: whose weights the twin methods fine-tune: "original" or "twin", see `Method.start`.
      unlearning_noise: on the images of the fine-tuning of every method that has a recipe, see `Method.image_noise`.
      tuned_share: share of every class that is kept out of training for the twin model, see `forget_subset`.
      unlearn: False stops the twin methods at their predicted labels.
      share_curriculum: with one request a class, whether one curriculum model serves the requests of all classes.
      split_seed: holds the split still over the repetitions; None: the repetition's seed.
      training_seed: the same for the trainings.
      unlearning_seed: the same for the unlearning.
      bank: the bank of models, for methods that need one.
      twin_model: whether the bank's labels also see how well an image is known, which takes a twin model; where recipes
        are rehearsed one is there, and they do.
      budget: the share of retraining that a method may spend, its recipe chosen by rehearsal; None: its own recipe.
      by_class: whether a combined request has a row for each of its classes beside the one for all.
      recipes: name or path of the tuned recipes that methods have, see `tmu_jax.tuned`; None: their own.
      attempt: number of the try of a search that every method's recipe is, see `tmu_jax.tune`; None: none.
      in_turn: into how many requests the forgotten images are cut, one after another; 0: one request.
      compute: backend and version of the package; models made by two of them do not mix in one table.
    """

    experiment: str
    dataset: str
    data_fingerprint: str
    preset: str
    arch: Architecture
    num_train: int
    recipe: Recipe
    requests: str
    classes: tuple[int, ...]
    num_forget: int | Literal["all"]
    seeds: tuple[int, ...]
    methods: tuple[str, ...]
    heldout_source: HeldoutSource = "test"
    ratio: Ratio = "dataset"
    twin_settings: twin.TwinSettings = twin.DEFAULT_SETTINGS
    variant: str = "default"
    unlearning_schedule: Schedule | None = None
    unlearning_rate_factor: float = 1.0
    unlearn: bool = True
    share_curriculum: bool = True
    split_seed: int | None = None
    training_seed: int | None = None
    unlearning_seed: int | None = None
    bank: BankSettings = BankSettings()  # noqa: RUF009
    twin_model: bool = False
    budget: float | None = None
    recipes: str | None = None
    attempt: int | None = None
    in_turn: int = 0
    by_class: bool = True
    unlearning_start: Literal["original", "twin"] = "original"
    unlearning_noise: float = 0.0
    tuned_share: float = 0.0
    compute: str = dataclasses.field(default_factory=lambda: f"{jax.default_backend()}, tmu_jax {tmu_jax.__version__}")

    def __post_init__(self) -> None:
        check_seeds(self)
        least, most = _RATE_FACTORS
        if not least <= self.unlearning_rate_factor <= most:
            raise ValueError(
                f"unlearning_rate_factor={self.unlearning_rate_factor} must lie within {least:g}..{most:g}"
            )
        if self.recipe.batch_size > self.num_train:
            raise ValueError(
                f"batch_size={self.recipe.batch_size} must be at most {self.num_train}, the training images"
            )

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        recipes = None if self.recipes is None else recipes_name(self.recipes)
        return json.loads(json.dumps(dataclasses.asdict(self) | {"recipes": recipes}))

    def seeds_of(self, seed: int) -> Seeds:
        """What the repetition `seed` draws with."""
        held = (self.split_seed, self.training_seed, self.unlearning_seed)
        return Seeds(*(seed if value is None else value for value in held))


def recipes_name(recipes: str) -> str:
    """What records call tuned recipes: of a file the name, without the folder, and a hash of its bytes."""
    path = pathlib.Path(recipes)
    if ships(recipes) or not path.is_file():
        return recipes
    return f"{path.name.removesuffix('.json')}-{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}"


def check_seeds(given: Any) -> None:
    """Raises ValueError for a seed, of options or of settings, that would give another one's key."""
    for seed in given.seeds:
        check_seed("seeds", seed)
    for name in ("split_seed", "training_seed", "unlearning_seed"):
        if getattr(given, name) is not None:
            check_seed(name, getattr(given, name))


def check_output(arms: Sequence[Settings], output: pathlib.Path) -> None:
    """Refuses an output folder whose cells this run would alter.

    Args:
      arms: of the new run; arms that the folder does not hold may be added.
      output: its folder.

    Raises:
      ValueError: naming the fields that differ.
    """
    held = read_arms(output)
    records = read_records(output) if (output / "results.jsonl").exists() else []
    orphans = {record.get("variant", "default") for record in records} - set(held)
    if orphans:
        raise ValueError(
            f"output={output} has records of {', '.join(map(repr, sorted(orphans)))}, and no config.json that says "
            "what they are of; restore it, or choose another --output"
        )
    for settings in arms:
        if settings.variant not in held:
            continue
        before, now = _added(settings) | _flat(held[settings.variant]), _flat(settings.plain())
        may_grow = [name for name in MAY_GROW if not (name == "classes" and settings.requests == "combined")]
        differing = [name for name in now if name not in may_grow and before.get(name) != now[name]]
        if differing:
            changes = "; ".join(
                f"{name}: {_short(before.get(name))} there, now {_short(now[name])}" for name in differing
            )
            arm = "" if settings.variant == "default" else f" in its arm {settings.variant!r}"
            raise ValueError(
                f"output={output} holds another run{arm} ({changes}); choose another --output or those settings"
            )


def _added(settings: Settings) -> dict[str, Any]:
    """What a folder has of the settings that are not in it: the defaults of those that it could not name."""
    fields = {f.name: f.default for f in dataclasses.fields(settings)}
    fields |= {f"twin_settings.{f.name}": f.default for f in dataclasses.fields(settings.twin_settings)}
    return {name: fields[name] for name in _ADDED}


def read_arms(output: pathlib.Path) -> dict[str, dict[str, Any]]:
    """The settings of every arm that an output folder holds, by the arm's name; empty where it holds none."""
    return read_config(output).get("arms") or {} if (output / "config.json").exists() else {}


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as `outer.inner: value`."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
