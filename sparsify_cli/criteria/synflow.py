"""The share of the flow from input to output that passes through the weight, pruned in many small steps; looks at no data.

    R = sum of the outputs of the network with |theta| for an input of ones
    score = theta * dR/dtheta >= 0

Without biases the scores into a unit and out of it have equal sums, so that pruning step by step never cuts the network.
Round k of n keeps the best density^(k/n) of all weights, in exact counts, down to the sparsity asked for. A weight pruned in an
earlier round scores below every weight pruned later; within a round the order is that round's own. With one round, or
no sparsity, scores are the plain product.

Source: Tanaka et al. 2020, arXiv 2006.05467, algorithm 1. Batch norm stays, in eval mode. Differs: its running mean enters as
-|mean|, so that trained statistics add to the flow and never stop it; everything is float64.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from sparsify_cli.contracts.criterion import Criterion, Scores
from sparsify_cli.errors import Anomalous, NonFinite
from sparsify_cli.maths.keep import keep_count, top_k
from sparsify_cli.maths.loss_gradients import explained, private_copy
from sparsify_cli.values.arrays import as_taken_by
from sparsify_cli.values.network import Network
from sparsify_cli.values.stats import Stats

POWERS = 2200
"""More than the powers of two that float64 spans; within a round, flows that differ by less than 1e-10 of themselves may tie."""


@dataclass(frozen=True)
class Synflow(Criterion):
    """Synaptic flow; comparable across tensors, made for one global ranking.

    Args:
        rounds: steps in which the network is pruned to the sparsity asked for.
    """

    rounds: Annotated[int, Field(ge=1)] = 100
    needs = frozenset({"network"})

    def scores(self, weights: Mapping[str, Tensor], stats: Stats) -> Scores:
        """Flow, or round and flow, float64, >= 0, same shapes as `weights`, higher = keep."""
        network = private_copy(stats.probed(), weights, dtype=torch.float64)
        _drop_signs(network.module)
        ranked = self._ranked(network)
        sizes = [parameter.numel() for parameter in network.parameters().values()]
        parts = dict(zip(network.names, ranked.split(sizes), strict=True))
        return {name: parts[name].reshape(weight.shape).to(weight.device) for name, weight in weights.items()}

    def _ranked(self, network: Network) -> Tensor:
        flow = _flow(network)
        _require_flow(network, flow)
        counts = _counts(len(flow), network.sparsity, self.rounds)
        if len(counts) < 2:
            return flow
        kept, ranked = torch.ones_like(flow, dtype=torch.bool), torch.zeros_like(flow)
        for number, count in enumerate(counts):
            flow = _flow(network) if number else flow
            ranked[kept] = (number + flow.log2().add(POWERS / 2).clamp(min=0) / POWERS)[kept]
            kept &= top_k(flow.masked_fill(~kept, -1), count)
            _keep(network, kept)
        ranked[kept] += 1
        return ranked


def _counts(total: int, sparsity: Fraction, rounds: int) -> list[int]:
    """Weights that stay after each round, the last exactly as asked; one round where steps have no meaning."""
    if sparsity in (0, 1):
        return [keep_count(total, sparsity)]
    density, last = 1 - float(sparsity), keep_count(total, sparsity)
    return [max(last, round(total * density ** (k / rounds))) for k in range(1, rounds)] + [last]


def _flow(network: Network) -> Tensor:
    """|theta dR/dtheta| of all weights in one vector, tensors in the order of their names."""
    there = list(network.parameters().values())
    ones = torch.ones((1, *network.inputs.shape[1:]), dtype=network.inputs.dtype)
    with explained("run on an input of ones in float64"):
        total = network.module(as_taken_by(network.module, ones)).sum()
        gradients = torch.autograd.grad(total, there, allow_unused=True, materialize_grads=True)
    flows = [(parameter.detach() * gradient).abs().flatten() for parameter, gradient in zip(there, gradients, strict=True)]
    for name, flow in zip(network.names, flows, strict=True):
        _require_finite(name, flow)
    return torch.cat(flows)


@torch.no_grad()
def _drop_signs(module: nn.Module) -> None:
    for parameter in module.parameters():
        parameter.copy_(parameter.abs())  # of complex ones the length
    for name, buffer in module.named_buffers():
        if name.rpartition(".")[2] == "running_mean":
            buffer.abs_().neg_()


@torch.no_grad()
def _keep(network: Network, kept: Tensor) -> None:
    there = list(network.parameters().values())
    for parameter, part in zip(there, kept.split([parameter.numel() for parameter in there]), strict=True):
        parameter.mul_(part.reshape(parameter.shape))


def _require_flow(network: Network, flow: Tensor) -> None:
    if not flow.any() and all(bool(value.any()) for value in network.weights().values()):
        raise Anomalous(
            "Nothing flows: no weight changes the sum of the network's outputs for an input of ones.",
            "Outputs that always sum to the same (softmax, normalisation) or activations that saturate stop the flow.",
            "Build the network so that it returns logits, or choose another --criterion.",
        )


def _require_finite(name: str, flow: Tensor) -> None:
    if not bool(flow.isfinite().all()):
        raise NonFinite(
            f"The synaptic flow of {name} is NaN or infinite.",
            "With absolute weights, some of them pruned, the network computes numbers beyond float64 or divides by zero.",
            "Choose another --criterion.",
        )
