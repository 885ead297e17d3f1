"""WoodFisher: prune what the inverse Fisher matrix, in blocks, says the loss needs least, and let the rest of the block make up for it.

    score   w_i^2 / (2 [F^-1]_ii)                         F = lambda I + mean of g g^T over single samples
    repair  the weights of a block that stay minimise 1/2 d^T F d, given those that go

Scores are nats, comparable across tensors. The choice ranks weights as if each went alone; the repair knows them all.

Source: Singh and Alistarh 2020, arXiv 2004.14340, sections 3 to 5; official code IST-DASLab/WoodFisher. Differs: the repair is exact
for all weights that go (theirs adds up -F^-1 w_p / [F^-1]_pp over them, each as if it went alone, and zeroes what is left);
damping is relative to the mean diagonal, since 1e-5 fits the size of gradients on ImageNet alone; blocks are inverted from their sum,
the same numbers as rank-1 updates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from sparsify_cli.contracts.solver import Choose, NetworkSolver, Solved
from sparsify_cli.maths.curvature import BlockCurvature, prune_in_stages
from sparsify_cli.maths.empirical_fisher import Order, block_bytes, chunk_numbers, drawn, fisher_blocks
from sparsify_cli.maths.woodbury import in_flight, removal_costs
from sparsify_cli.recipes.pattern import Pattern
from sparsify_cli.values.network import Network


@dataclass(frozen=True)
class WoodFisher(NetworkSolver):
    """One Fisher matrix of the whole network, cut into blocks.

    Args:
        block: consecutive weights of a tensor whose correlations are known.
        gradients: samples whose gradients make the matrix, drawn by seed, anew in every stage; fewer if there are fewer.
        damping: added to the diagonal, relative to its mean over weights that are not zero.
        stages: how often the matrix is computed again on the way, the density falling by the same factor each time; 1 = one shot.
        update: move the weights that stay so that they make up for the others.
    """

    block: Annotated[int, Field(ge=1)] = 100
    gradients: Annotated[int, Field(ge=1)] = 512
    damping: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.1
    stages: Annotated[int, Field(ge=1)] = 8
    update: bool = True

    def check(self, pattern: Pattern) -> None:
        """Every pattern can be held: costs of single weights add up, and the repair is for whatever set goes."""

    def solve_network(self, network: Network, choose: Choose, pattern: Pattern) -> Solved:
        """Prune and repair, stage after stage."""
        orders = {name: Order(tuple(weight.shape)) for name, weight in network.weights().items()}

        def curvature(stage: int) -> BlockCurvature:
            samples = drawn(network, self.gradients, stage)
            fisher = fisher_blocks(network, samples, orders, block=self.block, damping=self.damping)
            return BlockCurvature(fisher, orders, removal_costs)

        masks = prune_in_stages(network, choose, curvature, stages=self.stages, update=self.update)
        return Solved(network.weights(), masks)

    def memory(self, sizes: Sequence[int], samples: int) -> int:
        """Blocks and the work on some, a chunk of gradients in float32 and float64, a copy of the network and two of its weights.

        What the network remembers of the 16 samples of a chunk on the way is not told by sizes and comes on top.
        """
        del samples  # gradients stream by
        weights = sum(sizes)
        return block_bytes(sizes, self.block) + in_flight(self.block) + 12 * chunk_numbers(weights) + 24 * weights
