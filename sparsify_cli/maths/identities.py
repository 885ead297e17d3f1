"""Parts of a network that return what they are given, such as residual blocks whose branch is zero: they can be left out.

A part counts when it takes one tensor and returns exactly that, number by number in float64, at every call, on samples and on random
inputs of the network. A block that ends in a rectifier does so where all that reaches it is positive, as behind another rectifier.

Source: Wen et al. 2016 (SSL, arXiv 1608.03665), section 3.1: layers whose weights are all zero are skipped by their shortcut.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sparsify_cli.values.arrays import as_taken_by, handy_batch
from sparsify_cli.values.copies import in_float64


@torch.no_grad()
def identities(module: nn.Module, batches: Sequence[Tensor]) -> tuple[str, ...]:
    """Names of the parts that have weights and return what they are given; none inside another.

    Args:
        module: in eval mode; it becomes float64.
        batches: inputs of the network.
    """
    watch = _Watch(in_float64(module))
    with watch:
        for batch in batches:
            for part in batch.split(handy_batch(module)):
                module(as_taken_by(module, part))
    same = sorted(name for name, holds in watch.same.items() if holds)
    return tuple(name for name in same if not any(name.startswith(f"{outer}.") for outer in same))


def without(module: nn.Module, names: Sequence[str]) -> nn.Module:
    """The module itself, with nothing in place of these parts.

    Raises:
        AttributeError: there is no such part.
    """
    for name in names:
        path, _, leaf = name.rpartition(".")
        module.get_submodule(name)
        setattr(module.get_submodule(path), leaf, nn.Identity())
    return module


def candidates(module: nn.Module) -> dict[str, nn.Module]:
    """Parts with weights that belong to nobody else, each under its only name."""
    names = Counter(id(part) for _, part in module.named_modules(remove_duplicate=False))
    uses = Counter(id(parameter) for _, parameter in module.named_parameters(remove_duplicate=False))
    parts = {name: part for name, part in module.named_modules() if name and names[id(part)] == 1}
    own = {name: list(part.parameters()) for name, part in parts.items()}
    return {name: part for name, part in parts.items() if own[name] and all(uses[id(parameter)] == 1 for parameter in own[name])}


class _Watch:
    """Inside, every candidate is compared with its input; copies, since parts may change what they are given."""

    def __init__(self, module: nn.Module) -> None:
        self.parts = candidates(module)
        self.same: dict[str, bool] = {}
        self.given: dict[str, list[Tensor | None]] = {name: [] for name in self.parts}
        self.handles: list[Any] = []

    def __enter__(self) -> None:
        for name, part in self.parts.items():
            self.handles.append(part.register_forward_pre_hook(self._before(name), with_kwargs=True))
            self.handles.append(part.register_forward_hook(self._after(name)))

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.remove()

    def _before(self, name: str) -> Any:
        def remember(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            plain = len(args) == 1 and not kwargs and isinstance(args[0], Tensor) and self.same.get(name, True)
            self.given[name].append(args[0].clone() if plain else None)

        return remember

    def _after(self, name: str) -> Any:
        def compare(_: nn.Module, args: tuple[Any, ...], out: Any) -> None:
            del args
            given = self.given[name].pop()
            equal = given is not None and isinstance(out, Tensor) and out.shape == given.shape and torch.equal(out, given)
            self.same[name] = self.same.get(name, True) and equal

        return compare
