"""Nests: several sparse networks inside one dense network, one small integer a weight.

A weight's level is the first (sparsest) network it belongs to, counted from 1; 0 = in none of them. The network of
level l keeps the weights of levels 1..l, so masks are nested by construction. What masking cannot carry (batch-norm
parameters and statistics, biases) is kept once for each level: extraction is then exact.

Source: Halvachi, Peste, Alistarh, Lampert 2023 (arXiv 2312.06872), partial weight freezing. The treatment of batch
norm and biases is ours (private state a level); the paper's could not be verified.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor

from sparsify_cli.errors import BadRequest
from sparsify_cli.recipes.option import parse_sparsity
from sparsify_cli.values.mask_set import MaskSet

State = Literal["private", "shared-affine", "shared"]
"""What levels have of their own beside weights."""


@dataclass(frozen=True, eq=False)
class Nest:
    """The level of every weight and the side state of every level.

    Args:
        sparsities: asked sparsity of each level, falling, in [0, 1]: sparsest first.
        index: name -> uint8 tensor of the weight's shape; 0 = in no level.
        side: for each level, name -> tensor of everything the masks do not cover.
        block: weights that stay or go together.
        ties: second names of tensors -> the name that each level keeps the tensor under.
        state: `private`; `shared-affine` = only running statistics differ between levels; `shared` = nothing does, and statistics of
            all but the last level are measured when it is taken out.
    """

    sparsities: tuple[Fraction, ...]
    index: Mapping[str, Tensor]
    side: tuple[Mapping[str, Tensor], ...]
    state: State = "private"
    block: int = 1
    ties: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        sparsities: Sequence[Fraction],
        masks: Sequence[MaskSet],
        side: Sequence[Mapping[str, Tensor]],
        state: State = "private",
        *,
        block: int = 1,
        ties: Mapping[str, str] = MappingProxyType({}),
    ) -> Nest:
        """Build from nested masks, sparsest first.

        Raises:
            BadRequest: the masks are not nested.
        """
        loose = [i for i in range(1, len(masks)) if not masks[i - 1] <= masks[i]]
        if loose:
            raise BadRequest(f"The masks of levels {loose[0]} and {loose[0] + 1} are not nested.")
        index = {name: torch.zeros(masks[0][name].shape, dtype=torch.uint8) for name in masks[0]}
        for level in range(len(masks), 0, -1):
            for name, mask in masks[level - 1].items():
                index[name][mask] = level
        return cls(tuple(sparsities), index, tuple(side), state, block, ties)

    @property
    def levels(self) -> int:
        """How many networks are embedded."""
        return len(self.sparsities)

    def masks(self, level: int) -> MaskSet:
        """Masks of the network of `level` (1 = sparsest)."""
        return MaskSet({name: (index > 0) & (index <= level) for name, index in self.index.items()})

    def find(self, asked: str) -> int:
        """The level that `asked` names: a sparsity (`0.8`) or a level number (`2`).

        Raises:
            BadRequest: no such level; lists those that are embedded.
        """
        if asked.isdecimal() and 1 <= int(asked) <= self.levels:
            return int(asked)
        wanted = _fraction(asked)
        if wanted in self.sparsities:
            return self.sparsities.index(wanted) + 1
        listed = ", ".join(f"{float(s):g} (level {i})" for i, s in enumerate(self.sparsities, 1))
        number = _whole(asked)
        meant = f" A level's number is whole: {number}, not {asked}." if 1 <= number <= self.levels else ""
        what, why = f"Level {asked} is not embedded.", f"This artifact holds the sparsities {listed}.{meant}"
        raise BadRequest(what, why, "Ask for one of these with --level.")

    def extract(self, tensors: Mapping[str, Tensor], level: int) -> dict[str, Tensor]:
        """The tensors of the network of `level`: masked weights and that level's side state; no data is needed."""
        return self.tied({**self.masks(level).apply(tensors), **self.side[level - 1]})

    def tied(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """With tensors of several names under all of them."""
        return {**tensors, **{name: tensors[first] for name, first in self.ties.items()}}


def _fraction(text: str) -> Fraction | None:
    try:
        return parse_sparsity(text)
    except BadRequest:
        return None


def _whole(text: str) -> int:
    """The number that `2.0` stands for; 0 where it is none."""
    head, _, tail = text.partition(".")
    return int(head) if head.isdecimal() and len(head) < 4 and not tail.strip("0") else 0
