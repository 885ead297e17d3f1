"""References of an audit: networks trained anew without the samples.

A first one is compared with; how far a second one, of another seed, is from it shows what chance does.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sparsify_cli.contracts.unlearner import Request
from sparsify_cli.errors import BadRequest, MissingContext
from sparsify_cli.recipes.verbs import UnlearnRecipe
from sparsify_cli.stages.certificate import EXACT
from sparsify_cli.stages.forgotten import forgotten_ids
from sparsify_cli.stages.subject import Subject, open_path, with_context_of

MAKE = "Make one: --unlearner retrain with the same --forget and --seed (a second one with --set unlearner.seed=1 as well)."


def references(recipe: UnlearnRecipe, subject: Subject) -> tuple[Subject, ...]:
    """The networks trained anew without the samples: none, one, or two of different seeds.

    Raises:
        MissingContext: there is one, and no audit that compares with it.
        BadRequest: there are more, or they are no networks like this one.
    """
    if recipe.reference and not recipe.audit:
        raise MissingContext("--reference is what --audit compares with, which was not asked for.", "", "Add --audit.")
    if len(set(recipe.reference)) != len(recipe.reference) or len(recipe.reference) > 2:
        what = f"--reference names {len(recipe.reference)} networks, {len(set(recipe.reference))} of them different."
        raise BadRequest(what, "One is compared with; how far a second one is from it shows what chance does.", "Give one, or two.")
    found = tuple(with_context_of(open_path(Path(path)), subject) for path in recipe.reference)
    for reference in found:
        _require_alike(reference, subject)
    return found


def _require_alike(reference: Subject, subject: Subject) -> None:
    """Refuse a reference of another kind before anything is done.

    Raises:
        BadRequest: it has other tensors, or holds other levels.
    """
    ours, theirs = ({name: t.shape for name, t in one.checkpoint.tensors.items()} for one in (subject, reference))
    if ours != theirs:
        odd = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
        what = f"{reference.path} is no network like {subject.path}: {len(odd)} tensors differ in name or shape, first {odd[0]!r}."
        raise BadRequest(what, "Answers are compared, and weights.", "Give one of the same architecture.")
    levels = [one.nest.sparsities if one.nest else () for one in (subject, reference)]
    if levels[1] and levels[0] != levels[1]:
        raise BadRequest(f"{reference.path} holds other levels than {subject.path}.", "", "Retrain the same nest, or take a level out.")


def require_unseen(found: tuple[Subject, ...], request: Request) -> None:
    """Refuse a reference that is known to have seen what it stands for not having seen, or that was not trained anew.

    Raises:
        BadRequest: there is one.
    """
    for one in (one for one in found if one.artifact is not None):
        seen, how = set(request.forget.ids) - forgotten_ids(one.artifact), _method(one)
        if how and how not in EXACT:
            raise BadRequest(f"{one.path} is no reference: it was made by {how}.", "A reference is trained anew without the samples.", MAKE)
        if seen:
            why = f"Nothing says that it was trained without {len(seen):,} of the {len(request.forget):,} samples to forget."
            raise BadRequest(f"{one.path} is no reference.", why, MAKE)


def reference_notes(found: tuple[Subject, ...]) -> Iterator[str]:
    """That nothing is known of a reference that is a plain file."""
    for one in (one for one in found if one.artifact is None):
        yield f"{one.path} is a plain file: nothing says that it was trained anew without the samples."


def _method(one: Subject) -> str:
    """The method of forgetting that made an artifact; empty for other verbs."""
    if one.artifact is None or one.artifact.verb != "unlearn":
        return ""
    chosen = one.artifact.manifest.get("recipe", {}).get("unlearner") or {}
    return str(chosen.get("name", "") if isinstance(chosen, dict) else chosen)
