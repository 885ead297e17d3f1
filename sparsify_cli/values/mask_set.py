"""Masks: name -> bool tensor, True = kept. They live outside the model and know nothing of why."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from torch import Tensor

from sparsify_cli.errors import KeyMismatch
from sparsify_cli.values.shards import is_split, whole


@dataclass(frozen=True, eq=False)
class MaskSet(Mapping[str, Tensor]):
    """Which weights stay, per tensor name.

    Args:
        masks: name -> bool tensor of the weight's shape, True = kept.
    """

    masks: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check once, at the boundary, that every mask is boolean and whole."""
        if any(is_split(mask) for mask in self.masks.values()):
            raise TypeError("Masks are whole on every process; of split weights they are made from `whole` ones.")
        wrong = [name for name, mask in self.masks.items() if mask.dtype != torch.bool]
        if wrong:
            raise KeyMismatch(f"{len(wrong)} masks are not boolean, first {wrong[0]!r}.", "A mask is True where a weight stays.")

    @classmethod
    def from_zeros(cls, tensors: Mapping[str, Tensor]) -> MaskSet:
        """The support of each tensor: True where it is not exactly zero."""
        return cls({name: whole(tensor) != 0 for name, tensor in tensors.items()})

    def __getitem__(self, name: str) -> Tensor:
        """The mask of one tensor."""
        return self.masks[name]

    def __iter__(self) -> Iterator[str]:
        """Names in a stable (sorted) order."""
        return iter(sorted(self.masks))

    def __len__(self) -> int:
        """How many tensors are masked."""
        return len(self.masks)

    def __eq__(self, other: object) -> bool:
        """True when both mask the same names in the same places."""
        if not isinstance(other, MaskSet) or set(self) != set(other):
            return NotImplemented if not isinstance(other, MaskSet) else False
        return all(torch.equal(self[name], other[name]) for name in self)

    __hash__ = None  # type: ignore[assignment]

    def __le__(self, other: MaskSet) -> bool:
        """True when every weight kept here is kept in `other` too (nesting); a tensor without a mask is kept whole."""
        return all(bool((~self[name] | other[name] if name in self else other[name]).all()) for name in other)

    def __and__(self, other: MaskSet) -> MaskSet:
        """Kept in both; a tensor masked in only one keeps that mask."""
        names = {*self, *other}
        return MaskSet({n: self[n] & other[n] if n in self and n in other else (self if n in self else other)[n] for n in names})

    @property
    def kept(self) -> int:
        """Weights that stay."""
        return sum(int(mask.sum()) for mask in self.masks.values())

    @property
    def total(self) -> int:
        """Weights the masks cover."""
        return sum(mask.numel() for mask in self.masks.values())

    @property
    def sparsity(self) -> Fraction:
        """Fraction of zeros over the covered weights, exact, in [0, 1]; 0 when nothing is covered."""
        return 1 - Fraction(self.kept, self.total) if self.total else Fraction(0)

    def apply(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A copy of `tensors` with real zeros where a mask is False; other tensors are passed on as they are."""
        return {name: torch.where(self[name], t, torch.zeros_like(t)) if name in self else t for name, t in tensors.items()}

    def digest(self) -> str:
        """sha256 over names, shapes and bits: the same on every machine and for every dtype of the weights."""
        state = hashlib.sha256()
        for name in self:
            mask = self[name]
            state.update(f"{name}{tuple(mask.shape)}".encode())
            state.update(pack_bits(mask).numpy().tobytes())
        return state.hexdigest()


def pack_bits(mask: Bool[Tensor, "..."]) -> UInt8[Tensor, " bytes"]:
    """Eight positions a byte, first position in the lowest bit, flattened row by row; the tail is zero."""
    return torch.from_numpy(np.packbits(mask.cpu().numpy().reshape(-1), bitorder="little"))


def unpack_bits(packed: UInt8[Tensor, " bytes"], shape: tuple[int, ...]) -> Bool[Tensor, "..."]:
    """The mask `pack_bits` packed."""
    count = int(np.prod(shape, dtype=np.int64))
    bits = np.unpackbits(packed.cpu().numpy(), count=count, bitorder="little")
    return torch.from_numpy(bits.astype(bool)).reshape(shape)
