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
TOGETHER = "they only go together with neighbours that are not zero (a convolution in groups, or a sum of two shapes)"


def reasons_to_stay(cut: Cut, state: Mapping[str, Tensor], first: Mapping[str, str]) -> Iterator[str]:
    """A sentence for each reason.

    Args:
        cut: what goes of a group of channels.
        state: the network's tensors.
        first: name of a parameter -> the first of its names.
    """
    writers = distinct(cut.group.writers, first)
    made = [place for place in makers(cut.group, writers) if not is_of_heads(place, cut.group)]
    passed = [place for place in cut.group.places if place.name in distinct(cut.group.passed, first)]
    zero = {place: _zero(state[place.name], place, cut.group.channels) for place in (*made, *passed)}
    for place, single in zero.items():
        partly = single & ~single.all(1, keepdim=True) & cut.kept[:, None]
        yield from _stay(int(partly.sum()), [place.name], _held(cut.group) or TOGETHER)
    left = torch.zeros_like(cut.kept)
    if made:
        left = torch.stack([zero[place].all(1) for place in made]).any(0) & cut.kept
        yield from _whole(cut, writers, left, min(place.repeat for place in made))
    for place in passed:
        yield from _whole(cut, [place.name], zero[place].all(1) & cut.kept & ~left, place.repeat)


def _whole(cut: Cut, called: Sequence[str], left: Bool[Tensor, " channels"], width: int) -> Iterator[str]:
    """Channels that are zero, each `width` rows of what these weights make."""
    border = cut.border & left
    if held := _held(cut.group):
        yield from _stay(width * int(left.sum()), called, held)
    elif cut.removed == cut.group.channels - 1 and left.any():
        yield from _stay(width, called, "a layer keeps one at least" if width == 1 else "of those that only go together some stay")
    else:
        carried = width * int((cut.border & ~cut.kept).sum())
        others = "the constant of 1 other" if carried == 1 else f"the constants of {carried} others"
        yield from _stay(
            width * int(border.sum()), called, f"it carries {others} into layers that pad with zeros" if carried else AT_BORDER
        )
        sums = f"sums join the outputs of these {len(called)} layers, and a channel goes where all of them are zero"
        yield from _stay(width * int((left & ~border).sum()), called, sums if len(called) > 1 else NO_CONSTANT)


def _held(group: ChannelGroup) -> str:
    """The first two or three reasons that hold a group together, if there are any."""
    reasons = tuple(dict.fromkeys((*group.blocked, *group.mixed)))
    more = f"; and {len(reasons) - 2} more reasons like these" if len(reasons) > 3 else ""
    return "; ".join(reasons[: 2 if more else 3]) + more


def _stay(count: int, called: Sequence[str], why: str) -> Iterator[str]:
    """A sentence, if there are any."""
    if count:
        names = ", ".join(name.removesuffix(".weight") for name in called)
        yield f"{count} zero channel{'s' * (count > 1)} of {names} stay{'s' * (count == 1)}: {why}."


def distinct(names: Iterable[str], first: Mapping[str, str]) -> tuple[str, ...]:
    """Each tensor once, by the first of its names."""
    return tuple(dict.fromkeys(first.get(name, name) for name in names))


def makers(group: ChannelGroup, writers: Sequence[str]) -> Iterator[Place]:
    """Where those of these tensors that make the channels hold them."""
    return (place for place in group.places if place.name in writers and place not in group.readers)


def is_of_heads(place: Place, group: ChannelGroup) -> bool:
    """Whether an attention makes its heads there."""
    return place.repeat > 1 and place.name.endswith("in_proj_weight") and place not in group.readers


def _zero(weight: Tensor, place: Place, channels: int) -> Bool[Tensor, "channels repeat"]:
    """Whether nothing makes a channel, entry by entry."""
    rows = weight.movedim(place.dim, 0).narrow(0, place.start, channels * place.repeat)
    found: Tensor = ~rows.unflatten(0, (channels, place.repeat)).flatten(2).any(2)
    return found
