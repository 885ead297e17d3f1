"""Reorder a network's channels so that N:M retains more of its weights; its outputs stay what they were.

Groups of tensors that share an order of channels are found by tracing (maths/channel_groups.py), the order of each that retains
the most magnitude by search (maths/permutation.py). Outputs are compared in float64 before anything is handed out.

The search looks at readers alone, whose N:M groups lie along their inputs. N:MT groups outputs as well, so an order matters to what makes
the channels, too: an order found for the readers is taken only where the pattern then retains more of all the weights it touches.

Source: Pool and Yu 2021, "Channel permutations for N:M sparsity" (NeurIPS). Differs: see the two files of maths.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from sparsify_cli.errors import BadRequest
from sparsify_cli.maths.channel_groups import channel_groups
from sparsify_cli.maths.channel_spaces import ChannelGroup, Place
from sparsify_cli.maths.matrix_view import to_matrix
from sparsify_cli.maths.output_change import output_change, outputs
from sparsify_cli.maths.permutation import Found, best_order
from sparsify_cli.maths.usable import best
from sparsify_cli.recipes.pattern import Pattern
from sparsify_cli.values.copies import copy_of, in_float64

TOLERANCE = 1e-5
"""Largest difference of outputs, relative to the largest output."""


@dataclass(frozen=True)
class Reordered:
    """A group of channels that was reordered.

    Args:
        readers: pruned weights that read them.
        writers: weights that make them.
        channels: how many.
        before, after: sum of |w| that the pattern retains in the readers, in the old and in the new order; with N:MT in the pruned
            writers, too.
        efficacy: share of the gain that the best N/M of each whole row would bring, in %.
    """

    readers: tuple[str, ...]
    writers: tuple[str, ...]
    channels: int
    before: float
    after: float
    efficacy: float


@dataclass(frozen=True)
class Blocked:
    """Pruned weights whose input channels stay as they were, and why."""

    readers: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class Permutation:
    """What reordering did.

    Args:
        reordered: groups that gained.
        blocked: groups that could not be reordered, each with the reason.
        difference: largest difference of the outputs of the sample, relative to the largest output.
        given_back: why nothing was changed although something would have gained; empty when it was changed.
        counted: the weights of which the pattern retains more, in words.
    """

    reordered: tuple[Reordered, ...] = ()
    blocked: tuple[Blocked, ...] = ()
    difference: float = 0.0
    given_back: str = ""
    counted: str = "readers"

    def sentences(self) -> list[str]:
        """The same in words, the sum first."""
        before, after = (sum(getattr(group, side) for group in self.reordered) for side in ("before", "after"))
        count = f"{len(self.reordered)} group{'s' * (len(self.reordered) > 1)} of channels"
        more = f"the pattern retains {100 * (after / before - 1):.2f} % more of their {self.counted}" if before else ""
        done = [f"Reordered {count}: {more}."] if more else []
        return [*done, *filter(None, [self.given_back]), *(f"Not reordered: {', '.join(b.readers)}: {b.reason}." for b in self.blocked)]


def permuted(
    module: nn.Module, names: Iterable[str], pattern: Pattern, sample: Tensor, *, escapes: int = 0, seed: int = 0
) -> tuple[dict[str, Tensor], Permutation]:
    """Find the order of each group of channels for which the pattern retains most.

    Args:
        module: left as it was.
        names: parameters that will be pruned with the pattern; none that cannot carry it.
        pattern: N:M, or N:MT.
        sample: [n, ...] inputs, as the network is fed; a few are enough.
        escapes: random swaps that may fail before the search of a group ends.
        seed: of the search.

    Returns:
        Tensors of the state dict that change (every name of a shared tensor), in their dtypes, and what was done. No tensor where
        outputs on the sample would not stay the same.

    Raises:
        BadRequest: the pattern is not N:M.
    """
    if not pattern.is_grouped:
        raise BadRequest(f"The order of channels matters to N:M only, not to {pattern}.", "", "Add --pattern 2:4, or leave --permute out.")
    state, wanted = module.state_dict(), list(dict.fromkeys(names))
    found = channel_groups(module, sample)
    if found.untraced:
        return {}, Permutation(blocked=(Blocked(tuple(wanted), found.untraced),))
    orders, blocked = _orders(state, found.groups, wanted, pattern, escapes, seed)
    if pattern.transposed:
        orders = _gaining(state, orders, wanted, pattern)
    changes = _changes(state, orders)
    reordered = tuple(_reordered(group, order, wanted) for group, order in orders)
    changes, done = _checked(module, sample, changes, reordered, (*blocked, *_unread(found.groups, wanted)))
    return changes, replace(done, counted="readers and writers" if pattern.transposed else done.counted)


def _gaining(
    state: Mapping[str, Tensor], orders: Iterable[tuple[ChannelGroup, Found]], names: list[str], pattern: Pattern
) -> list[tuple[ChannelGroup, Found]]:
    """The orders, one after another, with which the pattern retains more of all that they move."""
    taken: list[tuple[ChannelGroup, Found]] = []
    for group, found in orders:
        touched = {state[place.name].data_ptr(): place.name for place in group.places if place.name in names}.values()
        before, after = (_retained({**state, **_changes(state, some)}, touched, pattern) for some in (taken, [*taken, (group, found)]))
        if after > before:
            taken.append((group, replace(found, before=before, after=after)))
    return taken


def _retained(tensors: Mapping[str, Tensor], names: Iterable[str], pattern: Pattern) -> float:
    """Sum of |w| under the best mask of the pattern."""
    matrices = [to_matrix(tensors[name].double().abs().cpu()) for name in names]
    return sum(float(one[best(one, one.numel() * pattern.keep // pattern.group, pattern)].sum()) for one in matrices)


def _orders(
    state: Mapping[str, Tensor], groups: Iterable[ChannelGroup], names: list[str], pattern: Pattern, escapes: int, seed: int
) -> tuple[list[tuple[ChannelGroup, Found]], list[Blocked]]:
    """Groups that gain with their orders, and those that cannot be reordered."""
    orders, blocked = [], []
    for group in groups:
        readers = _grouped(group, names)
        reasons = group.blocked or tuple(_misfits(group, readers, pattern))
        if reasons and readers:
            blocked.append(Blocked(_names(readers), "; ".join(reasons)))
        elif scores := _scores(state, readers, group.channels):
            order = best_order(torch.cat(scores), pattern.keep, pattern.group, escapes=escapes, seed=seed)
            orders += [(group, order)] if order.after > order.before else []
    return orders, blocked


def _grouped(group: ChannelGroup, names: list[str]) -> list[Place]:
    """Pruned weights whose groups lie along the channels that they read; of a transposed convolution they lie along its outputs."""
    return [place for place in group.readers if place.name in names and place.dim == 1]


def _misfits(group: ChannelGroup, readers: list[Place], pattern: Pattern) -> Iterator[str]:
    if group.channels % pattern.group:
        yield f"{group.channels} channels are no multiple of {pattern.group}"
    for place in readers:
        if place.repeat > 1 and place.repeat % pattern.group:
            yield f"`{place.name}` reads each channel as {place.repeat} columns, which the groups of {pattern.group} do not divide evenly"
        if place.start % pattern.group:
            yield f"`{place.name}` reads them from column {place.start} on, within a group of {pattern.group}"


def _scores(state: Mapping[str, Tensor], readers: list[Place], channels: int) -> list[Tensor]:
    """|w| of the readers, channels as columns; a tensor of several names once, and none whose groups lie within a channel."""
    once = {(state[place.name].data_ptr(), place.dim, place.start): place for place in readers if place.repeat == 1}
    return [_columns(state[place.name].double().abs(), place, channels) for place in once.values()]


def _columns(weight: Tensor, place: Place, channels: int) -> Tensor:
    """[rows, channels]: what a reader's kernel positions and outputs hold for each channel."""
    return weight.movedim(place.dim, -1).narrow(-1, place.start, channels).reshape(-1, channels)


def _changes(state: Mapping[str, Tensor], orders: Iterable[tuple[ChannelGroup, Found]]) -> dict[str, Tensor]:
    changes: dict[str, Tensor] = {}
    for group, found in orders:
        for place in group.places:
            tensor = changes.get(place.name, state[place.name])
            entries = torch.arange(tensor.shape[place.dim])
            moved = (found.order[:, None] * place.repeat + torch.arange(place.repeat)).flatten()
            entries[place.start : place.start + len(moved)] = place.start + moved
            changes[place.name] = tensor.index_select(place.dim, entries.to(tensor.device))
    return changes


def _reordered(group: ChannelGroup, found: Found, names: list[str]) -> Reordered:
    readers = _names(_grouped(group, names))
    return Reordered(readers, group.writers, group.channels, found.before, found.after, found.efficacy)


def _unread(groups: Iterable[ChannelGroup], names: list[str]) -> list[Blocked]:
    """Pruned weights that no followed layer reads."""
    read = {place.name for group in groups for place in group.readers if place.dim == 1}
    reasons = {place.name: "; ".join(group.blocked) for group in groups for place in group.places if place.dim == 1}
    turned = {place.name: "its groups lie along its outputs" for group in groups for place in group.readers if place.dim == 0}
    reasons = {name: reason for name, reason in {**turned, **reasons}.items() if reason}
    return [Blocked((name,), reasons.get(name) or "no layer that is followed uses it") for name in names if name not in read]


def _checked(
    module: nn.Module, sample: Tensor, changes: dict[str, Tensor], reordered: tuple[Reordered, ...], blocked: tuple[Blocked, ...]
) -> tuple[dict[str, Tensor], Permutation]:
    if not changes:
        return {}, Permutation(blocked=blocked)
    exact = in_float64(copy_of(module).eval())
    before = outputs(exact, sample)
    exact.load_state_dict(changes, strict=False)
    difference = output_change(before, outputs(exact, sample))
    if difference <= TOLERANCE:
        return changes, Permutation(reordered, blocked, difference)
    why = f"The channels were left as they were: reordering them would have changed the outputs by {difference:.1e} of their scale."
    return {}, Permutation((), blocked, difference, why)


def _names(places: Iterable[Place]) -> tuple[str, ...]:
    return tuple(place.name for place in places)
