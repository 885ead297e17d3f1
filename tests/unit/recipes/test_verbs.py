"""The recipe of each verb: declared once, and readable back from everything it turns into."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, fields, replace
from fractions import Fraction
from pathlib import Path
from typing import get_type_hints

import pytest
import yaml
from pydantic import TypeAdapter

from sparsify_cli.errors import BadRequest
from sparsify_cli.recipes.option import Option
from sparsify_cli.recipes.recipe import resolve, validated
from sparsify_cli.recipes.verbs import RECIPES, DemoRecipe, EmbedRecipe, TrainRecipe
from sparsify_cli.shelf import SHELVES

by_verb = pytest.mark.parametrize("kind", RECIPES, ids=lambda kind: kind.verb)


@by_verb
def test_every_field_has_one_option(kind):
    """Flag, recipe key, help and schema come from one declaration with one sentence of help."""
    hints = get_type_hints(kind, include_extras=True)
    for field in fields(kind):
        options = [one for one in getattr(hints[field.name], "__metadata__", ()) if isinstance(one, Option)]
        assert len(options) == 1, field.name
        assert options[0].help.strip()
        assert options[0].shelf in {"", *SHELVES}


@by_verb
def test_the_defaults_are_a_valid_recipe(kind):
    """Nothing given is a recipe, and writing it down and reading it again gives the same one."""
    recipe = resolve(kind)
    assert recipe == kind()
    path = Path("recipe.yaml")
    path.write_text(recipe.to_yaml(), encoding="utf-8")
    assert resolve(kind, file=path) == recipe
    assert yaml.safe_load(recipe.to_yaml()) == recipe.to_plain()
    assert json.loads(json.dumps(recipe.to_plain())) == recipe.to_plain()
    assert next(iter(recipe.to_plain().items())) == ("verb", kind.verb)


@by_verb
def test_the_json_schema_describes_every_field(kind):
    """A schema can be built for an editor, with every field of the recipe."""
    schema = TypeAdapter(kind).json_schema()
    assert set(schema["properties"]) == {field.name for field in fields(kind)}
    assert schema["additionalProperties"] is False


@by_verb
def test_a_recipe_is_frozen(kind):
    """Nobody changes a request on its way."""
    recipe = kind()
    with pytest.raises(FrozenInstanceError):
        setattr(recipe, fields(kind)[0].name, "other")


def test_verbs_are_unique():
    """One recipe a verb, each with its own word and a sentence of help."""
    assert len({kind.verb for kind in RECIPES}) == len(RECIPES) == 18
    assert all(kind.__doc__ for kind in RECIPES)


def test_levels_fall_and_do_not_repeat():
    """However they are written, levels are trained sparsest first, each once."""
    wanted = (Fraction(19, 20), Fraction(4, 5), Fraction(1, 2))
    for value in ("0.5,0.95,0.8", [0.5, "0.95", 0.8, 0.5], ["0.8,0.5", 0.95]):
        assert validated(EmbedRecipe, {"levels": value}).levels == wanted
    assert validated(EmbedRecipe, {"levels": 0}).levels == (Fraction(0),)
    assert DemoRecipe().levels == wanted


@pytest.mark.parametrize(
    ("name", "value"), [("epochs", -1), ("batch_size", 0), ("momentum", 1), ("weight_decay", -1), ("gamma", 0), ("seed", -1)]
)
def test_numbers_have_their_range(name, value):
    """A number outside its range is refused by name and value."""
    with pytest.raises(BadRequest, match=f"{name} = {value}"):
        validated(EmbedRecipe, {name: value})


def test_only_embed_may_train_nothing():
    """No epoch is one shot there, and nothing at all elsewhere."""
    assert validated(EmbedRecipe, {"epochs": 0}).epochs == 0
    with pytest.raises(BadRequest, match="epochs = 0"):
        validated(TrainRecipe, {"epochs": 0})


def test_replacing_keeps_the_rest():
    """Recipes are values: a changed copy differs in what was changed."""
    recipe = EmbedRecipe(seed=3)
    assert replace(recipe, epochs=2).seed == 3
    assert replace(recipe, epochs=2) != recipe
