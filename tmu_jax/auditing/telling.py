"""What the figures say, and what they do not, in plain sentences."""

from collections.abc import Iterator, Mapping
from typing import Any

_PARTS = {"forget": "forgotten", "heldout": "held-out", "kept": "kept", "test": "test"}


def findings(document: Mapping[str, Any], *, with_accuracies: bool = True) -> tuple[str, ...]:
    """What was found beside the checks, a sentence each; the accuracies first, or not at all."""
    figures = document["figures"]
    return tuple(
        [
            *(_accuracies(figures["accuracy"]) if with_accuracies else ()),
            *_still_right(figures["still_right"]),
            *_found(figures["membership"]),
            *_neighbours(figures["neighbours"]),
            *_beside_gold(figures["gold"]),
            *_rehearsed(document["rehearsal"]),
            *_debt(document["debt"]),
            *_cost(document["cost"]),
        ]
    )


def not_shown(document: Mapping[str, Any]) -> tuple[str, ...]:
    """What must not be concluded, a sentence each; what holds of every audit first."""
    about, figures = document["about"], document["figures"]
    sentences = [
        "This is no certificate: statistical tests find no trace beyond the bounds that stand beside them. A smaller "
        "trace, or one that another test would find, can remain.",
        "It is about one model. Other systems, backups, logs, caches, results that were computed earlier, and copies "
        "of the earlier model are not looked at.",
        "Whether the images themselves, and copies of them, were deleted from storage is not looked at.",
        "The figures are about all forgotten images together; of a single image they say little.",
        "The tests read one model's outputs and its embedding. An attacker who trains many models of the same kind, or "
        "who also holds the earlier model and compares the two, can find more.",
    ]
    if about["alike"] is None:
        sentences.append(
            "The forgotten images are taken to be a random draw of their classes, as the held-out ones are; that could "
            "not be told. If they are not, membership, accuracy and probe do not say what they seem to say."
        )
    elif about["alike"] and about["likeness"] is not None:
        sentences.append(
            f"The forgotten images pass for a random draw of their classes: told from others with AUC "
            f"{about['likeness']:.0f} at most, beside the 50 that the bounds are made for. A request that is by nature "
            "so much harder or easier can fail, or pass, membership and accuracy for that alone."
        )
    elif not about["alike"]:
        sentences.append(
            "The forgotten images are no random draw of their classes, so comparing them with held-out images shows "
            "nothing, and what was predicted of a retrained model does not hold for them."
        )
    if about["unseen"] is None:
        sentences.append(
            "Whether the model was trained on the held-out images could not be told. If it was, forgotten images look "
            "like unseen ones whatever it remembers."
        )
    elif not about["unseen"]:
        sentences.append(
            "The model was trained on the held-out images, so comparing forgotten ones with them shows nothing."
        )
    if figures["gold"] is None:
        sentences.append(
            "No model was retrained without the images to compare with; how near this one comes is not known."
        )
    owing = sum(count > 0 for count in document["debt"].values())
    if owing:
        sentences.append(
            f"{owing} helper models, which plan and predict and give no answers in service, were trained on forgotten "
            "images and still exist."
        )
    return tuple(sentences)


def percent(figure: Mapping[str, Any]) -> str:
    """A share with its interval."""
    return f"{figure['value']:.1f} % ({figure['low']:.1f} to {figure['high']:.1f})"


def _accuracies(accuracy: Mapping[str, Any]) -> Iterator[str]:
    for part, name in _PARTS.items():
        of = accuracy[part]
        if of["after"]["of"]:
            gold = f"; a retrained model {of['gold']['value']:.1f} %" if "gold" in of else ""
            yield (
                f"Right on {name} images: {of['before']['value']:.1f} % before, {percent(of['after'])} after, of "
                f"{of['after']['of']:,}{gold}."
            )


def _still_right(still: Mapping[str, Any]) -> Iterator[str]:
    sentence = f"{still['count']} of {still['of']} forgotten images are still classified rightly"
    if "expected" in still:
        sentence += (
            f"; of {still['predicted_right']} of these that was predicted of a model which never saw them, as of "
            f"{still['predicted_right_of_all']} in all. Such a model is expected to be right on "
            f"{percent(still['expected'])}"
        )
    yield sentence + ". An image is recognised by what others of its class have taught, too."


def _found(membership: Mapping[str, Any]) -> Iterator[str]:
    before, after = membership["before"], membership["after"]
    if before is not None and after is not None:
        yield (
            f"At a false alarm on {after['false_rate']:.1f} % of unseen images (1 % at most), "
            f"{percent(after['found'])} of the forgotten ones are found by the model's certainty; before "
            f"{percent(before['found'])}."
        )


def _neighbours(bins: list[Mapping[str, Any]]) -> Iterator[str]:
    near, far = bins[0], bins[-1]
    for part in ("kept", "test"):
        if near[f"{part}_after"]["of"] and far[f"{part}_after"]["of"]:
            changes = [one[f"{part}_after"]["value"] - one[f"{part}_before"]["value"] for one in (near, far)]
            yield (
                f"Right on {_PARTS[part]} images, change: {changes[0]:+.1f} points for those most like forgotten ones "
                f"({near[f'{part}_after']['of']:,}), {changes[1]:+.1f} for those least like them "
                f"({far[f'{part}_after']['of']:,})."
            )


def _beside_gold(gold: Mapping[str, Any] | None) -> Iterator[str]:
    names = {"after": "this model", "before": "the untouched model", "second": "a second retrained model"}
    if gold is not None:
        for name in names:
            if name in gold:
                of = gold[name]
                yield (
                    f"Beside a retrained model, {names[name]}: right or wrong alike on {percent(of['agreement'])}, gap "
                    f"{of['gap']:.1f} points, activation distance {of['distance']['value']:.3f} "
                    f"({of['distance']['low']:.3f} to {of['distance']['high']:.3f})."
                )


def _rehearsed(rehearsal: Mapping[str, Any] | None) -> Iterator[str]:
    if rehearsal is not None:
        of, floor = rehearsal, rehearsal["untouched"]
        yield (
            f"Rehearsed with {of['size']} other images, whose retrained model is known: right or wrong alike on "
            f"{percent(of['agreement'])} (untouched {floor['agreement']:.1f} %), gap {of['gap']['value']:.1f} points "
            f"(untouched {floor['gap']:.1f}), activation distance {of['distance']['value']:.3f} (untouched "
            f"{floor['distance']:.3f}), test accuracy {-of['test_loss']['value']:+.1f} points."
        )


def _debt(debt: Mapping[str, int]) -> Iterator[str]:
    if debt:
        owing = sum(count > 0 for count in debt.values())
        yield f"Models in use that were trained on forgotten images: {owing} of {len(debt)}, none of them in service."


def _cost(cost: Mapping[str, Any]) -> Iterator[str]:
    parts = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in cost["seconds_by_part"].items())
    share = "" if cost["share"] is None else f"; {100 * cost['share']:.1f} % of a retraining by images trained on"
    spent = f"Cost: {cost['seconds']:.1f} s{f' ({parts})' if parts else ''}{share}."
    yield f"{spent} The audit took {cost['audit_seconds']:.1f} s."
