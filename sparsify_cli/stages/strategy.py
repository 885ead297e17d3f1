"""From a recipe's choice to a strategy: the shelf's class with its options, validated."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from pydantic import ValidationError

from sparsify_cli.errors import BadRequest, UnknownName
from sparsify_cli.recipes.option import Choice
from sparsify_cli.recipes.recipe import adapter, problems
from sparsify_cli.shelf import Shelf


def strategy(package: str, choice: Choice, *, seed: int | None = None) -> Any:
    """An instance of the strategy a recipe names.

    Args:
        package: its shelf.
        choice: name and options.
        seed: the recipe's, for a strategy that draws at random and was given none of its own.

    Raises:
        UnknownName: no such strategy or option.
        BadRequest: an option's value is out of range; all are said together.
    """
    shelf = Shelf(package)
    kind = shelf.load(choice.name)
    known = [field.name for field in fields(kind) if field.init]
    unknown = [name for name in choice.options if name not in known]
    if unknown:
        raise UnknownName(
            f"option of the {shelf.noun} {choice.name} called", unknown[0], known, f"Set options with --set {shelf.noun}.KEY=VALUE."
        )
    options = {"seed": seed, **choice.options} if seed is not None and "seed" in known else dict(choice.options)
    try:
        return adapter(kind).validate_python(options)
    except ValidationError as error:
        raise BadRequest(f"The {shelf.noun} {choice.name} cannot be made. {problems(error)}") from error
