"""How the numbers of two checkpoints differ: how many, by how much at most, and whether zeros stayed zero."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsify_cli.contracts.listener import Listener
from sparsify_cli.stages.inspect_look import Look
from sparsify_cli.stages.inspect_values import tensors_of
from sparsify_cli.stages.slices import Meter
from sparsify_cli.values.packed import bits

SLICE = 1 << 22
"""Numbers that are compared at a time."""


@dataclass(frozen=True)
class Difference:
    """How two tensors of one shape differ; `a + b` is that of b behind a.

    Args:
        numbers: how many each holds.
        differing: how many differ: in any bit, or in value where the types differ.
        largest: largest absolute difference of value; None when a number that differs is NaN or infinite in one of them.
        zeros_a: zeros of the first.
        zeros_kept: every zero of the first is one in the second.
    """

    numbers: int = 0
    differing: int = 0
    largest: float | None = 0.0
    zeros_a: int = 0
    zeros_kept: bool = True

    def __add__(self, other: Difference) -> Difference:
        return Difference(
            self.numbers + other.numbers,
            self.differing + other.differing,
            None if self.largest is None or other.largest is None else max(self.largest, other.largest),
            self.zeros_a + other.zeros_a,
            self.zeros_kept and other.zeros_kept,
        )


def differences(a: Look, b: Look, names: Iterable[str], listener: Listener) -> dict[str, Difference]:
    """The difference of every tensor that both have in one shape."""
    first, second = tensors_of(a), tensors_of(b)
    wanted = list(names)
    meter = Meter(listener, "comparing", sum(a.items[name].nbytes for name in wanted))
    found = {}
    for name in wanted:
        found[name] = difference(first(name), second(name))
        meter.moved(a.items[name].nbytes)
    listener.done()
    return found


def difference(a: Tensor, b: Tensor) -> Difference:
    """The difference of two tensors of one shape."""
    parts = zip(a.detach().reshape(-1).split(SLICE), b.detach().reshape(-1).split(SLICE), strict=True)
    return sum((_part(one, other) for one, other in parts), start=Difference())


def _part(a: Tensor, b: Tensor) -> Difference:
    zeros = _is_zero(a)
    count = int(zeros.sum())
    if a.dtype == b.dtype and _equal_bits(a, b):
        return Difference(a.numel(), 0, 0.0, count)
    wide_a, wide_b = _wide(a), _wide(b)
    apart = _apart(a, b, wide_a, wide_b)
    change = (wide_a[apart] - wide_b[apart]).abs()
    largest = float(change.max()) if change.numel() else 0.0
    kept = not bool((zeros & ~_is_zero(b)).any())
    return Difference(a.numel(), int(apart.sum()), largest if math.isfinite(largest) else None, count, kept)


def _equal_bits(a: Tensor, b: Tensor) -> bool:
    if a.dtype == torch.complex128:
        return bool((bits(torch.view_as_real(a)) == bits(torch.view_as_real(b))).all())
    return bool((bits(a) == bits(b)).all())


def _apart(a: Tensor, b: Tensor, wide_a: Tensor, wide_b: Tensor) -> Tensor:
    """Which numbers differ: in any bit when the types are one, in value else (NaN is NaN)."""
    if a.dtype == b.dtype and a.dtype != torch.complex128:
        return torch.from_numpy(bits(a) != bits(b))
    return (wide_a != wide_b) & ~(wide_a.isnan() & wide_b.isnan())


def _wide(part: Tensor) -> Tensor:
    """Numbers in double precision, in which those of every smaller type are exact."""
    return part.to(torch.complex128 if part.is_complex() else torch.float64)


def _is_zero(part: Tensor) -> Tensor:
    if part.dtype == torch.float8_e8m0fnu:
        return torch.zeros(part.shape, dtype=torch.bool)
    return _wide(part) == 0 if part.element_size() == 1 and part.is_floating_point() else part == 0
