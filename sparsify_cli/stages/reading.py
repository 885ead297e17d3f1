"""A checkpoint of which the headers were read, as tensors: mapped, weights that are stored in parts put together."""

from __future__ import annotations

from pathlib import Path

import torch

from sparsify_cli.errors import UnreadableFile
from sparsify_cli.stages.opening import Opened
from sparsify_cli.values.checkpoint import Checkpoint, Home, Source
from sparsify_cli.values.file_hash import joint_fingerprint
from sparsify_cli.values.folds import fold_masks, folded
from sparsify_cli.values.mapped import mapped
from sparsify_cli.values.mask_set import MaskSet

PLAIN = {
    *("float16", "bfloat16", "float32", "float64", "complex64", "complex128"),
    *("bool", "uint8", "int8", "int16", "int32", "int64"),
}
"""Types of number that torch computes with in every way that is needed."""


def checkpoint_of(opened: Opened, path: Path) -> Checkpoint:
    """The named tensors of a checkpoint, prefix removed, parts folded and their masks kept."""
    layout = opened.layout
    tensors = mapped(layout.root, opened.places)
    masks = fold_masks(tensors, opened.folds)
    names = {name: opened.prefix + name for name in opened.places} if opened.prefix else {}
    return Checkpoint(
        tensors=folded(tensors, opened.folds) if opened.folds else tensors,
        source=Source(str(path), joint_fingerprint(layout.root, layout.files)),
        wrapper=opened.wrapper,
        prefix=opened.prefix,
        masks=MaskSet({name: mask.to(torch.bool) for name, mask in masks.items()}),
        home=Home(layout, opened.wrapper, opened.places, names, opened.folds),
    )


def require_plain(checkpoint: Checkpoint, path: Path) -> None:
    """Refuse tensors that cannot be computed with like any other, before a network is made of them.

    Raises:
        UnreadableFile: with the first of them.
    """
    odd = dict(checkpoint.home.layout.odd) if checkpoint.home else {}
    odd |= {name: kind for name, tensor in checkpoint.tensors.items() if (kind := str(tensor.dtype).removeprefix("torch.")) not in PLAIN}
    if odd:
        listed = ", ".join(f"{name} is {kind}" for name, kind in list(odd.items())[:3])
        raise UnreadableFile(
            f"{len(odd)} tensors of {path} are not plain numbers: {listed}.",
            "They cannot be ranked, counted or compared.",
            "Convert them in the program that made them, for instance with tensor.to_dense().float().",
        )
