"""A nest in one progressive file: the sparsest network is a prefix, and each further level only adds bytes.

It is a safetensors file whose tensors lie level by level; that of level l holds only what level l - 1 does not:

    <l>/side/<dtype>      what masks do not cover (batch norm, biases, layers left dense) as far as it differs from the level before
    <l>/weights/<dtype>   the weights that this level adds, in the order of tensors and of their rows
    <l>/places            uint8: which of the weights that were in no level so far these are, tensor by tensor as Rice codes (`rice.py`)

Everything is padded to 8 bytes in `places`. The header's metadata hold `schema` = sparsify/nest/2; `sparsities`, a JSON list of exact
fractions, sparsest first; `block`, weights that stay or go together; `weights` and `side`, JSON lists of [name, dtype, shape]; `codes`,
for each level and tensor [k, count, written, bytes]; `own`, for each level the places in `side` of what it stores; `state`, as in
`nest.py`; `sha256`, of the bytes of each level; `header`, of what the header says; and, where tensors have several names, `ties`, the
others -> the one they lie under. To read level l takes the header and the bytes up to the end of its tensors, and those are checked. A
file is the same for the same nest, byte for byte.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparsify_cli.values.atomic import replace_file
from sparsify_cli.values.nest import Nest
from sparsify_cli.values.nest_plan import SCHEMA, Described, Plan, damaged, header_digest, read_plan
from sparsify_cli.values.ranges import Ranges, ranges
from sparsify_cli.values.rice import Bytes, Code, decode, encode
from sparsify_cli.values.safetensors_header import write_header

ROUNDING = 64
"""Weights a level may hold more or less than its sparsity says (one block), where that is more than `SHARE` of all."""
SHARE = Fraction(1, 100)


def write_nest(path: Path, nest: Nest, weights: Mapping[str, Tensor]) -> None:
    """Write the weights of every level, sparsest first, with the side state of each.

    Args:
        path: the file.
        nest: levels and side state.
        weights: holds the last level's weights.

    Raises:
        DiskFailure: the file system refused.
    """
    names, sides = sorted(nest.index), sorted(nest.side[0])
    own = [_own(nest, sides, level) for level in range(1, nest.levels + 1)]
    levels = [_level(nest, weights, names, [sides[i] for i in mine], level) for level, mine in enumerate(own, 1)]
    about = {
        "schema": SCHEMA,
        "block": str(nest.block),
        "sparsities": json.dumps([str(s) for s in nest.sparsities]),
        "weights": json.dumps([_described(name, weights[name]) for name in names]),
        "side": json.dumps([_described(name, nest.side[0][name]) for name in sides]),
        "codes": json.dumps([[code.to_list() for code in codes] for _, codes in levels]),
        "own": json.dumps(own),
        "state": nest.state,
        "sha256": json.dumps([_digest(part for _, part in found) for found, _ in levels]),
        **({"ties": json.dumps(dict(sorted(nest.ties.items())))} if nest.ties else {}),
    }
    parts = [(f"{number}/{name}", part) for number, (found, _) in enumerate(levels, 1) for name, part in found]
    entries = [(name, _word(part), tuple(part.shape)) for name, part in parts]
    header = write_header(entries, {**about, "header": header_digest(entries, about)})

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            file.write(header)
            for _, part in parts:
                file.write(_bytes(part))

    replace_file(path, write)


def read_nest(path: Path) -> tuple[Nest, dict[str, Tensor]]:
    """The nest, and the whole state of its last level's network.

    Raises:
        UnreadableFile: the file is damaged or holds no nest: its header, levels, weights and side state contradict each other.
    """
    with ranges(path) as source:
        plan = read_plan(source)
        return read_levels(source, plan, plan.levels)


def read_levels(source: Ranges, plan: Plan, upto: int) -> tuple[Nest, dict[str, Tensor]]:
    """The nest of the levels 1 .. `upto`, and the state of the last of them, from one range of bytes.

    Raises:
        UnreadableFile: levels, weights and sparsities contradict each other.
    """
    data = np.frombuffer(source.take(plan.start, plan.ends[upto - 1]), dtype=np.uint8)
    index = {name: torch.zeros(math.prod(shape), dtype=torch.uint8) for name, _, shape in plan.weights}
    values = {name: torch.zeros(math.prod(shape), dtype=getattr(torch, word)) for name, word, shape in plan.weights}
    sides: list[dict[str, Tensor]] = []
    try:
        for level in range(1, upto + 1):
            start = (plan.start, *plan.ends)[level - 1] - plan.start
            rest = data[start : plan.ends[level - 1] - plan.start]
            _require_intact(rest, plan.digests[level - 1])
            side, rest = _take_side(rest, [plan.side[i] for i in plan.own[level - 1]])
            _take_level(rest, plan, level, index, values)
            sides.append({**(sides[-1] if sides else {}), **side})
    except ValueError as error:
        raise damaged(source.name, f"Its level {level} does not hold what its header says: {error}.") from error
    shapes = {name: shape for name, _, shape in plan.weights}
    places = {name: one.reshape(shapes[name]) for name, one in index.items()}
    nest = Nest(plan.sparsities[:upto], places, tuple(sides), plan.state, plan.block, plan.ties)
    if flaw := _count_flaw(nest):
        raise damaged(source.name, flaw)
    return nest, dict(sorted(nest.tied({**{name: one.reshape(shapes[name]) for name, one in values.items()}, **sides[-1]}).items()))


def _own(nest: Nest, sides: Sequence[str], level: int) -> list[int]:
    """Which side tensors a level stores: those that are not, bit for bit, those of the level before."""
    if level == 1:
        return list(range(len(sides)))
    here, before = nest.side[level - 1], nest.side[level - 2]
    return [i for i, name in enumerate(sides) if not _is_same(here[name], before[name])]


def _is_same(one: Tensor, other: Tensor) -> bool:
    """The same bits, NaN and signs of zeros included."""
    plain = (t.detach().cpu().contiguous().reshape(-1).view(torch.uint8) for t in (one, other))
    return one.shape == other.shape and one.dtype == other.dtype and torch.equal(*plain)


def _level(
    nest: Nest, weights: Mapping[str, Tensor], names: Sequence[str], sides: Sequence[str], level: int
) -> tuple[list[tuple[str, Tensor]], list[Code]]:
    """Tensors of one level as they lie in the file, and how places are written."""
    side, index = nest.side[level - 1], {name: nest.index[name].cpu().reshape(-1) for name in names}
    new = {name: weights[name].detach().cpu().reshape(-1)[index[name] == level] for name in names}
    coded = [encode((one[(one >= level) | (one == 0)] == level).numpy()) for one in index.values()]
    parts = [*_by_type("side", (side[name] for name in sides)), *_by_type("weights", new.values())]
    filled = sum(part.nbytes for _, part in parts) + sum(code.size for code, _ in coded)
    places = np.concatenate([*(data for _, data in coded), np.zeros(-filled % 8, dtype=np.uint8)])
    return [*parts, ("places", torch.from_numpy(places))], [code for code, _ in coded]


def _bytes(part: Tensor) -> memoryview:
    return part.view(torch.uint8).numpy().data


def _digest(parts: Iterable[Tensor]) -> str:
    state = hashlib.sha256()
    for part in parts:
        state.update(_bytes(part))
    return state.hexdigest()


def _require_intact(data: Bytes, digest: str) -> None:
    if hashlib.sha256(data.data).hexdigest() != digest:
        raise ValueError("its sha256 is another")


def _by_type(name: str, tensors: Iterable[Tensor]) -> list[tuple[str, Tensor]]:
    """All numbers of a type one after the other, the widest type first, so that each lies where its width asks for."""
    flat: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        flat.setdefault(tensor.dtype, []).append(tensor.detach().cpu().reshape(-1))
    return [(f"{name}/{_word(parts[0])}", torch.cat(parts)) for _, parts in sorted(flat.items(), key=_width)]


def _width(item: tuple[torch.dtype, Any]) -> tuple[int, str]:
    return -item[0].itemsize, str(item[0])


def _take_side(data: Bytes, side: Sequence[Described]) -> tuple[dict[str, Tensor], Bytes]:
    sizes = {name: math.prod(shape) for name, _, shape in side}
    found, rest = _taken(data, [(name, word, sizes[name]) for name, word, _ in side])
    return {name: found[name].reshape(shape) for name, _, shape in side}, rest


def _take_level(data: Bytes, plan: Plan, level: int, index: dict[str, Tensor], values: dict[str, Tensor]) -> None:
    """Fill in the weights of a level."""
    codes = plan.codes[level - 1]
    free = {name: (index[name] == 0).numpy() for name, _, _ in plan.weights}
    counts = {name: _set(code, int(free[name].sum())) for (name, _, _), code in zip(plan.weights, codes, strict=True)}
    found, places = _taken(data, [(name, word, counts[name]) for name, word, _ in plan.weights])
    for (name, _, _), code in zip(plan.weights, codes, strict=True):
        here, places = places[: code.size], places[code.size :]
        added = np.zeros(len(free[name]), dtype=bool)
        added[free[name]] = decode(code, here, int(free[name].sum()))
        index[name][torch.from_numpy(added)] = level
        values[name][torch.from_numpy(added)] = found[name]


def _set(code: Code, n: int) -> int:
    return code.count if code.written else n - code.count


def _taken(data: Bytes, wanted: Sequence[tuple[str, str, int]]) -> tuple[dict[str, Tensor], Bytes]:
    """Tensors that lie at the beginning, the widest type first, and what comes after them."""
    found: dict[str, Tensor] = {}
    kinds = dict.fromkeys(word for _, word, _ in wanted)
    for kind, _ in sorted(((getattr(torch, word), word) for word in kinds), key=_width):
        for name, word, count in wanted:
            if getattr(torch, word) == kind:
                size = count * kind.itemsize
                if count < 0 or size > len(data):
                    raise ValueError("it ends too early")
                found[name] = torch.from_numpy(data[:size].copy()).view(kind) if size else torch.zeros(0, dtype=kind)
                data = data[size:]
    return found, data


def _described(name: str, tensor: Tensor) -> list[Any]:
    return [name, _word(tensor), list(tensor.shape)]


def _word(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _count_flaw(nest: Nest) -> str:
    """The first level whose number of weights is not what its sparsity says; rounding to whole blocks is allowed for."""
    counts = sum(torch.bincount(index.flatten(), minlength=nest.levels + 1) for index in nest.index.values())
    total, kept = int(torch.as_tensor(counts).sum()), torch.as_tensor(counts)[1:].cumsum(0).tolist()
    for level, (sparsity, count) in enumerate(zip(nest.sparsities, kept, strict=True), 1):
        if abs(total * (1 - sparsity) - count) > max(ROUNDING, nest.block, total * SHARE):
            return f"Level {level} of sparsity {float(sparsity):g} holds {count} of {total} weights."
    return ""
