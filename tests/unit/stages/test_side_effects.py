"""The tables of what forgetting did to classes and groups."""

from __future__ import annotations

from sparsify_cli.stages.side_effects import side_effect_tables
from sparsify_cli.values.report import Finding, Report


def told(scope: str, before: float, after: float) -> list[Finding]:
    """Accuracy before, after and the change."""
    values = {"dense": before, "compressed": after, "change": after - before}
    return [Finding(name="accuracy", value=value, unit="fraction", n=40, of=of, scope=scope) for of, value in values.items()]  # type: ignore[arg-type]


def test_the_largest_changes_come_first_and_ten_at_most() -> None:
    """Classes and groups apart; the whole, other numbers and what was not measured are left out."""
    found = [one for i in range(12) for one in told(f"class:{i}", 0.5, 0.5 + (-1) ** i * i / 100)]
    unknown = Finding(name="accuracy", value=None, of="change", scope="class:few")
    other = Finding(name="nll", value=9.0, of="change", scope="class:0")
    classes, groups = side_effect_tables(
        Report((*told("all", 0.9, 0.1), *found, unknown, other, *told("group:age=old", 0.8, 0.75))), ", level 2"
    )
    assert [row[0] for row in classes.rows] == ["11", "10", "9", "8", "7", "6", "5", "4", "3", "2"]
    assert classes.rows[0] == ("11", "40", "50.0 %", "39.0 %", "−11.0 points", "")
    assert classes.title == "accuracy by class, level 2, test samples: the 10 largest changes of 12"
    assert groups.rows == (("age=old", "40", "80.0 %", "75.0 %", "−5.0 points", ""),)


def test_without_classes_and_groups_there_are_no_tables() -> None:
    """Nothing to tell apart."""
    assert side_effect_tables(Report(tuple(told("all", 0.9, 0.1)))) == ()
