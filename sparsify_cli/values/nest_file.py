"""A nest in one file: a safetensors file that holds every embedded network, ready to be extracted anywhere.

    weights/<name>         the last level's weights, where any level keeps them
    index/<name>           uint8, the level of each weight; 0 = in none
    side/<level>/<name>    what masks do not cover, for each level: batch norm, biases, layers left dense

The header's metadata hold `schema` = sparsify/nest/1 and `sparsities`, a JSON list of exact fractions, sparsest first.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sparsify_cli.errors import UnreadableFile
from sparsify_cli.values.mask_file import read_tensors, write_tensors
from sparsify_cli.values.nest import Nest

SCHEMA = "sparsify/nest/1"
AGAIN = "Run `sparsify embed` again."
NUMBER = re.compile(r"[0-9]{1,99}([/.][0-9]{1,99})?")
ROUNDING = 64
"""Weights a level may hold more or less than its sparsity says (one block), where that is more than `SHARE` of all."""
SHARE = Fraction(1, 100)


def write_nest(path: Path, nest: Nest, weights: Mapping[str, Tensor], *, block: int = 1) -> None:
    """Write the weights of the last level, the level of every weight and the side state of every level.

    Args:
        path: the file.
        nest: levels and side state.
        weights: holds the last level's weights.
        block: weights that stay or go together; counts are exact to one block.

    Raises:
        DiskFailure: the file system refused.
    """
    tensors = {f"index/{name}": index for name, index in nest.index.items()}
    tensors |= {f"weights/{name}": torch.where(index > 0, weights[name], 0) for name, index in nest.index.items()}
    for level, side in enumerate(nest.side, 1):
        tensors |= {f"side/{level}/{name}": value for name, value in side.items()}
    write_tensors(path, tensors, {"schema": SCHEMA, "block": str(block), "sparsities": json.dumps([str(s) for s in nest.sparsities])})


def read_nest(path: Path) -> tuple[Nest, dict[str, Tensor]]:
    """The nest, and the whole state of its last level's network.

    Raises:
        UnreadableFile: the file is damaged or holds no nest: its header, levels, weights and side state contradict each other.
    """
    tensors, about = read_tensors(path)
    sparsities = _sparsities(path, about.get("sparsities", ""))
    side = tuple(_under(tensors, f"side/{level}/") for level in range(1, len(sparsities) + 1))
    index, weights = _under(tensors, "index/"), _under(tensors, "weights/")
    nest = Nest(sparsities, index, side)
    found = len(index) + len(weights) + sum(map(len, side))
    block = int(text) if (text := about.get("block", "1")[:9]).isascii() and text.isdigit() else 1
    if flaw := _weights_flaw(nest, weights) or _side_flaw(side, len(tensors) - found) or _count_flaw(nest, block):
        raise UnreadableFile(f"{path} is damaged.", flaw, AGAIN)
    return nest, dict(sorted({**weights, **side[-1]}.items()))


def is_nest_file(path: Path) -> bool:
    """True for a file that `write_nest` wrote; only the header is read."""
    if path.suffix != ".safetensors" or not path.is_file():
        return False
    try:
        with safe_open(path, framework="pt") as file:
            return bool((file.metadata() or {}).get("schema") == SCHEMA)
    except (SafetensorError, OSError):
        return False


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _sparsities(path: Path, text: str) -> tuple[Fraction, ...]:
    """The sparsities a header names: a JSON list of fractions in [0, 1], strictly falling."""
    try:
        listed = json.loads(text)
        if not isinstance(listed, list) or not listed or not all(isinstance(one, str) and NUMBER.fullmatch(one) for one in listed):
            raise ValueError(text)
        found = tuple(map(Fraction, listed))
    except (ValueError, ArithmeticError, RecursionError) as error:
        raise UnreadableFile(f"{path} is damaged.", "Its header does not say which levels it holds.", AGAIN) from error
    if found[0] > 1 or any(after >= before for before, after in pairwise(found)):
        raise UnreadableFile(f"{path} is damaged.", f"Its sparsities {', '.join(listed)} do not fall within [0, 1].", AGAIN)
    return found


def _weights_flaw(nest: Nest, weights: Mapping[str, Tensor]) -> str:
    """What is wrong with the weights and their levels; nothing when all is well."""
    if not nest.index or nest.index.keys() != weights.keys():
        return f"It holds the levels of {len(nest.index)} tensors and the weights of {len(weights)}, not of the same."
    for name, index in nest.index.items():
        if index.dtype != torch.uint8 or index.shape != weights[name].shape:
            kind = str(index.dtype).removeprefix("torch.")
            return f"The levels of {name} are {kind} {list(index.shape)}, its weights have the shape {list(weights[name].shape)}."
        if index.numel() and int(index.max()) > nest.levels:
            return f"A weight of {name} is of level {int(index.max())}, of {nest.levels}."
    return ""


def _side_flaw(side: tuple[Mapping[str, Tensor], ...], strays: int) -> str:
    """What is wrong with the side state of the levels; nothing when all is well."""
    shapes = [{name: value.shape for name, value in one.items()} for one in side]
    wrong = [str(level) for level, one in enumerate(shapes, 1) if one != shapes[0]]
    if wrong:
        return f"The side state of level {', '.join(wrong)} does not hold the tensors that level 1 holds."
    return f"{strays} of its tensors belong to none of its {len(side)} levels." if strays else ""


def _count_flaw(nest: Nest, block: int) -> str:
    """The first level whose number of weights is not what its sparsity says; rounding to whole blocks is allowed for."""
    counts = sum(torch.bincount(index.flatten(), minlength=nest.levels + 1) for index in nest.index.values())
    total, kept = int(torch.as_tensor(counts).sum()), torch.as_tensor(counts)[1:].cumsum(0).tolist()
    for level, (sparsity, count) in enumerate(zip(nest.sparsities, kept, strict=True), 1):
        if abs(total * (1 - sparsity) - count) > max(ROUNDING, block, total * SHARE):
            return f"Level {level} of sparsity {float(sparsity):g} holds {count} of {total} weights."
    return ""
