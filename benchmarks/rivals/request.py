"""A whole request by the twin method as a compact PyTorch program: the same parts, the same numbers of steps."""

import copy
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.arrays import Arrays
from benchmarks.rivals import models
from benchmarks.rivals.kernels import (
    Classifier,
    LogitsOnly,
    Pixels,
    fit_predictor,
    predictor_network,
    seconds_of,
)

EPS_CANDIDATES = tuple(eps / 255 for eps in (0.25, 0.5, 1, 2, 4))
NEIGHBORS = 5
PREDICTOR = {"batch": 16, "learning_rate": 0.01, "momentum": 0.9, "weight_decay": 5e-4}


class Request(Classifier):
    """Twin model, curriculum model, features of both problems, predictor, unlearning."""

    def __init__(self, settings: dict[str, Any], arrays: Arrays, rival: str) -> None:
        super().__init__(settings, arrays, rival)
        names = ("train", "forget", "retain", "heldout", "test")
        self.sets = {name: torch.from_numpy(arrays[name].astype(np.int64)).to(self.device) for name in names}

    def fit(
        self, start: nn.Module, rows: Tensor, labels: Tensor, *, epochs: int, batch: int, rate: float, anneal: bool
    ) -> nn.Module:
        """A model trained further on rows with these labels (a label for each row of the pool)."""
        model = copy.deepcopy(start).train()
        optimizer = torch.optim.SGD(model.parameters(), rate, 0.9, weight_decay=5e-4)
        steps = max(1, len(rows) // batch)
        for step in range(epochs * steps):
            if step % steps == 0:
                order = rows[torch.randperm(len(rows), device=self.device)]
                order = order.repeat(-(-batch // len(rows)))  # fewer rows than a batch are cycled
            drawn = order[step % steps * batch :][:batch]
            if anneal:
                optimizer.param_groups[0]["lr"] = rate * 0.5 * (1 + math.cos(math.pi * step / (epochs * steps)))
            loss = functional.cross_entropy(model(self.pixels(drawn))[0], labels[drawn])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        return model

    @torch.inference_mode()
    def predict(self, model: nn.Module, rows: Tensor) -> tuple[Tensor, Tensor]:
        model.eval()
        logits, embeddings = zip(*(model(self.pixels(block)) for block in rows.split(250)), strict=True)
        return torch.cat(logits), torch.cat(embeddings)

    def nearest_distance(self, model: nn.Module, queries: Tensor, bank: Tensor) -> Tensor:
        """NF: mean distance to the nearest embeddings of the same class, on the unit sphere."""
        query, rows = (functional.normalize(self.predict(model, rows)[1]) for rows in (queries, bank))
        found = torch.empty(len(queries), device=self.device)
        for label in self.labels[queries].unique():
            mine, theirs = self.labels[queries] == label, self.labels[bank] == label
            distances = torch.cdist(query[mine], rows[theirs])
            found[mine] = distances.topk(min(NEIGHBORS, int(theirs.sum())), largest=False).values.mean(1)
        return found

    def adversarial(self, model: nn.Module, rows: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        """AF, and whether the attack succeeded."""
        import torchattacks

        logits = LogitsOnly(model).eval()
        pgd = torchattacks.PGD(logits, eps=eps, alpha=eps / 3, steps=5, random_start=False)
        features, successes = [], []
        for block in rows.split(128):
            images, labels = self.pixels(block), self.labels[block]
            attacked = pgd(images, labels)
            with torch.inference_mode():
                clean, moved = logits(images), logits(attacked)
            features.append(functional.cross_entropy(moved, clean.softmax(1), reduction="none"))
            successes.append(moved.argmax(1) != labels)
        return torch.cat(features), torch.cat(successes)

    def curriculum_loss(self, model: nn.Module, rows: Tensor) -> Tensor:
        return functional.cross_entropy(self.predict(model, rows)[0], self.labels[rows], reduction="none")

    def features(self, model: nn.Module, rows: Tensor, bank: Tensor, attacked: Tensor, curriculum: nn.Module) -> Tensor:
        """NF, AF and CF, a row a sample."""
        distance, loss = self.nearest_distance(model, rows, bank), self.curriculum_loss(curriculum, rows)
        return torch.stack([distance, attacked, loss], 1)

    def unlearn(self) -> nn.Module:
        """The whole request; returns the unlearned model."""
        sets, settings, original = self.sets, self.settings, self.plain
        heldout, forget = sets["heldout"], sets["forget"]
        twin = self.fit(
            original, torch.cat([sets["train"], heldout]), self.labels, epochs=settings["twin_epochs"], batch=128,
            rate=0.01, anneal=True,
        )  # fmt: skip
        fresh = models.create(settings["arch"]).to(self.device, memory_format=self.layout)
        allowed = sets["train"][~torch.isin(sets["train"], forget)]
        curriculum = self.fit(
            Pixels(fresh, self.arrays, self.device), allowed, self.labels, epochs=settings["curriculum_epochs"],
            batch=64, rate=0.05, anneal=False,
        )  # fmt: skip
        easy = self.heldout_easy()
        trials = [self.adversarial(twin, heldout, eps) for eps in EPS_CANDIDATES]
        hard_share = 1 - easy.float().mean()
        chosen = min(range(len(trials)), key=lambda i: abs(trials[i][1].float().mean() - hard_share).item())
        of_twin = self.features(twin, heldout, sets["train"], trials[chosen][0], curriculum)
        attacked, _ = self.adversarial(original, forget, EPS_CANDIDATES[chosen])
        of_original = self.features(original, forget, sets["retain"], attacked, curriculum)
        predicted = self.predict_easy(of_twin, of_original, easy)
        labels, hard = self.labels.clone(), forget[~predicted]
        labels[hard] = (labels[hard] + torch.randint(1, 10, (len(hard),), device=self.device)) % 10
        return self.fit(
            original, sets["train"], labels, epochs=settings["unlearning_epochs"], batch=64, rate=0.01, anneal=True
        )

    def predict_easy(self, twin: Tensor, original: Tensor, easy: Tensor) -> Tensor:
        """Which forgotten samples the predictor calls easy; trained on the CPU, where a small network is quicker."""
        if bool(easy.all()) or not bool(easy.any()):
            return torch.full((len(original),), bool(easy[0]), device=self.device)
        learnt, known = scaled(twin, self.labels[self.sets["heldout"]]).cpu(), easy.float().cpu()
        network = predictor_network()
        share = known.mean().clip(0.5 / len(known), 1 - 0.5 / len(known))
        network[4].bias.data.fill_(torch.logit(share).item())
        orders = (torch.randperm(len(known)) for _ in range(100))
        fit_predictor(network, learnt, known, orders, PREDICTOR)
        with torch.inference_mode():
            logits = network(scaled(original, self.labels[self.sets["forget"]]).cpu())[:, 0]
        return (logits >= 0).to(self.device)

    def heldout_easy(self) -> Tensor:
        rows = self.sets["heldout"]
        return self.predict(self.plain, rows)[0].argmax(1) == self.labels[rows]

    def check(self) -> Arrays:
        unlearned = self.unlearn()
        forget = self.sets["forget"]
        accuracy = {
            f"{name}_accuracy": 100
            * (self.predict(unlearned, self.sets[name])[0].argmax(1) == self.labels[self.sets[name]]).float().mean()
            for name in ("test", "forget")
        }
        outputs = {
            "heldout_easy": self.heldout_easy().float(),
            "nearest_distance": self.nearest_distance(self.plain, forget, self.sets["retain"]),
            "adversarial": self.adversarial(self.plain, forget, self.settings["eps"])[0],
            **accuracy,
        }
        return {name: value.detach().float().cpu().numpy() for name, value in outputs.items()}

    def run(self, count: int) -> float:
        return seconds_of(self.unlearn, count, self.device)


def scaled(features: Tensor, labels: Tensor) -> Tensor:
    """Winsorised at Tukey's fences and brought to 0..1, class by class."""
    result = torch.zeros_like(features)
    for label in labels.unique():
        mine = features[labels == label]
        lower, upper = torch.quantile(mine, torch.tensor([0.25, 0.75], device=mine.device), dim=0)
        limited = mine.clip(lower - 1.5 * (upper - lower), upper + 1.5 * (upper - lower))
        low, high = limited.min(0).values, limited.max(0).values
        spread = torch.where(high > low, high - low, torch.ones_like(high))
        result[labels == label] = torch.where(high > low, (limited - low) / spread, torch.zeros_like(limited))
    return result
