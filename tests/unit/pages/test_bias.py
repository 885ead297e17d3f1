"""The table of bias and of gaps between groups."""

from sparsify_cli.pages.bias import MOST, rows, where
from sparsify_cli.pages.html import render_html
from sparsify_cli.pages.view import Stage, View
from sparsify_cli.values.report import Finding, Report


def about(name: str, scope: str, before: float, now: float) -> list[Finding]:
    """A number of both networks, and its change with an interval of a hundredth around it."""
    gap, ends = now - before, {"low": now - before - 0.01, "high": now - before + 0.01}
    change = Finding(name=name, value=gap, unit="fraction", **ends, of="change", scope=scope, better="lower")
    both = [Finding(name=name, value=value, unit="fraction", of=of, scope=scope) for of, value in (("compressed", now), ("dense", before))]
    return [*both, change]


def view(*findings: list[Finding]) -> View:
    """A report of a network beside its dense ancestor."""
    every = [Finding(name="accuracy", value=0.9, unit="fraction"), *(one for some in findings for one in some)]
    return View("title", (Stage("dense", "dense", "d", {}, Report()), Stage("pruned", "prune", "p", {}, Report(tuple(every)))))


def test_whole_columns_come_before_pairs():
    """In the order of names; the heading is said once; single groups are elsewhere on the page."""
    found = rows(
        view(
            about("worst_group", "group:sex", 0.8, 0.7), about("bias_amplification", "class:a@sex=Male", 0.0, 0.2),
            about("bias_amplification", "all", 0.0, 0.1), about("worst_group", "group:sex=Male", 0.8, 0.7),
        )
    )  # fmt: skip
    assert [(row.label, row.where) for row in found] == [("Amplified bias", "all answers"), ("", "a, sex = Male"), ("Worst group", "sex")]
    assert [cell.text for cell in found[0].cells] == ["0.0 %", "10.0 %", "+10.0 points"] and found[0].reading == "worse"


def test_of_many_pairs_those_that_changed_most():
    """Six at most, the largest change first, whatever its sign."""
    many = [about("bias_amplification", f"class:{i}@sex=Male", 0.5, 0.5 + (-1) ** i * i / 100) for i in range(12)]
    assert [row.where for row in rows(view(*many))] == [f"{i}, sex = Male" for i in range(11, 11 - MOST, -1)]


def test_where_in_words():
    """Pairs of columns, an attribute, a pair of class and group."""
    assert [where(scope) for scope in ("group:race&sex", "attribute:Smiling", "class:>50K@sex=Male")] == [
        "race and sex",
        "Smiling",
        ">50K, sex = Male",
    ]


def test_the_page_has_the_table_only_where_something_is_known():
    """And a link to it."""
    with_bias, without = (render_html(view(*found)) for found in ([about("worst_group", "group:sex", 0.8, 0.7)], []))
    assert 'href="#bias"' in with_bias and "Bias and gaps between groups" in with_bias
    assert "Bias and gaps" not in without and 'href="#bias"' not in without
