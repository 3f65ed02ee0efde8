"""The pages and the last screen: what stands first, that nothing is lost, and that no name is taken for markup."""

import base64
import html.parser
import io
import itertools
import re

import pytest
from markdown_it import MarkdownIt
from matplotlib.figure import Figure
from rich.console import Console

from experiments.report.page import Body, Picture, Section
from experiments.report.tables import Table
from experiments.report.verdict import LEARNT_NOTHING
from experiments.report.write import SCREEN_LINES, print_table, write_report
from tests.report.made_up import CONFIG, PAPER, QUICK, RUN, made_up_features, record, small_run, write_run

VOID = {"meta", "br", "img", "hr", "link"}
HOSTILE = "a|b <script>x</script> ![p](x.svg) \x1b]0;t\x07 \udcff `c`"
METHODS = ["original", "retrain", "finetune", "negative_gradient", "random_labeling", "bad_teacher", "twin", "my_own"]


class Page(html.parser.HTMLParser):
    """What a browser would find: balanced elements, their attributes, and the texts of table cells by row."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.rows, self.folded = [], [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
            self.folded.append("details" in self.open)
        if tag in ("td", "th"):
            self.rows[-1].append("")

    handle_startendtag = handle_starttag

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def of_markdown(text):
    """A Markdown page as GitHub would show it, tables included."""
    return Page(MarkdownIt("commonmark", {"html": True}).enable("table").render(text))


def screen(folder, width=80, body=None):
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    print_table(folder, console, body)
    return console.file.getvalue().splitlines()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    records = small_run(seeds=(0, 1, 2))
    records[0]["notes"] = ["the twin model stopped early"]
    write_run(folder, records, [made_up_features("twin"), made_up_features("original", seed=1)])
    return folder, write_report(folder).read_text("utf-8"), (folder / "report.html").read_text("utf-8")


def test_the_page_opens_with_the_sentence_the_table_and_the_picture_and_folds_the_rest(whole):
    _, markdown, page = whole
    for text in (markdown, page):
        ahead, folded = text.split("<details>", 1)
        assert ahead.index("nearest to gold" if "nearest" in ahead else "Twin against gold") < ahead.index(
            "count-matched"
        )
        assert "5,000 training images instead of 50,000" in ahead
        assert ahead.count("overview.svg") + ahead.count("data:image") == 1
        assert "features.svg" not in ahead
        for later in ("3 cat", "How to read this", "a small CPU", "jax 0.10.2", "0123abc", "num_train 5000"):
            assert later not in ahead
            assert later in folded
    assert "the twin model stopped early (twin; class 3; seed 0)" in markdown
    assert markdown.count("dataset = synthetic (the paper: cifar10)") == 1


def test_both_pages_have_every_cell_and_the_html_loads_nothing(whole):
    folder, markdown, text = whole
    page = Page(text)
    assert page.rows == of_markdown(markdown).rows
    assert len(page.rows) > 40
    assert page.folded.index(True) == 1 + 6
    assert not page.all("link") + page.all("script")
    assert not re.search(r"@import|url\(", text)
    sources = [image["src"] for image in page.all("img")]
    assert [base64.b64decode(source.removeprefix("data:image/svg+xml;base64,")) for source in sources] == [
        (folder / f"{name}.svg").read_bytes() for name in ("overview", "features")
    ]
    assert all(image["alt"] for image in page.all("img"))


def test_the_runs_are_told_once_with_their_commands(tmp_path):
    runs = {f"r{seed}": RUN | {"command": f"python -m experiments.cifar10 --seeds {seed}"} for seed in (0, 1)}
    settings = {"num_forget": "all", "recipe": {"epochs": 6, "augment": False}, "seeds": [0, 1]}
    write_run(tmp_path, [r | {"run": f"r{r['seed']}"} for r in small_run()],
              config=CONFIG | {"runs": runs, "arms": {"default": settings}})  # fmt: skip
    text = write_report(tmp_path).read_text("utf-8")
    for seed in (0, 1):
        assert f"Run r{seed} made 12 of 24 records" in text
        assert text.replace(" \\\n     ", "").count(f"    python -m experiments.cifar10 --seeds {seed}\n") == 1
    assert "| recipe.epochs | 6 |" in text
    assert "| seeds | 0, 1 |" in text


def test_the_papers_setting_without_features(tmp_path):
    write_run(tmp_path, small_run(PAPER, seeds=(0,)), config=CONFIG | {"runs": {"r1": RUN | {"shortfalls": []}}})
    text = write_report(tmp_path).read_text("utf-8")
    assert "This is the paper's setting." in text
    assert "ours / paper" in text
    assert not (tmp_path / "features.svg").exists()


def test_no_name_is_taken_for_markup_or_moves_the_cursor(tmp_path):
    records = [r | {"class_name": HOSTILE, "notes": [HOSTILE]} for r in small_run(seeds=(0,))]
    records += [r | {"method": HOSTILE} for r in records if r["method"] == "twin"]
    run = RUN | {"command": HOSTILE, "device": HOSTILE, "shortfalls": [HOSTILE], "why": [HOSTILE]}
    write_run(tmp_path, records, config=CONFIG | {"runs": {"r1": run}, "left_out": [HOSTILE]})
    markdown = write_report(tmp_path).read_text("utf-8")
    pages = [of_markdown(markdown), Page((tmp_path / "report.html").read_text("utf-8"))]
    assert pages[0].rows == pages[1].rows
    assert any(row[0].startswith("3 a|b <script>x</script> ![p](x.svg) \\x1b]0;t\\x07") for row in pages[0].rows)
    for page in pages:
        assert not page.all("script")
        assert len(page.all("img")) == 1
    printed = "\n".join(screen(tmp_path))
    assert "\x1b" not in printed
    assert "\\x1b" in printed


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_last_screen_fits(tmp_path, width):
    numbers = itertools.count(11)
    floors = ["floor_gold_gold", "floor_majority", "floor_count_matched"]
    records = [
        record(m, c, s, forget_gap=2.0 * next(numbers), forget_accuracy=50.0, test_accuracy=60.25, agreement=99.9,
               activation_distance=0.123, seconds=12345.6, retraining_share=1.2)
        for s in (0, 1) for c in (3, 5) for m in [*METHODS, "twin_negative_gradient", *floors]
        if (m, s) != ("twin_negative_gradient", 1)
    ]  # fmt: skip
    write_run(tmp_path, records)
    lines = screen(tmp_path, width)
    assert len(lines) <= SCREEN_LINES
    assert max(map(len, lines[:-1])) <= width
    assert "report.html" in lines[-1]
    assert "On another processor the answers" in " ".join(lines[-4:])
    assert lines[0] == "Means over 2 classes, 2 seeds:"
    rows = [line for line in lines if re.match(r"^(original|my own|floor: majority) ", line)]
    assert [line.split()[:1] for line in rows] == [["original"], ["my"], ["floor:"]]
    if width >= 80:
        assert all(heading in " ".join(lines[1:4]) for heading in ("A_t", "A_f", "gap", "tance", "training"))
        # 22 and 46 in seed 0, 70 and 92 in seed 1.
        assert re.search(r"60\.25 +50\.0 +57\.5 +99\.9 +0\.123 +12345\.6 +120\.0", rows[0])
    else:
        assert any("more column" in line for line in lines)


def test_a_model_at_chance_is_said_before_any_figure(tmp_path):
    """On the screen in one line, which still fits, and on both pages."""
    note = f"The gold model gets 10.0 % of the test images right: it has {LEARNT_NOTHING}. Try more epochs."
    many = [record(f"method_{i}", 3, 0, forget_gap=1.0) for i in range(36)]
    records = [r | {"notes": [note] if r["seed"] == 1 else ["another note"]} for r in small_run() + many]
    write_run(tmp_path, records)
    said = "The gold or original model is at chance in 1 of 2 requests: their figures say nothing."
    lines = screen(tmp_path, width=100)
    assert lines.count(said) == 1
    (verdict,) = (i for i, line in enumerate(lines) if "Twin against gold" in line)
    assert lines.index(said) < verdict
    assert all(len(screen(tmp_path, width)) <= SCREEN_LINES for width in (40, 60, 100))
    for page in (write_report(tmp_path), tmp_path / "report.html"):
        assert page.read_text("utf-8").split("Twin against gold")[0].count(said) == 1
    write_run(tmp_path, small_run())
    assert "at chance" not in "".join(screen(tmp_path, width=100))


def test_features_of_cells_without_records_are_not_drawn(tmp_path):
    write_run(tmp_path, small_run(), [made_up_features("twin") | {"seed": 7}])
    write_report(tmp_path)
    assert not (tmp_path / "features.svg").exists()


@pytest.mark.parametrize(
    "told", [5, [5], {"gold model": 5}, {"gold-1": {"label": "x", "by": 5}}, {"gold-1": {"label": "x", "by": [5]}}]
)
def test_makers_of_another_form_are_named_with_their_line(tmp_path, told):
    write_run(tmp_path, [r | {"made_elsewhere": told} for r in small_run()])
    with pytest.raises(ValueError, match=r"results\.jsonl, line 1: made_elsewhere must be an object"):
        write_report(tmp_path)


def test_makers_are_told_in_either_form(tmp_path):
    """By label with one maker, as they were written before; and by stage."""
    old = {"gold model": {"git_revision": None}}
    new = {"gold-1": {"label": "second gold model", "by": [{"git_revision": "a"}, {}, {"device": "b"}]}}
    write_run(tmp_path, [r | {"made_elsewhere": [old, new][r["seed"]]} for r in small_run()])
    text = write_report(tmp_path).read_text("utf-8")
    told = [line[2:].split(", unlike")[0] for line in text.splitlines() if "unlike the run" in line]
    assert told == [
        "gold model: made with git_revision –",
        "second gold model: made in part with git_revision a",
        "second gold model: made in part with device b",
    ]


def test_what_does_not_fit_the_screen_is_left_to_the_report(tmp_path):
    write_run(tmp_path, [record(f"method_{i}", 3, 0, forget_gap=1.0) for i in range(36)] + small_run(seeds=(0,)))
    lines = screen(tmp_path)
    assert SCREEN_LINES - 4 < len(lines) <= SCREEN_LINES
    assert any(re.fullmatch(r"\d+ more rows in the report", line) for line in lines)
    assert sum(line.startswith("floor: ") for line in lines) == 3


def test_a_terminal_of_another_encoding_gets_what_it_can_show(tmp_path):
    write_run(tmp_path, small_run())
    stream = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    print_table(tmp_path, Console(width=80, file=stream))
    stream.flush()
    assert b"floor: count-matched" in stream.buffer.getvalue()


def test_an_experiments_own_body_replaces_the_standard_one(tmp_path):
    write_run(tmp_path, [r for i in range(2) for r in small_run(QUICK | {"variant": f"variant {i}"}, seeds=(0,))])
    table = Table("Size against gap", ("size", "gap"), (("20", "4.0 ± 1.0"),))
    empty = "<svg xmlns='http://www.w3.org/2000/svg'/>"
    picture = Picture("sizes", "Gap by size", "Larger ones right.", lambda at: (at / "sizes.svg").write_text(empty))
    body = Body("Gaps grow.", table, picture, [Section("More", ["A paragraph.", ["first", "second"]])])
    text = write_report(tmp_path, body).read_text("utf-8")
    for part in ("**Gaps grow.**", "| 20 | 4.0 ± 1.0 |", "![Gap by size](sizes.svg)\n\nLarger", "- first\n- second"):
        assert part in text
    assert "How to read this" in text
    assert "Every readout" not in text
    assert not (tmp_path / "overview.svg").exists()
    assert "Gaps grow." in screen(tmp_path, body=body)


def test_several_settings_share_one_table_and_five_sentences(tmp_path, monkeypatch):
    monkeypatch.setattr(Figure, "savefig", lambda *args, **options: None)
    groups = [small_run(QUICK | {"num_forget": size}, seeds=(0,)) for size in range(20, 27)]
    write_run(tmp_path, [r for group in groups for r in group])
    text = write_report(tmp_path).read_text("utf-8")
    assert "| twin, default, 20 images | 84.50 |" in text
    assert text.split("What the numbers say")[1].split("</details>")[0].count("\n- ") == 5
