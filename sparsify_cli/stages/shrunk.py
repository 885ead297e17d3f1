"""A network without the channels that are zero: what goes, what stays and why, and the proof that outputs are what they were.

Groups of channels are found by tracing (maths/channel_groups.py), constants by a run without an input (maths/constants.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from sparsify_cli.errors import Anomalous, Infeasible
from sparsify_cli.maths.channel_cuts import Cut, cuts_of, readings_of
from sparsify_cli.maths.channel_groups import channel_groups
from sparsify_cli.maths.channel_spaces import ChannelGroup, Place
from sparsify_cli.maths.compact_conv import Compaction
from sparsify_cli.maths.constants import constant_inputs
from sparsify_cli.maths.identities import without
from sparsify_cli.maths.output_change import output_change, outputs
from sparsify_cli.maths.surgery import Surgery, surgery
from sparsify_cli.values.arrays import handy_batch

TOLERANCE = 1e-5
"""Largest difference of outputs, relative to the largest output, where numbers have 32 bits or more."""
TRACED = 2
"""Samples of the pass that tells shapes."""


@dataclass(frozen=True)
class Removed:
    """Channels of one group.

    Args:
        writers: weights that make them.
        readers: weights that read them.
        channels: how many there were.
        removed: how many went.
        heads: they are heads of an attention.
    """

    writers: tuple[str, ...]
    readers: tuple[str, ...]
    channels: int
    removed: int
    heads: bool = False


@dataclass(frozen=True, eq=False)
class Shrinking:
    """What taking out channels does to a network.

    Args:
        surgery: to its tensors.
        identity: parts that return what they are given, and are left out.
        removed: groups that lose channels.
        notes: what stays though it is zero, and why, one sentence each.
        compact: convolutions that become matrix products without their zero rows and columns, after that.
    """

    surgery: Surgery
    removed: tuple[Removed, ...]
    notes: tuple[str, ...]
    identity: tuple[str, ...] = ()
    compact: Mapping[str, Compaction] = field(default_factory=dict)

    @property
    def channels(self) -> int:
        """How many go in all, heads not counted."""
        return sum(group.removed for group in self.removed if not group.heads)

    @property
    def heads(self) -> int:
        """How many heads of attention go."""
        return sum(group.removed for group in self.removed if group.heads)


def shrinking(module: nn.Module, inputs: Tensor, *, identity: tuple[str, ...] = ()) -> Shrinking:
    """Find every channel that can be taken out.

    Args:
        module: in eval mode; parts that are left out become empty, otherwise left as it was.
        inputs: [n, ...] samples.
        identity: parts that are left out.

    Raises:
        Infeasible: torch.fx cannot trace the network.
    """
    module, sample = without(module, identity), inputs[:TRACED]
    found = channel_groups(module, sample, depthwise=True)
    if found.untraced:
        raise Infeasible(f"Nothing can be removed: {found.untraced}.", "Which layers read a channel is not known.")
    readings = readings_of(module, found.groups, constant_inputs(module, sample))
    state = module.state_dict()
    cuts = cuts_of(state, found.groups, readings)
    first = _first_names(module)
    removed = tuple(_removed(cut, first) for cut in cuts if cut.removed)
    notes = tuple(note for cut in cuts for note in _notes(cut, state, first))
    return Shrinking(surgery(module, cuts, sample), removed, notes, identity)


def _first_names(module: nn.Module) -> dict[str, str]:
    """Name of a parameter -> the first of its names."""
    first = {id(parameter): name for name, parameter in module.named_parameters()}
    return {name: first[id(parameter)] for name, parameter in module.named_parameters(remove_duplicate=False)}


def _removed(cut: Cut, first: Mapping[str, str]) -> Removed:
    writers, readers = _distinct(cut.group.writers, first), _distinct((place.name for place in cut.group.readers), first)
    heads = any(place.repeat > 1 and place.name in cut.group.writers and place not in cut.group.readers for place in cut.group.places)
    return Removed(writers, readers, cut.group.channels, cut.removed, heads)


def _distinct(names: Iterator[str] | Sequence[str], first: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(first.get(name, name) for name in names))


def _notes(cut: Cut, state: Mapping[str, Tensor], first: Mapping[str, str]) -> Iterator[str]:
    """Why channels of a group stay that somebody may have meant to be gone."""
    writers = _distinct(cut.group.writers, first)
    zero = [~_made(state[place.name], place, cut.group.channels).any(1) for place in _makers(cut.group, writers)]
    if not zero:
        return
    called = ", ".join(name.removesuffix(".weight") for name in writers)
    left, border = torch.stack(zero).any(0) & cut.kept, cut.border & cut.kept
    if cut.group.blocked or cut.group.mixed:
        reasons = tuple(dict.fromkeys((*cut.group.blocked, *cut.group.mixed)))
        more = f"; and {len(reasons) - 2} more reasons like these" if len(reasons) > 3 else ""
        yield from _stay(left, called, "; ".join(reasons[: 2 if more else 3]) + more)
    elif cut.removed == cut.group.channels - 1 and left.any():
        yield f"1 zero channel of {called} stays: a layer keeps one at least."
    else:
        carried = int((cut.border & ~cut.kept).sum())
        others = "the constant of 1 other" if carried == 1 else f"the constants of {carried} others"
        yield from _stay(border, called, f"it carries {others} into layers that pad with zeros" if carried else AT_BORDER)
        sums = f"sums join the outputs of these {len(writers)} layers, and a channel goes where all of them are zero"
        yield from _stay(left & ~border, called, sums if len(writers) > 1 else NO_CONSTANT)


def _makers(group: ChannelGroup, writers: Sequence[str]) -> Iterator[Place]:
    return (place for place in group.places if place.name in writers and place.repeat == 1 and place not in group.readers)


def _made(weight: Tensor, place: Place, channels: int) -> Tensor:
    """[channels, entries]: what makes each channel."""
    return weight.movedim(place.dim, 0).narrow(0, place.start, channels).flatten(1)


AT_BORDER = "its constant is not zero, and a layer that pads with zeros reads it"
NO_CONSTANT = "what their readers see of them is no constant"


def _stay(channels: Tensor, called: str, why: str) -> Iterator[str]:
    """A sentence, if there are any."""
    count = int(channels.sum())
    if count:
        yield f"{count} zero channel{'s' * (count > 1)} of {called} stay{'s' * (count == 1)}: {why}."


def tolerance_of(module: nn.Module) -> float:
    """The largest difference of outputs that a network may have: one whose own numbers have 16 bits rounds what is folded into biases."""
    halves = {tensor.dtype for tensor in module.state_dict().values() if tensor.dtype in (torch.float16, torch.bfloat16)}
    return max([TOLERANCE, *(torch.finfo(half).eps for half in halves)])


def require_same(before: nn.Module, after: nn.Module, inputs: Tensor, *, seed: int = 0, tolerance: float = TOLERANCE) -> float:
    """Compare the outputs of two networks in float64, on samples and on as many random inputs.

    Args:
        before, after: they become float64.
        tolerance: largest difference, relative to the largest output.
        inputs: [n, ...] samples.
        seed: of the random inputs.

    Returns:
        The largest difference, relative to the largest output.

    Raises:
        Anomalous: it is above the tolerance, or the shrunk network does not run.
    """
    old, new = before.double().eval(), after.double().eval()
    batches = [part for one in with_random(inputs, seed=seed) for part in one.split(handy_batch(old))]
    difference = max((_change(old, new, batch) for batch in batches), default=0.0)
    if difference <= tolerance:
        return difference
    raise Anomalous(
        f"The outputs of the shrunk network differ by {difference:.1e} of their scale, allowed are {tolerance:.1g}; nothing was written.",
        "Something in the network tells channels apart that tracing does not see, a hook for instance.",
        "Please report it with the architecture.",
    )


def with_random(inputs: Tensor, *, seed: int) -> list[Tensor]:
    """Samples, and as many inputs drawn from a normal distribution where samples are no ids."""
    generator = torch.Generator().manual_seed(seed)
    return [inputs, *([torch.randn(inputs.shape, generator=generator)] if inputs.is_floating_point() else [])]


def _change(before: nn.Module, after: nn.Module, batch: Tensor) -> float:
    old = outputs(before, batch)
    try:
        new = outputs(after, batch)
        return output_change(old, new)
    except Exception as error:  # whatever code says that counts on its channels
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise Anomalous(
            "The shrunk network does not run; nothing was written.",
            f"Its code counts channels itself, it seems: {lines[0]}.",
            "Take sizes from the tensors in its code, x.flatten(1) for instance.",
        ) from error
