"""Masks on disk: a safetensors file with one bit a weight; and plain safetensors files with metadata."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sparsify_cli.errors import UnreadableFile
from sparsify_cli.values.atomic import replace_file
from sparsify_cli.values.mask_set import MaskSet, pack_bits, unpack_bits
from sparsify_cli.values.raw_file import CHUNK, opened
from sparsify_cli.values.safetensors_header import read_header


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


def mask_digest(path: Path) -> str:
    """What `MaskSet.digest` gives for the masks of a file, without unpacking or mapping them: it takes the memory of one chunk."""
    state = hashlib.sha256()
    header = read_header(path)
    shapes = json.loads(header.metadata["shapes"])
    with opened(path) as descriptor:
        for name in sorted(shapes):
            state.update(f"{name}{tuple(shapes[name])}".encode())
            place = header.places[name]
            for start in range(place.offset, place.end, CHUNK):
                state.update(os.pread(descriptor, min(CHUNK, place.end - start), start))
    return state.hexdigest()
