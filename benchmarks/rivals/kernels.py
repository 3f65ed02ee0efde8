"""PyTorch and torchattacks on the cases: what a good PyTorch user would write, on the same inputs."""

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.arrays import Arrays
from benchmarks.rivals import models

CHECKED_STEPS = 3


def synchronize(device: str) -> None:
    """Waits for the device."""
    if device != "cpu":
        torch.cuda.synchronize()


def seconds_of(call: Callable[[], Any], count: int, device: str) -> float:
    """Seconds of `count` calls, synchronised."""
    synchronize(device)
    start = time.perf_counter()
    for _ in range(count):
        call()
    synchronize(device)
    return time.perf_counter() - start


def is_channels_last(rival: str) -> bool:
    """Whether a rival's name says so."""
    return "channels-last" in rival


class Pixels(nn.Module):
    """A classifier on pixels in 0..1, normalised inside."""

    def __init__(self, module: nn.Module, arrays: Arrays, device: str) -> None:
        super().__init__()
        self.module = module
        self.register_buffer("mean", torch.tensor(arrays["mean"], device=device)[:, None, None])
        self.register_buffer("std", torch.tensor(arrays["std"], device=device)[:, None, None])

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.module((images - self.mean) / self.std)


class Classifier:
    """What the kernels on classifiers share: the model, the images on the device, the precision."""

    def __init__(self, settings: dict[str, Any], arrays: Arrays, rival: str) -> None:
        self.settings, self.arrays, self.device = settings, arrays, settings["device"]
        self.layout = torch.channels_last if is_channels_last(rival) else torch.contiguous_format
        torch.set_float32_matmul_precision("high")  # TensorFloat-32 on a GPU, as JAX by default; nothing on a CPU
        plain = models.load(settings["arch"], arrays, self.device, is_channels_last(rival))
        self.plain = Pixels(plain, arrays, self.device)
        self.model = torch.compile(self.plain) if "compiled" in rival else self.plain
        images = torch.from_numpy(arrays["images"]).permute(0, 3, 1, 2).contiguous()
        self.images = images.to(self.device).contiguous(memory_format=self.layout)
        self.labels = torch.from_numpy(arrays["labels"].astype(np.int64)).to(self.device)

    def pixels(self, rows: Tensor) -> Tensor:
        """Pixels in 0..1 of rows of the pool."""
        return (self.images[rows].float() / 255).contiguous(memory_format=self.layout)


class Train(Classifier):
    """Training steps: SGD with momentum or Adam, the same batches in the same order."""

    def __init__(self, settings: dict[str, Any], arrays: Arrays, rival: str) -> None:
        super().__init__(settings, arrays, rival)
        rate, decay = settings["learning_rate"], settings["weight_decay"]
        parameters = self.plain.parameters()
        if settings["optimizer"] == "sgd":
            self.optimizer: torch.optim.Optimizer = torch.optim.SGD(parameters, rate, 0.9, weight_decay=decay)
        else:
            self.optimizer = torch.optim.Adam(parameters, rate, weight_decay=decay)
        self.rows = torch.from_numpy(arrays["rows"].astype(np.int64)).to(self.device)
        self.targets = torch.from_numpy(arrays["targets"]).to(self.device) if settings["soft"] else self.labels
        self.cursor = 0
        self.model.train()

    def steps(self, count: int) -> list[Tensor]:
        losses = []
        for _ in range(count):
            rows = self.rows[self.cursor % len(self.rows)]
            self.cursor += 1
            loss = functional.cross_entropy(self.model(self.pixels(rows))[0], self.targets[rows])
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            losses.append(loss.detach())
        return losses

    def check(self) -> Arrays:
        return {"losses": torch.stack(self.steps(CHECKED_STEPS)).float().cpu().numpy()}

    def run(self, count: int) -> float:
        return seconds_of(lambda: self.steps(count), 1, self.device)


class Evaluation(Classifier):
    """Logits and embeddings of many images, on the host."""

    def predict(self) -> tuple[np.ndarray, np.ndarray]:
        self.model.eval()
        outputs = []
        with torch.inference_mode():
            for rows in torch.arange(len(self.images), device=self.device).split(self.settings["block"]):
                outputs.append([part.float().cpu().numpy() for part in self.model(self.pixels(rows))])
        logits, embeddings = zip(*outputs, strict=True)
        return np.concatenate(logits), np.concatenate(embeddings)

    def check(self) -> Arrays:
        logits, embeddings = self.predict()
        return {"logits": logits, "embeddings": embeddings}

    def run(self, count: int) -> float:
        return seconds_of(self.predict, count, self.device)


class Attack(Classifier):
    """torchattacks' PGD without a random start, then the clean and the adversarial logits."""

    def __init__(self, settings: dict[str, Any], arrays: Arrays, rival: str) -> None:
        import torchattacks

        super().__init__(settings, arrays, rival)
        self.logits = LogitsOnly(self.model).eval()
        eps, steps = settings["eps"], settings["num_steps"]
        self.pgd = torchattacks.PGD(self.logits, eps=eps, alpha=eps / 3, steps=steps, random_start=False)

    def attack(self) -> list[np.ndarray]:
        images = self.pixels(torch.arange(len(self.images), device=self.device))
        attacked = self.pgd(images, self.labels)
        with torch.inference_mode():
            return [self.logits(pixels).float().cpu().numpy() for pixels in (images, attacked)]

    def check(self) -> Arrays:
        return dict(zip(("clean_logits", "adversarial_logits"), self.attack(), strict=True))

    def run(self, count: int) -> float:
        return seconds_of(self.attack, count, self.device)


class LogitsOnly(nn.Module):
    """A classifier as attacks want it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images)[0]


def fit_predictor(
    network: nn.Module, features: Tensor, easy: Tensor, orders: Iterator[Tensor], settings: dict[str, Any]
) -> nn.Module:
    """The easy/hard predictor's training, a Python loop over batches; one order an epoch."""
    optimizer = torch.optim.SGD(
        network.parameters(), settings["learning_rate"], settings["momentum"], weight_decay=settings["weight_decay"]
    )
    for order in orders:
        for rows in order.split(settings["batch"]):
            loss = functional.binary_cross_entropy_with_logits(network(features[rows])[:, 0], easy[rows])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
    return network


def predictor_network() -> nn.Sequential:
    """Three features, 64 and 32 hidden units, one logit."""
    return nn.Sequential(nn.Linear(3, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1))


def probe(steps: int = 11) -> float:
    """Median seconds of a small network's training step on the CPU: many short parallel regions."""
    model, seconds = models.create("small_resnet"), []
    images, labels = torch.randn(16, 3, 32, 32), torch.arange(16) % 10
    for _ in range(steps):
        start = time.perf_counter()
        functional.cross_entropy(model(images)[0], labels).backward()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


class Predictor:
    """The predictor's whole training, from the same parameters in the same order; small, so on the CPU."""

    def __init__(self, settings: dict[str, Any], arrays: Arrays, rival: str) -> None:
        self.settings, self.arrays = settings, arrays
        self.features, self.easy = torch.from_numpy(arrays["features"]), torch.from_numpy(arrays["easy"]).float()
        self.orders = torch.from_numpy(arrays["orders"].astype(np.int64))

    def fit(self) -> nn.Module:
        network = predictor_network()
        for layer, name in zip((0, 2, 4), ("hidden_0", "hidden_1", "output"), strict=True):
            network[layer].weight.data = torch.from_numpy(self.arrays[f"params/{name}/kernel"].T.copy())
            network[layer].bias.data = torch.from_numpy(self.arrays[f"params/{name}/bias"].copy())
        return fit_predictor(network, self.features, self.easy, iter(self.orders), self.settings)

    def check(self) -> Arrays:
        network = self.fit()
        with torch.inference_mode():
            probability = torch.sigmoid(network(self.features)[:, 0])
        right = torch.where(self.easy > 0, probability, 1 - probability).clip(1e-6, 1)
        return {"loss": (-right.log().mean()).numpy(), "probability": probability.numpy()}

    def run(self, count: int) -> float:
        return seconds_of(self.fit, count, "cpu")
