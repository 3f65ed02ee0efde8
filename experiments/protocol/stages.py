"""Stages of a run: found on disk by name, else computed, shown and kept."""

from collections.abc import Iterable
from typing import Any

import flax.linen as nn

from experiments.protocol import environment, makers
from experiments.protocol.makers import Makers
from experiments.protocol.progress import Display
from tmu_jax.stages import Stage
from tmu_jax.store import Saved, StageStore
from tmu_jax.training import ModuleLike, TrainedModel
from tmu_jax.training.packing import pack, unpack_model, unpack_plain
from tmu_jax.twin import TwinPrediction
from tmu_jax.unlearning import METHODS
from tmu_jax.unlearning.unlearned import as_unlearned


class Stages:
    """The stages of one request, computed at most once."""

    def __init__(self, store: StageStore, module: nn.Module, display: Display, where: str) -> None:
        """Args: store: where they lie; module: of every model; display: shows them; where: the request, for people."""
        self._store, self._module, self._display, self._where = store, module, display, where
        self._values: dict[str, Any] = {}
        self._now = environment.made_by()
        self._makers: dict[str, Makers] = {}

    def value(self, stage: Stage) -> Any:
        """A stage's value, with that of every stage it needs."""
        description = f"{stage.label}, {self._where}"
        if not stage.is_kept:
            made = stage.make(**self._needed(stage), progress=self._display.start(description))
            self._makers[stage.name] = self._makers_of(stage.parents.values())
            return made
        is_found = True

        def make() -> Saved:
            nonlocal is_found
            is_found = False
            by = makers.begun(self._store.partial(stage.name), self._now)
            made = stage.make(**self._needed(stage), progress=self._display.start(description))
            if getattr(made, "module", self._module_of(stage)) != self._module_of(stage):
                raise ValueError(f"method {stage.kind!r} returned another module; the experiments keep the original's")
            saved = pack(made)
            own = {stage.name: {"label": stage.label, "by": by}}
            saved.metadata["makers"] = self._makers_of(stage.parents.values()) | own
            return saved

        saved = self._store.load_or_make(stage.name, make)
        if is_found:
            self._display.found(description)
        self._makers[stage.name] = makers.held(stage, saved.metadata)
        return self._unpack(stage, saved)

    def made_elsewhere(self, *stages: Stage) -> Makers:
        """What another machine, commit or version than this process's made of stages that are at hand.

        Returns:
          What differs, by the stage: one of these, or one that it was made from.
        """
        return makers.elsewhere(self._makers_of(stages), self._now)

    def _makers_of(self, stages: Iterable[Stage]) -> Makers:
        return {name: made for stage in stages for name, made in self._makers[stage.name].items()}

    def _needed(self, stage: Stage) -> dict[str, Any]:
        return {argument: self.kept(parent) for argument, parent in stage.parents.items()}

    def kept(self, stage: Stage) -> Any:
        """The value of a stage that others need: it stays in memory as long as the request is at work."""
        if stage.name not in self._values:
            self._values[stage.name] = self.value(stage)
        return self._values[stage.name]

    def _module_of(self, stage: Stage) -> ModuleLike:
        """The module of a stage's model: every model's, or what a method makes of it."""
        method = METHODS.get(stage.kind)
        return self._module if method is None else method.module_of(self._module, **stage.made_from.get("options", {}))

    def _unpack(self, stage: Stage, saved: Saved) -> Any:
        if not issubclass(stage.value, TrainedModel):
            return unpack_plain(stage.value, saved)
        model = unpack_model(saved, self._module_of(stage))
        if stage.value is TrainedModel:
            return model
        prediction = None
        if "prediction" in saved.metadata:
            of_method = Saved(saved.arrays["prediction"], saved.metadata["prediction"])
            prediction = unpack_plain(TwinPrediction, of_method)
        return as_unlearned(
            model,
            method=stage.kind,
            original=self.kept(stage.parents["original"]),
            forget_indices=saved.arrays["forget_indices"],
            prediction=prediction,
            seconds_by_part=saved.metadata["seconds_by_part"],
            notes=tuple(saved.metadata["notes"]),
        )
