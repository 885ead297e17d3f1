"""Weights that are stored inputs first, as transposed convolutions and transformers' Conv1D have them, turned so that outputs come first.

A transposed convolution in groups is stored [in, out / groups, *kernel]. Each of its outputs sees the in / groups inputs of its own group
alone, so turned it is [out, in / groups, *kernel], as any other convolution: patterns run along the inputs that an output really sees.
"""

from __future__ import annotations

from typing import Any, TypeVar

import numpy.typing as npt
from torch import Tensor

Numbers = TypeVar("Numbers", Tensor, npt.NDArray[Any])


def outputs_first(weight: Numbers, groups: int | None) -> Numbers:
    """[in, out / groups, *kernel] as [out, in / groups, *kernel].

    Args:
        weight: a tensor or an array.
        groups: of the layer; None = outputs come first already.
    """
    if groups is None:
        return weight
    if groups == 1:
        return weight.swapaxes(0, 1)
    inputs, outputs, *kernel = weight.shape
    apart = weight.reshape(groups, inputs // groups, outputs, *kernel).swapaxes(1, 2)
    return apart.reshape(groups * outputs, inputs // groups, *kernel)


def inputs_first(weight: Numbers, groups: int | None) -> Numbers:
    """The other way round, which is the same."""
    return outputs_first(weight, groups)


def turned_shape(shape: tuple[int, ...], groups: int | None) -> tuple[int, ...]:
    """The shape that `outputs_first` gives, of which `inputs_first` gives the shape back."""
    return shape if groups is None else (shape[1] * groups, shape[0] // groups, *shape[2:])
