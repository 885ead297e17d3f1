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
from sparsify_cli.stages.forgotten import forgotten_ids, lineage, unlearner_of
from sparsify_cli.stages.subject import Subject, open_path, with_context_of
from sparsify_cli.stages.write import data_identity

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


def require_unseen(found: tuple[Subject, ...], subject: Subject, request: Request) -> None:
    """Refuse a reference that is known to have seen what it stands for not having seen, or that was not trained anew.

    Known is what forgot by another method, what was made of the network itself, and what was trained on the same training set.

    Raises:
        BadRequest: there is one.
    """
    for one in found:
        seen, how = _unaccounted(one, request), _method(one)
        if how and how not in EXACT:
            raise BadRequest(f"{one.path} is no reference: it was made by {how}.", "A reference is trained anew without the samples.", MAKE)
        if seen and _is_known_to_have_seen(one, subject):
            why = f"It was trained with {seen:,} of the {len(request.forget):,} samples to forget."
            raise BadRequest(f"{one.path} is no reference.", why, MAKE)


def reference_notes(found: tuple[Subject, ...], request: Request) -> Iterator[str]:
    """Of which references nothing is known."""
    for one in found:
        if seen := _unaccounted(one, request):
            yield f"{one.path}: nothing says that it was trained anew without {seen:,} of the {len(request.forget):,} forgotten samples."


def _unaccounted(one: Subject, request: Request) -> int:
    """Samples to forget that no erasure it descends from names."""
    return len(set(request.forget.ids) - forgotten_ids(one.artifact))


def _is_known_to_have_seen(one: Subject, subject: Subject) -> bool:
    ours, data = subject.checkpoint.source.sha256, data_identity(subject.samples("train"))
    if one.checkpoint.source.sha256 == ours:
        return True
    line = list(lineage(one.artifact))
    return any(
        artifact.manifest.get("facts", {}).get("data_sha256") == data or (artifact.manifest.get("parent") or {}).get("sha256") == ours
        for artifact in line
    )


def _method(one: Subject) -> str:
    """The method by which it last forgot, itself or an ancestor; empty where none did."""
    erasures = (artifact for artifact in lineage(one.artifact) if artifact.verb == "unlearn")
    return next((unlearner_of(artifact) for artifact in erasures), "")
