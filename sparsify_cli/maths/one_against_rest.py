"""Predictions as yes-or-no questions: what is defined for one binary attribute, asked of classes as well.

    attributes        one question each
    two classes       one question: is it label 1? (an attribute seen alone is such a choice between no and yes)
    more classes      one question each: is it this class, or one of the others?

Source: the last line is ours; the attribute is the case the metrics that use this were defined for.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sparsify_cli.errors import BadData
from sparsify_cli.maths.scopes import class_names
from sparsify_cli.values.predictions import Predictions


def asked(predictions: Predictions) -> tuple[str, ...]:
    """What the questions are about: names of attributes or classes."""
    if predictions.has_attributes:
        return predictions.attributes
    names = class_names(predictions)
    return names[1:] if len(names) == 2 else names


def answers(labels: Int[Tensor, "n *a"], outputs: int) -> Bool[Tensor, "n questions"]:
    """True where the answer to a question is yes.

    Args:
        labels: true or predicted labels, or 0 and 1 for every attribute.
        outputs: how many the model has.
    """
    if labels.ndim == 2:
        _require_as_many(labels, outputs)
        return labels > 0
    return labels[:, None] == _labels_asked(outputs)


def shares(labels: Int[Tensor, "n *a"], outputs: int) -> Float[Tensor, " questions"]:
    """Share of samples whose answer is yes, for each question; NaN without samples. Made for training sets: needs no table of answers.

    Args:
        labels: as for `answers`.
        outputs: how many the model has.
    """
    if labels.ndim == 2:
        _require_as_many(labels, outputs)
        return (labels > 0).sum(dim=0).double() / len(labels)
    return torch.bincount(labels, minlength=outputs)[_labels_asked(outputs)].double() / len(labels)


def asked_of(labels: Int[Tensor, "n *a"], outputs: int) -> Int[Tensor, "n *q"]:
    """The labels with the label of two classes as the one attribute it is, so that counts have one row a question.

    Args:
        labels: as for `answers`.
        outputs: how many the model has.
    """
    return labels[:, None] if labels.ndim == 1 and outputs == 2 else labels


def _labels_asked(outputs: int) -> Int[Tensor, " questions"]:
    return torch.arange(outputs)[1:] if outputs == 2 else torch.arange(outputs)


def _require_as_many(labels: Int[Tensor, "n a"], outputs: int) -> None:
    if labels.shape[1] != outputs:
        what = f"The truth has {labels.shape[1]} attributes, the model {outputs} outputs."
        raise BadData(what, "Every attribute needs one.", "Check that model and data belong together.")
