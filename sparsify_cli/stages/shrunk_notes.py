"""Why channels stay in a network although they are zero, in sentences: somebody may have meant them to be gone.

Source: none; see maths/channel_cuts.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from jaxtyping import Bool
from torch import Tensor

from sparsify_cli.maths.channel_cuts import Cut
from sparsify_cli.maths.channel_spaces import ChannelGroup, Place

AT_BORDER = "its constant is not zero, and a layer that pads with zeros reads it"
NO_CONSTANT = "what their readers see of them is no constant"
AS_A_WHOLE = "a convolution in groups, or a sum, ties them to neighbours that are not zero"


def reasons_to_stay(cut: Cut, state: Mapping[str, Tensor], first: Mapping[str, str]) -> Iterator[str]:
    """A sentence for each reason.

    Args:
        cut: what goes of a group of channels.
        state: the network's tensors.
        first: name of a parameter -> the first of its names.
    """
    writers = distinct(cut.group.writers, first)
    made = [place for place in makers(cut.group, writers) if not place.name.endswith("in_proj_weight")]
    passed = [place for place in _in_groups(cut.group, state) if place not in made and first.get(place.name) == place.name]
    yield from _tied(cut, state, [*made, *passed])
    if made:
        zero = torch.stack([_zero(state[place.name], place, cut.group.channels).all(1) for place in made])
        yield from _whole(cut, writers, zero.any(0) & cut.kept, min(place.repeat for place in made))


def _tied(cut: Cut, state: Mapping[str, Tensor], places: Sequence[Place]) -> Iterator[str]:
    """Single zero channels of what can only go as a whole."""
    for place in places:
        single = _zero(state[place.name], place, cut.group.channels)
        partly = single & ~single.all(1, keepdim=True) & cut.kept[:, None]
        yield from _stay(int(partly.sum()), place.name.removesuffix(".weight"), "; ".join(cut.group.blocked) or AS_A_WHOLE)


def _whole(cut: Cut, writers: Sequence[str], left: Tensor, width: int) -> Iterator[str]:
    """Channels that are zero, each `width` rows of what makes it."""
    called = ", ".join(name.removesuffix(".weight") for name in writers)
    border = cut.border & cut.kept
    if cut.group.blocked or cut.group.mixed:
        yield from _stay(width * int(left.sum()), called, _reasons(cut.group))
    elif cut.removed == cut.group.channels - 1 and left.any():
        yield from _stay(width, called, "a layer keeps one at least" if width == 1 else "a convolution keeps one group at least")
    else:
        carried = int((cut.border & ~cut.kept).sum())
        others = "the constant of 1 other" if carried == 1 else f"the constants of {carried} others"
        yield from _stay(int(border.sum()), called, f"it carries {others} into layers that pad with zeros" if carried else AT_BORDER)
        sums = f"sums join the outputs of these {len(writers)} layers, and a channel goes where all of them are zero"
        yield from _stay(width * int((left & ~border).sum()), called, sums if len(writers) > 1 else NO_CONSTANT)


def _reasons(group: ChannelGroup) -> str:
    """The first two or three of what holds a group together."""
    reasons = tuple(dict.fromkeys((*group.blocked, *group.mixed)))
    return "; ".join(reasons[:2]) + f"; and {len(reasons) - 2} more reasons like these" if len(reasons) > 3 else "; ".join(reasons)


def _stay(count: int, called: str, why: str) -> Iterator[str]:
    """A sentence, if there are any."""
    if count:
        yield f"{count} zero channel{'s' * (count > 1)} of {called} stay{'s' * (count == 1)}: {why}."


def distinct(names: Iterable[str], first: Mapping[str, str]) -> tuple[str, ...]:
    """Each tensor once, by the first of its names."""
    return tuple(dict.fromkeys(first.get(name, name) for name in names))


def makers(group: ChannelGroup, writers: Sequence[str]) -> Iterator[Place]:
    """Where those of these tensors that make the channels hold them."""
    return (place for place in group.places if place.name in writers and place not in group.readers)


def _in_groups(group: ChannelGroup, state: Mapping[str, Tensor]) -> Iterator[Place]:
    """Weights of convolutions in groups, which neither make nor read the channels that pass them."""
    beside = (place for place in group.places if place not in group.readers and place.name not in group.writers)
    return (place for place in beside if place.repeat > 1 and place.name.endswith("weight") and state[place.name].ndim > 2)


def _zero(weight: Tensor, place: Place, channels: int) -> Bool[Tensor, "channels repeat"]:
    """Whether nothing makes a channel, entry by entry."""
    rows = weight.movedim(place.dim, 0).narrow(0, place.start, channels * place.repeat)
    found: Tensor = ~rows.unflatten(0, (channels, place.repeat)).flatten(2).any(2)
    return found
