"""A nest in memory, for a running program that changes its sparsity: every level as a state, or put into a module in place.

    nest = sparsify_cli.Nest.load("nest.safetensors")
    nest.put(module, 0.8)          # masks and side state of that level, in place; parameters keep their memory
    module.load_state_dict(nest.at(2))

Levels are named as on the command line: an embedded sparsity, or a whole number from 1 (sparsest). Of a nest whose levels share all state
only the last one is had in memory where there is batch norm: statistics of the others are not in the file, and `extract` measures them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor, nn

from sparsify_cli.errors import KeyMismatch, MissingContext, MissingFile, UnreadableFile
from sparsify_cli.values.artifact import NEST
from sparsify_cli.values.nest import Nest
from sparsify_cli.values.nest_file import read_levels
from sparsify_cli.values.nest_plan import read_plan
from sparsify_cli.values.ranges import file_url, is_url, ranges
from sparsify_cli.values.small_floats import computable
from sparsify_cli.values.vouched import manifest_in, require_header

STATISTICS = ("running_mean", "running_var")
"""How the names of running statistics end."""
WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Bytes of a number -> integers of that size."""


@dataclass(frozen=True, eq=False)
class NestedNetworks:
    """Networks nested in one another, with their weights.

    Args:
        nest: levels and side state.
        weights: of the densest level that was loaded.
        written: levels of the file; 0 = those of `nest`.
    """

    nest: Nest
    weights: Mapping[str, Tensor]
    written: int = 0
    _masks: dict[int, dict[str, Tensor]] = field(default_factory=dict, repr=False)

    @classmethod
    def load(cls, path: str | PathLike[str], upto: str | float | None = None) -> NestedNetworks:
        """Read a nest once.

        Args:
            path: the file, or the folder of the artifact; or the URL of either.
            upto: the densest level that will be needed; None = all.

        Raises:
            MissingFile: nothing is there.
            UnreadableFile: it is damaged, no nest, or not the one that the folder's manifest describes.
            BadRequest: no such level.
        """
        source = file_url(str(path), NEST) if is_url(str(path)) else _file(Path(path))
        is_folder = str(source).rstrip("/") != str(path).rstrip("/")
        with ranges(source) as opened:
            plan = read_plan(opened)
            require_header(plan, manifest_in(str(path)) if is_folder else {}, source)
            level = plan.levels if upto is None else Nest(plan.sparsities, {}, ()).find(_text(upto))
            nest, state = read_levels(opened, plan, level)
        weights = {name: state[name] for name in nest.index}
        if bad := [name for name, weight in weights.items() if not bool(torch.isfinite(computable(weight)).all())]:
            raise UnreadableFile(f"{path} holds numbers that are not finite.", f"{len(bad)} tensors, first {bad[0]!r}.", "Embed again.")
        return cls(nest, weights, plan.levels)

    @property
    def sparsities(self) -> tuple[float, ...]:
        """Of each level, falling."""
        return tuple(map(float, self.nest.sparsities))

    def at(self, level: str | float) -> dict[str, Tensor]:
        """The state of a level's network, ready for `module.load_state_dict`.

        Raises:
            BadRequest: no such level.
            MissingContext: its running statistics are not in the file.
        """
        number = self._number(level)
        masks = self.nest.masks(number)
        masked = {name: torch.where(masks[name], weight, 0) for name, weight in self.weights.items()}
        return self.nest.tied({**masked, **{name: tensor.clone() for name, tensor in self.nest.side[number - 1].items()}})

    @torch.no_grad()
    def put(self, module: nn.Module, level: str | float) -> None:
        """Make a module the network of a level, in place; nothing is read, and nothing but its tensors' values changes.

        Raises:
            BadRequest: no such level.
            MissingContext: its running statistics are not in the file.
            KeyMismatch: the module has other tensors.
        """
        number = self._number(level)
        state, side, mask = module.state_dict(keep_vars=True), self.nest.side[number - 1], self._mask(number)
        named = {*self.weights, *side, *self.nest.ties}
        if state.keys() != named:
            odd = sorted(state.keys() ^ named)
            raise KeyMismatch(f"{len(odd)} tensors are in the module or in the nest, not in both, first {odd[0]!r}.")
        other = [name for name, tensor in {**self.weights, **side}.items() if state[name].shape != tensor.shape]
        if other:
            shapes = f"{tuple(state[other[0]].shape)} and {tuple(({**self.weights, **side})[other[0]].shape)}"
            raise KeyMismatch(f"{len(other)} tensors have other shapes in the module and in the nest, first {other[0]!r}: {shapes}.")
        for name, weight in self.weights.items():
            if state[name].device == weight.device and state[name].dtype == weight.dtype and state[name].is_contiguous():
                torch.bitwise_and(_bits(weight), mask[name], out=_bits(state[name].detach()))
            else:
                state[name].copy_((_bits(weight) & mask[name]).view(weight.dtype))
        for name, tensor in side.items():
            state[name].copy_(tensor)
        for name, first in self.nest.ties.items():
            if state[name].data_ptr() != state[first].data_ptr():
                state[name].copy_(state[first])

    def _number(self, level: str | float) -> int:
        """Which level is meant.

        Raises:
            BadRequest: no such level.
            MissingContext: its running statistics are not in the file.
        """
        number, last = self.nest.find(_text(level)), self.written or self.nest.levels
        if self.nest.state == "shared" and number < last and any(name.endswith(STATISTICS) for name in self.nest.side[number - 1]):
            sparsity = float(self.nest.sparsities[number - 1])
            raise MissingContext(
                f"The nest has no batch-norm statistics of its level {number} ({sparsity:g}).",
                f"Its levels share all state: only those of level {last} are in the file, and with them this one collapses.",
                f"Measure them on training data: sparsify extract NEST --level {sparsity:g} --data ...; or embed with other --state.",
            )
        return number

    def _mask(self, level: int) -> dict[str, Tensor]:
        """The masks of a level as integers as wide as the weights, all bits or none, made once: `and` is as fast as a copy and exact."""
        if level not in self._masks:
            masks = self.nest.masks(level)
            self._masks[level] = {name: -masks[name].to(WORDS[weight.element_size()]) for name, weight in self.weights.items()}
        return self._masks[level]


def _bits(tensor: Tensor) -> Tensor:
    """The same memory as integers: a product with nought would leave -0.0 where a negative weight goes."""
    return tensor.view(WORDS[tensor.element_size()])


def _file(path: Path) -> Path:
    found = path / NEST if path.is_dir() else path
    if not found.is_file():
        raise MissingFile(f"There is no nest {found}.", "", "Give what `sparsify embed` wrote.")
    return found


def _text(level: str | float) -> str:
    return str(level)
