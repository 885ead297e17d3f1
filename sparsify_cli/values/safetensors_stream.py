"""Writing a safetensors file tensor by tensor: whole or not at all, with the memory of one tensor."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from sparsify_cli.errors import BadData
from sparsify_cli.values.atomic import replace_file
from sparsify_cli.values.safetensors_header import in_order, write_header
from sparsify_cli.values.strict_json import shown


def stream_tensors(path: Path, tensors: Mapping[str, Any], names: Iterable[str], metadata: Mapping[str, str]) -> None:
    """Write some of the tensors in safetensors' own order.

    Args:
        path: the file.
        tensors: name -> torch tensor; a mapping that reads them on demand is asked twice for each.
        names: which of them.
        metadata: text entries of the header.

    Raises:
        BadData: a type or layout that safetensors has no word for.
        DiskFailure: the file system refused.
    """
    entries = in_order((name, *_described(name, tensors[name])) for name in names)
    header = write_header(entries, metadata)

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            file.write(header)
            for name, _, _ in entries:
                _append(file, tensors[name])

    replace_file(path, write)


def twins(tensors: Mapping[str, Any], new: Iterable[str]) -> frozenset[str]:
    """Those of the `new` names whose tensor is, number for number in one memory, the tensor of another name.

    Of several new names of one tensor the first in sorted order is none.
    """
    found: set[str] = set()
    for name in sorted(new, reverse=True):
        tensor = tensors[name]  # held while others are read: memory that was given back may be anybody's
        if tensor.numel() and any(_is_same(tensor, tensors[other]) for other in tensors if other != name and other not in found):
            found.add(name)
    return frozenset(found)


def _is_same(one: Any, other: Any) -> bool:
    if one.layout != other.layout or one.dtype != other.dtype or one.shape != other.shape:
        return False
    return bool(one.data_ptr() == other.data_ptr() and one.stride() == other.stride())


def _described(name: str, tensor: Any) -> tuple[str, tuple[int, ...]]:
    import torch

    if tensor.layout != torch.strided or tensor.is_quantized:
        kind = str(tensor.dtype if tensor.is_quantized else tensor.layout).removeprefix("torch.")
        raise BadData(f"{shown(name)} is {kind}.", "A safetensors file has no word for that.", "Choose another kind of file.")
    return str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape)


def _append(file: BinaryIO, tensor: Any) -> None:
    import torch

    plain = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
    if plain.numel():
        file.write(plain.view(torch.uint8).numpy().data)
