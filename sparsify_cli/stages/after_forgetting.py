"""What later verbs say of a network that forgot: of what it lost, a part was meant to go."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sparsify_cli.stages.forgotten import forgotten_ids, lineage
from sparsify_cli.stages.subject import Subject

MEANT = "part of that is what the network was made to forget; for the rest "


def meant_notes(dense: Subject, networks: Sequence[Subject]) -> Iterator[str]:
    """A word about networks that were made of erased ones, of samples that the dense one knows; erasures speak for themselves."""
    for one in networks:
        if one.artifact is None or one.artifact.verb == "unlearn" or not any(a.verb == "unlearn" for a in lineage(one.artifact)):
            continue
        if gone := _lost(dense, one) & frozenset(dense.samples("train").ids):
            yield (
                f"{one.path} has forgotten {len(gone):,} training samples that {dense.path} knows: of what its answers lost, "
                "what is like them was meant to go."
            )


def meant(dense: Subject | None, network: Subject) -> str:
    """What to add where a network is said to know less than its dense ancestor; nothing where it has forgotten nothing that that knows."""
    return MEANT if dense is not None and _lost(dense, network) else ""


def _lost(dense: Subject, network: Subject) -> frozenset[str]:
    return forgotten_ids(network.artifact) - forgotten_ids(dense.artifact)
