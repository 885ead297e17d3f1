"""References of an audit: networks trained anew without the samples.

A first one is compared with; how far a second one, of another seed, is from it shows what chance does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from sparsify_cli.contracts.unlearner import Request
from sparsify_cli.errors import BadRequest, MissingContext
from sparsify_cli.recipes.verbs import UnlearnRecipe
from sparsify_cli.stages.certificate import EXACT
from sparsify_cli.stages.forgotten import forgotten_ids, lineage, unlearner_of, without_forgotten
from sparsify_cli.stages.subject import Subject, open_path, with_context_of
from sparsify_cli.stages.write import data_identity
from sparsify_cli.values.artifact import Artifact
from sparsify_cli.values.samples import Samples

MAKE = (
    "Make one of the same network: --unlearner retrain with the same --forget and --seed (a second one: --set unlearner.seed=1 too); "
    "or by its own recipe: sparsify train --without."
)


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

    That is what is to be forgotten now, and what the network has forgotten before. Known is what forgot by another method, what was
    made of the network itself or of what it was made from, and what was trained on the same training set.

    Raises:
        BadRequest: there is one.
    """
    for one in found:
        seen, how = _unaccounted(one, subject, request), _method(one)
        if how and how not in EXACT:
            raise BadRequest(f"{one.path} is no reference: it was made by {how}.", "A reference is trained anew without the samples.", MAKE)
        if seen and _is_known_to_have_seen(one, subject):
            why = f"It was trained with {seen:,} of {_gone(subject, request)}."
            raise BadRequest(f"{one.path} is no reference.", why, MAKE)


def reference_notes(found: tuple[Subject, ...], subject: Subject, request: Request) -> Iterator[str]:
    """Of which references nothing is known."""
    for one in found:
        if seen := _unaccounted(one, subject, request):
            yield f"{one.path}: nothing says that it was trained anew without {seen:,} of {_gone(subject, request)}."


def _without(subject: Subject, request: Request) -> frozenset[str]:
    """What a reference must not have seen: the samples to forget, and those that the network forgot before."""
    return forgotten_ids(subject.artifact) | set(request.forget.ids)


def _gone(subject: Subject, request: Request) -> str:
    """How many they are, in words."""
    every = len(_without(subject, request))
    now = f"{len(request.forget):,} samples to forget"
    return f"the {now}" if every == len(request.forget) else f"{every:,} samples: the {now} and those forgotten before"


def _unaccounted(one: Subject, subject: Subject, request: Request) -> int:
    """Those of them that no erasure it descends from names."""
    return len(_without(subject, request) - forgotten_ids(one.artifact))


def _is_known_to_have_seen(one: Subject, subject: Subject) -> bool:
    everything = replace(subject, artifact=None).samples("train")
    return is_kin(one, subject) or any(is_trained_on(artifact, everything) for artifact in lineage(one.artifact))


def is_kin(one: Subject, subject: Subject) -> bool:
    """Whether a network is another one, what that was made from, or made of either."""
    ours = {subject.checkpoint.source.sha256, *(_made_from(artifact) for artifact in lineage(subject.artifact))} - {""}
    return one.checkpoint.source.sha256 in ours or any(_made_from(artifact) in ours for artifact in lineage(one.artifact))


def is_trained_on(artifact: Artifact, everything: Samples) -> bool:
    """Whether it was shown these training samples, but for what its manifest leaves out."""
    data = artifact.manifest.get("facts", {}).get("data_sha256")
    return data is not None and data == data_identity(without_forgotten(everything, artifact))


def _made_from(artifact: Artifact) -> str:
    """sha256 of the weights that an artifact was made from; empty where it names none."""
    return str((artifact.manifest.get("parent") or {}).get("sha256") or "")


def _method(one: Subject) -> str:
    """The method by which it last forgot, itself or an ancestor; empty where none did."""
    erasures = (artifact for artifact in lineage(one.artifact) if artifact.verb == "unlearn")
    return next((unlearner_of(artifact) for artifact in erasures), "")
