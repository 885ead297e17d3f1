"""`--resume`: the recipe of an interrupted run, from its artifact."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from sparsify_cli.errors import BadRequest
from sparsify_cli.recipes.recipe import Recipe, validated
from sparsify_cli.recipes.shared import SELF
from sparsify_cli.shelf import Shelf
from sparsify_cli.values.artifact import LOG, RUN, Artifact
from sparsify_cli.values.trust import NAMES_CODE, is_sealed

ABOUT = ("model", "arch", "arch_arg", "data", "data_arg", "transfer", "head", "out")
HOW = ("regime", "optimizer", "precision", "levels", "seed")
CODE = ("arch", "data", "teacher_arch")
"""Fields of a recipe that may name code."""
FIXED = frozenset(("recipe", "set", "dry_run", *ABOUT, *HOW))
"""Flags that no force changes: the saved state would not fit, or would be that of another run."""

R = TypeVar("R", bound=Recipe)


def interrupted_recipe(kind: type[R], folder: Path, changes: Mapping[str, Any]) -> R:
    """What an interrupted run was asked for.

    Args:
        kind: the verb's recipe.
        folder: the run's.
        changes: flags that win over it.

    Raises:
        BadRequest: the run is finished, or another verb's; or a change is none of a recipe's field.
    """
    strange = [name for name in changes if name in FIXED]
    if strange:
        why = "What is kept of the run belongs to what it began with."
        raise BadRequest(f"--{strange[0].replace('_', '-')} cannot change in a run that is resumed.", why, "Start a new run.")
    if _is_bare(folder):
        why = "The run had not saved anything yet: it saves as often as --save-every says."
        raise BadRequest(f"{folder} holds nothing to resume.", why, "Start it again.")
    artifact = Artifact.open(folder)
    if artifact.complete:
        raise BadRequest(f"{folder} is finished; there is nothing to resume.")
    if artifact.verb != kind.verb:
        raise BadRequest(f"{folder} was made by `{artifact.verb}`.", "", f"Run: sparsify {artifact.verb} --resume {folder}")
    _require_own_code(artifact)
    recipe = _seen_from_here({**artifact.manifest.get("recipe", {})}, artifact)
    if "model" in recipe and not recipe["model"] and artifact.manifest.get("parent"):
        recipe["model"] = os.path.relpath(folder / artifact.manifest["parent"]["path"])  # what was the newest then may not be now
    return validated(kind, {**recipe, **changes})


def _require_own_code(artifact: Artifact) -> None:
    """Refuse a recipe that names code and was not written by this user, in this place, on this machine."""
    recipe = artifact.manifest.get("recipe", {})
    named = {name: str(recipe.get(name) or "") for name in CODE} | {"objective": _objective(recipe)}
    places = Shelf("datasets").names()  # idx:FOLDER is no code; for an architecture or an objective it would be
    code = [text for name, text in named.items() if NAMES_CODE in text and (name != "data" or text.partition(":")[0] not in places)]
    sealed = {"recipe": recipe, "origin": str(_origin(artifact))}
    if code and not is_sealed(sealed, str(artifact.manifest.get("recipe_seal", ""))):
        raise BadRequest(
            f"{artifact.folder} names code to run ({code[0]}).",
            "It was not named by you on this machine, or the folder was moved, so it is not run.",
            "Start the run again with flags of your own.",
        )


def _objective(recipe: Mapping[str, Any]) -> str:
    """The objective's name: it may be a callable too."""
    found = recipe.get("objective") or ""
    return str(found.get("name", "")) if isinstance(found, Mapping) else str(found)


def _origin(artifact: Artifact) -> Path:
    """The folder in which the run was started."""
    here = os.path.relpath(".", artifact.folder)
    return (artifact.folder / str(artifact.manifest.get("facts", {}).get("started_in", here))).resolve()


def _is_bare(folder: Path) -> bool:
    """True for the folder of a run that was killed before it saved anything."""
    return folder.is_dir() and all(path.name in (RUN, LOG) or path.name.startswith(".") for path in folder.iterdir())


def _seen_from_here(recipe: dict[str, Any], artifact: Artifact) -> dict[str, Any]:
    """The recipe with relative paths turned absolute, when the run was started in another folder than this one."""
    origin = _origin(artifact)
    if origin == Path.cwd():
        return recipe
    given = {name: str(recipe.get(name) or "") for name in ("model", "teacher", *CODE)}
    given |= {"objective": _objective(recipe)} if NAMES_CODE in _objective(recipe) else {}
    given |= {"teacher": ""} if given["teacher"] == SELF else {}
    given |= {"without": without} if (without := str(recipe.get("without") or "")) and (origin / without).is_file() else {}
    return recipe | {name: _absolute(text, origin, whole=name in ("model", "teacher", "without")) for name, text in given.items() if text}


def _absolute(text: str, origin: Path, *, whole: bool) -> str:
    """`runs/001`, `net.py:Net` or `npz:data.npz` with the path in it absolute; words that are no path as they are."""
    kind, colon, rest = text.partition(":")
    if whole or kind.endswith(".py"):
        return str(origin / kind) + colon + rest
    return f"{kind}:{origin / rest}" if colon and (origin / rest).exists() else text
