"""Rows of the page's tables: plain words and numbers, ready to be written by any document."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from sparsify_cli.pages.glossary import label, meaning
from sparsify_cli.pages.verdict import beyond_doubt
from sparsify_cli.pages.view import Stage, View, missing
from sparsify_cli.pages.wording import CONTINUOUS, NOTHING, Judgement, count, interval, judge, points, ratio, said, spoken
from sparsify_cli.values.report import Finding

COMPARED = (
    "sparsity", "nonzeros", "perplexity", "accuracy", "rmse", "mae", "r2", "token_agreement", "output_shift",
    "churn", "nll", "ece", "uncertainty",
    "bytes_dense", "bytes_packed", "macs", "macs_nonzero", "latency_ms",
)  # fmt: skip
CONFIDENCE = ("ece", "nll", "brier", "uncertainty")
SIZES = ("bytes_dense", "bytes_packed", "bytes_onnx")
FORGETTING = (
    ("forget", "What should be forgotten"),
    ("retain", "Training data that stays"),
    ("test", "Test data"),
    ("test_others", "Test data, classes that stay"),
)
FORECAST = (
    "forecast_precision", "forecast_recall", "forecast_lift",
    "forecast_bias_precision", "forecast_bias_recall", "forecast_bias_lift", "forecast_bias",
)  # fmt: skip
SAME_SIZE = 0.02
WITHOUT_UNIT = (" points", " nats", " ms", " weights", " numbers", " parameters", " multiply-adds")
DASH = "\u2013"


@dataclass(frozen=True)
class Cell:
    """One number of a table with its interval, exact value and judgement."""

    text: str
    interval: str = ""
    exact: str = ""
    judgement: Judgement = "unknown"


@dataclass(frozen=True)
class Row:
    """One line of a table: what it is, what that means, and its cells."""

    label: str
    meaning: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Slice:
    """A class or group: how many samples, accuracy before and after, the change and its judgement in words."""

    name: str
    n: str
    dense: Cell
    compressed: Cell
    change: Cell
    reading: str


@dataclass(frozen=True)
class Definition:
    """Every finding of one name in one report, its definition said once."""

    label: str
    name: str
    definition: str
    source: str
    rows: tuple[tuple[str, str, Cell, str, str], ...]


def cell(finding: Finding | None, judgement: Judgement = "unknown") -> Cell:
    """A finding as a table cell; a dash when it was not measured."""
    if finding is None:
        return Cell(DASH)
    exact = "" if missing(finding) or finding.value is None else f"{finding.value!r} {finding.unit}".strip()
    return Cell(spoken(finding), interval(finding), exact, judgement)


def comparison(view: View) -> list[Row]:
    """One row a metric, one cell a stage; metrics that no stage has are left out."""
    rows = []
    for name in COMPARED:
        found = [view.number(name, i) for i in range(len(view.stages))]
        if any(found):
            unit = next((f.unit for f in found if f), "")
            heading = f"{label(name)}, {unit}" if unit in CONTINUOUS else label(name)
            rows.append(Row(heading, meaning(name), tuple(_bare(cell(f)) for f in found)))
        if name == view.quality and any(found[1:]):
            rows.append(_changes(view))
    return rows


def _changes(view: View) -> Row:
    changes = [view.change(view.quality, i) for i in range(1, len(view.stages))]
    cells = (Cell(DASH), *(_bare(cell(change, judge(change))) for change in changes))
    points_of = ", points" if any(change and change.unit == "fraction" for change in changes) else ""
    return Row(f"Change in {label(view.quality).lower()}{points_of}", "against the dense model", cells)


def _bare(it: Cell) -> Cell:
    """A cell whose unit is said once, in the heading of its row."""
    unit = next((unit for unit in WITHOUT_UNIT if it.text.endswith(unit)), "")
    return replace(it, text=it.text.removesuffix(unit))


def forgetting(view: View) -> list[tuple[str, list[Row]]]:
    """For each unlearned stage: accuracy before and after on the forget, retain and test data."""
    tables = []
    for i, stage in enumerate(view.stages):
        rows = [_forgot(view, i, split, heading) for split, heading in FORGETTING if view.number(f"accuracy_{split}_after", i)]
        tables += [(stage.name, rows)] if rows else []
    return tables


def _forgot(view: View, index: int, split: str, heading: str) -> Row:
    before, after = view.number(f"accuracy_{split}_before", index), view.number(f"accuracy_{split}_after", index)
    samples = f"{count(after.n)} samples" if after and after.n else ""
    change = None if missing(before) or missing(after) or not before or not after else (after.value or 0) - (before.value or 0)
    anew = view.number(f"accuracy_{split}_reference", index)
    shown = (cell(before), cell(after), Cell(DASH if change is None else points(change)), *((cell(anew),) if anew else ()))
    return Row(heading, samples, shown)


def sizes(view: View) -> list[Row]:
    """Bytes of the subject and of the dense ancestor, by file, with how they compare."""
    plain = view.dense("bytes_dense")
    rows = []
    for name in SIZES:
        now = view.number(name)
        if now is not None:
            rows.append(Row(label(name), meaning(name), (cell(view.dense(name)), cell(now), Cell(_against(now, plain)))))
    return rows


def _against(now: Finding, plain: Finding | None) -> str:
    if plain is None or not now.value or not plain.value or missing(now) or missing(plain):
        return DASH
    times_smaller = plain.value / now.value
    if abs(times_smaller - 1) <= SAME_SIZE:
        return "same size"
    return f"{ratio(times_smaller)} smaller" if times_smaller > 1 else f"{ratio(1 / times_smaller)} larger"


def times(view: View) -> Row | None:
    """Latency of the dense ancestor and the subject with its spread, or None."""
    now, before = view.number("latency_ms"), view.dense("latency_ms")
    return Row(label("latency_ms"), meaning("latency_ms"), (cell(before), cell(now))) if now or before else None


def confidence(view: View) -> list[Row]:
    """Calibration and uncertainty: dense, compressed, change; metrics without a number are left out."""
    rows = []
    for name in CONFIDENCE:
        now, change = view.number(name), view.change(name)
        if now is not None:
            judged = Cell(said(change), judgement=judge(change))
            rows.append(Row(label(name), meaning(name), (cell(view.dense(name)), cell(now), cell(change), judged)))
    return rows


def forecast(view: View) -> list[tuple[Row, int, str]]:
    """How right the forecast was: each score, how many answers or pairs it is made of, and why there is none."""
    found = [(name, view.number(name)) for name in FORECAST]
    return [(Row(label(name), meaning(name), (cell(f),)), f.n, f.note) for name, f in found if f is not None]


def sliced(view: View, kind: str) -> list[Slice]:
    """Classes or groups in the report's order; the reading of those that are worse, all taken together, says so."""
    sure = beyond_doubt(view)
    return [_slice(view, scope, sure=scope in sure) for scope in view.scopes(kind, view.quality)]


def _slice(view: View, scope: str, *, sure: bool) -> Slice:
    name = view.quality
    now, before, change = view.number(name, scope=scope), view.dense(name, scope), view.change(name, scope=scope)
    known = now or before or change
    name = scope.partition(":")[2].replace("=", " = ", 1) if scope.startswith("group:") else scope.partition(":")[2]
    reading = (change.note or NOTHING) if change is not None and missing(change) else said(change) + (", beyond doubt" if sure else "")
    samples = count(known.n) if known and known.n else DASH
    return Slice(name, samples, cell(before), cell(now), cell(change, judge(change)), reading)


def everything(stage: Stage) -> list[Definition]:
    """Every finding of a stage, gathered by name in order of appearance."""
    names = dict.fromkeys(finding.name for finding in stage.report)
    return [_definition(name, [f for f in stage.report if f.name == name]) for name in names]


def _definition(name: str, findings: Sequence[Finding]) -> Definition:
    said_by = next((f.definition for f in findings if f.definition), "")
    rows = tuple((f.scope, f.of, cell(f), count(f.n) if f.n else DASH, f.note) for f in findings)
    explained = said_by or f"{meaning(name)[:1].upper()}{meaning(name)[1:]}."
    return Definition(label(name), name, explained if explained != "." else "", _joined(f.source for f in findings), rows)


def _joined(words: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(word for word in words if word not in {"", "ours"}))
