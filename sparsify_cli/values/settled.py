"""Changed tensors seen through the memory they share in their file: what one says, the others say too."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from sparsify_cli.values.layout import Place
from sparsify_cli.values.mapped import mapped
from sparsify_cli.values.overlaps import overlaps, repeats_itself
from sparsify_cli.values.packed import differing


def settled(root: Path, places: Mapping[str, Place], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as they will be read back after all of them were written; where two disagree, the larger one counts.

    Args:
        root: folder of the files.
        places: where each tensor lies.
        tensors: what is to be written.
    """
    pairs = overlaps({name: place for name, place in places.items() if name in tensors})
    sharing = {name: places[name] for pair in pairs for name in (pair.first, pair.second)}
    memory = mapped(root, sharing)
    now = {name: tensors[name].detach().to(memory[name].dtype) for name in sharing}
    changed = [name for name, place in sharing.items() if differing(memory[name], now[name]) and not repeats_itself(place)]
    for name in sorted(changed, key=lambda name: places[name].size):
        memory[name].copy_(now[name])
    read = {name: memory[name].to(tensors[name].dtype) for name in sharing} if changed else {}
    aliases = {name: first for name, place in places.items() if name in tensors for first in read if places[first] == place}
    return {name: read[aliases[name]] if name in aliases else tensor for name, tensor in tensors.items()}
