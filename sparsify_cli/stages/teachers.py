"""Who teaches a network that is trained, and who must not: a teacher that knows what the network is not to know gives it away.

Distillation needs none of the forgotten samples for that. Answers about what is like them are enough: a class that was erased from a
pruned network is back after three epochs of the dense ancestor's answers about other classes' samples.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from torch import nn

from sparsify_cli.errors import BadRequest, KeyMismatch, MissingContext
from sparsify_cli.recipes.shared import SELF, TrainFields
from sparsify_cli.stages.forgotten import forgotten_ids, lineage
from sparsify_cli.stages.lineage import dense_ancestor
from sparsify_cli.stages.minimised import needs_teacher
from sparsify_cli.stages.references import is_kin, is_trained_on
from sparsify_cli.stages.subject import Subject, open_path, with_context, with_context_of
from sparsify_cli.stages.write import data_identity

WAYS = "Name one that did not see them: --teacher self, or a network that forgot them too; or train on labels: --objective cross-entropy."


def teacher_of(recipe: TrainFields, subject: Subject) -> Callable[[], nn.Module]:
    """Builds the teacher: the one the recipe names, the dense ancestor, or the network itself when nothing was pruned from it.

    Raises:
        BadRequest: a teacher is named and the objective listens to none; or an architecture, and no teacher that has it; or the teacher
            is known to have seen what the network has forgotten.
        MissingContext: (where nothing was forgotten, when called) there is nothing to learn from: a new network, or a sparse one without a
            dense ancestor.
    """
    listens = needs_teacher(recipe.objective)
    if recipe.teacher and not listens:
        raise BadRequest(
            f"The objective {recipe.objective.name} listens to no teacher.", "", "Add --objective distill, or leave --teacher out."
        )
    if recipe.teacher_arch and recipe.teacher in ("", SELF):
        raise BadRequest(f"--teacher-arch {recipe.teacher_arch} is the architecture of no teacher.", "", "Add --teacher MODEL.")
    if recipe.teacher == SELF:
        return lambda: subject.module()
    if listens and _gone(subject):
        _require_unaware(_named(recipe) if recipe.teacher else _dense(subject), subject)
    if recipe.teacher:
        return lambda: _named_teacher(recipe, subject)
    return lambda: _dense(subject).module()


def teacher_notes(recipe: TrainFields, subject: Subject) -> tuple[str, ...]:
    """A word about a teacher of which nothing says that it did not see what the network has forgotten."""
    if not needs_teacher(recipe.objective) or recipe.teacher in ("", SELF) or not _gone(subject):
        return ()
    knows = len(_gone(subject) - forgotten_ids(_named(recipe).artifact))
    what = f"nothing says that it was trained without {knows:,} samples that {subject.path} has forgotten or never saw"
    return (f"the teacher {recipe.teacher}: {what}.",) if knows else ()


def _gone(subject: Subject) -> frozenset[str]:
    """Samples that the network is not to know."""
    return forgotten_ids(subject.artifact) | subject.left_out


def _require_unaware(teacher: Subject, subject: Subject) -> None:
    knows = _gone(subject) - forgotten_ids(teacher.artifact)
    if knows and (is_kin(teacher, subject) or _saw(teacher, subject, knows)):
        why = f"It was trained with {len(knows):,} samples that {subject.path} has forgotten or never saw, and would bring them back."
        raise BadRequest(f"{teacher.path} is no teacher for it.", why, WAYS)


def _saw(teacher: Subject, subject: Subject, gone: frozenset[str]) -> bool:
    """Whether the teacher, or what it was made from, was shown the data that the samples are from; other data may have the same ids."""
    before = [one for one in lineage(subject.artifact) if not gone & forgotten_ids(one)]
    shown = {str(data) for one in before if (data := one.manifest.get("facts", {}).get("data_sha256"))}
    if any(one.manifest.get("facts", {}).get("data_sha256") in shown for one in lineage(teacher.artifact)):
        return True
    everything = replace(subject, artifact=None, left_out=frozenset()).samples("train")
    if not gone & set(everything.ids) or (shown and data_identity(everything) not in shown):
        return False
    return any(is_trained_on(one, everything) for one in lineage(teacher.artifact))


def _named(recipe: TrainFields) -> Subject:
    return with_context(open_path(Path(recipe.teacher)), (recipe.teacher_arch, recipe.teacher_arch_arg), ("", ()))


def _named_teacher(recipe: TrainFields, subject: Subject) -> nn.Module:
    """The one that the recipe names, of the architecture it names, or that its artifact does, or of the student's."""
    teacher = _named(recipe)
    try:
        return with_context_of(teacher, subject).module()
    except KeyMismatch as error:
        if recipe.teacher_arch or teacher.architecture is not None:
            raise
        raise KeyMismatch(
            error.what, "It was taken for a network like the one it teaches.", "Name its own: --teacher-arch NAME."
        ) from error


def _dense(subject: Subject) -> Subject:
    if subject.is_new:
        raise MissingContext("A new network has no dense ancestor to learn from.", "", "Name a trained one: --teacher ARTIFACT")
    return dense_ancestor(subject) if subject.masks else subject
