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
    """Refuse tensors that are not plain numbers, before a network is made of the others.

    Raises:
        UnreadableFile: with the first of them.
    """
    odd = checkpoint.home.layout.odd if checkpoint.home else {}
    if odd:
        listed = ", ".join(f"{name} is {kind}" for name, kind in list(odd.items())[:3])
        raise UnreadableFile(
            f"{len(odd)} tensors of {path} are not plain numbers: {listed}.",
            "They cannot be ranked, counted or compared.",
            "Convert them in the program that made them, for instance with tensor.to_dense().float().",
        )


def odd_notes(checkpoint: Checkpoint, *, stay: bool) -> tuple[str, ...]:
    """A sentence on the network's tensors that are not plain numbers; none where all are.

    Args:
        checkpoint: what was read of a file.
        stay: they are still there in what was written of it.
    """
    home = checkpoint.home
    under = "".join(f"{key}." for key in home.wrapper) if home else ""
    listed = [f"{name} ({why})" for name, why in (home.layout.odd.items() if home else ()) if name.startswith(under)]
    if not listed:
        return ()
    fate = "left as they are" if stay else "left out"
    return (f"not plain numbers, and {fate}: {', '.join(listed[:3])}{f' and {len(listed) - 3} more' if listed[3:] else ''}.",)
