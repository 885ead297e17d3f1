"""Importance of whole channels, in all layers that must lose them together: `shrink` takes out what this zeroes.

    c          one channel: what makes it and what reads it in every layer that shares its order, joined by sums, concatenation,
               batch norm (maths/channel_groups.py); groups of a convolution and heads of attention are channels, too
    I_c        fisher   E over batches of (sum of g_i w_i over all weights that read c)^2: half of it is what the loss gains by a step
                        that closes a gate before the readers, with the empirical Fisher matrix for the Hessian
               norm     sum of w_i^2 over all weights of c, over the mean of that sum in its group
    score_i    the least of the channels weight i belongs to: of I_c / |c| (fisher), of I_c (norm); |c| = the weights,
               or where a budget of them is given the multiply-adds, that go with it

A weight goes with the channel it makes and with the one it reads, whichever goes first, so one ranking over all layers takes whole
channels everywhere; only the last is cut where the count ends inside it. The best channel of each group stays, and so do
channels that cannot be taken out: the network's inputs and outputs, what layer norms see, what tracing does not follow.

Source: Liu et al. 2021, Group Fisher Pruning (arXiv 2108.00708), section 3 (gates shared by coupled layers, divided by what
they save); Fang et al. 2023, DepGraph (arXiv 2301.12900), section 3 (norm, divided by its mean in the group). Differs: no training
between removals; with batches of more than one sample the mean gradient of each is squared; |c| is not the activations' memory.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from sparsify_cli.contracts.criterion import Criterion, Scores
from sparsify_cli.errors import BadRequest
from sparsify_cli.maths.channel_groups import channel_groups
from sparsify_cli.maths.channel_spaces import ChannelGroup, Place
from sparsify_cli.maths.loss_gradients import batch_gradients, private_copy
from sparsify_cli.maths.macs import macs_per_weight
from sparsify_cli.values.network import Network
from sparsify_cli.values.stats import Stats

TRACED = 2
"""Samples of the pass that tells shapes."""
PerChannel = Float[Tensor, " channels"]


@dataclass(frozen=True)
class Channels(Criterion):
    """Coupled channels; comparable across tensors, for one global ranking.

    Args:
        by: `fisher` (the loss) or `norm` (the weights).
        batch: samples of one gradient; 1 = the empirical Fisher matrix of single samples, which takes longer.
    """

    by: Literal["fisher", "norm"] = "fisher"
    batch: Annotated[int, Field(ge=1)] = 8
    needs = frozenset({"network"})
    joint: ClassVar[bool] = True

    def scores(self, weights: Mapping[str, Tensor], stats: Stats) -> Scores:
        """The least importance of a weight's channels, float64, same shapes as `weights`, higher = keep."""
        found = _removable(stats.probed())
        network = private_copy(*_with_readers(stats.probed(), weights, found))
        values = {name: value.double() for name, value in network.weights().items()}
        groups = [_Held.of(group, network, weights) for group in found]
        ranks = _protected(self._by_norm(values, groups) if self.by == "norm" else self._by_loss(network, values, groups))
        scores = _of_weights({name: values[name] for name in weights}, groups, *ranks)
        return {name: score.to(weights[name].device) for name, score in scores.items()}

    def _by_norm(self, values: Mapping[str, Tensor], groups: Sequence[_Held]) -> list[PerChannel]:
        squares = {name: value.square() for name, value in values.items()}
        sums = [group.summed(squares, group.places) for group in groups]
        return [one / one.mean().clamp(min=torch.finfo(one.dtype).tiny) for one in sums]

    def _by_loss(self, network: Network, values: Mapping[str, Tensor], groups: Sequence[_Held]) -> list[PerChannel]:
        totals = [torch.zeros(group.channels, dtype=torch.float64) for group in groups]
        for share, gradients in batch_gradients(network, batch=self.batch):
            slopes = {name: gradient * values[name] for name, gradient in gradients.items()}
            for total, group in zip(totals, groups, strict=True):
                total += share * group.summed(slopes, group.gates).square()
        saved = _saved(network, values)
        return [total / group.summed(saved, group.places).clamp(min=1) for total, group in zip(totals, groups, strict=True)]


@dataclass(frozen=True)
class _Held:
    """A group of channels, and where the prunable tensors hold them.

    Args:
        channels: how many.
        places: where prunable tensors hold them; each weight of a channel once for each of its axes.
        gates: where their readers do, prunable or not.
    """

    channels: int
    places: tuple[Place, ...]
    gates: tuple[Place, ...]

    @classmethod
    def of(cls, group: ChannelGroup, network: Network, prunable: Collection[str]) -> _Held:
        """The group as the network's tensors hold it."""
        ours = {inside: name for name, inside in network.names.items()}
        there = {place: Place(ours[place.name], place.dim, place.repeat, place.start) for place in group.places if place.name in ours}
        places = tuple(place for place in there.values() if place.name in prunable)
        return cls(group.channels, places, tuple(there[place] for place in group.readers if place in there))

    def summed(self, tensors: Mapping[str, Tensor], places: Sequence[Place]) -> PerChannel:
        """The sum over each channel's entries in these places."""
        parts = [_along(tensors[place.name], place, self.channels).flatten(1).sum(1) for place in places]
        return torch.stack(parts).sum(0).cpu()


def _saved(network: Network, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What goes with each weight: itself, or its multiply-adds for one sample."""
    uses = macs_per_weight(network.module, network.inputs[:1]) if network.saves == "macs" else {}
    return {name: torch.full_like(value, uses.get(network.names[name], 0) if uses else 1) for name, value in values.items()}


def _along(tensor: Tensor, place: Place, channels: int) -> Tensor:
    """[channels, repeat, ...]: what a place holds of each channel."""
    entries = tensor.movedim(place.dim, 0).narrow(0, place.start, channels * place.repeat)
    found: Tensor = entries.unflatten(0, (channels, place.repeat))
    return found


def _with_readers(network: Network, weights: Mapping[str, Tensor], groups: Sequence[ChannelGroup]) -> tuple[Network, dict[str, Tensor]]:
    """The network with what reads channels among its tensors, prunable or not, and the values of all of them."""
    there = dict(network.module.named_parameters())
    reading = {place.name for group in groups for place in group.readers if place.name in there}
    others = {f"reader: {name}": name for name in sorted(reading - set(network.names.values()))}
    values = {**weights, **{ours: there[name].detach() for ours, name in others.items()}}
    return replace(network, names={**network.names, **others}), values


def _removable(network: Network) -> list[ChannelGroup]:
    """Groups whose channels may be taken out once all of what makes them, or all of what reads them, is zero.

    Raises:
        BadRequest: there are none.
    """
    found = channel_groups(network.module, network.inputs[:TRACED], in_groups=True)
    free = [group for group in found.groups if group.heard and not group.blocked and not group.mixed and group.channels > 1]
    whole = [group for group in free if _can_be_zero(group, network)]
    if not whole:
        said = dict.fromkeys(reason for group in found.groups for reason in (*group.blocked, *group.mixed))
        reasons = found.untraced or (
            "what makes and what reads them is left dense" if free else "; ".join([*said][:3]) or "no layer reads any"
        )
        raise BadRequest(
            "No channel of the network can be taken out as a whole.",
            f"Channels stay: {reasons}.",
            "Choose a --criterion that ranks single weights, magnitude for instance.",
        )
    return whole


def _can_be_zero(group: ChannelGroup, network: Network) -> bool:
    """Whether all that makes the channels, or all that reads them, is prunable, under whatever name."""
    there = dict(network.module.named_parameters(remove_duplicate=False))
    ours = {id(there[name]) for name in network.names.values()}
    makers, readers = ({id(there[name]) for name in names if name in there} for names in (group.writers, _named(group.readers)))
    return any(bool(part) and part <= ours for part in (makers, readers))


def _named(places: Sequence[Place]) -> tuple[str, ...]:
    return tuple(place.name for place in places)


def _protected(ranks: Sequence[PerChannel]) -> tuple[list[PerChannel], float]:
    """Ranks with the best channel of each group above all others, and that highest rank."""
    highest = 1 + 2 * max(float(rank.max()) for rank in ranks)
    return [rank.index_fill(0, rank.argmax(), highest) for rank in ranks], highest


def _of_weights(values: Mapping[str, Tensor], groups: Sequence[_Held], ranks: Sequence[PerChannel], highest: float) -> Scores:
    scores = {name: torch.full_like(value, highest) for name, value in values.items()}
    for group, rank in zip(groups, ranks, strict=True):
        for place in group.places:
            held = _along(scores[place.name], place, group.channels)  # a view: what is written lands in the scores
            held.clamp_(max=rank.to(held).reshape(-1, *[1] * (held.ndim - 1)))
    return scores
