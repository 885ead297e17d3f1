"""Masks for the target of a run, on whatever numbers its criterion should look at."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from sparsify_cli.errors import BadRequest
from sparsify_cli.training import movement
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.run import Following, Run


def masks_at_target(run: Run, weights: Mapping[str, Tensor] | None = None, *, anew: bool = False) -> MaskSet:
    """Masks with the run's target sparsity; what is pruned already stays pruned.

    Args:
        run: nothing of it is changed.
        weights: what to rank in place of the run's weights; the others are taken from the run.
        anew: True = every weight takes part, also what is pruned already, and only prunable weights have masks.

    Raises:
        BadRequest: the run was given no sparsity and no pattern.
    """
    choose = movement.informed(run)
    if choose is None:
        raise BadRequest("This regime prunes, and was given no target.", "", "Add --sparsity or --pattern.")
    return choose({**run.weights(), **(weights or {})}, run.target, within=None if anew or not run.masks else run.masks)


def refuse_movement(run: Run, regime: str) -> None:
    """Refuse a criterion that ranks weights by their movement, where nothing has moved when it is asked.

    Raises:
        BadRequest: the recipe's criterion is one.
    """
    if isinstance(run.sparsify, Following) and run.sparsify.follows:
        raise BadRequest(
            f"The regime {regime} ranks weights as they are, and its criterion ranks how they moved.",
            "Nothing has moved before the first step.",
            "Choose --criterion magnitude, or --regime gmp.",
        )
