"""Populations: the same network from several seeds, and their dense ancestors, over the same samples.

What one pruned network gets wrong may be chance of its training; exemplars are samples whose usual answer over a population changed.

Source: Hooker et al. 2019 (arXiv 1911.05248), section 2; Iofinova et al. 2023, several runs of each model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sparsify_cli.errors import BadRequest, MissingContext
from sparsify_cli.pages.wording import percent
from sparsify_cli.stages.lineage import dense_ancestor
from sparsify_cli.stages.subject import Subject, open_path, with_context_of

APART = 0.01
"""Sparsities that differ by more are not the same network from another seed."""


@dataclass(frozen=True)
class Population:
    """Others of a kind.

    Args:
        compressed: networks beside the subject.
        dense: their dense ancestors, each once, without the subject's own.
        related: those of the first that come from the dense ancestor of another.
    """

    compressed: tuple[Subject, ...] = ()
    dense: tuple[Subject, ...] = ()
    related: tuple[Subject, ...] = ()

    def dense_only(self) -> Population:
        """For the networks beside the subject, so that all are compared with the same dense ones."""
        return Population((), self.dense)

    def notes(self, subject: Subject) -> tuple[str, ...]:
        """How many there are, and which are unlike the subject."""
        if not self.compressed:
            return ()
        odd = [one for one in self.compressed if abs(float(one.masks.sparsity) - float(subject.masks.sparsity)) > APART]
        its = f"{subject.path} {percent(float(subject.masks.sparsity))}"
        notes = [f"{one.path} comes from the same dense network as {subject.path}: it is no other seed." for one in self.related]
        notes += [f"{one.path} has {percent(float(one.masks.sparsity))} zeros, {its}: not the same network." for one in odd]
        sides = f"{len(self.compressed) + 1} networks and {len(self.dense) + 1} dense ones"
        names = ", ".join(one.path.name for one in (subject, *self.compressed))
        return (f"numbers are means over {sides} ({names}); sizes and times are those of {subject.path}.", *notes)


def population(paths: Sequence[str], subject: Subject, ancestor: Subject) -> Population:
    """The others, in the order in which they are named.

    Args:
        paths: of artifacts or files.
        subject: which they are like.
        ancestor: its own dense one.

    Raises:
        BadRequest: one is named twice, is the subject itself, or is dense where the subject is not.
        MissingFile, UnreadableFile: as `open_path`.
    """
    seen, others, dense, related = {subject.path.resolve()}, [], {ancestor.path.resolve(): ancestor}, []
    for text in paths:
        one = with_context_of(open_path(Path(text)), subject).single().checked()
        if one.path.resolve() in seen:
            raise BadRequest(f"{text} is in the population already.", "Each network counts once.", "Name every seed once.")
        if subject.masks and not one.masks:
            what = f"{text} has no pruned weights, and {subject.path} has."
            raise BadRequest(
                what, "A population is the same network from several seeds; dense ones are found by themselves.", "Leave it out."
            )
        seen.add(one.path.resolve())
        others.append(one)
        if (its := _dense_of(one)) is not None:
            related += [one] if its.path.resolve() in dense else []
            dense.setdefault(its.path.resolve(), with_context_of(its, subject).checked())
    return Population(tuple(others), tuple(dense.values())[1:], tuple(related))


def _dense_of(one: Subject) -> Subject | None:
    """Its dense ancestor, where it is known."""
    try:
        return dense_ancestor(one)
    except MissingContext:
        return None
