"""What a report's page consists of: the parts of a body, and the standing ones about the run and its words."""

import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from experiments.report.files import Record
from experiments.report.formats import MISSING, display_name
from experiments.report.results import Results
from experiments.report.tables import Table

GLOSSARY = {
    "gold": "the model retrained from scratch without the forgotten images: what unlearning should come near to",
    "A_t, A_f, A_r": "accuracy on test, forgotten and retained images, percent",
    "gap": "distance between A_f and gold's A_f, points; 0 is best; a mean over classes is one of absolute gaps",
    "agreement": "percent of the forgotten images that the model and gold both get right or both get wrong",
    "activation distance": "mean L2 distance between the softmax outputs of model and gold on D_f, at most 1.414",
    "KL, JS": "divergences KL(gold, model) and Jensen-Shannon of the softmax outputs on D_f, natural logarithm",
    "gold-gold floor": "a second gold model, other seed, against the first: the noise between two honest answers",
    "majority floor": "calling every forgotten image easy (gold gets it right)",
    "count-matched floor": "calling a random share easy, as large as the original's accuracy on images it never saw",
    "easy, hard": "gold classifies the image correctly, or not",
    "D_test, D_f": "held-out images of the class that the original never saw; the forgotten images",
    "85.1 ± 0.2": "95 % confidence interval over seeds: Student t of one value a seed",
    "7.1 [5.2, 9.0]": "95 % confidence interval over the forgotten images of one seed: percentiles of 2,000 bootstrap "
    "resamples, drawn within each class, all models on the same images, the count-matched share fixed; says nothing "
    "about other trainings",
    "interval of a gap": "a gap is never below 0, so near 0 its interval cannot reach below it either: it lies to one "
    "side, and may lie above the gap itself, most of all that of a mean over classes",
    "better, worse": "the interval of the paired difference leaves out 0; else no difference is shown",
    MISSING: "not measured, or undefined",
}


class Picture(NamedTuple):
    """A picture in the output folder.

    Attributes:
        stem: it is `stem.svg`.
        alt: its text for those who cannot see it.
        caption: below it.
        draw: called with the output folder, draws it.
    """

    stem: str
    alt: str
    caption: str
    draw: Callable[[pathlib.Path], object]


class Commands(NamedTuple):
    """Lines for a shell, shown as they are."""

    lines: Sequence[str]


Part = Table | str | list[str] | Commands | Picture


class Section(NamedTuple):
    """A folded part of a report: its title, and tables, paragraphs, lists of sentences, commands and pictures."""

    title: str
    parts: Sequence[Part]


@dataclass(frozen=True)
class Body:
    """What an experiment reports; `experiments.report.write.standard` makes that of a plain comparison of methods.

    Attributes:
        sentence: what it found, the first thing to read.
        table: the one table, below it; also what the terminal shows.
        picture: the one picture.
        sections: everything else, folded.
    """

    sentence: str
    table: Table
    picture: Picture | None
    sections: Sequence[Section]


def describe(results: Results) -> str:
    """A setting in words, with its seeds; a plain run's variant is left out."""
    shown = {f: v for f, v in results.setting.items() if (f, v) not in (("variant", "default"), ("augment", None))}
    seeds = ", ".join(map(str, results.seeds))
    return f"{', '.join(f'{f} {MISSING if v is None else v}' for f, v in shown.items())}; seeds {seeds}"


def title(config: Mapping[str, Any], groups: Sequence[Results]) -> str:
    """The page's title."""
    settings = [groups[0].setting[field] for field in ("dataset", "arch", "preset")]
    return f"{config['experiment']}: {', '.join(str(value) for value in settings if value is not None)}"


def setting_line(config: Mapping[str, Any]) -> str:
    """How far from the paper's setting the runs are."""
    found = list(dict.fromkeys(said for run in config["runs"].values() for said in run.get("shortfalls") or []))
    return f"Not the paper's setting: {'; '.join(found)}." if found else "This is the paper's setting."


def standing(config: Mapping[str, Any], groups: Sequence[Results]) -> list[Section]:
    """The sections that every report ends with: notes, the runs, their settings, and how to read it."""
    records = [record for results in groups for record in results.records]
    return [_notes(records), _runs(config, groups, records), _settings(config), _words()]


def _notes(records: Sequence[Record]) -> Section:
    """Every note of the records once, with the cells it stands in."""
    where: dict[str, list[Record]] = {}
    for record in records:
        for note in record.get("notes") or []:
            where.setdefault(note, []).append(record)
    lines = []
    for note, found in where.items():
        methods = ", ".join(dict.fromkeys(display_name(record["method"]) for record in found))
        targets, seeds = (_listed(dict.fromkeys(r[key] for r in found)) for key in ("target_class", "seed"))
        lines.append(f"{note} ({methods}; class {targets}; seed {seeds})")
    return Section(f"Notes and warnings: {len(lines) or 'none'}", [lines] if lines else ["None."])


def _runs(config: Mapping[str, Any], groups: Sequence[Results], records: Sequence[Record]) -> Section:
    """What ran, on what, by which commands; each record names its run."""
    parts: list[Any] = [[describe(results) for results in groups]]
    parts += [[f"left out: {sentence}" for sentence in config.get("left_out") or []]]
    for name, run in config["runs"].items():
        made = sum(record.get("run") == name for record in records)
        versions = ", ".join(f"{package} {version}" for package, version in (run.get("versions") or {}).items())
        parts.append(f"Run {name} made {made} of {len(records)} records:")
        parts.append(Commands(str(run.get("command", MISSING)).replace(" --", " \\\n  --").splitlines()))
        told = {"Data": run.get("data_source"), "Why this": "; ".join(run.get("why") or []), "Versions": versions}
        told |= {"Device": run.get("device"), "Git revision": run.get("git_revision")}
        parts.append([f"{name}: {value or MISSING}" for name, value in told.items()])
    parts.append(_made_elsewhere(records))
    parts.append(
        "From the root of a checkout, an --output folder added at will. Started again with the same folder, a command "
        "continues where it stopped and writes this report anew. On another number of cores, or of devices, outputs "
        "differ in their last digits, and on another processor so do the answers on a few images."
    )
    if len({(run.get("device"), json.dumps(run.get("versions"))) for run in config["runs"].values()}) > 1:
        parts.append("The runs above are of different machines or versions.")
    return Section("What ran, and how to run it again", [part for part in parts if part])


def _made_elsewhere(records: Sequence[Record]) -> list[str]:
    """A sentence for each kind of stage that another machine, commit or version made than the run that records it."""
    seeds: dict[str, list[int]] = {}
    for record in records:
        for name, made in (record.get("made_elsewhere") or {}).items():
            # Before, records named a stage by its label, with one maker.
            label, makers = (made["label"], made["by"]) if "by" in made else (name, [made])
            part = "in part " if len(makers) > 1 else ""
            for maker in filter(None, makers):
                said = ", ".join(f"{key} {MISSING if value is None else value}" for key, value in maker.items())
                sentence = f"{label}: made {part}with {said}, unlike the run that records it"
                seeds.setdefault(sentence, []).append(record["seed"])
    return [f"{sentence} (seed {_listed(dict.fromkeys(found))})" for sentence, found in seeds.items()]


def _settings(config: Mapping[str, Any]) -> Section:
    """Every setting of the first arm, and of the others what differs from it."""
    arms = config.get("arms") or {}
    settings = _flat(next(iter(arms.values()))) if arms else {}
    for name, arm in arms.items():
        changed = {key: value for key, value in _flat(arm).items() if settings.get(key) != value and key != "variant"}
        settings |= {f"{name}: {key}": value for key, value in changed.items()}
    return Section("Every setting", [Table("Settings", ("setting", "value"), tuple(settings.items()))])


def _words() -> Section:
    return Section("How to read this", [Table("Words", ("word", "meaning"), tuple(GLOSSARY.items()))])


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as `outer.inner: value`, lists in one line."""
    flat: dict[str, str] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = (
                _listed(value) if isinstance(value, list) else MISSING if value is None else str(value)
            )
    return flat


def _listed(values: Any) -> str:
    return ", ".join(value if isinstance(value, str) else json.dumps(value) for value in values)
