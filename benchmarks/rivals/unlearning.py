"""torchunlearn's methods, called as its examples call them, on the same images, weights and numbers of steps."""

import copy
from typing import Any

import numpy as np
import torch
import torchunlearn
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchunlearn import unlearn
from torchunlearn.utils.data import MergedLoaders

from benchmarks.arrays import Arrays
from benchmarks.methods import PARTS
from benchmarks.rivals.kernels import Classifier, LogitsOnly, seconds_of


class Unlearning(Classifier):
    """One of its trainers, or of its methods without training, from the original model to the new one.

    Pixels are normalised before the clock starts; its own loaders would do it image by image.
    """

    def __init__(self, settings: dict[str, Any], arrays: Arrays, rival: str) -> None:
        super().__init__(settings, arrays, rival)
        pixels = (self.images.float() / 255 - self.plain.mean) / self.plain.std
        self.normalized = pixels.contiguous(memory_format=self.layout)
        self.original = LogitsOnly(self.plain.module).eval()

    def rows(self, name: str) -> Tensor:
        return torch.from_numpy(self.arrays[name].astype(np.int64)).to(self.device)

    def loader(self, rows: Tensor, batch: int) -> DataLoader:
        """Batches of these rows in a new order each time; what is left of them is dropped."""
        data = TensorDataset(self.normalized[rows], self.labels[rows])
        return DataLoader(data, min(batch, len(rows)), shuffle=True, drop_last=True)

    def ordered(self, order: np.ndarray) -> DataLoader:
        """The batches that our side draws, int32[steps, batch] rows of the pool."""
        return DataLoader(TensorDataset(self.normalized, self.labels), batch_sampler=order.tolist())

    def loaders(self) -> dict[str, DataLoader]:
        """Of D_r and D_f; a step takes a batch of each, and all steps together our number of images."""
        batch, retain, forget = self.settings["batch"], self.rows("retain"), self.rows("forget")
        if "order" in self.arrays:
            order, width = self.arrays["order"], int(self.arrays["of_retain"])
            both = {"Retain": self.ordered(order[:, :width])}
            return both | ({"Forget": self.ordered(order[:, width:])} if width < order.shape[1] else {})
        if self.settings["method"] == "fisher":  # Of larger batches it squares the mean gradient: not the Fisher's.
            return {"Retain": self.loader(retain, 1), "Forget": self.loader(forget, batch)}
        if self.settings["method"] == "influence":
            return {"Retain": self.loader(retain, batch), "Forget": self.loader(forget, batch)}
        few = batch // PARTS
        return {"Retain": self.loader(retain, batch - few), "Forget": self.loader(forget, few)}

    def robmodel(self) -> nn.Module:
        return torchunlearn.RobModel(copy.deepcopy(self.original), n_classes=10)

    def unlearn(self) -> nn.Module:
        """The whole unlearning."""
        settings, model, loaders = self.settings, self.robmodel(), self.loaders()
        method = getattr(unlearn, settings["rival"])
        if settings["method"] in ("fisher", "influence"):
            method(model).fit(loaders, **settings["theirs"])
            return model
        trainer = method(model, **settings["theirs"])
        if settings["method"] == "salun":
            trainer.compute_saliency_mask(loaders["Forget"])
        rate = settings["learning_rate"]
        if settings["optimizer"] == "sgd":
            trainer.setup(f"SGD(lr={rate}, momentum=0.9, weight_decay=5e-4)", n_epochs=1)
        else:
            trainer.setup(f"Adam(lr={rate})", n_epochs=1)
        trainer.fit(MergedLoaders(loaders), n_epochs=1, record_type=None)
        return model

    @torch.inference_mode()
    def predict(self, model: nn.Module, rows: Tensor) -> Tensor:
        model.eval()
        return torch.cat([model(self.normalized[block]) for block in rows.split(250)])

    def check(self) -> Arrays:
        unlearned = self.unlearn()
        logits = {name: self.predict(unlearned, self.rows(name)) for name in ("test", "forget")}
        found = {
            f"{name}_accuracy": 100 * (of_split.argmax(1) == self.labels[self.rows(name)]).float().mean()
            for name, of_split in logits.items()
        }
        if self.settings["exact"] == "information":
            found["information"] = self.information()
        return {name: value.float().cpu().numpy() for name, value in {**found, "logits": logits["test"]}.items()}

    def information(self) -> Tensor:
        """The diagonal by which its FisherForget lays its noise, one vector in the order of our names."""
        of_names = unlearn.FisherForget(self.robmodel()).get_hessian(self.loaders()["Retain"])
        return torch.cat([of_names[name].grad2_acc.flatten() for name in sorted(of_names)])

    def run(self, count: int) -> float:
        return seconds_of(self.unlearn, count, self.device)
