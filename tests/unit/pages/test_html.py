"""The page: self-contained, escaped, deterministic, whole when numbers are missing."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from sparsify_cli.pages.html import render_html
from sparsify_cli.pages.view import Curve, Epoch, Exemplar, Layer, LineageStep, Reliability, Stage
from sparsify_cli.values.condition import Condition
from sparsify_cli.values.report import Finding, Report
from tests.unit.pages.fakes import accuracy, compressed, view

VOID = {"meta", "img", "br", "link"}
EVIL = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>{{ 7*7 }}$a_b$\x00\u202e\udc80]]>"


class Reader(HTMLParser):
    """Checks nesting and collects tags, ids and attributes."""

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.broken = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.broken.append(tag)

    def of(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def page():
    """The page of the small view."""
    return render_html(view())


def test_page_is_well_formed_with_unique_ids(page):
    """Every tag is closed in order and no id is used twice, figures included."""
    reader = Reader(page)
    assert (reader.open, reader.broken) == ([], [])
    ids = Counter(attributes["id"] for _, attributes in reader.tags if "id" in attributes)
    assert [name for name, times in ids.items() if times > 1] == []
    assert all(a["href"][1:] in ids for _, a in reader.tags if a.get("href", "").startswith("#"))


def test_page_needs_no_network_and_runs_nothing(page):
    """No scripts, no links out, no imports; images are inside."""
    reader = Reader(page)
    assert not reader.of("script") and not reader.of("link") and "@import" not in page
    assert all(attributes["src"].startswith("data:image/png;base64,") for attributes in reader.of("img"))
    assert all(value.startswith("#") for value in re.findall(r'href="([^"]*)"', page))
    assert "http:" not in page and "https:" not in page


def test_figures_and_images_have_words_for_those_who_cannot_see_them(page):
    """Each figure has a title and a description with its numbers; each image an alternative text."""
    reader = Reader(page)
    assert len(reader.of("svg")) == 2 + 1 + 2 + 2 + 2
    assert len(reader.of("title")) == 1 + 9 and len(reader.of("desc")) == 9
    assert "dense 97.8 %; pruned 97.2 %" in page
    assert [image["alt"] for image in reader.of("img")] == ["Sample test-7, true class 8"]


def test_figures_follow_the_colours_of_the_page(page):
    """No colour of the canvas is left; they are variables, so dark mode and print work."""
    assert not re.search(r"#0101\d\d", page) and "var(--accent)" in page and "prefers-color-scheme: dark" in page


def test_first_screen_says_the_verdict_and_plain_words(page):
    """The sentence, who pays, the gate, and why zeros are not faster."""
    text = page.replace("\u00a0", " ")
    assert "90 % of the prunable weights are gone; accuracy fell by 0.6 points" in text
    assert "Class 8 pays most" in text and "change.accuracy&gt;=-0.015: holds" in text and "dense kernels do not skip zeros" in text


def test_missing_and_unknown_numbers_are_shown_as_such(page):
    """A value of None says why; a metric nobody knows is in the full list with its definition."""
    assert "not enough data" in page and "only 3 samples" in page
    assert "How odd it is." in page and "2.50 furlongs" in page


def test_same_view_same_bytes(page):
    """Nothing reads the clock or a random number."""
    assert render_html(view()) == page


def test_hostile_text_stays_text():
    """Names of files, groups, classes, layers and samples are shown, never run; control characters are gone."""
    extra = (accuracy(0.5, scope=f"group:{EVIL}"), accuracy(-0.5, "change", f"class:{EVIL}"), Finding(name=EVIL, value=1.0))
    report = Report((*compressed().findings, *extra))
    report = Report(tuple(replace(f, definition=EVIL, note=EVIL, source=EVIL) for f in report))
    evil = view(
        title=EVIL,
        stages=(Stage(EVIL, EVIL, EVIL, {EVIL: EVIL}, report), Stage(EVIL, "prune", EVIL, {EVIL: EVIL}, report)),
        layers=(Layer(EVIL, (1,), 4, 2),),
        exemplars=(Exemplar(EVIL, None, EVIL, EVIL, EVIL, None, None, {EVIL: EVIL}),),
        reliability=(Reliability(EVIL, [(0.5, 0.5, 1)]),),
        lineage=(LineageStep(EVIL, EVIL, EVIL, EVIL, EVIL),),
        environment={EVIL: EVIL},
        gates=(Condition(EVIL, ">=", 0.5, extra[0], False),),
    )
    page = render_html(evil)
    reader = Reader(page)
    assert (reader.open, reader.broken) == ([], [])
    assert not reader.of("script") and not reader.of("img") and not [a for _, a in reader.tags if "onerror" in a]
    assert "{{ 7*7 }}" in page and "\x00" not in page and "\u202e" not in page
    assert page.encode("utf-8")


def test_page_is_whole_with_nothing_measured():
    """One stage, no findings, no layers: every section stands and says that it has nothing."""
    empty = dict.fromkeys(("layers", "exemplars", "reliability", "lineage", "gates"), ())
    page = render_html(view(stages=(Stage("dense", "train", "", {}, Report()),), environment={}, **empty))
    assert Reader(page).broken == []
    said = (
        "not measured",
        "No layers were listed",
        "names no groups",
        "groups_test_age",
        "No sample to show",
        "Calibration was not measured",
    )
    assert [words for words in said if words not in page] == []


def test_large_pages_stay_readable_and_small():
    """300 classes and 120 layers: the pictures show the 30 worst and unnamed columns, the page stays under 5 MB."""
    scopes = [f"class:{c}" for c in range(300)]
    changes = [accuracy(-c / 1000, "change", scope) for c, scope in enumerate(scopes)]
    many = [*(accuracy(0.9, "dense", scope) for scope in scopes), *(accuracy(0.8, scope=scope) for scope in scopes), *changes]
    stages = (view().stages[0], Stage("pruned", "prune", "", {}, Report(tuple(many))))
    page = render_html(view(stages=stages, layers=tuple(Layer(f"layer{i}", (10, 10), 100, i % 100) for i in range(120))))
    figure = page[page.index('id="fig-class-change-title"') : page.index("</svg>", page.index('id="fig-class-change-title"'))]
    assert "299: " in figure and "270: " in figure and "269: " not in figure
    assert "The pictures show the 30 of 300 that lost most" in page and "layer, in network order" in page
    assert len(page.encode()) < 5_000_000


def test_dollars_in_names_are_not_mathematics():
    """A layer called like a formula is written as it is; a broken formula breaks nothing."""
    page = render_html(view(layers=(Layer("$x_1$", (4,), 4, 2), Layer("$\\nosuch{$", (4,), 4, 2))))
    figure = page[page.index('id="fig-layers-title"') :]
    assert ">$x_1$</text>" in figure and ">$\\nosuch{$</text>" in figure


def test_what_is_left_of_layers_is_drawn():
    """A line a layer to the end of the training, the thinnest named; dead channels where there are any."""
    densities = ((0, {"a.weight": 1.0, "b.weight": 0.5}), (10, {"a.weight": 0.25}), (20, {"a.weight": 0.05}))
    curve = Curve("stage", epochs((0.1, 0.05, 0.01), 0), densities=densities, dead=((0, 0), (10, 3)))
    page = render_html(replace(view(), curves=(curve,)))
    section = page[page.index('id="training"') : page.index('id="size"')]
    assert re.findall(r"<figcaption>([^<]*)</figcaption>", section) == ["Accuracy and sparsity", "Density of layers", "Dead channels"]
    assert "Of 2 layers a.weight ends with the least of its weights, 5.0" in section and "3 after the last" in section
    none = render_html(replace(view(), curves=(replace(curve, densities=densities[:1], dead=((0, 0), (10, 0))),)))
    assert "Density of layers" not in none and "Dead channels" not in none


def epochs(rates, rewinds):
    """Epochs with these learning rates, put back so often by the end."""
    return tuple(Epoch(10 * (i + 1), 0.5 + 0.01 * i, 0.1 * i, rate, rewinds) for i, rate in enumerate(rates))


@pytest.mark.parametrize(
    ("rates", "rewinds", "captions"),
    [
        ((0.1, 0.05, 0.01), 0, ["Accuracy and sparsity"]),
        ((0.1, 0.01, 0.1, 0.01), 1, ["Accuracy and sparsity", "Learning rate"]),
        ((None, None, None), 0, ["Accuracy and sparsity"]),
    ],
)
def test_training_is_drawn_and_the_rate_where_it_was_put_back(rates, rewinds, captions):
    """One figure each, with its caption; logs of before the rate was told still draw."""
    page = render_html(replace(view(), curves=(Curve("stage", epochs(rates, rewinds)),)))
    section = page[page.index('id="training"') : page.index('id="size"')]
    assert re.findall(r"<figcaption>([^<]*)</figcaption>", section) == captions
    changes = replace(view(), curves=(Curve("stage", epochs(rates, rewinds), ((5, 0.5), (9, 0.2)), differing=((5, 1200.0), (9, 30.0))),))
    assert "Changes of the masks" in render_html(changes) and "1,200 bits of the masks differed" in render_html(changes)
    reader = Reader(page)
    assert (reader.open, reader.broken) == ([], [])
