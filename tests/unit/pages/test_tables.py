"""Rows of the page's tables."""

from __future__ import annotations

from sparsify_cli.pages import tables
from sparsify_cli.pages.view import Stage
from sparsify_cli.values.report import Finding, Report
from tests.unit.pages.fakes import view

M = "\u2212"


def test_comparison_has_a_cell_for_every_stage_and_only_measured_rows():
    """Accuracy is followed by its change; units that a heading says are not repeated in cells."""
    rows = {row.label: row for row in tables.comparison(view())}
    assert [cell.text for cell in rows["Accuracy"].cells] == ["97.8 %", "97.2 %"]
    assert [cell.text for cell in rows["Change in accuracy, points"].cells] == ["–", f"{M}0.6"]
    assert [cell.text for cell in rows["Time per batch, ms"].cells] == ["0.412", "0.413"]
    assert "Changed answers" not in rows


def test_sizes_are_compared_with_the_dense_file():
    """158312 / 23104 = 6.85; equal sizes are called so."""
    rows = {row.label: [cell.text for cell in row.cells] for row in tables.sizes(view())}
    assert rows == {"Stored plainly": ["158 kB", "158 kB", "same size"], "Stored packed": ["–", "23.1 kB", "6.9× smaller"]}


def test_slices_say_why_a_number_is_missing():
    """The note of the finding is the reading; where nothing is known about the change, so much is said."""
    by_name = {row.name: row for kind in ("class", "group") for row in tables.sliced(view(), kind)}
    assert (by_name["8"].change.judgement, by_name["8"].reading, by_name["3"].reading) == ("worse", "worse, beyond doubt", "within noise")
    assert (by_name["slant = right"].compressed.text, by_name["slant = right"].n) == ("not enough data", "3")


def test_forgetting_table():
    """0.02 - 0.98 = -96 points; splits without a number are left out."""
    names = {"accuracy_forget_before": 0.98, "accuracy_forget_after": 0.02}
    report = Report(tuple(Finding(name=k, value=v, unit="fraction", n=140) for k, v in names.items()))
    [(name, [row])] = tables.forgetting(view(stages=(view().stages[0], Stage("gone", "unlearn", "", {}, report))))
    assert (name, row.meaning) == ("gone", "140 samples")
    assert [cell.text for cell in row.cells] == ["98.0 %", "2.0 %", f"{M}96.0 points"]


def test_every_finding_is_listed_once_under_its_definition():
    """The full list loses nothing."""
    listed = tables.everything(view().about)
    assert sum(len(entry.rows) for entry in listed) == len(view().about.report.findings)
    assert {entry.name: entry.definition for entry in listed}["oddity"] == "How odd it is."
