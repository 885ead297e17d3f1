"""Ways through a network: whether it chooses them by its data, in which order its layers come, and whether two see the same samples there.

A network that sends samples to experts, or ends early, gives a layer other samples once pruning has moved its choice. How many there are
need not show that (experts may choose, too, and take as many each time), so the samples themselves are compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

CHOOSING = frozenset(
    ["topk", "sort", "argsort", "argmax", "argmin", "nonzero", "masked_select", "multinomial", "bincount", "_local_scalar_dense"]
)
"""Operations whose results may decide which samples go where; and the places of largest values, and indexing by true and false."""
FEW, NUMBERS, MOST = 64, 4096, 3 / 4
"""Samples that are compared, about how many numbers of each, and the share of them that must lie nearest to themselves."""


class Choices(TorchDispatchMode):
    """Inside, `seen` becomes true where an operation may decide which samples go where."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen = False

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        """The operation itself."""
        del types
        name, _, overload = func.name().removeprefix("aten::").partition(".")
        self.seen |= name in CHOOSING or (name in ("max", "min") and overload == "dim") or (name == "index" and _by_truth(args))
        return func(*args, **(kwargs or {}))


def _by_truth(args: tuple[Any, ...]) -> bool:
    return any(isinstance(one, Tensor) and one.dtype == torch.bool for one in args[1])


def in_order(passes: Iterable[Iterable[str]]) -> dict[str, int]:
    """Places of layers in an order that agrees with several passes, each of which may leave some out; as far as these agree."""
    ahead: dict[str, set[str]] = {}
    for names in map(list, passes):
        for name, last in zip(names, [None, *names], strict=False):
            ahead.setdefault(name, set()).update([last] if last else [])
    order: list[str] = []
    while ahead:
        order.append(next((name for name, others in ahead.items() if not others & ahead.keys()), next(iter(ahead))))
        del ahead[order[-1]]
    return {name: place for place, name in enumerate(order)}


def same_samples(some: Sequence[Shaped[Tensor, "n ..."]], others: Sequence[Shaped[Tensor, "n ..."]]) -> bool:
    """Whether batches hold the same samples in the same order, as one network and another see them: most lie nearest to themselves.

    Args:
        some, others: of the same shapes; a few are compared.
    """
    found = [_nearest(one, other) for one, other in zip(some, others, strict=True) if len(one) > 1]
    nearest = torch.cat(found) if found else torch.ones(1, dtype=torch.bool)
    return float(nearest.double().mean()) >= MOST


def _nearest(one: Shaped[Tensor, "n ..."], other: Shaped[Tensor, "n ..."]) -> Tensor:
    where = torch.arange(0, len(one), -(-len(one) // FEW))
    every = max(1, one[0].numel() // NUMBERS)  # of long samples some numbers are enough, and copies of all would take memory
    some, others = one[where].flatten(1)[:, ::every], other.flatten(1)[:, ::every]
    apart = torch.cdist(some.double(), others.double())
    own = apart[torch.arange(len(where)), where]
    return own <= apart.amin(dim=1) * (1 + 1e-9)
