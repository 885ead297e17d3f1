"""A checkpoint of which the headers were read, as tensors: mapped, weights that are stored in parts put together."""

from __future__ import annotations

from pathlib import Path

import torch

from sparsify_cli.errors import UnreadableFile
from sparsify_cli.stages.opening import Opened
from sparsify_cli.values.checkpoint import Checkpoint, Home, Source
from sparsify_cli.values.file_hash import joint_fingerprint
from sparsify_cli.values.folds import fold_masks, folded
from sparsify_cli.values.layout import Place
from sparsify_cli.values.mapped import mapped
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.overlaps import meeting
from sparsify_cli.values.torch_tensors import Repeated


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


def odd_names(checkpoint: Checkpoint) -> dict[str, str]:
    """The network's tensors that are not plain numbers, called as the others are -> their names in the file."""
    home = checkpoint.home
    under = "".join(f"{key}." for key in home.wrapper) if home else ""
    odd = home.layout.odd if home else {}
    return {name.removeprefix(under).removeprefix(checkpoint.prefix): name for name in odd if name.startswith(under)}


def odd_places(checkpoint: Checkpoint) -> dict[str, Place]:
    """Where those of them lie that are seen as they are but repeat their own numbers, as after `expand`."""
    odd = checkpoint.home.layout.odd if checkpoint.home else {}
    found = {name: odd[theirs] for name, theirs in odd_names(checkpoint).items()}
    return {name: why.place for name, why in found.items() if isinstance(why, Repeated)}


def odd_notes(checkpoint: Checkpoint, *, stay: bool) -> tuple[str, ...]:
    """A sentence on the network's tensors that are not plain numbers; none where all are.

    Args:
        checkpoint: what was read of a file.
        stay: they are still there in what was written of it.
    """
    odd = checkpoint.home.layout.odd if checkpoint.home else {}
    names, near = odd_names(checkpoint), _memory_of(checkpoint) if stay else {}
    left = [f"{theirs} ({odd[theirs]})" for name, theirs in names.items() if name not in near]
    same = [f"{names[name]} (with {other})" for name, other in near.items()]
    fate = "left as they are" if stay else "left out"
    notes = (
        f"not plain numbers, and {fate}: {_some(left)}.",
        f"numbers of other tensors, repeated; they go or stay with those: {_some(same)}.",
    )
    return tuple(note for note, some in zip(notes, (left, same), strict=True) if some)


def _memory_of(checkpoint: Checkpoint) -> dict[str, str]:
    """Tensors that repeat their own numbers -> the first tensor that has some of them too."""
    odd = odd_places(checkpoint)
    places = checkpoint.home.places if checkpoint.home else {}
    near = meeting(list(odd), {**places, **odd}) if odd else {}
    return {name: min(others & places.keys()) for name, others in near.items() if others & places.keys()}


def _some(names: list[str]) -> str:
    return f"{', '.join(names[:3])}{f' and {len(names) - 3} more' if names[3:] else ''}"
