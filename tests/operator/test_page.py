"""The page and the summary: complete, escaped, self-contained, and readable where marks crowd."""

from __future__ import annotations

import re
import tomllib
from html.parser import HTMLParser
from importlib import resources
from itertools import pairwise
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from builders import Quality, World, interval, make_job
from reports import ENDINGS, ended
from trimtab.api.model import Metric
from trimtab.api.report import JobReport, TrialWork
from trimtab.api.status import CandidateStatus, TrialStatus
from trimtab.api.work import Report, Stage, StepReport
from trimtab.page import WIDE, html, markdown
from trimtab.page.front import front
from trimtab.page.labels import Anchor, Box, place
from trimtab.page.plot import Axis, draw
from trimtab.report import build
from trimtab.select import select

VOID = {"meta", "link", "br", "img", "hr", "input"}


class Page(HTMLParser):
    """A parsed page. Raises AssertionError where an element is closed that is not open."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def classes(self) -> list[str]:
        return [attributes.get("class") or "" for _, attributes in self.elements]


def report(ending: str) -> JobReport:
    return build(ENDINGS[ending]())


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_page_is_whole_and_says_everything(ending: str) -> None:
    found = report(ending)
    page = Page(html(found))
    said = " ".join("".join(page.text).split())
    assert " ".join(found.headline.split()) in said
    assert " ".join(found.verdict.split()) in said
    for candidate in found.candidates:
        assert f"{candidate.name} " in said or candidate.name in page.text
        assert " ".join(candidate.reason.split()) in said


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_page_needs_nothing_else(ending: str) -> None:
    page = Page(html(report(ending)))
    assert not {"script", "link", "img", "iframe", "object", "base", "form"} & {tag for tag, _ in page.elements}
    loading = {"src", "href", "srcset", "action", "style", "data"}
    assert not [names for _, attributes in page.elements if (names := loading & set(attributes))]
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    style = html(report(ending)).partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_summary_has_every_candidate_in_a_sound_table(ending: str) -> None:
    found = report(ending)
    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(markdown(found))
    tables = rows(tokens)
    assert len(tables[0]) == 1 + len(found.candidates)
    assert all(len({len(row) for row in table}) == 1 for table in tables)
    reasons = sorted(" ".join(candidate.reason.split()) for candidate in found.candidates)
    assert sorted(row[-1] for row in tables[0][1:]) == reasons
    assert not any(token.type in ("html_block", "html_inline") for block in tokens for token in (block.children or []))
    assert not any(token.type == "html_block" for token in tokens)


def rows(tokens: list) -> list[list[list[str]]]:
    """Every table of a parsed document: rows of cells, as a reader sees them."""
    tables: list[list[list[str]]] = []
    for token, following in pairwise(tokens):
        if token.type == "table_open":
            tables.append([])
        if token.type == "tr_open":
            tables[-1].append([])
        if token.type in ("td_open", "th_open"):
            tables[-1][-1].append("".join(child.content for child in following.children))
    return tables


def test_hostile_text_stays_text() -> None:
    assert "<script" not in html(report("hostile"))
    assert "&lt;script&gt;" in html(report("hostile"))


def test_the_winner_comes_first_and_is_marked() -> None:
    page = Page(html(report("crowded")))
    outcomes = [name for name in page.classes() if name.startswith("outcome")]
    assert outcomes[0] == "outcome feasible won"
    assert sum("won" in name for name in outcomes) == 1


@pytest.mark.parametrize(
    ("ending", "kinds"),
    [
        ("winner", {"winner", "input", "infeasible", "holdout"}),
        ("crowded", {"winner", "input", "infeasible", "feasible", "dominated", "inconclusive"}),
        ("nothing feasible", {"input", "infeasible"}),
        ("baseline is best", {"winner", "dominated", "inconclusive", "infeasible"}),
        ("failed", {"input", "unjudged"}),
    ],
)
def test_the_plot_tells_kinds_of_candidates_apart(ending: str, kinds: set[str]) -> None:
    names = Page(plot(ending)).classes()
    assert {name.removeprefix("mark ") for name in names if name.startswith("mark ")} <= kinds
    assert {"mark winner"} & set(names) == ({"mark winner"} if "winner" in kinds else set())


def plot(ending: str) -> str:
    seen = front(report(ending))
    assert seen
    return draw(seen, *WIDE, "accuracy")


def test_an_interval_is_a_bar_on_the_scale_of_its_axis() -> None:
    found = report("winner")
    seen = front(found)
    assert seen
    bars = [a for tag, a in Page(plot("winner")).elements if tag == "line" and a.get("class") == "bar"]
    axis = Axis(*seen.time, 44, WIDE[0] - 14)
    ratio = next(c for c in found.candidates if c.trial == 2).time_ratio
    assert ratio
    ends = {(f"{axis.at(float(ratio.low)):.1f}", f"{axis.at(float(ratio.high)):.1f}")}
    assert ends & {(bar["x1"], bar["x2"]) for bar in bars}
    upright = [bar for bar in bars if bar["x1"] == bar["x2"] and bar["y1"] != bar["y2"]]
    assert len(upright) == 1, "the claim's"


def test_what_the_result_was_made_of_is_told_in_every_form() -> None:
    found = report("winner")
    assert found.winner
    assert found.lineage.hardware
    digests = [found.lineage.model, *(split.digest for split in found.asked.data if split.digest)]
    assert len(digests) > 1
    facts = [*digests, found.lineage.hardware.cpu, "avx2", "onnxruntime 1.31.1", *found.winner.load.splitlines()]
    for said in ("".join(Page(html(found)).text), markdown(found)):
        assert not [fact for fact in facts if fact not in said]


def test_the_area_of_a_mark_is_its_size() -> None:
    drawn = re.findall(r"<title>([^:]+): [^<]*</title><circle [^>]*r=\"([\d.]+)\"", plot("winner"))
    radii = {name: float(radius) for name, radius in drawn}
    sizes = {c.name: float(c.metrics[Metric.SIZE]) for c in report("winner").candidates if c.name in radii}
    largest = max(sizes, key=lambda name: sizes[name])
    areas = {name: (radius / radii[largest]) ** 2 for name, radius in radii.items()}
    assert areas == pytest.approx({name: size / sizes[largest] for name, size in sizes.items()}, abs=0.02)
    assert min(areas.values()) < 0.5


def test_a_ruined_candidate_is_drawn_on_the_edge_and_said() -> None:
    found = report("winner")
    seen = front(found)
    assert seen
    assert [mark.candidate.trial for mark in seen.marks if seen.off_scale(mark)] == [1]
    assert seen.change[0] > -10
    assert "Off scale, drawn on the edge: trial 1 on ONNXRuntime (0.60, −75)." in html(found)


def test_a_model_that_was_made_twice_is_drawn_once() -> None:
    job = ENDINGS["winner"]()
    twin = job.status.trials[2].model_copy(update={"index": 3})
    trials = [trial.model_copy(update={"candidates": unjudged(trial)}) for trial in (*job.status.trials, twin)]
    status = job.status.model_copy(update={"trials": trials})
    judged = select(job.spec, status)
    found = build(job.model_copy(update={"status": status.model_copy(update={"trials": list(judged.trials)})}))
    seen = front(found)
    assert seen
    assert [mark.candidate.trial for mark in seen.marks] == [0, 1, 2]
    assert found.candidates[3].reason == "the same model as trial 2 on ONNXRuntime"
    assert "the same model as trial 2 on ONNXRuntime" in html(found)


def unjudged(trial: TrialStatus) -> list[CandidateStatus]:
    return [candidate.model_copy(update={"outcome": None, "message": ""}) for candidate in trial.candidates]


def test_an_error_is_drawn_upside_down_in_percent() -> None:
    seen = front(report("regression"))
    assert seen
    assert [round(mark.change.value, 6) for mark in seen.marks] == [0, -3, -350]
    assert "trial 1 on ONNXRuntime: 0.50 of the time, −3%; " in plot("regression")
    assert "mse: percent from the input model&#x27;s 0.2<" in html(report("regression"))
    assert "peakMemory" in html(report("regression"))


def test_where_nothing_is_feasible_the_nearest_miss_is_in_view() -> None:
    seen = front(report("nothing feasible"))
    assert seen
    assert [mark.candidate.trial for mark in seen.marks if not seen.off_scale(mark)] == [0, 2]


@pytest.mark.parametrize(
    ("slow", "floor", "off"),
    [
        pytest.param(1.9, "94%", [], id="slow, in view"),
        pytest.param(5.0, "94%", [2], id="far too slow"),
        pytest.param(1.9, "50%", [], id="a bound far away"),
    ],
)
def test_neither_the_slow_nor_a_far_bound_squeezes_the_rest(slow: float, floor: str, off: list[int]) -> None:
    ratios = {"": 1.0, "All": 0.7, "Compute": slow}
    world = World(
        make_job(constraints=[{"metric": "accuracy", "min": floor}]),
        lambda settings, _: Quality(ratio=ratios[settings.get("quantize.operatorScope", "")]),
    )
    seen = front(build(ended(world)))
    assert seen
    assert [mark.candidate.trial for mark in seen.marks if seen.off_scale(mark)] == off
    assert seen.time[1] < 2.2
    assert seen.change[0] > -2


def test_the_front_is_a_staircase_without_the_dominated() -> None:
    seen = front(report("crowded"))
    assert seen
    steps = seen.staircase()
    assert [m.time.value for m in steps] == sorted(m.time.value for m in steps)
    assert [m.change.value for m in steps] == sorted({m.change.value for m in steps})


def test_without_a_measured_baseline_there_is_no_plot() -> None:
    found = report("winner").model_copy(update={"candidates": []})
    assert front(found) is None


@pytest.mark.parametrize("ending", ENDINGS)
def test_labels_cover_neither_each_other_nor_the_frame(ending: str) -> None:
    boxes = []
    for x, y, text in re.findall(r'<text x="([\d.]+)" y="([\d.]+)" class="label[^>]*>([^<]+)<', plot(ending)):
        left, bottom = float(x), float(y) + 3
        boxes.append(Box(left, bottom - 14, left + len(text) * 6.6, bottom))
    assert boxes
    assert not [(a, b) for a in boxes for b in boxes if a is not b and a.overlaps(b)]


def test_a_label_with_no_room_is_left_out() -> None:
    frame = Box(0, 0, 100, 40)
    crowd = [Anchor(50, 20, 5, 90, 30)] * 2
    assert place(crowd, [Box(45, 15, 55, 25)], frame) == [None, None]


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.45, 1.1, ["0.6", "0.8", "1"]),
        (-1.3, 0.6, ["-1", "-0.5", "0", "0.5"]),
        (-80, 5, ["-80", "-60", "-40", "-20", "0"]),
    ],
)
def test_ticks_are_round(low: float, high: float, ticks: list[str]) -> None:
    assert [f"{tick:.3g}" for tick in Axis(low, high, 0, 100).ticks(5)] == ticks


def test_layers_that_stayed_float_are_listed_for_the_winner_and_folded_for_others() -> None:
    steps = {trial: [StepReport(technique="quantize", float_layers=[f"/layer{trial}/Conv"])] for trial in (1, 2)}
    pods = [Report(stage=Stage.TRIAL, trial=trial, seconds=2, steps=made) for trial, made in steps.items()]
    found = build(ENDINGS["winner"](), pods=pods)
    assert found.work[0] == TrialWork(trial=1, seconds=2, steps=steps[1])
    text = html(found)
    assert "In the winner, 1: <code>/layer2/Conv</code>" in text
    assert "Trial 1, 1: <code>/layer1/Conv</code>" in text
    assert "Trial 2 left in floating point: `/layer2/Conv`" in markdown(found)


def test_a_control_that_misses_its_truth_is_a_warning() -> None:
    job = ENDINGS["winner"]()
    noisy = job.status.model_copy(update={"control_ratio": interval(1.1)})
    assert "this machine was noisier than the intervals say" in build(job.model_copy(update={"status": noisy})).noise


def test_doubts_about_the_input_are_told_in_every_form() -> None:
    job = ENDINGS["winner"]()
    assert job.status.inspection
    doubtful = job.status.inspection.model_copy(update={"warnings": ["labels are <shifted>"]})
    found = build(job.model_copy(update={"status": job.status.model_copy(update={"inspection": doubtful})}))
    assert found.warnings == ["labels are <shifted>"]
    assert "Doubtful input.</strong> labels are &lt;shifted&gt;" in html(found)
    assert "Doubtful input: labels are &lt;shifted&gt;" in markdown(found)


def test_the_templates_are_in_the_wheel() -> None:
    root = Path(__file__).parents[2]
    data = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    assert data == {"trimtab.page": ["templates/*"]}
    assert {path.name for path in resources.files("trimtab.page").joinpath("templates").iterdir()} == {
        "report.css", "report.html", "report.md"
    }  # fmt: skip
