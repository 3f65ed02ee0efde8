"""The standing parts of a report's page: what was run, the notes of the records, how to rerun and how to read it."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.report.results import SETTING_FIELDS, Record, Results, display_name
from experiments.report.tables import MISSING

GLOSSARY = """\
| word | meaning |
|---|---|
| gold | the model retrained from scratch without the forgotten images: what unlearning should come near to |
| A_t, A_f, A_r | accuracy on test, forgotten and retained images, percent |
| gap | distance between A_f and gold's A_f, points; 0 is best |
| agreement | percent of the forgotten images that the model and gold both get right or both get wrong |
| activation distance | mean L2 distance between the softmax outputs of model and gold on D_f, at most 1.414 |
| KL, JS | divergences KL(gold, model) and Jensen-Shannon of the softmax outputs on D_f, natural logarithm |
| gold-gold floor | a second gold model, other seed, against the first: the noise between two honest answers |
| majority floor | calling every forgotten image easy (gold gets it right) |
| count-matched floor | calling a random share easy, as large as the original's accuracy on images it never saw |
| easy, hard | gold classifies the image correctly, or not |
| D_test, D_f | held-out images of the class that the original never saw; the forgotten images |
| 85.1 ± 0.2 | 95 % confidence interval over seeds: Student t of one value a seed |
| 7.1 [5.2, 9.0] | 95 % confidence interval over the forgotten images of one seed: percentiles of 2,000 bootstrap \
resamples, drawn within each class, all models on the same images, the count-matched share fixed; says nothing \
about other trainings |
| interval of a gap | a gap is never below 0, so near 0 its interval cannot reach below it either: it lies to one \
side, and may lie above the gap itself, most of all that of a mean over classes |
| better, worse | the interval of the paired difference leaves out 0; else no difference is shown |
"""


def describe(results: Results) -> str:
    """A setting in words, with its seeds."""
    return f"{_fields(results, SETTING_FIELDS)}; seeds {_listed(results.seeds)}"


def _fields(results: Results, fields: Sequence[str]) -> str:
    """Fields of a setting; a plain run's variant and what older records lack are left out."""
    plain = {"variant": "default", "augment": None}
    shown = {f: results.setting[f] for f in fields if f not in plain or results.setting[f] != plain[f]}
    return ", ".join(f"{field} {MISSING if value is None else value}" for field, value in shown.items())


def head(config: Mapping[str, Any], groups: Sequence[Results]) -> str:
    """The title, and what was run on what."""
    records = [record for results in groups for record in results.records]
    sources = _listed(_distinct(records, "data_source")) or "source not recorded"
    versions = ", ".join(f"{name} {version}" for name, version in (config.get("versions") or {}).items())
    revisions = _distinct([config, *records], "git_revision")
    shortfalls = config.get("shortfalls") or []
    setting = f"**Not the paper's setting**: {'; '.join(shortfalls)}." if shortfalls else "This is the paper's setting."
    lines = [
        f"# Report of the experiment {config['experiment']}, preset {_listed(_distinct(records, 'preset')) or MISSING}",
        "",
        setting,
        "",
        "Images of a class are forgotten, and the result is compared with a model retrained without them.",
        "",
        f"- **Data**: {_listed(_distinct(records, 'dataset')) or MISSING} ({sources})",
        *_scale(groups),
        f"- **Why this**: {'; '.join(config.get('why') or [MISSING])}",
        *(f"- **Left out**: {sentence}" for sentence in config.get("left_out") or []),
        *(f"- **Command**: `{command}`" for command in _commands(config, records)),
        f"- **Device**: {_listed(_distinct([config, *records], 'device')) or MISSING}",
        f"- **Versions**: {versions or MISSING}",
        f"- **Git revision**: {_listed(revisions) or MISSING}",
        "",
    ]
    if len(_distinct(records, "versions")) > 1:
        lines += ["The records were made with more than one set of versions; each record names its own.", ""]
    return "\n".join(lines)


def _scale(groups: Sequence[Results]) -> list[str]:
    """The settings; of several, what they share stands once."""
    if len(groups) == 1:
        return [f"- **Scale**: {describe(groups[0])}"]
    differing = [field for field in SETTING_FIELDS if len({str(g.setting[field]) for g in groups}) > 1]
    shared = _fields(groups[0], [field for field in SETTING_FIELDS if field not in differing])
    each = "; ".join(f"{_fields(g, differing) or 'variant default'} (seeds {_listed(g.seeds)})" for g in groups)
    return [f"- **Scale**: {shared}", f"- **{len(groups)} settings**: {each}"]


def remarks(records: Sequence[Record]) -> str:
    """Every note of the records once, with the cells it stands in."""
    where: dict[str, list[Record]] = {}
    for record in records:
        for note in record.get("notes") or []:
            where.setdefault(note, []).append(record)
    lines = ["## Notes and warnings", ""]
    for note, found in where.items():
        methods = _listed([display_name(m) for m in _distinct(found, "method")])
        targets, seeds = _listed(_distinct(found, "target_class")), _listed(_distinct(found, "seed"))
        lines.append(f"- {note} ({methods}; class {targets}; seed {seeds})")
    return "\n".join([*lines, *([] if where else ["None."]), ""])


def _commands(config: Mapping[str, Any], records: Sequence[Record]) -> list[str]:
    """The commands that made the records, in order; a folder may have grown by several."""
    return _distinct(records, "command") or [str(config.get("command", MISSING))]


def rerun(config: Mapping[str, Any], records: Sequence[Record]) -> str:
    """The commands that make the run again, and every setting that it had."""
    lines = [
        "## How to rerun",
        "",
        "From the root of the repository, with the package installed and an `--output` folder added at will:",
        "",
        "```sh",
        *(command.replace(" --", " \\\n    --") for command in _commands(config, records)),
        "```",
        "",
        "Started again with the same folder, it continues where it stopped and writes this report anew.",
        "",
    ]
    arms = config.get("arms") or {}
    settings = _flat(next(iter(arms.values())) if arms else {})
    # The arms after the first differ from it in a setting or two.
    for name, arm in arms.items():
        changed = {key: value for key, value in _flat(arm).items() if settings.get(key) != value and key != "variant"}
        settings |= {f"{name}: {key}": value for key, value in changed.items()}
    if settings:
        lines += ["| setting | value |", "|---|---|"]
        lines += [f"| {name} | {value} |" for name, value in settings.items()]
    return "\n".join([*lines, ""])


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as `outer.inner: value`, lists in one line."""
    flat: dict[str, str] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            shown = _listed(value) if isinstance(value, list) else MISSING if value is None else str(value)
            flat[prefix + name] = shown.replace("|", "\\|")
    return flat


def reading() -> str:
    """The words of the tables and what they mean."""
    return f"## How to read this\n\n{GLOSSARY}\nWhat was not measured or is undefined is printed as {MISSING}.\n"


def _distinct(records: Sequence[Record], key: str) -> list[Any]:
    """The values of a field, each once, in order of appearance."""
    found = {json.dumps(r[key]): r[key] for r in records if r.get(key) is not None}
    return list(found.values())


def _listed(values: Sequence[Any]) -> str:
    return ", ".join(map(str, values))
