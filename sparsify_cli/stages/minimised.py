"""What a training run minimises: an objective of the shelf, or a user's own callable."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from sparsify_cli.contracts.objective import Loss, Objective
from sparsify_cli.errors import BadRequest
from sparsify_cli.recipes.option import Choice
from sparsify_cli.stages.strategy import strategy
from sparsify_cli.stages.user_code import user_loss


def is_own(choice: Choice) -> bool:
    """True for `package.module:callable` and `path/file.py:callable`."""
    return ":" in choice.name


def needs_teacher(choice: Choice) -> bool:
    """Whether an objective listens to a teacher.

    Raises:
        UnknownName: there is no such objective.
        BadRequest: options of a callable, or values out of range.
    """
    if is_own(choice):
        _refuse_options(choice)
        user_loss(choice.name)
        return False
    objective: Objective = strategy("objectives", choice)
    return objective.needs_teacher


def loss_of(choice: Choice, teacher: Callable[[], nn.Module]) -> Loss:
    """The loss to minimise."""
    if is_own(choice):
        return user_loss(choice.name)
    objective: Objective = strategy("objectives", choice)
    return objective.prepare(teacher)


def _refuse_options(choice: Choice) -> None:
    if choice.options:
        raise BadRequest(f"{choice.name} is a callable of your own and takes no options.", "", "Bind them in it.")
