"""A short report for a pull request, and the rows of the terminal summary.

Every text from outside is escaped: a class called `| @everyone <script>` stays a class name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from sparsify_cli.pages.against_sparsity import headline
from sparsify_cli.pages.glossary import label
from sparsify_cli.pages.tables import DASH
from sparsify_cli.pages.verdict import cards, gain, slices, subject_of, who_pays
from sparsify_cli.pages.view import View, missing
from sparsify_cli.pages.wording import SAID, clean, count, interval, judge, said, spoken
from sparsify_cli.values.report import Finding

WORST = 5
UNJUDGED = ("sparsity", "sparsity_total", "nonzeros")
TERMINAL = (
    "sparsity", "sparsity_total", "nonzeros", "perplexity", "accuracy", "rmse", "mae", "r2", "token_agreement", "output_shift",
    "nll", "brier", "ece", "auc", "uncertainty", "churn", "exemplars",
    "bytes_dense", "bytes_packed", "bytes_onnx", "macs", "macs_nonzero", "latency_ms",
    "accuracy_forget_before", "accuracy_forget_after", "accuracy_retain_before", "accuracy_retain_after",
    "accuracy_test_before", "accuracy_test_after", "accuracy_test_others_before", "accuracy_test_others_after",
)  # fmt: skip

SHORT = {
    "sparsity_total": "Sparsity, all", "nll": "NLL", "brier": "Brier", "ece": "ECE", "bytes_dense": "Stored dense", "churn": "Churn",
    "macs": "MACs", "macs_nonzero": "MACs not by 0",
}  # fmt: skip
"""Labels where a line has 80 characters; the page writes them out."""

READINGS = {SAID["noise"]: "noise", SAID["unsure"]: "unsure"}
"""Readings there, in one word."""


def render_markdown(view: View) -> str:
    """Verdict, five numbers, one line a stage, and the classes and groups that lost most; GitHub flavour."""
    parts = [f"## {escape(view.title)}", f"**{escape(headline(view))}**"]
    parts += [escape(who_pays(view))] if who_pays(view) else []
    parts += [escape(note[:1].upper() + note[1:]) for note in view.notes]
    parts += ["**Gates**\n\n" + "\n".join(f"- {escape(gate.sentence)}" for gate in view.gates)] if view.gates else []
    parts += [_five(view), _stages(view)]
    worst, what = _worst(view), "Attributes" if view.scopes("attribute") else "Classes"
    parts += [f"<details><summary>{what} and groups that lost most</summary>\n\n{worst}\n\n</details>"] if worst else []
    return "\n\n".join(parts) + "\n"


def escape(text: str) -> str:
    """Text that Markdown shows as it is, on one line, without mentions or HTML."""
    line = " ".join(clean(text).split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("@", "&#64;")
    return re.sub(r"([\\`*_{}\[\]|~$])", r"\\\1", line)


def _table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [header, ("---",) * len(header), *(tuple(escape(text) for text in row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _five(view: View) -> str:
    return _table(("", "number", "meaning"), [(card.label, card.value, card.meaning) for card in cards(view)])


def _stages(view: View) -> str:
    rows = []
    for i, stage in enumerate(view.stages):
        change = view.change(view.quality, i) if i else None
        moved = f"{spoken(change)} ({interval(change)})" if interval(change) else spoken(change)
        size = (view.number("bytes_packed", i) if i else None) or view.number("bytes_dense", i)
        known = (view.number("sparsity", i), view.number(view.quality, i))
        rows.append((stage.name, *map(_or_dash, known), moved if change else DASH, said(change) if change else DASH, _or_dash(size)))
    return _table(("stage", "sparsity", label(view.quality).lower(), "change (95 % interval)", "reading", "bytes on disk"), rows)


def _counted(text: str) -> str:
    """A number without what it counts, which its row says."""
    return text.removesuffix(" parameters").removesuffix(" multiply-adds")


def _or_dash(finding: Finding | None) -> str:
    return DASH if finding is None else spoken(finding)


def _worst(view: View) -> str:
    lost = sorted(((s, c) for s, c in slices(view) if not missing(c) and gain(c) < 0), key=lambda pair: gain(pair[1]))
    rows = [(subject_of(s), count(c.n) if c.n else DASH, spoken(c), interval(c) or DASH, said(c)) for s, c in lost[:WORST]]
    return _table(("", "samples", "change", "95 % interval", "reading"), rows) if rows else ""


def terminal_rows(view: View) -> list[tuple[str, ...]]:
    """The terminal summary as text: a header, then (measure, dense, compressed, change, reading) for each number there is."""
    rows: list[tuple[str, ...]] = [("", view.stages[0].name, view.about.name, "change", "reading")]
    rows += [_terminal_row(view, name) for name in TERMINAL if view.number(name)]
    return [tuple(" ".join(clean(text).split()) for text in row) for row in rows]


def terminal_columns(view: View) -> list[tuple[str, ...]]:
    """Several networks as text: a header, then a column for each, the baseline first."""
    rows: list[tuple[str, ...]] = [("", *(stage.name for stage in view.stages))]
    for name in TERMINAL:
        cells = [view.number(name, i) if i else view.dense(name) for i in range(len(view.stages))]
        if any(cells):
            rows.append((SHORT.get(name) or label(name), *(_counted(_or_dash(cell)) for cell in cells)))
    return [tuple(" ".join(clean(text).split()) for text in row) for row in rows]


def _terminal_row(view: View, name: str) -> tuple[str, ...]:
    """A change is written only where the report measured one: a difference of sizes or times speaks for itself."""
    measured = view.about.report.get(name, of="change")
    change = measured or (view.change(name) if name == view.quality else None)
    text = f"{spoken(change)} ({interval(change)})" if interval(change) else _or_dash(change)
    reading = DASH if change is None or name in UNJUDGED or judge(change) == "unknown" else said(change)
    now, before = (_counted(words) for words in (spoken(view.number(name)), _or_dash(view.dense(name))))
    return (SHORT.get(name) or label(name), before, now, text, READINGS.get(reading, reading))
