"""Masked tensors that other tools left behind, folded into the plain weights that the network computes with.

A masked weight becomes +0.0, also where the weight under the mask is negative or not finite; the type of the weight stays.
`fold_names` says what is folded and why; this module does it.

Source: torch/nn/utils/prune.py, modelopt, nncf: weight * mask; nncf RB sparsity: weight * (sigmoid(score) > 0.5).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from jaxtyping import Bool, Shaped
from torch import Tensor

from sparsify_cli.errors import UnreadableFile
from sparsify_cli.values.bitmask_fold import Bitmask
from sparsify_cli.values.fold_names import HOOKED, Fold, find_folds
from sparsify_cli.values.small_floats import computable

__all__ = ["Fold", "find_folds", "fold_mask", "fold_masks", "fold_value", "folded"]


def folded(tensors: Mapping[str, Tensor], folds: Iterable[Fold]) -> dict[str, Tensor]:
    """The plain tensors: each fold stands where the first of its parts stood, all others are the objects they were.

    Raises:
        UnreadableFile: the parts of a fold contradict each other.
    """
    owner = {key: fold for fold in folds for key in fold.parts}
    plain: dict[str, Tensor] = {}
    made: set[str] = set()
    for name in tensors:
        fold = owner.get(name)
        if fold is None:
            plain[name] = tensors[name]
        elif fold.name not in made:
            plain[fold.name] = fold_value(tensors, fold)
            made.add(fold.name)
    return plain


def fold_masks(tensors: Mapping[str, Tensor], folds: Iterable[Fold]) -> dict[str, Tensor]:
    """What each fold keeps, under the name that results; bool, True = kept.

    Raises:
        UnreadableFile: the parts of a fold contradict each other.
    """
    return {fold.name: fold_mask(tensors, fold) for fold in folds}


def fold_value(tensors: Mapping[str, Tensor], fold: Fold) -> Shaped[Tensor, "..."]:
    """The plain weight of one fold.

    Args:
        tensors: hold at least the fold's parts.
        fold: what is folded.

    Raises:
        UnreadableFile: the parts contradict each other.
    """
    if fold.kind == "sparse-bitmask":
        return _bitmask(tensors, fold).dense()
    weight, kept = tensors[fold.parts[0]].detach(), fold_mask(tensors, fold)
    if weight.shape != kept.shape:
        raise UnreadableFile(f"{fold.parts[0]} is {list(weight.shape)} and its mask {fold.parts[1]} is {list(kept.shape)}.")
    return torch.where(kept, _scaled(weight, tensors[fold.parts[1]], fold), torch.zeros((), dtype=weight.dtype))


def fold_mask(tensors: Mapping[str, Tensor], fold: Fold) -> Bool[Tensor, "..."]:
    """What one fold keeps.

    Raises:
        UnreadableFile: the parts contradict each other, or the mask is not finite.
    """
    if fold.kind == "sparse-bitmask":
        return _bitmask(tensors, fold).mask()
    mask = tensors[fold.parts[1]]
    if mask.is_floating_point() and not bool(mask.float().isfinite().all()):
        raise UnreadableFile(f"The mask {fold.parts[1]} holds NaN or infinite values.", "It does not say what stays.")
    return torch.sigmoid(mask.float()) > 0.5 if _is_score(fold) else mask != 0


def _scaled(weight: Tensor, mask: Tensor, fold: Fold) -> Tensor:
    """The weight times a mask that holds other numbers than 0 and 1; else the weight itself."""
    binary = mask.dtype == torch.bool or bool(((mask == 0) | (mask == 1)).all())
    return weight if binary or _is_score(fold) else (computable(weight) * computable(mask.to(weight.dtype))).to(weight.dtype)


def _is_score(fold: Fold) -> bool:
    """True where the mask is a score whose sigmoid decides (RB sparsity of NNCF since 3)."""
    found = HOOKED.fullmatch(fold.parts[1])
    return found is not None and found["what"] == "mask"


def _bitmask(tensors: Mapping[str, Tensor], fold: Fold) -> Bitmask:
    values, bits, sizes, *offsets = (tensors[part] for part in fold.parts)
    return Bitmask(fold.name, values, bits, sizes, *offsets)
