"""Counting and ranking in one pass or in two: the same cuts."""

from fractions import Fraction

import pytest
import torch

import sparsify_cli.maths.weight_view as weight_view
from sparsify_cli.contracts.listener import Listener
from sparsify_cli.maths.weight_view import WeightView
from sparsify_cli.recipes.pattern import Pattern
from sparsify_cli.recipes.verbs import PruneRecipe
from sparsify_cli.stages.cutting import census, cuts_of, ranked_alone
from sparsify_cli.stages.slices import Target
from sparsify_cli.values.layout import Place

WORDS = ["bfloat16", "float16", "float32", "float64", "float8_e4m3fn"]
ROUNDS = {"dense": 0, "pruned": 1, "nonfinite": 0, "pruned and nonfinite": 1}


def weights_of(word, kind):
    """Two tensors with many ties; half of their weights are zero when they were pruned, some are NaN or infinite."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for rows in (16, 24):
        weight = torch.randint(1, 40, (rows, 40), generator=generator) / 8 * torch.randn((rows, 1), generator=generator).sign()
        if "pruned" in kind:
            weight[:, ::2] = 0
        if "nonfinite" in kind:
            weight[3, :5] = float("nan")
        found.append(weight.to(getattr(torch, word)))
    return found


def written(path, tensors, word):
    """Targets that lie one after the other in a file."""
    parts = [tensor.view(torch.uint8).numpy().tobytes() for tensor in tensors]
    path.write_bytes(b"".join(parts))
    starts = [0, len(parts[0])]
    targets = []
    for name, tensor, start in zip("ab", tensors, starts, strict=True):
        shape = tuple(tensor.shape)
        place = Place(path.name, start, word, shape)
        targets.append(Target(name, place, WeightView(shape, word, Pattern())))
    return targets


@pytest.mark.parametrize("allocation", ["global", "uniform"])
@pytest.mark.parametrize("kind", ROUNDS)
@pytest.mark.parametrize("word", WORDS)
def test_ranking_may_begin_with_the_census(tmp_path, monkeypatch, word, kind, allocation):
    """Cuts from highest digits that the census counted equal cuts from a pass of their own: pruned and odd weights too."""
    monkeypatch.setattr(weight_view, "SLICE", 64)
    targets = written(tmp_path / "weights", weights_of(word, kind), word)
    recipe = PruneRecipe(sparsity=Fraction(3, 4), allocation=allocation)
    ranked = ranked_alone(targets, recipe)
    assert ranked == {"a", "b"}
    counted = [census(tmp_path, targets, Listener(), ranked=names) for names in (ranked, frozenset())]
    assert [set(one.tops) for one in counted] == [{"a", "b"}, set()]
    zeros = {"a": 320, "b": 480} if ROUNDS[kind] else {"a": 0, "b": 0}
    assert counted[0].nonfinite == counted[1].nonfinite == dict.fromkeys("ab", 5 if "nonfinite" in kind else 0)
    assert counted[0].zeros == counted[1].zeros
    if "nonfinite" not in kind:
        assert counted[0].zeros == zeros
    gone = frozenset(target.name for target in targets) if "pruned" in kind else frozenset()
    first, second = (cuts_of(tmp_path, targets, recipe, one, Listener(), zeros_go=gone) for one in counted)
    assert first == second
    assert sum(first.kept.values()) == (16 + 24) * 40 // 4


@pytest.mark.parametrize(
    ("pattern", "words"), [("2:4", ["bfloat16"] * 2), ("unstructured", ["bfloat16", "float32"]), ("unstructured", ["float8_e5m2fnuz"] * 2)]
)
def test_ranking_does_not_begin_with_the_census(pattern, words):
    """Where groups compete, types are mixed, or NaN has a key of its own width, the census only counts."""
    view = [Target(name, Place("f", 0, word, (8, 8)), WeightView((8, 8), word, Pattern())) for name, word in zip("ab", words, strict=True)]
    assert ranked_alone(view, PruneRecipe(sparsity=Fraction(3, 4), pattern=Pattern.parse(pattern))) == frozenset()


@pytest.mark.parametrize("allocation", ["global", "uniform", "erk"])
def test_a_target_without_numbers(tmp_path, allocation):
    """It is counted, ranked and cut like any other: nothing of it stays, and the others keep what was asked."""
    targets = written(tmp_path / "weights", weights_of("float32", "dense"), "float32")
    place = Place("weights", 0, "float32", (0, 16))
    targets.insert(0, Target("none", place, WeightView((0, 16), "float32", Pattern())))
    recipe = PruneRecipe(sparsity=Fraction(3, 4), allocation=allocation)
    counted = census(tmp_path, targets, Listener(), ranked=ranked_alone(targets, recipe))
    assert counted.zeros["none"] == 0
    kept = cuts_of(tmp_path, targets, recipe, counted, Listener(), zeros_go=frozenset()).kept
    assert kept["none"] == 0
    assert sum(kept.values()) == (16 + 24) * 40 // 4
