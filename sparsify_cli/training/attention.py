"""Attention spelled out: the projections of torch's own attention as layers that can be watched, changed and put back.

`nn.MultiheadAttention` multiplies with its packed matrix itself and uses `out_proj` without calling it, and in eval mode whole encoder
layers run as one fused call; no hook sees what goes in. Inside `spelled_out` queries, keys and values pass a `Projection`, the mixed
values pass `out_proj`, and nothing is fused. The outputs are the same to rounding.

Where queries, keys and values are one sequence, the packed matrix multiplies that. Where they are not (between two sequences, or with
positions added to some), each third of its outputs multiplies another: it is a layer in three groups, as a convolution may be, once
`tell_apart` has seen so. Separate matrices, for keys and values of other widths, are layers of their own. Subclasses may do anything
before and after, and are left alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sparsify_cli.maths.fewer_heads import FewerHeads
from sparsify_cli.training.batches import as_taken_by
from sparsify_cli.training.modes import evaluating

KINDS = (nn.MultiheadAttention, FewerHeads)
KEPT = "_projections_of_sparsify"
"""Where an attention keeps its projections."""
PACKED, SEPARATE = "in_proj_weight", ("q_proj_weight", "k_proj_weight", "v_proj_weight")
"""What an attention calls its matrices: it has the one or the three."""
SEQUENCES = ("query", "key", "value")
FEW = 8
"""Samples that show what an attention multiplies."""


class Projection(nn.Linear):
    """A matrix of one attention as a linear layer that owns nothing and is only looked at.

    `inputs_side_by_side` is 3 where a packed one multiplies three sequences, which come as [..., 3 x embed].
    """

    def __init__(self, attention: nn.MultiheadAttention, leaf: str) -> None:
        nn.Module.__init__(self)
        self.leaf, self.inputs_side_by_side = leaf, 1
        self.out_features, self.in_features = getattr(attention, leaf).shape
        self.__dict__["attention"] = attention  # not a submodule: the attention would be its own part

    @property
    def weight(self) -> nn.Parameter:  # type: ignore[override]
        """The attention's own."""
        matrix: nn.Parameter = getattr(self.__dict__["attention"], self.leaf)
        return matrix

    @property
    def bias(self) -> Tensor | None:  # type: ignore[override]
        """The attention's own, or the part of it that belongs to a separate matrix."""
        packed: Tensor | None = self.__dict__["attention"].in_proj_bias
        return packed if packed is None or self.leaf == PACKED else packed.chunk(3)[SEPARATE.index(self.leaf)]

    def forward(self, input: Tensor) -> Tensor:
        """Nothing: the attention multiplies itself; hooks have seen what with."""
        return input


def leaves(attention: nn.MultiheadAttention) -> tuple[str, ...]:
    """What an attention calls its matrices."""
    return SEPARATE if attention.in_proj_weight is None else (PACKED,)


def projections(module: nn.Module) -> dict[str, Projection]:
    """Name of each matrix -> its projection; the same one at every call."""
    found = ((path, part, leaf) for path, part in module.named_modules() if type(part) in KINDS for leaf in leaves(part))
    return {f"{path}.{leaf}".lstrip("."): _projection(part, leaf) for path, part, leaf in found}


def tell_apart(module: nn.Module, inputs: Tensor) -> None:
    """Make three groups of every packed projection that multiplies different sequences, found out with a few samples.

    Args:
        module: otherwise left as it was.
        inputs: samples.
    """
    packed = [layer.__dict__["attention"] for layer in projections(module).values() if layer.leaf == PACKED]
    with ExitStack() as after, torch.no_grad():
        for attention in packed:
            after.callback(attention.register_forward_pre_hook(_note, with_kwargs=True).remove)
        if packed:
            after.enter_context(evaluating(module))
            module(as_taken_by(module, inputs[:FEW]))


def _note(attention: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    given: Mapping[str, Any] = dict(zip(SEQUENCES, args, strict=False)) | kwargs
    if not _are_one([given[name] for name in SEQUENCES]):
        _projection(attention, PACKED).inputs_side_by_side = 3  # type: ignore[arg-type]


def _are_one(sequences: Sequence[Tensor]) -> bool:
    return all(sequence is sequences[0] for sequence in sequences)


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


def _projection(attention: nn.MultiheadAttention, leaf: str) -> Projection:
    kept: dict[str, Projection] = attention.__dict__.setdefault(KEPT, {})
    if leaf not in kept:
        kept[leaf] = Projection(attention, leaf)
    return kept[leaf]


def _spelled(attention: nn.MultiheadAttention) -> Callable[..., Any]:
    out, plain = attention.out_proj, attention.forward

    def forward(query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Any:
        _show(attention, (query, key, value))
        with _passing(attention, out):
            mixed, shares = plain(query, key, value, *args, **kwargs)
        return out(mixed), shares

    return forward


def _show(attention: nn.MultiheadAttention, sequences: Sequence[Tensor]) -> None:
    """Call each projection with what it multiplies; a packed one of a single group sees one sequence or nothing."""
    if leaves(attention) == SEPARATE:
        for leaf, sequence in zip(SEPARATE, sequences, strict=True):
            _projection(attention, leaf)(sequence)
    elif (packed := _projection(attention, PACKED)).inputs_side_by_side > 1:
        packed(side_by_side(sequences, batch_first=attention.batch_first))
    elif _are_one(sequences):
        packed(sequences[0])


def side_by_side(sequences: Sequence[Float[Tensor, "..."]], *, batch_first: bool) -> Float[Tensor, "..."]:
    """Sequences as features of a single one, as long as the longest; tokens of shorter ones come again until it ends.

    First each where it was, then in whole rounds, then some at random, of each sample others, the same at every call; so means over its
    rows are those over each one's own, about. One without tokens counts as zeros.

    Args:
        sequences: [n, tokens, features] each, or [tokens, n, features], or [tokens, features].
        batch_first: which of the first two it is.
    """
    turned = sequences[0].ndim == 3 and not batch_first
    apart = [one.unsqueeze(0) if one.ndim == 2 else one.transpose(0, 1) if turned else one for one in sequences]
    longest = max(one.shape[1] for one in apart)
    found = torch.cat([_as_long(one, longest) for one in apart], dim=-1)
    return found.squeeze(0) if sequences[0].ndim == 2 else found.transpose(0, 1) if turned else found


def _as_long(sequence: Float[Tensor, "n tokens features"], longest: int) -> Float[Tensor, "n longest features"]:
    n, tokens, _ = sequence.shape
    if not tokens:
        return sequence.new_zeros(n, longest, sequence.shape[2])
    return sequence.gather(1, _again(n, tokens, longest).to(sequence.device).unsqueeze(-1).expand(-1, -1, sequence.shape[2]))


def _again(n: int, tokens: int, longest: int) -> Int[Tensor, "n longest"]:
    """Which token of each sample stands at each place."""
    drawn = torch.rand(n, tokens, generator=torch.Generator().manual_seed(0)).argsort(dim=1)[:, : longest % tokens]
    return torch.cat([torch.arange(tokens).repeat(n, longest // tokens), drawn], dim=1)


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
