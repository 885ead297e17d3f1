"""Options: fields become arguments and flags, whatever their names."""

from __future__ import annotations

import typer

from sparsify_cli.cli.console import Format
from sparsify_cli.cli.options import command
from sparsify_cli.recipes.masks import MasksRecipe


def asked(*argv):
    """The fields and the common options that a command line gives."""
    seen = []
    app = typer.Typer()
    app.command()(command(MasksRecipe, lambda kind, values, **common: seen.append((values, common))))
    app(list(argv), standalone_mode=False)
    return seen[0][0], seen[0][1]


def test_one_word_then_any_number_of_paths():
    """The first positional field takes one word, a repeated one all others; flags may stand between."""
    values, _ = asked("merge", "a.pt", "--out", "there", "b.pt", "c.pt")
    assert values["action"] == "merge"
    assert values["paths"] == ["a.pt", "b.pt", "c.pt"]
    assert values["out"] == "there"


def test_what_is_left_out_is_none():
    """Neither positional has to be given; defaults are the recipe's."""
    values, _ = asked()
    assert values["action"] is None and not values["paths"]


def test_a_field_may_be_called_as_a_common_option():
    """--how is the recipe's, --format is how results are printed; both arrive."""
    values, common = asked("merge", "a", "b", "--how", "vote", "--format", "json")
    assert values["how"] == "vote"
    assert common["how"] is Format.JSON
    assert set(common) == {"recipe_file", "settings", "dry_run", "how"}
