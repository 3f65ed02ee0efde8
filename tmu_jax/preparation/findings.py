"""What is found when a request is looked at."""

import dataclasses
from collections.abc import Iterator


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that a claim about a request depends on.

    Attributes:
      name: "random_draw", "heldout_unseen", "heldout_images", "images_left" or "whole_classes".
      value: what was measured; None where nothing can be.
      threshold: what it was held against.
      holds: whether what methods and claims assume holds; None where it cannot be told.
      sentence: for people.
      forbids: what must not be claimed because of it; empty where it holds.
    """

    name: str
    value: float | None
    threshold: float
    holds: bool | None
    sentence: str
    forbids: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, repr=False)
class Findings:
    """What a request is like; `print` it, iterate over it, or take one finding by its name."""

    findings: tuple[Finding, ...]

    def __getitem__(self, name: str) -> Finding:
        for finding in self.findings:
            if finding.name == name:
                return finding
        raise KeyError(f"{name!r} is no finding; there are {[finding.name for finding in self.findings]}")

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.findings)

    def allows(self, name: str) -> bool:
        """Whether nothing speaks against an assumption: it holds, or cannot be told."""
        return self[name].holds is not False

    @property
    def notes(self) -> tuple[str, ...]:
        """The sentences on what does not hold."""
        return tuple(finding.sentence for finding in self if finding.holds is False)

    @property
    def forbids(self) -> tuple[str, ...]:
        """What must not be claimed, each once."""
        return tuple(dict.fromkeys(claim for finding in self for claim in finding.forbids))

    def __repr__(self) -> str:
        words = {True: "holds", False: "does not hold", None: "cannot be told"}
        lines = [f"{finding.name}: {words[finding.holds]}. {finding.sentence}" for finding in self]
        return "\n".join([*lines, *(f"not to be claimed: {claim}" for claim in self.forbids)])
