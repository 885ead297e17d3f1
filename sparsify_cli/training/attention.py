"""Attention spelled out: the projections of torch's own attention as layers that can be watched, changed and put back.

`nn.MultiheadAttention` multiplies with its packed matrix itself and uses `out_proj` without calling it, and in eval mode whole encoder
layers run as one fused call; no hook sees what goes in. Inside `spelled_out` queries, keys and values of self-attention
pass a `Projection`, the mixed values pass `out_proj`, and nothing is fused. The outputs are the same to rounding.
Attention between two sequences, or with separate matrices, has no packed input; of it only `out_proj` is seen. Subclasses may do
anything before and after, and are left alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sparsify_cli.maths.fewer_heads import FewerHeads

KINDS = (nn.MultiheadAttention, FewerHeads)
KEPT = "_projection_of_sparsify"
"""Where an attention keeps its projection."""


class Projection(nn.Linear):
    """The packed projection [3 x embed, embed] of one attention, as a linear layer that owns nothing and is only looked at."""

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        nn.Module.__init__(self)
        self.out_features, self.in_features = attention.in_proj_weight.shape
        self.__dict__["attention"] = attention  # not a submodule: the attention would be its own part

    @property
    def weight(self) -> nn.Parameter:  # type: ignore[override]
        """The attention's own."""
        packed: nn.Parameter = self.__dict__["attention"].in_proj_weight
        return packed

    @property
    def bias(self) -> nn.Parameter | None:  # type: ignore[override]
        """The attention's own."""
        packed: nn.Parameter | None = self.__dict__["attention"].in_proj_bias
        return packed

    def forward(self, input: Tensor) -> Tensor:
        """Nothing: the attention multiplies itself; hooks have seen what with."""
        return input


def projections(module: nn.Module) -> dict[str, Projection]:
    """Name of each packed matrix -> its projection; the same one at every call."""
    return {
        f"{path}.in_proj_weight".lstrip("."): _projection(part)
        for path, part in module.named_modules()
        if type(part) in KINDS and part.in_proj_weight is not None
    }


@contextmanager
def spelled_out(module: nn.Module) -> Iterator[None]:
    """Inside, every projection of an attention is called as a layer; afterwards the network is as it was."""
    attentions: list[Any] = [part for part in module.modules() if type(part) in KINDS]
    with ExitStack() as after:
        if attentions:
            after.enter_context(_FUSED.off())
        for attention in attentions:
            if "forward" not in attention.__dict__:  # two networks in one may share an attention, and calls may be nested
                attention.__dict__["forward"] = _spelled(attention)
                after.callback(attention.__dict__.pop, "forward")
        yield


@dataclass
class _Fused:
    """The process's switch of fused attention: off while anybody wants it so, in whatever order they end."""

    wanting: int = 0
    before: bool = True

    @contextmanager
    def off(self) -> Iterator[None]:
        if not self.wanting:
            self.before = torch.backends.mha.get_fastpath_enabled()
        self.wanting += 1
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            yield
        finally:
            self.wanting -= 1
            if not self.wanting:
                torch.backends.mha.set_fastpath_enabled(self.before)


_FUSED = _Fused()


def _projection(attention: nn.MultiheadAttention) -> Projection:
    found: Projection = attention.__dict__.setdefault(KEPT, Projection(attention))
    return found


def _spelled(attention: nn.MultiheadAttention) -> Callable[..., Any]:
    projection, out, plain = _projection(attention), attention.out_proj, attention.forward

    def forward(query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Any:
        if query is key and key is value and attention.in_proj_weight is not None:
            projection(query)
        with _passing(attention, out):
            mixed, shares = plain(query, key, value, *args, **kwargs)
        return out(mixed), shares

    return forward


@contextmanager
def _passing(attention: nn.MultiheadAttention, out: nn.Module) -> Iterator[None]:
    """Inside, the attention puts out the mixed values themselves."""
    weight: Tensor = out.weight  # type: ignore[assignment]
    mixed = weight.shape[1]
    through = nn.Linear(mixed, mixed, bias=False, device="meta")
    through.weight = nn.Parameter(torch.eye(mixed, dtype=weight.dtype, device=weight.device), requires_grad=False)
    attention._modules["out_proj"] = through
    try:
        yield
    finally:
        attention._modules["out_proj"] = out
