"""A network without the channels that are zero: what goes, what stays and why, and the proof that outputs are what they were.

Groups of channels are found by tracing (maths/channel_groups.py), constants by a run without an input (maths/constants.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from sparsify_cli.errors import Anomalous, Infeasible
from sparsify_cli.maths.channel_cuts import Cut, cuts_of, readings_of
from sparsify_cli.maths.channel_groups import channel_groups
from sparsify_cli.maths.compact_conv import Compaction
from sparsify_cli.maths.constants import constant_inputs
from sparsify_cli.maths.identities import without
from sparsify_cli.maths.output_change import output_change, outputs
from sparsify_cli.maths.surgery import Surgery, surgery
from sparsify_cli.stages.shrunk_notes import distinct, is_of_heads, makers, reasons_to_stay
from sparsify_cli.values.arrays import handy_batch
from sparsify_cli.values.copies import in_float64

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
        widths: rows of each writer that are one channel; several where a convolution in groups, or a sum, ties them together.
        heads: they are heads of an attention.
    """

    writers: tuple[str, ...]
    readers: tuple[str, ...]
    channels: int
    removed: int
    widths: tuple[int, ...]
    heads: bool = False


@dataclass(frozen=True, eq=False)
class Shrinking:
    """What taking out channels does to a network.

    Args:
        surgery: to its tensors.
        identity: parts that return what they are given, and are left out.
        removed: groups that lose channels.
        notes: what stays though it is zero, and why, one sentence each.
        layers: weight -> rows it has before and after, in the network's order, where some go; heads of attention are no rows.
        compact: convolutions that become matrix products without their zero rows and columns, after that.
    """

    surgery: Surgery
    removed: tuple[Removed, ...]
    notes: tuple[str, ...]
    layers: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    identity: tuple[str, ...] = ()
    compact: Mapping[str, Compaction] = field(default_factory=dict)

    @property
    def channels(self) -> int:
        """How many go in all, each order of channels counted once where its channels are narrowest; heads not counted."""
        return sum(group.removed * min(group.widths, default=1) for group in self.removed if not group.heads)

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
    found = channel_groups(module, sample, in_groups=True)
    if found.untraced:
        raise Infeasible(f"Nothing can be removed: {found.untraced}.", "Which layers read a channel is not known.")
    readings = readings_of(module, found.groups, constant_inputs(module, sample))
    state = module.state_dict()
    cuts = cuts_of(state, found.groups, readings)
    first = _first_names(module)
    removed = tuple(_removed(cut, first) for cut in cuts if cut.removed)
    notes = tuple(note for cut in cuts for note in reasons_to_stay(cut, state, first))
    done = surgery(module, cuts, sample)
    return Shrinking(done, removed, notes, _layers(cuts, done, state, first), identity)


def _layers(cuts: Sequence[Cut], done: Surgery, state: Mapping[str, Tensor], first: Mapping[str, str]) -> dict[str, tuple[int, int]]:
    """Rows of each layer that makes channels, or that they pass in groups."""
    found: dict[str, tuple[int, int]] = {}
    for group in (cut.group for cut in cuts if cut.removed):
        for place in makers(group, (*group.writers, *group.passed)):
            if not is_of_heads(place, group) and first.get(place.name) == place.name:
                found[place.name] = state[place.name].shape[place.dim], len(done.stay[place.name][place.dim])
    return {name: found[name] for name in state if name in found}


def _first_names(module: nn.Module) -> dict[str, str]:
    """Name of a parameter -> the first of its names."""
    first = {id(parameter): name for name, parameter in module.named_parameters()}
    return {name: first[id(parameter)] for name, parameter in module.named_parameters(remove_duplicate=False)}


def _removed(cut: Cut, first: Mapping[str, str]) -> Removed:
    writers, readers = distinct(cut.group.writers, first), distinct((place.name for place in cut.group.readers), first)
    repeats = {place.name: place.repeat for place in makers(cut.group, writers)}
    heads = any(is_of_heads(place, cut.group) for place in cut.group.places)
    return Removed(
        writers, readers, cut.group.channels, cut.removed, tuple(1 if heads else repeats.get(name, 1) for name in writers), heads
    )


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
    old, new = in_float64(before).eval(), in_float64(after).eval()
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
