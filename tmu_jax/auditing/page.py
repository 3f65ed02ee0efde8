"""The page for the answer: one HTML file in plain words that asks nothing of any other place."""

from collections.abc import Mapping
from typing import Any

import jinja2

from tmu_jax.auditing import telling

MOST_IMAGES = 500
_TITLES = {
    "rows": "Exactly the images asked for",
    "changed": "The model was changed",
    "copies": "No equal copy stays",
    "membership": "Its certainty does not give the images away",
    "accuracy": "It is right on them as often as on unseen ones",
    "probe": "Its inner representation does not give them away",
    "use": "It is still of use",
    "gold": "It came nearer to a retrained model",
}
_OUTCOMES = {
    "passed": "The checks were passed.",
    "failed": "A check failed.",
    "nothing shown": "The checks show nothing: the model before would have come out the same.",
}


def render(document: Mapping[str, Any], signed_by: str | None, page_name: str, evidence_name: str) -> str:
    """The page.

    Args:
      document: of an `Audit`, with "request" as the evidence has it.
      signed_by: the public key in base64; None where the evidence is unsigned.
      page_name: the file name of the page.
      evidence_name: of the evidence.

    Returns:
      HTML; every value in it is escaped.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("tmu_jax.auditing"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["tied"] = lambda sentence: sentence.replace(" %", "\N{NO-BREAK SPACE}%")
    checks = [{**check, "title": _TITLES[check["name"]]} for check in document["checks"]]
    return environment.get_template(
        "answer.html.j2"
    ).render(
        document=document,
        figures=document["figures"],
        checks=checks,
        outcome=_OUTCOMES[document["outcome"]],
        findings=telling.findings(document, with_accuracies=False),  # They stand in a table.
        not_shown=telling.not_shown(document),
        images=_images(document["measured"]["forget"])[:MOST_IMAGES],
        predicted="probability" in document["measured"]["forget"],
        parts=(("forget", "forgotten"), ("heldout", "unseen, of the same classes"), ("kept", "kept"), ("test", "test")),
        signed_by=signed_by,
        page_name=page_name,
        evidence_name=evidence_name,
    )


def _images(forget: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for each forgotten image, in the order of the request: no id stands on the page."""
    probability = forget.get("probability", [None] * len(forget["label"]))
    columns = zip(forget["label"], forget["right_before"], forget["right_after"], probability, strict=True)
    return [
        {"number": number, "label": label, "before": before, "after": after, "probability": chance}
        for number, (label, before, after, chance) in enumerate(columns, 1)
    ]
