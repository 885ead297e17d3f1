"""Which channels of a network can be taken out without changing what it computes, and what their readers owe them.

A channel of a group can go when for every layer that reads it

    nothing reads     all of its columns in the rows that stay are zero, or
    it is a constant  c, the same at every position; what it added, its columns times c, goes into the layer's bias

A convolution that pads with zeros sees the constant inside and zero at the border, so that no bias can stand for it unless
c = 0. Of several such channels one stays and carries the others: with k the carrier, its columns become
w_k + sum over i of w_i c_i / c_k, at every position and every border the same sum. A transposed convolution, which spreads what it
reads unevenly, is such a layer, too. One channel of a group stays in any case.
Rows that go may leave others unread, so groups are gone through until nothing changes.

Source: folding as in Li et al. 2017, arXiv 1608.08710, section 3 (without constants); the carrier is ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from sparsify_cli.maths.channel_spaces import CONVOLUTIONS, TRANSPOSED, ChannelGroup, Heard

CLOSE = 1e-12
"""Relative spread up to which numbers are one constant: sums of equal numbers round differently at different positions."""
ROUNDS = 1000
"""Rounds after which what stays does so for good; what goes in one depends on the rows that the last one left."""


@dataclass(frozen=True, eq=False)
class Reading:
    """What one layer reads in the columns of its weight.

    Args:
        heard: the call.
        constant: one number for each column of the group, NaN where the input is no constant or not the same at every position.
        padded: the layer puts zeros around or between its inputs.
        once: the weight is read by this call alone, and its layer's bias is no other layer's.
    """

    heard: Heard
    constant: Float[Tensor, " columns"]
    padded: bool
    once: bool

    @property
    def columns(self) -> slice:
        """Where the group's columns lie among those of the weight."""
        return slice(self.heard.start, self.heard.start + len(self.constant))

    def of(self, weight: Shaped[Tensor, "..."]) -> Shaped[Tensor, "out columns ..."]:
        """What reads the group, of a tensor shaped like the weight; a view of it."""
        return oriented(weight, self.heard)[:, self.columns]

    @property
    def sizes(self) -> Float[Tensor, " channels"]:
        """The largest constant of each channel, without sign, 0 where none is known."""
        largest: Tensor = self.constant.abs().nan_to_num(0.0).unflatten(0, (-1, self.heard.repeat)).amax(1)
        return largest

    def carrying(self, channel: int) -> int:
        """The column of a channel with the largest constant."""
        start = channel * self.heard.repeat
        return start + int(self.constant[start : start + self.heard.repeat].abs().nan_to_num(0.0).argmax())


@dataclass(frozen=True, eq=False)
class Cut:
    """What happens to the channels of a group.

    Args:
        group: them.
        readings: every layer that reads them.
        kept: the channels that stay.
        border: channels with constants at borders, whether they stay or go.
        carrier: the one of them that stands for the others, or None.
    """

    group: ChannelGroup
    readings: tuple[Reading, ...]
    kept: Bool[Tensor, " channels"]
    border: Bool[Tensor, " channels"]
    carrier: int | None = None

    @property
    def removed(self) -> int:
        """How many go."""
        return int((~self.kept).sum())


def readings_of(module: nn.Module, groups: Sequence[ChannelGroup], inputs: Mapping[str, Tensor]) -> list[tuple[Reading, ...]]:
    """Every group's readings.

    Args:
        module: the network.
        groups: of its channels.
        inputs: name of a call -> what it reads, NaN where that is no constant.
    """
    calls: dict[str, set[str]] = {}
    for heard in (heard for group in groups for heard in group.heard):
        calls.setdefault(heard.weight, set()).add(heard.node)
    alone = {name: len(nodes) == 1 and name not in _with_shared_bias(module) for name, nodes in calls.items()}
    return [tuple(_reading(module, group, heard, inputs, alone[heard.weight]) for heard in group.heard) for group in groups]


def _with_shared_bias(module: nn.Module) -> set[str]:
    """Weights of layers whose bias belongs to another layer, too: nothing can be folded into it."""
    owners: dict[int, set[int]] = {}
    layers = [(path, part) for path, part in module.named_modules(remove_duplicate=False) if getattr(part, "bias", None) is not None]
    for _, part in layers:
        owners.setdefault(id(part.bias), set()).add(id(part))
    return {f"{path}.weight".lstrip(".") for path, part in layers if len(owners[id(part.bias)]) > 1}


def _reading(module: nn.Module, group: ChannelGroup, heard: Heard, inputs: Mapping[str, Tensor], once: bool) -> Reading:
    layer, size = module.get_submodule(heard.module), group.channels * heard.repeat
    if heard.node not in inputs:
        return Reading(heard, torch.full((size,), torch.nan, dtype=torch.float64), False, once)
    return Reading(heard, _constant(inputs[heard.node].narrow(heard.dim, heard.start, size), heard.dim), _is_padded(layer), once)


def oriented(weight: Tensor, heard: Heard) -> Tensor:
    """A view of a reader's weight with outputs first and what it reads second."""
    return weight if heard.along == 1 else weight.movedim(heard.along, 1)


def _constant(values: Tensor, dim: int) -> Tensor:
    """One number for each entry of an axis, NaN where the numbers there differ."""
    flat = values.double().movedim(dim, 0).reshape(values.shape[dim], -1)
    spread, size = flat.amax(1) - flat.amin(1), flat.abs().amax(1)
    return torch.where(spread <= CLOSE * size, flat[:, 0], torch.nan)


def _is_padded(layer: Any) -> bool:
    if not isinstance(layer, CONVOLUTIONS):
        return isinstance(layer, TRANSPOSED)
    if isinstance(layer.padding, str):
        return bool(layer.padding == "same" and max(layer.kernel_size) > 1)
    return layer.padding_mode == "zeros" and any(layer.padding)


@torch.no_grad()
def cuts_of(state: Mapping[str, Tensor], groups: Sequence[ChannelGroup], readings: Sequence[tuple[Reading, ...]]) -> list[Cut]:
    """What goes of each group; groups that are blocked, mixed or read by nobody stay whole.

    Args:
        state: the network's tensors, shared ones under all of their names.
        groups: of channels.
        readings: of each group.
    """
    found = [_whole(group, heard) for group, heard in zip(groups, readings, strict=True)]
    for number in count():
        alive = staying(state, found)
        now = [_cut(state, one, alive) if _may_shrink(one.group) else one for one in found]
        if number >= ROUNDS:  # residual streams may chase each other; nothing is wrong with a channel more
            now = [replace(new, kept=new.kept | old.kept) for new, old in zip(now, found, strict=True)]
        if all(torch.equal(new.kept, old.kept) for new, old in zip(now, found, strict=True)):
            break
        found = now
    return now


def staying(state: Mapping[str, Tensor], cuts: Sequence[Cut]) -> dict[tuple[str, int], Bool[Tensor, " entries"]]:
    """Name of a tensor that loses something and one of its axes -> the entries along it that stay."""
    left: dict[tuple[str, int], Tensor] = {}
    for cut in (cut for cut in cuts if cut.removed):
        for place in cut.group.places:
            size = state[place.name].shape[place.dim]
            whole = left.setdefault((place.name, place.dim), torch.ones(size, dtype=torch.bool))
            entries = cut.kept.repeat_interleave(place.repeat)
            whole[place.start : place.start + len(entries)] &= entries
    return left


def _whole(group: ChannelGroup, readings: tuple[Reading, ...]) -> Cut:
    """A group that loses nothing."""
    return Cut(group, readings, torch.ones(group.channels, dtype=torch.bool), torch.zeros(group.channels, dtype=torch.bool))


def _may_shrink(group: ChannelGroup) -> bool:
    return bool(group.heard) and not group.blocked and not group.mixed


def _cut(state: Mapping[str, Tensor], cut: Cut, alive: Mapping[tuple[str, int], Tensor]) -> Cut:
    free, border = could_go(state, cut, alive)
    carrier = _carrier(cut.readings, border)
    kept = ~free | border
    if carrier is not None:
        kept = ~free | (torch.arange(len(free)) == carrier)
    if not kept.any():
        kept[0] = True
    return Cut(cut.group, cut.readings, kept, border, carrier)


def could_go(state: Mapping[str, Tensor], cut: Cut, alive: Mapping[tuple[str, int], Tensor]) -> tuple[Tensor, Tensor]:
    """Channels that are constant or unread everywhere, and those of them whose constants need a carrier.

    Args:
        state: tensors.
        cut: the group with its readings.
        alive: name of a weight and one of its axes -> the entries along it that stay, where some go.
    """
    free, border = torch.ones(cut.group.channels, dtype=torch.bool), torch.zeros(cut.group.channels, dtype=torch.bool)
    for reading in cut.readings:
        rows = alive.get((reading.heard.weight, 1 - reading.heard.along))
        read, known = _read(reading.of(state[reading.heard.weight]), rows), ~reading.constant.isnan()
        zero = ~read | (reading.constant == 0)
        heavy = ~zero & known & reading.once & reading.padded
        plain = zero | (known & reading.once & (not reading.padded))
        free &= (plain | heavy).unflatten(0, (-1, reading.heard.repeat)).all(1)
        border |= heavy.unflatten(0, (-1, reading.heard.repeat)).any(1)
    return free, border & free


def _read(weight: Tensor, rows: Tensor | None) -> Bool[Tensor, " columns"]:
    """Columns that hold anything in the rows that stay."""
    held = weight != 0 if rows is None else (weight != 0)[rows]
    return held.movedim(1, 0).flatten(1).any(1)


def _carrier(readings: Sequence[Reading], border: Tensor) -> int | None:
    """The channel whose constants at padded readers are farthest from zero; None where none can carry all others."""
    sizes = [reading.sizes for reading in readings if reading.padded and bool((reading.sizes[border] > 0).any())]
    if int(border.sum()) < 2 or not sizes:
        return None
    least = torch.stack(sizes).amin(0).masked_fill(~border, 0.0)
    return int(least.argmax()) if bool(least.max() > 0) else None


@torch.no_grad()
def owed(weight: Float[Tensor, "out columns ..."], reading: Reading, cut: Cut) -> tuple[Tensor | None, Float[Tensor, " out"]]:
    """What a reader needs so that channels may go: the carrier's new column (None where nothing is owed), and what is added to its bias.

    Args:
        weight: of the reader, as `Reading.of` gives it, float64.
        reading: what it reads.
        cut: what goes.
    """
    gone = (~cut.kept).repeat_interleave(reading.heard.repeat)
    constant = torch.where(gone, reading.constant, 0.0).nan_to_num(0.0)  # what is no constant is not read
    shaped = constant.reshape(1, -1, *[1] * (weight.ndim - 2))
    if not reading.padded:
        return None, (weight * shaped).flatten(1).sum(1)
    nothing, missing = weight.new_zeros(len(weight)), (weight * shaped).sum(1)
    if cut.carrier is None or not missing.any():
        return None, nothing
    column = reading.carrying(cut.carrier)
    return weight[:, column] + missing / reading.constant[column], nothing
