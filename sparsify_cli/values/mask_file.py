"""Masks and nests on disk: safetensors files with one bit (masks) or one byte (levels) a weight."""

from __future__ import annotations

import json
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sparsify_cli.errors import UnreadableFile
from sparsify_cli.values.atomic import replace_file
from sparsify_cli.values.mask_set import MaskSet, pack_bits, unpack_bits
from sparsify_cli.values.nest import Nest


def write_tensors(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, str] | None = None) -> None:
    """Write tensors as one safetensors file, whole or not at all; names sorted, sharing undone.

    Raises:
        DiskFailure: the file system refused.
    """
    plain = {name: tensors[name].detach().cpu().contiguous().clone() for name in sorted(tensors)}
    replace_file(path, lambda temporary: save_file(plain, temporary, metadata=dict(about or {})))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a safetensors file.

    Raises:
        UnreadableFile: it is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UnreadableFile(f"{path} is damaged.", f"{error}.", "Run the verb that made it again.") from error


def write_masks(path: Path, masks: MaskSet) -> None:
    """Write masks, one bit a weight."""
    shapes = json.dumps({name: list(masks[name].shape) for name in masks})
    write_tensors(path, {name: pack_bits(masks[name]) for name in masks}, {"shapes": shapes})


def read_masks(path: Path) -> MaskSet:
    """What `write_masks` wrote."""
    packed, about = read_tensors(path)
    shapes = json.loads(about["shapes"])
    return MaskSet({name: unpack_bits(bits, tuple(shapes[name])) for name, bits in packed.items()})


def write_nest(path: Path, nest: Nest) -> None:
    """Write the level of every weight and the side state of every level."""
    tensors = {f"index/{name}": index for name, index in nest.index.items()}
    for level, side in enumerate(nest.side, 1):
        tensors |= {f"side/{level}/{name}": value for name, value in side.items()}
    write_tensors(path, tensors, {"sparsities": json.dumps([str(s) for s in nest.sparsities])})


def read_nest(path: Path) -> Nest:
    """What `write_nest` wrote."""
    tensors, about = read_tensors(path)
    sparsities = tuple(Fraction(s) for s in json.loads(about["sparsities"]))
    index = {name.removeprefix("index/"): value for name, value in tensors.items() if name.startswith("index/")}
    side = tuple(_under(tensors, f"side/{level}/") for level in range(1, len(sparsities) + 1))
    return Nest(sparsities, index, side)


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
