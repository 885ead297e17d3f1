"""Good Subnetworks: input channels of one layer after another, added one by one so that the whole network's loss falls most.

Layers in their order; the layers before are pruned, those behind are dense. At step n, on a minibatch drawn anew, a channel i of
some drawn at random would get a <- (1 - 1/(n+1)) a + e_i / (n+1), which multiplies its weights by a_i N, N = channels
with weights; the one with the lowest loss is taken, until there are enough for the layer's count. So a_i = how often i was taken / n.

    loss        cross-entropy of the network
    imitation   squared distance of the network's outputs to those it had (global imitation)

By default the gradient with respect to a says which few of the drawn channels are worth a pass. How many weights a layer
keeps is what `choose` gives it for channels by the norm of their weights; of the last channel the largest weights stay. In the
end some steps of gradient descent tune the coefficients of all layers together, and the best of what was had is handed back:
the channels as they were, with their coefficients, or tuned.

Source: Ye et al. 2020, "Good Subnetworks Provably Exist: Pruning via Greedy Forward Selection" (50 channels, minibatches of 128),
code lushleaf/Network-Pruning-Greedy-Forward-Selection, without repeats; screening by gradient as in Ye et al. 2020, "Greedy
Optimization Provably Wins the Lottery". Differs: stops at a count, not at an accuracy; all layers; tuning of coefficients
instead of fine-tuning between layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from torch.func import functional_call

from sparsify_cli.contracts.solver import Choose, NetworkSolver, Solved
from sparsify_cli.errors import Anomalous
from sparsify_cli.maths.channel_gates import ChannelView, standing
from sparsify_cli.maths.forward_selection import Selection, Wanted
from sparsify_cli.maths.gram import is_turned
from sparsify_cli.maths.usable import best
from sparsify_cli.recipes.pattern import Pattern
from sparsify_cli.values.arrays import as_taken_by
from sparsify_cli.values.losses import loss as loss_of
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.network import Network

AGAIN = 2
"""Steps a wanted channel, after which channels are not taken again."""
RATE = 0.02
"""Of tuning, relative to the coefficients."""
OUTPUTS = 4096
"""Bytes of a sample's outputs that are planned for."""


@dataclass(frozen=True)
class GoodSubnetworks(NetworkSolver):
    """Whole input channels by forward selection on the network's loss.

    Args:
        objective: `loss` = cross-entropy, `imitation` = the network's outputs stay as they were.
        candidates: channels drawn at each step, 50 in the paper; 0 = all.
        screened: of these, how many the gradient leaves for a pass through the network; 0 = all, as in the paper.
        samples: of a minibatch.
        repeats: a channel may be taken again, which raises its coefficient.
        tuning: steps of gradient descent on all coefficients in the end; 0 = none.
    """

    objective: Literal["loss", "imitation"] = "loss"
    candidates: Annotated[int, Field(ge=0)] = 0
    screened: Annotated[int, Field(ge=0)] = 4
    samples: Annotated[int, Field(ge=1)] = 128
    repeats: bool = False
    tuning: Annotated[int, Field(ge=0)] = 50

    def solve_network(self, network: Network, choose: Choose, pattern: Pattern) -> Solved:
        """Prune and repair a network."""
        aim = _Aim.of(network, self.objective, self.samples)
        dense, views = network.weights(), _views(network)
        first = choose(
            {name: view.tensor(view.ranked(dense[name], standing([], view.norms(dense[name])))) for name, view in views.items()}, ALL
        )
        counts = {name: int(mask.sum()) for name, mask in first.items()}
        scores, scaled = {}, {}
        for name, view in views.items():
            found = self._selected(aim, name, view, _wanted(view, dense[name], counts[name], pattern))
            scores[name] = _scores(view, dense[name], found, counts[name], pattern)
            scaled[name] = view.gated(dense[name], _gates(found, int((view.sizes(dense[name]) > 0).sum())))
            network.put({name: scaled[name] * (scores[name] > 1)})
        masks = choose(scores, ALL)
        kept = MaskSet({name: masks[name] for name in views})
        plain, weights = kept.apply(dense), kept.apply(scaled)
        weights, losses = aim.lowest([plain, weights, self._tuned(aim, views, weights)])
        return Solved(weights, masks, (_said(self.objective, losses),))

    def memory(self, sizes: Sequence[int], samples: int) -> int:
        """Weights five times, scores twice in float64, masks, and the network's outputs."""
        return 40 * sum(sizes) + OUTPUTS * samples

    def _selected(self, aim: _Aim, name: str, view: ChannelView, wanted: Wanted) -> Selection:
        """Which channels of a layer are taken; the network holds its dense weight."""
        weight, counts, picks = aim.network.weights()[name], torch.zeros(view.channels), list[int]()
        live, needed = int((wanted.sizes > 0).sum()), wanted.total < weight.numel()
        limit = AGAIN * live if self.repeats and needed else 0
        while not wanted.is_met(counts > 0):
            fresh = wanted.open(counts > 0)
            open_ = fresh | (counts > 0) if len(picks) < limit else fresh
            if not bool(open_.any()):
                break
            picks.append(
                self._pick(aim, name, lambda a: view.gated(weight, a * live), counts, open_) if needed else int(open_.int().argmax())
            )
            counts[picks[-1]] += 1
        return Selection(tuple(picks), counts / max(1, len(picks)))

    def _pick(self, aim: _Aim, name: str, gated: Callable[[Tensor], Tensor], counts: Float[Tensor, " channels"], open_: Tensor) -> int:
        """The channel to take next, of those that are open."""
        drawn = aim.shuffled(open_.nonzero().flatten())[: self.candidates or None]
        if len(drawn) == 1:
            return int(drawn[0])
        rows, taken = aim.minibatch(), int(counts.sum())
        if taken and self.screened and len(drawn) > self.screened:
            slope = aim.slope(name, gated, counts / taken, rows)
            drawn = drawn[slope[drawn].sort(stable=True).indices[: self.screened]]
        losses = []
        for one in drawn.tolist():
            gates = counts.clone()
            gates[one] += 1
            losses.append(aim.of_weights({name: gated(gates / (taken + 1))}, rows))
        return int(drawn[int(torch.tensor(losses).argmin())])

    def _tuned(self, aim: _Aim, views: Mapping[str, ChannelView], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights after gradient descent on a factor for each channel."""
        factors = {name: torch.ones(view.channels, requires_grad=True, device=weights[name].device) for name, view in views.items()}
        optimizer = torch.optim.Adam(list(factors.values()), lr=RATE)
        for _ in range(self.tuning):
            optimizer.zero_grad()
            aim.loss({name: view.gated(weights[name], factors[name]) for name, view in views.items()}, aim.minibatch()).backward()
            optimizer.step()
        return {name: view.gated(weights[name], factors[name].detach()) for name, view in views.items()}


ALL = Fraction(1)


@dataclass(frozen=True, eq=False)
class _Aim:
    """What is to be low: a loss of the network on samples.

    Args:
        targets: labels, or the outputs that are imitated.
        size: samples of a minibatch.
        generator: of what is drawn.
    """

    network: Network
    targets: Tensor
    imitates: bool
    size: int
    generator: torch.Generator

    @classmethod
    @torch.no_grad()
    def of(cls, network: Network, objective: str, size: int) -> _Aim:
        """The loss of a network as it is."""
        imitates = objective == "imitation"
        targets = torch.cat([network.module(inputs) for inputs, _ in network.batches()]) if imitates else network.targets
        return cls(network, targets, imitates, size, torch.Generator().manual_seed(network.seed))

    def shuffled(self, items: Tensor) -> Tensor:
        """Items in a random order."""
        return items[torch.randperm(len(items), generator=self.generator).to(items.device)]

    def minibatch(self) -> Tensor:
        """Rows of some samples."""
        return torch.randperm(len(self.network.inputs), generator=self.generator)[: self.size]

    def loss(self, weights: Mapping[str, Tensor], rows: Tensor) -> Tensor:
        """On some rows, with other weights; differentiable with respect to these."""
        module = self.network.module
        inputs = as_taken_by(module, self.network.inputs[rows])
        outputs = functional_call(module, {self.network.names[name]: weight for name, weight in weights.items()}, (inputs,))
        targets = self.targets[rows].to(outputs.device)
        return loss_of(outputs, targets)  # squared error of outputs that are imitated

    @torch.no_grad()
    def of_weights(self, weights: Mapping[str, Tensor], rows: Tensor) -> float:
        """The loss as a number; infinite when it is none."""
        loss = float(self.loss(weights, rows))
        return loss if abs(loss) < math.inf else math.inf

    def slope(self, name: str, gated: Callable[[Tensor], Tensor], gates: Tensor, rows: Tensor) -> Float[Tensor, " channels"]:
        """Derivative of the loss with respect to each gate."""
        gates = gates.clone().requires_grad_()
        loss = self.loss({name: gated(gates)}, rows)
        if not loss.requires_grad:  # none of these samples comes to it
            return torch.zeros_like(gates)
        return torch.autograd.grad(loss, gates, allow_unused=True, materialize_grads=True)[0]

    def lowest(self, choices: Sequence[dict[str, Tensor]]) -> tuple[dict[str, Tensor], list[float]]:
        """The weights with the lowest loss over all samples, and the losses of all.

        Raises:
            Anomalous: no loss is a number.
        """
        parts = torch.arange(len(self.network.inputs)).split(self.network.batch)
        losses = [sum(self.of_weights(one, rows) * len(rows) for rows in parts) / len(self.network.inputs) for one in choices]
        if min(losses) == math.inf:
            raise Anomalous("The loss of the pruned network is not a number for some calibration samples.", "", "Check network and data.")
        return choices[losses.index(min(losses))], losses


def _views(network: Network) -> dict[str, ChannelView]:
    """How each prunable tensor is read, in the order of the network's parameters."""
    inside = list(dict(network.module.named_parameters()))
    weights = network.parameters()
    names = sorted(weights, key=lambda name: inside.index(network.names[name]))
    owners = {name: network.module.get_submodule(network.names[name].rpartition(".")[0]) for name in names}
    return {name: ChannelView(tuple(weights[name].shape), is_turned(owners[name])) for name in names}


def _wanted(view: ChannelView, weight: Tensor, count: int, pattern: Pattern) -> Wanted:
    sizes = view.sizes(weight).cpu()
    grouped = view.channels % pattern.group == 0
    return Wanted(sizes, count, pattern.group, pattern.keep) if grouped else Wanted(sizes, count)


def _gates(found: Selection, live: int) -> Float[Tensor, " channels"]:
    """What the weights are multiplied with: a_i N, and for channels that were not taken as if they were, once."""
    return found.coefficients.clamp(min=1 / len(found.picks)) * live if found.picks else torch.ones_like(found.coefficients)


def _scores(view: ChannelView, weight: Tensor, found: Selection, count: int, pattern: Pattern) -> Tensor:
    """Scores above 1 of the weights that should stay, others below: however tensors compete, each keeps its count."""
    ranked = view.ranked(weight, standing(found.order, view.norms(weight)))
    return view.tensor(ranked + best(ranked, count, pattern))


def _said(objective: str, losses: Sequence[float]) -> str:
    names = ("as they were", "with their coefficients", "tuned")
    listed = ", ".join(f"{loss:.4g} {name}" for loss, name in zip(losses, names, strict=True))
    what = "Cross-entropy" if objective == "loss" else "Squared distance of the outputs"
    return f"{what} on the calibration samples with the channels that stay: {listed}."
