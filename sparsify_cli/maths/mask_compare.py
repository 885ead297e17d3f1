"""Masks beside each other: what each layer keeps, where two masks agree, and one mask made of several.

Overlap is the number of weights kept in both; IoU = |A and B| / |A or B| over kept weights, 1 when neither keeps any.
A mask True = kept. Names are compared without what wrappers put before them.

Source: the intersection over union of two sets is the Jaccard index (Jaccard, 1912).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import torch
from jaxtyping import Bool
from torch import Tensor

from sparsify_cli.errors import KeyMismatch
from sparsify_cli.maths.matrix_view import to_matrix
from sparsify_cli.values.mask_set import MaskSet

WRAPPERS = ("module.", "_orig_mod.", "nncf_module.")
"""What data-parallel wrappers, torch.compile and NNCF put before every name."""

PATTERNS = ((1, 4), (1, 2), (2, 4), (4, 8))
"""N:M patterns that are looked for, strictest first."""

TRIED = 8
"""Names by which a prefix is looked for; one of them may be missing on the other side."""

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class LayerMask:
    """What one mask keeps.

    Args:
        name: of the tensor.
        weights: how many it covers.
        kept: how many stay.
        pattern: the strictest N:M that every group of inputs holds, or nothing.
        dead_rows: outputs of which nothing stays.
        dead_columns: inputs of which nothing stays.
    """

    name: str
    weights: int
    kept: int
    pattern: str
    dead_rows: int
    dead_columns: int

    @property
    def sparsity(self) -> Fraction:
        """Fraction of zeros, exact, in [0, 1]."""
        return 1 - Fraction(self.kept, self.weights) if self.weights else Fraction(0)


@dataclass(frozen=True)
class Overlap:
    """Where two masks of one tensor agree.

    Args:
        name: of the tensor, or of all of them.
        weights: how many the masks cover.
        both: kept in both.
        only_a: kept in the first alone.
        only_b: kept in the second alone.
    """

    name: str
    weights: int
    both: int
    only_a: int
    only_b: int

    @property
    def iou(self) -> float:
        """Intersection over union of the kept weights, in [0, 1]."""
        union = self.both + self.only_a + self.only_b
        return self.both / union if union else 1.0


@dataclass(frozen=True)
class Difference:
    """Two sets of masks beside each other.

    Args:
        layers: every tensor that both mask.
        only_in_a: tensors that the first alone masks.
        only_in_b: tensors that the second alone masks.
    """

    layers: tuple[Overlap, ...]
    only_in_a: tuple[str, ...]
    only_in_b: tuple[str, ...]

    @property
    def total(self) -> Overlap:
        """All layers that both mask, as one."""
        return Overlap("all", *(sum(getattr(one, count) for one in self.layers) for count in ("weights", "both", "only_a", "only_b")))


def layer_mask(name: str, mask: Bool[Tensor, "..."]) -> LayerMask:
    """Counts and patterns of one mask; rows are outputs [out, ...], columns input channels [_, in, ...]."""
    kept, dead_rows, dead_columns = int(mask.sum()), 0, 0
    if mask.ndim >= 2 and mask.numel():
        dead_rows = int((~mask.flatten(1).any(1)).sum())
        dead_columns = int((~mask.movedim(1, 0).flatten(1).any(1)).sum())
    return LayerMask(name, mask.numel(), kept, found_pattern(mask), dead_rows, dead_columns)


def found_pattern(mask: Bool[Tensor, "..."]) -> str:
    """The strictest N:M that every group of consecutive input channels of a sparse mask holds, or nothing."""
    if mask.ndim < 2 or not mask.numel() or bool(mask.all()):
        return ""
    matrix, channels = to_matrix(mask), mask.shape[1]
    fits = (f"{n}:{m}" for n, m in PATTERNS if channels % m == 0 and int(matrix.reshape(-1, m).sum(1).max()) <= n)
    return next(fits, "")


def overlap(name: str, a: Bool[Tensor, "..."], b: Bool[Tensor, "..."]) -> Overlap:
    """Where two masks of one shape agree."""
    both = int((a & b).sum())
    return Overlap(name, a.numel(), both, int(a.sum()) - both, int(b.sum()) - both)


def difference(a: MaskSet, b: MaskSet) -> Difference:
    """Two sets of masks, layer by layer.

    Raises:
        KeyMismatch: a tensor has another shape in one than in the other.
    """
    require_same_shapes(a, shapes_of(b))
    layers = tuple(overlap(name, a[name], b[name]) for name in a if name in b)
    return Difference(layers, tuple(name for name in a if name not in b), tuple(name for name in b if name not in a))


def merged(sets: Sequence[MaskSet], how: Literal["and", "or", "vote"]) -> MaskSet:
    """One set of masks out of several that mask the same tensors.

    Args:
        sets: at least one.
        how: keep what all of them keep (and), what any keeps (or), what more than half keep (vote; a tie is dropped).

    Raises:
        KeyMismatch: they mask other tensors, or one has another shape.
    """
    first, *rest = sets
    for other in rest:
        _require_same_names(first, other)
        require_same_shapes(first, shapes_of(other))
    least = {"and": len(sets), "or": 1, "vote": len(sets) // 2 + 1}[how]
    return MaskSet({name: _votes([one[name] for one in sets]) >= least for name in first})


def canonical(masks: MaskSet) -> MaskSet:
    """The masks under names without what wrappers put before all of them, so that the hash does not depend on it."""
    names = list(masks)
    while prefix := next((p for p in WRAPPERS if names and all(name.startswith(p) for name in names)), ""):
        names = [name.removeprefix(prefix) for name in names]
    return MaskSet({new: masks[old] for new, old in zip(names, masks, strict=True)})


def aligned(masks: MaskSet, shapes: Shapes) -> MaskSet:
    """The masks under the names of `shapes`, where one prefix (removed or added) is all that differs; else as they are."""
    if not masks or any(name in shapes for name in masks):
        return masks
    some = sorted(masks, key=lambda name: (len(name), name))[:TRIED]
    renamings = ({new(name): masks[name] for name in masks} for new in {new: None for name in some for new in _prefixes(name, shapes)})
    best = max(renamings, key=lambda names: _fitting(names, shapes), default={})
    return MaskSet(best) if len(best) == len(masks) and _fitting(best, shapes) else masks


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Name -> shape."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def require_same_shapes(masks: MaskSet, shapes: Shapes) -> None:
    """Make sure that masks have the shapes of what they are held against.

    Raises:
        KeyMismatch: with the first that has not.
    """
    wrong = [name for name in masks if name in shapes and tuple(masks[name].shape) != shapes[name]]
    if wrong:
        name = wrong[0]
        raise KeyMismatch(
            f"{len(wrong)} masks have another shape, first {name}: {list(masks[name].shape)} and {list(shapes[name])}.",
            "They belong to another network.",
            "Leave such tensors out with --skip.",
        )


@dataclass(frozen=True)
class _Prefix:
    """A prefix that is taken away from every name that has it, or put before every name."""

    text: str
    add: bool

    def __call__(self, name: str) -> str:
        return self.text + name if self.add else name.removeprefix(self.text)


def _prefixes(name: str, shapes: Shapes) -> Iterable[_Prefix]:
    """Every prefix that makes a name one of those that are wanted, shortest first."""
    parts = name.split(".")
    shorter = {".".join(parts[at:]) for at in range(1, len(parts))} & set(shapes)
    longer = sorted({wanted.removesuffix(name) for wanted in shapes if wanted.endswith(f".{name}")}, key=lambda text: (len(text), text))
    yield from (_Prefix(name.removesuffix(short), add=False) for short in sorted(shorter))
    yield from (_Prefix(text, add=True) for text in longer)


def _fitting(masks: Mapping[str, Tensor], shapes: Shapes) -> int:
    """How many masks have the name and the shape of a tensor."""
    return sum(tuple(mask.shape) == shapes.get(name) for name, mask in masks.items())


def _votes(masks: Sequence[Tensor]) -> Tensor:
    """How many masks keep each weight."""
    votes = torch.zeros(masks[0].shape, dtype=torch.int32)
    for mask in masks:
        votes += mask
    return votes


def _require_same_names(a: MaskSet, b: MaskSet) -> None:
    odd = sorted(set(a) ^ set(b))
    if odd:
        raise KeyMismatch(
            f"{len(odd)} tensors are masked in one and not in the other: {', '.join(odd[:3])}{', ...' if len(odd) > 3 else ''}.",
            "Whether they are kept there is not known.",
            "Leave them out with --skip, or name those meant with --include.",
        )
