"""An erasure that changed no weight has forgotten nothing, and is not to say so."""

from __future__ import annotations

from sparsify_cli.contracts.unlearner import Unlearner
from sparsify_cli.errors import Anomalous
from sparsify_cli.stages.erase import Erased, levels_of

ALL = "no weight changed"
NOTHING = "No weight was changed: nothing was forgotten. Numbers that differ come from running statistics that were measured anew."
"""What a certificate says in the place of its limits."""
WHY = "What answers as before knows what it knew; the samples are not recorded as forgotten."
SOME = "What answers as before knows what it knew."
OTHERWISE = "Let the method go further (--set unlearner.KEY=VALUE, see its notes), or choose another --unlearner."


def unmoved(done: list[Erased]) -> str:
    """That no weight changed, of a nest in which levels; empty where every network changed, or nothing was to be forgotten."""
    still = [f"level {one.level}" for _, one in levels_of(done) if len(one.request.forget) and not one.changed]
    if len(still) == len(done):
        return ALL
    return f"no weight of {' and '.join(still)} changed" if still else ""


def unforgotten(method: Unlearner, name: str, unmoved: str) -> Anomalous | None:
    """The failure where weights were to change and did not.

    Args:
        method: with its options.
        name: what it is called.
        unmoved: as `unmoved` tells.
    """
    if not unmoved or method.idle:
        return None
    what = f"The method {name} forgot nothing: {unmoved}." if unmoved == ALL else f"Not every network forgot: {unmoved}."
    return Anomalous(what, WHY if unmoved == ALL else SOME, OTHERWISE)
