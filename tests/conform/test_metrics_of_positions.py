"""Every metric of texts or of numbers keeps the promise of `contracts/metric.py`, whatever it measures."""

import math
import re
from dataclasses import replace

import pytest
import torch

from sparsify_cli.contracts.metric import Evidence
from sparsify_cli.shelf import Shelf
from sparsify_cli.values.positions import Positions, number_positions, token_positions

SHELF = Shelf("metrics")
PAIRS = [(name, kind) for name in SHELF.names() for kind in sorted(SHELF.load(name).kinds & {"tokens", "numbers"})]
N, PLACES, WORDS = 60, 9, 7


def model(kind: str, seed: int) -> Positions:
    """A model that is right more often than not, about texts of different lengths or about numbers."""
    there = torch.Generator().manual_seed(4)
    noise = torch.Generator().manual_seed(seed)
    groups = {"side": tuple("left" if i % 2 else "right" for i in range(N)), "rare": tuple("no" if i > 2 else "yes" for i in range(N))}
    if kind == "tokens":
        targets = torch.randint(WORDS, (N, PLACES), generator=there)
        targets[torch.arange(PLACES) >= 3 + (torch.arange(N) % 6).unsqueeze(1)] = -100
        logits = 2.0 * torch.nn.functional.one_hot(targets.clamp_min(0), WORDS) + torch.randn(N, PLACES, WORDS, generator=noise)
        found = token_positions(logits, targets)
    else:
        targets = torch.randn(N, PLACES, generator=there)
        found = number_positions(targets + 0.5 * torch.randn(N, PLACES, generator=noise), targets)
    said, losses, counted = found
    return Positions(kind, said, targets, losses, counted, tuple(f"s{i}" for i in range(N)), groups)


def shuffled(one: Positions, order: list[int]) -> Positions:
    """The same samples in another order."""
    columns = {name: getattr(one, name)[order] for name in ("answers", "targets", "losses", "counted")}
    groups = {name: tuple(values[i] for i in order) for name, values in one.groups.items()}
    return replace(one, **columns, ids=tuple(one.ids[i] for i in order), groups=groups)


@pytest.fixture(params=PAIRS, ids=[f"{name}-{kind}" for name, kind in PAIRS])
def pair(request):
    """A metric and one model a side."""
    name, kind = request.param
    return SHELF.load(name)(), Evidence(positions=(model(kind, 0),), dense_positions=(model(kind, 1),))


def test_findings_explain_themselves(pair):
    """Name after the file, one sentence of definition, a source, n, and a value in its interval."""
    metric, evidence = pair
    file = type(metric).__module__.rsplit(".", 1)[-1]
    found = metric.measure(evidence)
    assert {f.scope for f in found} >= {"all", "group:side=left", "group:side=right"}
    for f in found:
        assert f.name == file and re.fullmatch(r"[A-Z].*[.]", f.definition) and f.source and f.n
        assert f.value is None or (math.isfinite(f.value) and f.low <= f.value <= f.high)


def test_change_is_compressed_minus_dense(pair):
    """Where all three are reported for a scope they fit together."""
    metric, evidence = pair
    seen = {(f.scope, f.of): f.value for f in metric.measure(evidence)}
    changed = [scope for scope, of in seen if of == "change" and seen[scope, of] is not None]
    for scope in changed:
        assert seen[scope, "change"] == pytest.approx(seen[scope, "compressed"] - seen[scope, "dense"], abs=1e-12)
    assert changed or "dense" in metric.needs


def test_the_same_model_twice_has_not_changed(pair):
    """Every change is 0; agreement is whole, and nothing has moved."""
    metric, evidence = pair
    found = metric.measure(replace(evidence, dense_positions=evidence.positions))
    changes = [f.value for f in found if f.of == "change" and f.value is not None]
    assert all(value == 0 for value in changes)
    assert changes or {f.value for f in found if f.value is not None} == {1.0 if metric.measure(evidence)[0].better == "higher" else 0.0}


def test_the_order_of_samples_does_not_matter(pair):
    """Shuffling the samples leaves every number and interval where it was."""
    metric, evidence = pair
    order = torch.randperm(N, generator=torch.Generator().manual_seed(9)).tolist()
    other = Evidence(positions=(shuffled(evidence.positions[0], order),), dense_positions=(shuffled(evidence.dense_positions[0], order),))
    for mine, theirs in zip(metric.measure(evidence), metric.measure(other), strict=True):
        assert (mine.name, mine.of, mine.scope, mine.n, mine.note) == (theirs.name, theirs.of, theirs.scope, theirs.n, theirs.note)
        numbers = [(f.value or 0.0, f.low or 0.0, f.high or 0.0) for f in (mine, theirs)]
        assert numbers[0] == pytest.approx(numbers[1], abs=1e-9)


def test_small_groups_get_a_note_instead_of_a_number(pair):
    """Three samples never get a number."""
    metric, evidence = pair
    rare = [f for f in metric.measure(evidence) if f.scope == "group:rare=yes"]
    assert rare and all(f.value is None and "not enough data" in f.note for f in rare)


def test_several_models_are_averaged(pair):
    """Two models a side: the number is the mean of what each has (of pairs, of all four)."""
    metric, evidence = pair
    kind = evidence.kind
    compressed, dense = (model(kind, 0), model(kind, 2)), (model(kind, 1), model(kind, 3))
    [told, *_] = metric.measure(Evidence(positions=compressed, dense_positions=dense))
    others = dense if "dense" in metric.needs else dense[:1]
    each = [metric.measure(Evidence(positions=(a,), dense_positions=(b,)))[0].value for a in compressed for b in others]
    assert told.value == pytest.approx(sum(each) / len(each), abs=1e-12)
