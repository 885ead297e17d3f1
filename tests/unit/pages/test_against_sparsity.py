"""Where harm starts, and what is worth its bytes: by hand-made stages."""

from __future__ import annotations

from dataclasses import replace

from sparsify_cli.pages import against_sparsity
from sparsify_cli.pages.html import render_html
from sparsify_cli.pages.view import Stage, View
from sparsify_cli.values.report import Finding, Report


def finding(name: str, value: float, of: str = "compressed", **more) -> Finding:
    """A number, narrow interval."""
    return Finding(name=name, value=value, of=of, n=1000, low=value - 0.004, high=value + 0.004, **more)


def stage(sparsity: float, accuracy: float, unsure: float, size: float) -> Stage:
    """A network beside a dense one of accuracy 0.9 and 10 % unsure answers."""
    change = finding("accuracy", round(accuracy - 0.9, 6), "change", better="higher")
    found = (
        Finding(name="sparsity", value=sparsity),
        finding("accuracy", accuracy, better="higher"),
        finding("accuracy", 0.9, "dense", better="higher"),
        change,
        finding("uncertainty", unsure),
        finding("uncertainty", 0.1, "dense"),
        finding("uncertainty", round(unsure - 0.1, 6), "change"),
        Finding(name="bytes_packed", value=size, unit="bytes"),
        Finding(name="nonzeros", value=1000 * (1 - sparsity), unit="parameters"),
        Finding(name="nonzeros", value=1000.0, unit="parameters", of="dense"),
    )
    return Stage(f"pruned {sparsity:.0%}", "prune", f"at-{sparsity}", {}, Report(found))


DENSE = Stage("dense", "train", "dense", {}, Report((Finding(name="bytes_packed", value=4000.0, unit="bytes"),)))
STAGES = (DENSE, stage(0.98, 0.6, 0.9, 100), stage(0.5, 0.901, 0.101, 2000), stage(0.8, 0.899, 0.3, 800), stage(0.7, 0.85, 0.3, 1200))


def test_networks_are_ordered_and_read():
    """By sparsity, the dense one first: nothing changed, worse, less sure, worse."""
    found = against_sparsity.points(View("t", STAGES))
    assert [p.sparsity for p in found] == [0.0, 0.5, 0.7, 0.8, 0.98]
    assert [p.regime for p in found] == ["as dense", "as dense", "worse", "less sure", "worse"]


def test_the_frontier():
    """Neither the dense network (larger and less accurate) nor that of 70 % (larger and worse than 80 %) is worth its bytes."""
    found = against_sparsity.points(View("t", STAGES))
    assert [p.sparsity for p in found if p.unbeaten] == [0.5, 0.8, 0.98]
    assert {words for p in found for words in p.unbeaten} == {"accuracy for its bytes"}
    labels = [label for label, _ in against_sparsity.figures(View("t", STAGES), found)]
    assert labels == ["accuracy, %", "unsure answers, %", "accuracy against bytes"]


def test_parameters_a_lost_point():
    """980 removed for 30 points: 33 each; told only where accuracy is worse."""
    found = against_sparsity.points(View("t", STAGES))
    assert [p.cells[-1].text for p in found] == ["\u2013", "\u2013", "140", "\u2013", "33"]


def test_where_harm_starts_in_words():
    """The largest sparsity that leaves all as it was, the smallest of each harm."""
    found = against_sparsity.points(View("t", STAGES[:-1]))
    assert against_sparsity.verdict(found) == (
        "Up to 50.0 % zeros nothing is changed beyond noise; from 80.0 % more answers are unsure while accuracy holds; "
        "from 98.0 % accuracy is worse."
    )
    assert against_sparsity.harm(found) == (0.5, 0.8, 0.98, False)


def test_harm_that_does_not_follow_sparsity_is_listed():
    """Where 70 % is worse and 80 % is not, no sparsity is where harm starts."""
    assert against_sparsity.verdict(against_sparsity.points(View("t", STAGES))) == (
        "Harm does not follow sparsity here, beyond noise: accuracy is worse with 70.0 % zeros and 98.0 % zeros; "
        "it holds while more answers are unsure with 80.0 % zeros; nothing is changed with 50.0 % zeros."
    )
    assert against_sparsity.harm(against_sparsity.points(View("t", STAGES))) == (None, None, None, True)


def test_networks_of_one_sparsity_are_named():
    """Pruned and worse, fine-tuned and as it was: that is no threshold, and both are called by name."""
    bad, good = (replace(stage(0.7, accuracy, 0.1, 1200), name=name) for accuracy, name in ((0.8, "pruned"), (0.9, "tuned")))
    for order in ((bad, good), (good, bad)):
        found = against_sparsity.points(View("t", (DENSE, STAGES[2], *order, STAGES[1])))
        assert against_sparsity.harm(found).uneven
        assert "worse with pruned and 98.0 % zeros; nothing is changed with 50.0 % zeros and tuned" in against_sparsity.verdict(found)


def test_two_sparsities_are_no_curve():
    """Then there is no such section, with three there is."""
    assert against_sparsity.points(View("t", STAGES[:3])) == []
    assert 'id="against"' not in render_html(View("t", STAGES[:3]))
    assert 'id="against"' in render_html(View("t", STAGES))


def test_the_first_sentence_says_where_harm_starts_and_of_which_network_it_speaks():
    """Of many sparsities both; of two networks beside the dense one its name; of one neither."""
    whole = View("t", STAGES)
    said = against_sparsity.headline(whole)
    assert said.startswith(against_sparsity.verdict(against_sparsity.points(whole))) and f" {whole.about.name}: " in said
    for count in (2, 3):
        few = View("t", STAGES[:count])
        assert against_sparsity.headline(few).startswith(f"{few.about.name}: ") == (count == 3)


def text(sparsity: float, perplexity: float, size: float) -> Stage:
    """A language model beside a dense one of perplexity 4."""
    found = (
        Finding(name="sparsity", value=sparsity),
        finding("perplexity", perplexity, better="lower"),
        finding("perplexity", 4.0, "dense", better="lower"),
        finding("perplexity", perplexity - 4.0, "change", better="lower"),
        finding("token_agreement", 1 - sparsity),
        Finding(name="bytes_packed", value=size, unit="bytes"),
    )
    return Stage(f"pruned {sparsity:.0%}", "prune", f"at-{sparsity}", {}, Report(found))


def test_language_models_are_read_by_their_perplexity():
    """Lower is better: as dense, worse, worse; the larger and worse one is not worth its bytes; the dense one agrees with itself."""
    whole = View("t", (DENSE, text(0.8, 9.0, 800), text(0.7, 9.5, 1200), text(0.5, 4.0, 2000)))
    found = against_sparsity.points(whole)
    assert [(p.sparsity, p.regime, bool(p.unbeaten)) for p in found] == [
        (0.0, "as dense", False), (0.5, "as dense", True), (0.7, "worse", False), (0.8, "worse", True),
    ]  # fmt: skip
    assert {len(p.cells) for p in found} == {len(against_sparsity.COLUMNS["perplexity"])}
    assert [label for label, _ in against_sparsity.figures(whole, found)] == [
        "perplexity", "tokens as the dense one says, %", "perplexity against bytes",
    ]  # fmt: skip
    said = against_sparsity.headline(whole)
    assert said.startswith("Up to 50.0 % zeros nothing is changed beyond noise; from 70.0 % perplexity is worse.")
    page = render_html(whole)
    assert "perplexity is not changed beyond noise" in page and "Parameters removed a lost point" not in page


def test_what_was_not_measured_is_not_called_as_dense():
    """Of three language models one has no perplexity: it is not known, the curve goes on without it, and "nowhere worse" is not said."""
    lost = text(0.7, 4.0, 1200)
    few = [Finding(name=f.name, value=None, of=f.of) if f.name == "perplexity" and f.of != "dense" else f for f in lost.report]
    unknown = replace(lost, report=Report(tuple(few)))
    whole = View("t", (DENSE, text(0.8, 4.0, 800), unknown, text(0.5, 4.0, 2000)))
    found = against_sparsity.points(whole)
    assert [p.regime for p in found] == ["as dense", "as dense", "not known", "as dense"]
    assert against_sparsity.verdict(found, "perplexity") == "Up to 50.0 % zeros nothing is changed beyond noise."
    assert [label for label, _ in against_sparsity.figures(whole, found)] == [
        "perplexity", "tokens as the dense one says, %", "perplexity against bytes",
    ]  # fmt: skip
    alone = [p for p in found if p.regime == "not known"]
    assert "not enough data" in against_sparsity.verdict([found[0], *alone], "perplexity")
