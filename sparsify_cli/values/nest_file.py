"""A nest in one file: a safetensors file that holds every embedded network, ready to be extracted anywhere.

    weights/<name>         the last level's weights, where any level keeps them
    index/<name>           uint8, the level of each weight; 0 = in none
    side/<level>/<name>    what masks do not cover, for each level: batch norm, biases, layers left dense

The header's metadata hold `schema` = sparsify/nest/1 and `sparsities`, a JSON list of exact fractions, sparsest first.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sparsify_cli.errors import UnreadableFile
from sparsify_cli.values.mask_file import read_tensors, write_tensors
from sparsify_cli.values.nest import Nest

SCHEMA = "sparsify/nest/1"
AGAIN = "Run `sparsify embed` again."


def write_nest(path: Path, nest: Nest, weights: Mapping[str, Tensor]) -> None:
    """Write the weights of the last level, the level of every weight and the side state of every level.

    Raises:
        DiskFailure: the file system refused.
    """
    tensors = {f"index/{name}": index for name, index in nest.index.items()}
    tensors |= {f"weights/{name}": torch.where(index > 0, weights[name], 0) for name, index in nest.index.items()}
    for level, side in enumerate(nest.side, 1):
        tensors |= {f"side/{level}/{name}": value for name, value in side.items()}
    write_tensors(path, tensors, {"schema": SCHEMA, "sparsities": json.dumps([str(s) for s in nest.sparsities])})


def read_nest(path: Path) -> tuple[Nest, dict[str, Tensor]]:
    """The nest, and the whole state of its last level's network.

    Raises:
        UnreadableFile: the file is damaged or holds no nest.
    """
    tensors, about = read_tensors(path)
    try:
        sparsities = tuple(Fraction(s) for s in json.loads(about["sparsities"]))
    except (KeyError, ValueError, TypeError) as error:
        raise UnreadableFile(f"{path} is damaged.", "Its header does not say which levels it holds.", AGAIN) from error
    side = tuple(_under(tensors, f"side/{level}/") for level in range(1, len(sparsities) + 1))
    index, weights = _under(tensors, "index/"), _under(tensors, "weights/")
    if not sparsities or any(weights.get(name, torch.empty(0)).shape != levels.shape for name, levels in index.items()):
        raise UnreadableFile(f"{path} is damaged.", "Its weights and their levels do not fit.", AGAIN)
    return Nest(sparsities, index, side), dict(sorted({**weights, **side[-1]}.items()))


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
