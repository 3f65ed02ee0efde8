"""What rehearsals alone choose within each budget, as `tmu_jax.forget` does, and what it comes to."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from experiments.report.formats import display_name, text
from experiments.report.intervals import Estimate, over_seeds
from experiments.report.misalignment import misalignment
from experiments.report.results import GOLD, Results, Scope
from experiments.report.tables import Table

PROMISED = "misalignment"
"""The key of what the best rehearsal of a method promised; the same of what came true is computed here."""
READOUTS = {
    "test_accuracy": "A_t",
    "retain_accuracy": "A_r",
    "forget_gap": "gap",
    "agreement": "agreement",
    "activation_distance": "distance",
    "membership_auc": "membership",
}


class Choice(NamedTuple):
    """What was chosen within one budget.

    Attributes:
        variant: the budget's name.
        methods: by seed, ascending: the method whose best rehearsal promised least misalignment.
        promised: that misalignment, by seed.
        results: of the budget's arm.
        peeked: misalignment with gold above that of the method that came nearest, by seed.
    """

    variant: str
    methods: Sequence[str]
    promised: Sequence[float]
    results: Results
    peeked: Sequence[float]

    @property
    def name(self) -> str:
        """The chosen methods; of several in the order of the seeds, each once."""
        return " or ".join(display_name(method) for method in dict.fromkeys(self.methods))

    def by_seed(self, scope: Scope, key: str) -> list[float]:
        """A readout of what was chosen, in every seed that has it."""
        found = [
            _by_seed(self.results, scope, method, key).get(seed)
            for method, seed in zip(self.methods, self.results.seeds, strict=True)
        ]
        return [value for value in found if value is not None]

    def estimate(self, scope: Scope, key: str) -> Estimate:
        """The same with its interval: over the seeds, or in one seed over the forgotten images."""
        if len(self.methods) == 1:
            return self.results.estimate(scope, self.methods[0], key)
        return over_seeds(self.by_seed(scope, key))


def choices(base: Results, within: Mapping[str, Results], scope: Scope) -> list[Choice]:
    """The choice within each budget; none where no method was rehearsed in every seed.

    Args:
        base: the arm with the gold model's own row.
        within: the arms of the budgets, by name.
        scope: of the request.
    """
    found = []
    for variant, results in within.items():
        promised = {method: _by_seed(results, scope, method, PROMISED) for method in results.methods}
        if not all(any(seed in known for known in promised.values()) for seed in results.seeds):
            continue
        true = {method: _misaligned(base, results, scope, method) for method in results.methods}
        methods, peeked = [], []
        for seed in results.seeds:
            rehearsed = {method: known[seed] for method, known in promised.items() if seed in known}
            methods.append(min(rehearsed, key=lambda method: rehearsed[method]))
            came = {method: known[seed] for method, known in true.items() if seed in known}
            if methods[-1] in came:
                peeked.append(came[methods[-1]] - min(came.values()))
        least = [promised[method][seed] for method, seed in zip(methods, results.seeds, strict=True)]
        found.append(Choice(variant, methods, least, results, peeked))
    return found


def best_promised(found: Sequence[Choice]) -> Choice:
    """The budget whose choice promised least misalignment in the mean over the seeds; of equals the first."""
    return min(found, key=lambda choice: float(np.mean(choice.promised)))


def choices_table(found: Sequence[Choice], scope: Scope) -> Table:
    """A row for each budget."""
    rows = [
        (
            choice.variant,
            choice.name,
            *(text(choice.estimate(scope, key), key) for key in READOUTS),
            f"{np.mean(choice.peeked):.1f}" if choice.peeked else "–",
        )
        for choice in found
    ]
    caption = (
        "The method whose rehearsal promised least misalignment (disagreement, gap, lost test accuracy and a hundred "
        "distances, added up), seed by seed; gold chose nothing. The last column: misalignment with gold above that of "
        "the method that came nearest, which only gold could have told."
    )
    headings = ("budget", "chosen", *READOUTS.values(), "price of not peeking")
    return Table("What rehearsals choose", headings, tuple(rows), 0, caption)


def _by_seed(results: Results, scope: Scope, method: str, key: str) -> dict[int, float]:
    found = results.figures(scope, method, key)
    return dict(zip(found.seeds, found.by_seed, strict=True))


def _misaligned(base: Results, results: Results, scope: Scope, method: str) -> dict[int, float]:
    """Misalignment with gold, by seed."""
    agreement, gap, distance, accuracy = (
        _by_seed(results, scope, method, key)
        for key in ("agreement", "forget_gap", "activation_distance", "test_accuracy")
    )
    of_gold = _by_seed(base, scope, GOLD, "test_accuracy")
    return {
        seed: float(misalignment(agreement[seed], gap[seed], distance[seed], of_gold[seed] - accuracy[seed]))
        for seed in agreement.keys() & gap.keys() & distance.keys() & accuracy.keys() & of_gold.keys()
    }
