"""Any valid recipe, written down and read again, is the same recipe."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from sparsify_cli.recipes.allocation import ALLOCATION_NAMES
from sparsify_cli.recipes.duration import Duration
from sparsify_cli.recipes.option import Choice, decimal, parse_sparsity
from sparsify_cli.recipes.recipe import resolve
from sparsify_cli.recipes.verbs import EmbedRecipe, FinetuneRecipe, PruneRecipe, TrainRecipe
from tests.strategies import patterns

typed = st.integers(0, 10**15).map(lambda k: Fraction(k, 10**15)) | st.integers(0, 100).map(lambda k: Fraction(k, 100))
words = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12) | st.sampled_from(
    ["2:4", "1e-3", "no", "010", "09", "~", "=", "<<", "", " ", "null", "a: b", "- x", "#", "'", '"', "é", "0x1F", "1_0", "yes", "true"]
)
names = st.from_regex(r"[a-z][a-z_]{0,8}", fullmatch=True).filter(lambda name: name != "name")
plain = words | st.integers(-(10**9), 10**9) | st.floats(allow_nan=False, allow_infinity=False) | st.booleans()
choices = st.builds(Choice, names, st.dictionaries(names, plain, max_size=3))
durations = st.builds(Duration, st.integers(0, 10**6).map(lambda k: Fraction(k, 1000)), st.sampled_from(["ep", "it", "run"]))
positive = st.floats(1e-9, 1e9)
lists = st.lists(words, max_size=3).map(tuple)
SHARED = {
    "model": words,
    "arch": words,
    "arch_arg": lists,
    "data": words,
    "skip": lists,
    "include": lists,
    "seed": st.integers(0, 2**40),
    "sparsity": st.none() | typed,
    "pattern": patterns(),
    "criterion": choices,
    "allocation": st.sampled_from(ALLOCATION_NAMES),
}
TRAINING = {
    **SHARED,
    "epochs": st.integers(1, 10**6),
    "lr": positive,
    "momentum": st.floats(0, 1, exclude_max=True),
    "weight_decay": st.floats(0, 1e3),
    "schedule": st.sampled_from(["cosine", "multi-step", "constant"]),
    "milestones": st.lists(st.floats(0, 1), max_size=3).map(tuple),
    "warmup": durations,
    "objective": choices,
    "regime": choices,
}
levels = st.sets(typed, min_size=1, max_size=4).map(lambda found: tuple(sorted(found, reverse=True)))
recipes = (
    st.builds(PruneRecipe, **SHARED, batchnorm=st.booleans())
    | st.builds(TrainRecipe, **TRAINING)
    | st.builds(FinetuneRecipe, **TRAINING)
    | st.builds(EmbedRecipe, **TRAINING, levels=levels)
)


@given(recipe=recipes)
def test_a_recipe_survives_its_yaml(recipe):
    """Recipe -> YAML -> recipe is the same recipe with the same digest."""
    path = Path("recipe.yaml")
    path.write_text(recipe.to_yaml(), encoding="utf-8")
    again = resolve(type(recipe), file=path)
    assert again == recipe
    assert again.digest() == recipe.digest()


@given(digits=st.integers(0, 10**18), places=st.integers(18, 30))
def test_sparsity_texts_are_exact(digits, places):
    """A decimal of up to thirty places is read as the fraction it names and written back with the same value."""
    text = f"0.{digits:0{places}d}"[: places + 2]
    exact = parse_sparsity(text)
    assert exact == Fraction(int(text[2:]), 10 ** len(text[2:]))
    assert parse_sparsity(decimal(exact)) == exact


@given(recipe=recipes, other=st.integers(0, 2**40))
def test_a_flag_changes_what_it_names(recipe, other):
    """A seed given on top of a recipe file changes the seed and nothing else."""
    path = Path("recipe.yaml")
    path.write_text(recipe.to_yaml(), encoding="utf-8")
    changed = resolve(type(recipe), file=path, flags={"seed": other})
    assert changed.to_plain() == {**recipe.to_plain(), "seed": other}
