"""Recipes: defaults < file < --set < flags, every problem said at once, the same request has the same digest."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest

from sparsify_cli.errors import BadRequest, MissingFile, UnknownName
from sparsify_cli.recipes.option import Choice
from sparsify_cli.recipes.pattern import Pattern
from sparsify_cli.recipes.recipe import merged, resolve, validated
from sparsify_cli.recipes.verbs import EmbedRecipe, FinetuneRecipe, PruneRecipe


def written(text: str | bytes) -> Path:
    """A recipe file in the current folder."""
    path = Path("recipe.yaml")
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_each_source_wins_over_the_one_before():
    """seed: 0 by default, 1 in the file, 2 by --set, 3 by flag; a flag that was not given does not count."""
    file = written("seed: 1\nsparsity: 0.5")
    assert resolve(PruneRecipe).seed == 0
    assert resolve(PruneRecipe, file=file).seed == 1
    assert resolve(PruneRecipe, file=file, settings=["seed=2"]).seed == 2
    assert resolve(PruneRecipe, file=file, settings=["seed=2"], flags={"seed": 3, "sparsity": None}).seed == 3
    assert resolve(PruneRecipe, file=file, flags={"sparsity": None}).sparsity == Fraction(1, 2)


def test_settings_are_yaml():
    """--set pattern=2:4 is the pattern, --set sparsity=9e-1 a number."""
    recipe = resolve(PruneRecipe, settings=["pattern=2:4", "sparsity=9e-1", "skip=[conv1, fc]"])
    assert (recipe.pattern, recipe.sparsity, recipe.skip) == (Pattern(keep=2, group=4), Fraction(9, 10), ("conv1", "fc"))


def test_options_of_a_strategy_merge():
    """An option set on its own goes to the strategy named before it, or to the default one; naming the same one keeps its options."""
    file = written("regime: {name: gmp, every: 50it}")
    assert resolve(FinetuneRecipe, file=file, settings=["regime.end=0.5run"]).regime == Choice("gmp", {"every": "50it", "end": "0.5run"})
    assert resolve(FinetuneRecipe, file=file, flags={"regime": "gmp"}).regime == Choice("gmp", {"every": "50it"})
    assert resolve(FinetuneRecipe, file=file, flags={"regime": "fixed"}).regime == Choice("fixed")
    assert resolve(EmbedRecipe, settings=["regime.every=50it"]).regime == Choice("gmp", {"every": "50it"})
    assert resolve(EmbedRecipe, settings=["criterion=lamp", "criterion.x=1"]).criterion == Choice("lamp", {"x": 1})


def test_merging_leaves_its_arguments_alone():
    """Mappings merge key by key into a new one."""
    base = {"a": {"b": 1, "c": 2}, "d": 3}
    assert merged(base, {"a": {"c": 4}, "e": 5}) == {"a": {"b": 1, "c": 4}, "d": 3, "e": 5}
    assert base == {"a": {"b": 1, "c": 2}, "d": 3}


def test_all_problems_are_said_together():
    """Three mistakes, one error, each with its path, value and reason."""
    with pytest.raises(BadRequest) as caught:
        validated(PruneRecipe, {"sparsity": 90, "pattern": "5:4", "seed": "x", "model": "m.pt"})
    text = str(caught.value)
    for part in ("sparsity = 90:", "For 90% write 0.9", "pattern = '5:4':", "N must be", "seed = 'x':", "a whole number"):
        assert part in text
    assert "model" not in text


def test_a_problem_inside_a_list_has_its_place():
    """The second level is the wrong one."""
    with pytest.raises(BadRequest, match=r"levels\.1 = '1\.5'"):
        validated(EmbedRecipe, {"levels": "0.9,1.5"})


@pytest.mark.parametrize("value", ["inf", "nan", float("inf"), -1, 0, "fast"])
def test_a_learning_rate_is_a_finite_positive_number(value):
    """No infinity, no NaN, nothing negative, no word."""
    with pytest.raises(BadRequest, match="lr = "):
        validated(EmbedRecipe, {"lr": value})


def test_an_unknown_option_has_a_nearest_match():
    """A near miss is answered with the nearest name, and with the list."""
    with pytest.raises(UnknownName, match=r"'sparsty'.*Did you mean 'sparsity'.*Known: allocation"):
        validated(PruneRecipe, {"sparsty": 0.9})
    with pytest.raises(UnknownName, match="'1'"):
        validated(PruneRecipe, {1: 2})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- prune", "holds no recipe"),
        ("", "holds no recipe"),
        ("verb: embed", "sparsify embed --recipe recipe.yaml"),
        (b"\xff\xfe\x00broken", "not text in UTF-8"),
        ("seed: [1", "recipe.yaml is not valid YAML"),
    ],
    ids=["list", "empty", "verb", "binary", "yaml"],
)
def test_a_file_that_is_no_recipe(text, words):
    """A list, nothing, another verb's recipe, a binary file: a sentence that names the file."""
    with pytest.raises(BadRequest) as caught:
        resolve(PruneRecipe, file=written(text))
    assert words in str(caught.value)
    assert "recipe.yaml" in str(caught.value)


def test_a_missing_file():
    """The path is named."""
    with pytest.raises(MissingFile, match=r"nowhere\.yaml"):
        resolve(PruneRecipe, file=Path("nowhere.yaml"))


@pytest.mark.parametrize("text", ["seed", "=3", ""])
def test_a_setting_needs_a_path_and_a_value(text):
    """--set without an equals sign or a path sets nothing."""
    with pytest.raises(BadRequest, match="sets nothing"):
        resolve(PruneRecipe, settings=[text])


def test_an_empty_list_in_a_recipe_is_empty():
    """`skip:` with nothing behind it skips nothing; a single text is a list of one."""
    assert resolve(PruneRecipe, file=written("skip:\ninclude: conv1")).skip == ()
    assert resolve(PruneRecipe, file=written("skip:\ninclude: conv1")).include == ("conv1",)


def test_the_digest_names_the_request():
    """The same request written in three ways has one digest; any other request has another."""
    same = [
        resolve(PruneRecipe, flags={"sparsity": "0.9", "criterion": "lamp"}),
        resolve(PruneRecipe, file=written("verb: prune\ncriterion: {name: lamp}\nsparsity: 9e-1")),
        PruneRecipe(sparsity=Fraction(9, 10), criterion=Choice("lamp")),
    ]
    assert len({recipe.digest() for recipe in same}) == 1
    others = [
        PruneRecipe(),
        PruneRecipe(seed=1),
        PruneRecipe(sparsity=Fraction(9, 10)),
        PruneRecipe(sparsity=Fraction(9000000000000001, 10**16), criterion=Choice("lamp")),
        PruneRecipe(sparsity=Fraction(9, 10), criterion=Choice("lamp", {"x": 1})),
        EmbedRecipe(),
        FinetuneRecipe(),
    ]
    assert len({recipe.digest() for recipe in (same[0], *others)}) == 1 + len(others)


def test_the_digest_is_the_same_everywhere():
    """A golden value: the digest does not depend on the process, the order of options or the machine."""
    one = PruneRecipe(criterion=Choice("lamp", {"a": 1, "b": 2}))
    two = PruneRecipe(criterion=Choice("lamp", {"b": 2, "a": 1}))
    assert one.digest() == two.digest()
    assert len(one.digest()) == 64 and int(one.digest(), 16) > 0
