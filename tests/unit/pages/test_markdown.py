"""The short report and the terminal's rows."""

from __future__ import annotations

from sparsify_cli.pages.markdown import escape, render_markdown, terminal_rows
from sparsify_cli.pages.view import Stage
from sparsify_cli.values.report import Report
from tests.unit.pages.fakes import accuracy, view

M = "\u2212"


def test_markdown_holds_the_verdict_and_a_line_a_stage():
    """What a reviewer needs without opening the page."""
    text = render_markdown(view())
    assert "**90 % of the prunable weights are gone; accuracy fell by 0.6 points" in text
    assert f"| pruned | 90.0 % | 97.2 % | {M}0.6 points ({M}1.7 … +0.5) | within noise | 23.1 kB |" in text
    assert f"| Class 8 | 360 | {M}10.0 points | {M}18.0 … {M}2.0 | worse |" in text
    assert "- change.accuracy&gt;=-0.015: holds, measured -0.006 (-0.6 points)" in text


def test_markdown_escapes_tables_mentions_and_html():
    """A hostile name stays one cell of one line."""
    assert escape("a|b\n@all <b> `x` & [y]") == "a\\|b &#64;all &lt;b&gt; \\`x\\` &amp; \\[y\\]"


def test_markdown_with_nothing_measured():
    """Dashes and words instead of numbers, and no empty section."""
    text = render_markdown(view(stages=(Stage("dense", "train", "", {}, Report()),), gates=()))
    assert "not measured" in text and "<details>" not in text


def test_terminal_rows_are_text_of_equal_width():
    """A header and one row for each number there is; nothing is invented for those that are not."""
    rows = terminal_rows(view())
    assert rows[0] == ("", "dense", "pruned", "change", "reading")
    assert ("Accuracy", "97.8 %", "97.2 %", f"{M}0.6 points ({M}1.7 … +0.5)", "noise") in rows
    assert ("Stored packed", "–", "23.1 kB", "–", "–") in rows
    assert {len(row) for row in rows} == {5} and "AUC" not in {row[0] for row in rows}


def test_terminal_rows_carry_no_control_characters():
    """An escape sequence in a name cannot reach the terminal."""
    evil = Stage("a\x1b[31mb\nc", "prune", "", {}, Report((accuracy(0.5),)))
    assert terminal_rows(view(stages=(view().stages[0], evil)))[0][2] == "a\ufffd[31mb c"
