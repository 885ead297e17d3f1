"""Torch checkpoints for tests: written in each of the three kinds, read back by the places of their layouts, damaged at random."""

from __future__ import annotations

import io
import pickle
import random
import struct
import tarfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparsify_cli.contracts.format import Format
from sparsify_cli.errors import SparsifyError
from sparsify_cli.values.layout import Layout, Place, row_major

SHARED = Path(__file__).parents[1] / "../shared/data"
"""Checkpoints of other people; tests that need them skip where they are not."""


class Hostile:
    """Leaves a file behind when it is unpickled as code."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("exploded"),))


def tensor_at(root: Path, place: Place) -> Tensor:
    """The tensor that lies at a place."""
    data = bytearray((root / place.file).read_bytes()[place.offset : place.end])
    dtype = getattr(torch, place.dtype)
    if not place.size:
        return torch.empty(place.shape, dtype=dtype)
    return torch.frombuffer(data, dtype=dtype).as_strided(place.shape, place.strides or row_major(place.shape))


def tensors_of(layout: Layout) -> dict[str, Tensor]:
    """Every tensor of a layout under its dotted name."""
    return {
        ".".join((*keys, name)): tensor_at(layout.root, place) for keys, table in layout.tables.items() for name, place in table.items()
    }


def flat(content: Any, keys: tuple[str, ...] = ()) -> dict[str, Tensor]:
    """Every tensor under a text in mappings and lists as torch loads them, under its dotted name."""
    if isinstance(content, Tensor):
        return {".".join(keys): content}
    entries = content.items() if isinstance(content, Mapping) else enumerate(content) if isinstance(content, list | tuple) else ()
    return {name: tensor for key, value in entries for name, tensor in flat(value, (*keys, str(key))).items()}


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Equal in type, shape and every bit."""
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    return one.reshape(-1).contiguous().view(torch.uint8).equal(other.reshape(-1).contiguous().view(torch.uint8))


def write_tar(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """A checkpoint as torch before 0.1.10 saved it: float32 tensors, the storage of each a view on one whole."""
    whole = torch.cat([tensor.flatten() for tensor in tensors.values()])
    starts = [0, *torch.tensor([t.numel() for t in tensors.values()]).cumsum(0).tolist()]
    dump = lambda value: pickle.dumps(value, protocol=2)  # noqa: E731
    storages = dump(1) + dump((7, "cpu", torch.FloatStorage)) + struct.pack("<q", whole.numel()) + whole.numpy().tobytes()
    storages += dump([(100 + i, 7, starts[i], tensor.numel()) for i, tensor in enumerate(tensors.values())])
    listed = dump(len(tensors))
    for i, tensor in enumerate(tensors.values()):
        listed += dump((200 + i, 100 + i, torch.FloatTensor)) + struct.pack("<iI", tensor.ndim, 0xABCD)
        listed += struct.pack(f"<{2 * tensor.ndim + 1}q", *tensor.shape, *tensor.stride(), 0)
    parts = {"sys_info": dump({"little_endian": True}), "pickle": _by_key(tensors), "tensors": listed, "storages": storages}
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in parts.items():
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(data), 1.5
            archive.addfile(member, io.BytesIO(data))


def _by_key(tensors: Mapping[str, Tensor]) -> bytes:
    keys = {id(tensor): 200 + i for i, tensor in enumerate(tensors.values())}
    buffer = io.BytesIO()

    class Asking(pickle.Pickler):
        def persistent_id(self, value: Any) -> int | None:
            return keys.get(id(value))

    Asking(buffer, protocol=2).dump(OrderedDict(tensors))
    return buffer.getvalue()


def mutated(data: bytes, chance: random.Random) -> bytes:
    """A few bits flipped, most often near an end, where structure is; or cut off."""
    changed = bytearray(data)
    if chance.random() < 0.2:
        return bytes(changed[: chance.randrange(len(changed))])
    for _ in range(chance.randint(1, 4)):
        near = min(int(chance.paretovariate(0.3)), len(changed)) - 1
        at = chance.choice((near, len(changed) - 1 - near, chance.randrange(len(changed))))
        changed[at] ^= 1 << chance.randrange(8)
    return bytes(changed)


def survives(format_: Format, path: Path, seeds: range) -> int:
    """Mutations of a file that were read; asserts that the others were refused in a sentence and that places lie in the file."""
    whole, read = path.read_bytes(), 0
    for seed in seeds:
        path.write_bytes(mutated(whole, random.Random(seed)))
        size = path.stat().st_size
        try:
            layout = format_.layout(path, trust=bool(seed % 2))
        except SparsifyError as error:
            assert path.name in str(error), f"seed {seed}"
            continue
        read += 1
        places = [place for table in layout.tables.values() for place in table.values()]
        assert all(0 <= place.offset <= place.end <= size for place in places), f"seed {seed}"
    return read
