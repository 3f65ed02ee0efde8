"""What each cell of a page's table must say: its row, its column and a comment above it name a figure of `results/`.

The comment, which the built page does not show, names the folders, and what holds for the whole table:

    <!-- measured: cifar10-small-resnet-cpu; pooled -->

The labels of rows and columns and the corner between them are read by the same words. A later folder in the comment
serves rows that no folder before it has.
"""

import pathlib
import re
import statistics
from functools import cache
from typing import NamedTuple

from markdown_it import MarkdownIt

from experiments.report import requests, tables
from experiments.report.choices import choices
from experiments.report.compare import PUBLISHED
from experiments.report.formats import MISSING, text
from experiments.report.intervals import Estimate
from experiments.report.paper import printed_tables
from experiments.report.results import COUNT_MATCHED, GOLD, GOLD_GOLD, MAJORITY, MEAN, ORIGINAL, POOLED, load_results
from tmu_jax import METHODS
from tmu_jax.unlearning.shipped import SHIPPED

ROOT = pathlib.Path(__file__).parents[2]
CHOSEN = "chosen"
"""In the place of a method: the one that was chosen within a budget, seed by seed."""
REFERENCES = {
    "gold": GOLD,
    "another gold model": GOLD_GOLD,
    "a second gold": GOLD_GOLD,
    "original": ORIGINAL,
    "call all easy": MAJORITY,
    "a random share easy": COUNT_MATCHED,
    "a second gold model": GOLD_GOLD,
    "nothing done": ORIGINAL,
    "the published method": "twin",
}
READOUTS = {name: key for shown in (requests.READOUTS, tables.READOUTS) for key, name in shown.items()} | {
    "test accuracy": "test_accuracy",
    "forget accuracy": "forget_accuracy",
    "retained accuracy": "retain_accuracy",
    "agreement with gold": "agreement",
    "distance of the outputs": "activation_distance",
    "labels right": "predictor_accuracy",
    "AUC": "predictor_auc",
    "seconds": "seconds",
    "seconds of the twin model": "seconds_by_part/twin_model",
    "% of a retraining": "retraining_share",
}
WORDS = {name.replace("_", " "): {"method": name} for name in METHODS}
WORDS |= {name: {"method": name} for name in METHODS}
WORDS |= {word: {"method": name} for word, name in REFERENCES.items()}
WORDS |= {word: {"key": key} for word, key in READOUTS.items()}
WORDS |= {name: {"preset": name} for name in ("paper", "fast")}
WORDS |= {
    "": {},
    "floor": {},
    "untouched": {},
    "pooled": {"scope": POOLED},
    "pooled over the images": {"scope": POOLED},
    "mean over the classes": {"scope": MEAN},
    "by seed": {"form": "by seed"},
    "no intervals": {"form": "no intervals"},
    "promised / true": {"foretold": True},
    "at random": {"scenario": "random"},
    "a part of a class": {"scenario": "part"},
    "a whole class": {"scenario": "class"},
    "tuned": {"recipes": SHIPPED},
    "what rehearsals choose": {"method": CHOSEN},
    "the paper's": {"of_paper": True},
}
WORDS |= {
    word: {"variant": name}
    for word, name in {
        "the default": "default",
        "from M_t": "unlearning from M_t",
        "without AF": "predictor of NF and CF",
        "G_c on all of D": "CF: G_c on all of D, D_f included",
        "eps at 4/255": "AF: eps fixed at 4/255",
        "D is three quarters": "D is 75 %, M_t tuned on the rest",
        "200 epochs of the predictor": "predictor trained 200 epochs",
        "noise on the images": "noise on the fine-tuning's images",
        "all together": "the authors' code",
        "G_c on D and D_test": "CF: G_c on D and D_test",
    }.items()
}
FORETOLD = {key: promised for promised, (key, _) in requests.FORETOLD.items()}


class Table(NamedTuple):
    """A table of a page: the comment right above it, "" where there is none, and its rows, headings first."""

    comment: str
    rows: list[list[str]]


def tables_of(page: str) -> list[Table]:
    """The tables of a Markdown page, their cells without markup."""
    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(page)
    found = []
    for before, token, inside in zip([None, *tokens], tokens, [*tokens[1:], None], strict=False):
        if token.type == "table_open":
            found.append(Table(before.content.strip() if before and before.type == "html_block" else "", []))
        elif token.type == "tr_open":
            found[-1].rows.append([])
        elif token.type in ("th_open", "td_open"):
            found[-1].rows[-1].append("".join(part.content for part in inside.children))
    return found


def wrong_cells(table: Table) -> list[str]:
    """The cells that are not what `results/` gives, each with what it gives.

    Raises:
        ValueError: a label has a word that is not known, or what it names was not measured.
    """
    folders, *common = re.fullmatch(r"<!-- measured: (.*) -->", table.comment)[1].split("; ")
    (corner, *headings), *rows = table.rows
    ground = {"variant": "default", "form": "intervals"} | meaning("; ".join(common), "; ") | meaning(corner)
    found = []
    for label, *cells in rows:
        for heading, cell in zip(headings, cells, strict=True):
            own = together(meaning(label), meaning(heading))
            due = figure(tuple(folders.split()), **_of_scenario(ground | own))
            if cell != due:
                found.append(f"{label} | {heading}: {cell}, but measured is {due}")
    return found


def _of_scenario(said: dict) -> dict:
    """A comparison's arm by its scenario and its recipes, which are the published ones where no others are named."""
    if "scenario" not in said:
        return said
    arm = f"{said['scenario']}, {said.get('recipes', PUBLISHED)}"
    return {name: value for name, value in said.items() if name not in ("scenario", "recipes")} | {"variant": arm}


def meaning(label: str, separators: str = "[,:;] ") -> dict:
    """What the words of a label say; what stands in brackets is a remark for the reader, without a figure."""
    words, remarks = re.sub(r" ?\(.*?\)", "", label), re.findall(r"\(.*?\)", label)
    if re.search(r"\d", "".join(remarks)):
        raise ValueError(f"{label!r} has a figure in brackets, which nothing is held against; give it a cell")
    said: dict = {}
    for word in re.split(separators, words):
        said = together(said, _of_word(word))
    return said


def _of_word(word: str) -> dict:
    if word in WORDS:
        return WORDS[word]
    if known := re.fullmatch(r"(\d+ %)(?: of a retraining)?", word):
        return {"variant": known[1]}
    if re.fullmatch(r"\d+ % in \d+ requests|[NAC]F(\+[AC]F)*", word):
        return {"variant": word}
    if known := re.fullmatch(r"(.+) minus (.+)", word):
        return _of_word(known[1]) | {"reference": _of_word(known[2])["method"]}
    raise ValueError(f"{word!r} names no figure; write it by the words of tests/docs/traced.py")


def together(one: dict, other: dict) -> dict:
    """What both say, which may not be of the same thing."""
    if twice := one.keys() & other.keys():
        raise ValueError(f"{', '.join(twice)} is said twice: {one} and {other}")
    return one | other


def figure(folders, method, key, scope, variant, form, preset=None, reference=None, foretold=False, of_paper=False):
    """The figure as the page must have it."""
    if of_paper:
        return shown(_of_paper(method, key), key)
    if method == CHOSEN:
        return _of_choice(folders, key, scope, variant, form)
    results = measured(folders, method, variant, preset)
    if reference is not None:
        theirs = _own(reference, key)
        return shown(results.difference(method, reference, key, scope, theirs), key)
    keys = [_own(method, key)]
    promised = FORETOLD.get(key)
    if foretold and results.figures(scope, method, promised).mean is not None:
        keys.insert(0, promised)
    if form == "by seed":
        by_key = [[shown(Estimate(value), key) for value in results.figures(scope, method, k).by_seed] for k in keys]
    else:
        by_key = [[shown(results.estimate(scope, method, k), key, form == "intervals")] for k in keys]
    found = [" / ".join(parts) for parts in zip(*by_key, strict=True)] or [MISSING]
    # Gold beside itself.
    return found[0] if set(found) in ({"0"}, {"100"}) else ", ".join(found)


def _of_choice(folders, key, scope, variant, form):
    within = next(found for name in folders for found in loaded(name) if found.setting["variant"] == variant)
    (choice,) = choices(measured(folders, GOLD, "default", None), {variant: within}, scope)
    if form == "by seed":
        return ", ".join(shown(Estimate(value), key) for value in choice.by_seed(scope, key))
    return shown(choice.estimate(scope, key), key, form == "intervals")


def _of_paper(method: str, key: str) -> Estimate:
    """The mean of its Table 1 over the classes; it prints no gap of some methods, which its accuracies give."""
    by_class = [row for name, row in printed_tables()["table1_cifar10_resnet18"].items() if name != "mean"]
    if method not in by_class[0]:
        return Estimate(None)
    ours, gold = ([row[m]["forget_accuracy"] for row in by_class] for m in (method, GOLD))
    gaps = [abs(one - other) for one, other in zip(ours, gold, strict=True)]
    return Estimate(statistics.fmean({"forget_accuracy": ours, "forget_gap": gaps}[key]))


def _own(method: str, key: str) -> str:
    """A floor's labels are right where it agrees with gold."""
    return "agreement" if method.startswith("floor_") and key == "predictor_accuracy" else key


def measured(folders, method, variant, preset):
    """The first setting that has the method, by the seeds that measured it."""
    for results in (results for name in folders for results in loaded(name)):
        named = {"variant": variant, "preset": preset or results.setting["preset"]}
        if named.items() <= results.setting.items() and method in (*results.methods, *results.floors):
            return results.for_method(method)
    raise ValueError(f"{method}, {variant} is not in {' '.join(folders)}")


@cache
def loaded(name):
    return load_results(ROOT / "results" / name)


def shown(estimate: Estimate, key: str, interval: bool = True) -> str:
    """As in a report, but accuracies to a tenth, distances without the zero, and 0 or 100 throughout as such."""
    if estimate.mean in (0, 100) and estimate.high in (None, estimate.mean):
        return f"{estimate.mean:g}"
    return re.sub(r"\b0(?=\.\d{3})", "", text(estimate, "" if key.endswith("accuracy") else key, interval))
