"""The options of the five commands; their texts are what `--help` shows."""

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any, Literal

import tyro

from tmu_jax.training.saving import Format


@dataclasses.dataclass(frozen=True, kw_only=True)
class Given:
    """A model and the images that it was trained on."""

    model: str
    """module:function, imported from the current folder; the function takes nothing and returns the trained model: what
    tmu_jax.wrap or tmu_jax.load returns."""
    data: str
    """The training images: a folder with one folder a class, a .npz file, or module:function that returns a
    tmu_jax.data.Dataset."""
    test: str | None = None
    """Folder of test images of the same classes, that the model was not trained on; beside a folder of images alone."""
    image_size: int | None = None
    """Height and width that images of a folder get; 64 where it is not said."""
    debug: bool = False
    """Show where an error came from."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Check(Given):
    """Do the model and the data fit?"""

    expected_accuracy: float | None = None
    """Percent of test images that the model gets right where it comes from."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prepare(Given):
    """Computes once what all requests share; the same command again goes on where it was stopped."""

    ledger: str
    """Folder of the ledger; the models of the preparation are kept in it."""
    seed: int = 0
    """Of all that the preparation draws."""
    heldout: int | None = None
    """How many test images stand for "never seen"; by default half of them, at most 1,000."""
    folds: int = 2
    """Parts of the training images, each left out by one model in turn; 0: no such models, which is cheaper and knows
    less."""
    dry_run: bool = False
    """Show the plan, and stop."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Forget(Given):
    """Forgets images by their ids, and writes the new model, an answer and the evidence for it."""

    ids: str
    """Ids of the images: file.csv:column, file.txt with an id a line, or - for lines on stdin."""
    ledger: str
    """Folder of the ledger, which is made by the first request."""
    output: str
    """A new folder for what comes out."""
    budget: float = 0.05
    """What the request may cost, as a share of a retraining; for --method auto."""
    method: str = "auto"
    """A method's name, or auto: what does best in a rehearsal, within the budget."""
    seed: int = 0
    """Of the unlearning's draws; the preparation has its own."""
    heldout: int | None = None
    """As in prepare, where nothing is prepared yet."""
    folds: int | None = None
    """As in prepare, where nothing is prepared yet."""
    copies: Literal["list", "take"] = "list"
    """Copies of the images among what stays: list them, or take them along."""
    key: str | None = None
    """Ed25519 private key (a PEM file) that signs the evidence."""
    format: Format = "orbax"
    """Of the saved model."""
    accept: bool = False
    """Close the request though the audit fails."""
    dry_run: bool = False
    """Show the plan, and stop."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Audit(Given):
    """Audits a model that forget or TrainedModel.save wrote."""

    folder: Annotated[str, tyro.conf.Positional]
    """What forget wrote, or a saved model."""
    ids: str
    """Ids of the images that were to be forgotten, as in forget."""
    before: str | None = None
    """The saved model before the request; by default what --model returns."""
    gold: str | None = None
    """A saved model that was retrained without the images, where there is one."""
    ledger: str | None = None
    """Folder of the ledger: what other requests removed is left out of the audit."""
    output: str | None = None
    """Where answer.html and evidence.json go; by default into the folder."""
    seed: int = 0
    """Of the held-out images and of the probe."""
    key: str | None = None
    """Ed25519 private key (a PEM file) that signs the evidence."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verify:
    """Checks evidence.json, for whoever has the files alone."""

    evidence: Annotated[str, tyro.conf.Positional]
    """The file."""
    page: str | None = None
    """The answer.html that came with it."""
    public_key: str | None = None
    """Of the signer, learned by another way: a PEM file, or base64."""
    model: str | None = None
    """The model in service now: what forget wrote, or a saved model."""
    data: str | None = None
    """The data set, as in forget."""
    test: str | None = None
    """As in forget."""
    image_size: int | None = None
    """As in forget."""
    ids: str | None = None
    """Ids that should be among those asked for, as in forget; with --salt."""
    salt: str | None = None
    """The salt's file, or the salt."""
    debug: bool = False
    """Show where an error came from."""


Options = Check | Prepare | Forget | Audit | Verify
COMMANDS: dict[str, Callable[..., Any]] = {
    "check": Check,
    "prepare": Prepare,
    "forget": Forget,
    "audit": Audit,
    "verify": Verify,
}
