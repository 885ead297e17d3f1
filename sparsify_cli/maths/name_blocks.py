"""The blocks of a network, as far as names of tensors tell: `encoder.layer.3.attention.query.weight` belongs to `encoder.layer.3`.

A block is a numbered part that holds more than one layer. Where numbers lie in one another, it is the outermost part that its
neighbours repeat, layer by layer: the block of a transformer, not its sublayers or experts, and not a stage that holds blocks of
another number. Where none is repeated so, it is the innermost. A tensor in no such part is a block of its own.

Source: ours; OWL (arXiv 2310.05175) takes the list of blocks from the model's code.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

NUMBERED = re.compile(r"(.*_)?\d+")
"""A part that is counted: `3`, or `encoder_layer_3`."""


def blocks_of(names: Sequence[str]) -> dict[str, str]:
    """Name of each tensor -> its block.

    Args:
        names: of weights, with dots between the parts they lie in.
    """
    inside: dict[str, set[str]] = {}
    for name in names:
        for part in _numbered(name):
            inside.setdefault(part, set()).add(name[len(part) :])
    rows: dict[str, list[str]] = {}
    for part in inside:
        rows.setdefault(_counted(part), []).append(part)
    repeated = {part for row in rows.values() if _alike(row, inside) for part in row}
    return {name: _block(name, inside, repeated) for name in names}


def _block(name: str, inside: Mapping[str, set[str]], repeated: set[str]) -> str:
    several = [part for part in _numbered(name) if len(inside[part]) > 1]
    return next((part for part in several if part in repeated), several[-1] if several else name)


def _numbered(name: str) -> list[str]:
    """The numbered parts a tensor lies in, outermost first; a layer by itself, `3.weight`, is none."""
    parts = name.split(".")
    return [".".join(parts[: place + 1]) for place, part in enumerate(parts[:-2]) if NUMBERED.fullmatch(part)]


def _counted(part: str) -> str:
    """What neighbours have in common: the name without its last number."""
    return part.rstrip("0123456789")


def _alike(row: Iterable[str], inside: Mapping[str, set[str]]) -> bool:
    """Whether there are several, and the same layers lie in all of them."""
    first, *others = (inside[part] for part in row)
    return bool(others) and all(one == first for one in others)
