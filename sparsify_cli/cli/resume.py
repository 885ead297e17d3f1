"""`--resume`: the recipe of an interrupted run, from its artifact."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeVar

from sparsify_cli.errors import BadRequest
from sparsify_cli.recipes.recipe import Recipe, validated
from sparsify_cli.values.artifact import Artifact

R = TypeVar("R", bound=Recipe)


def interrupted_recipe(kind: type[R], folder: Path) -> R:
    """What an interrupted run was asked for.

    Raises:
        BadRequest: the run is finished, or another verb's.
    """
    artifact = Artifact.open(folder)
    if artifact.complete:
        raise BadRequest(f"{folder} is finished; there is nothing to resume.")
    if artifact.verb != kind.verb:
        raise BadRequest(f"{folder} was made by `{artifact.verb}`.", "", f"Run: sparsify {artifact.verb} --resume {folder}")
    recipe = {**artifact.manifest.get("recipe", {})}
    if "model" in recipe and not recipe["model"] and artifact.manifest.get("parent"):
        recipe["model"] = os.path.relpath(folder / artifact.manifest["parent"]["path"])  # what was the newest then may not be now
    return validated(kind, recipe)
