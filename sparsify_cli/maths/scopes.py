"""Scopes: the parts of a test set a number is reported for: all of it, each class, each value of each group column."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Bool
from torch import Tensor

from sparsify_cli.values.predictions import Predictions

Members = Bool[Tensor, " n"]
"""True for the samples of a scope."""


def class_names(predictions: Predictions) -> tuple[str, ...]:
    """Names of the classes by label; the label itself where there is no name."""
    outputs = predictions.logits.shape[1]
    named = predictions.classes[:outputs]
    return named + tuple(str(label) for label in range(len(named), outputs))


def group_members(predictions: Predictions, column: str) -> dict[str, Members]:
    """Samples of each value of a group column, values sorted."""
    column_values = predictions.groups[column]
    number = {value: i for i, value in enumerate(sorted(set(column_values)))}
    codes = torch.tensor([number[value] for value in column_values], dtype=torch.int64)
    return {value: codes == i for value, i in number.items()}


def columns(predictions: Predictions, least: int) -> Iterator[tuple[str, dict[str, Members], dict[str, Members]]]:
    """(group column, samples of each value, those of the values with at least `least` samples), columns sorted."""
    for column in sorted(predictions.groups):
        members = group_members(predictions, column)
        yield column, members, {value: samples for value, samples in members.items() if int(samples.sum()) >= least}


def parts(predictions: Predictions) -> Iterator[tuple[str, Members]]:
    """(scope, its samples) for each class in label order (attributes are no parts), then each group column and value, sorted."""
    for label, name in enumerate(class_names(predictions)) if not predictions.has_attributes else ():
        yield f"class:{name}", predictions.targets == label
    for column in sorted(predictions.groups):
        for value, members in group_members(predictions, column).items():
            yield f"group:{column}={value}", members
