"""oBERT: as WoodFisher with narrow blocks, and weights that go together are judged together.

    score   1/2 w_P^T ([F^-1]_PP)^-1 w_P                  P = one weight, or one block of a block pattern
    repair  the weights of a Fisher block that stay minimise 1/2 d^T F d, given those that go

For a block pattern a tensor is flattened block after block, so that each lies within one block of the Fisher matrix; its score is
shared equally by its weights. Tensors that cannot carry the pattern are flattened as they are stored.

Source: Kurtic et al. 2022, arXiv 2203.07259, section 3; code neuralmagic/sparseml. Differs: damping relative to the mean diagonal
(theirs is 1e-7, absolute); the repair is exact for all weights that go; exact counts.
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
class OBERT(NetworkSolver):
    """Second-order pruning of single weights or of blocks.

    Args:
        block: consecutive weights of a tensor whose correlations are known, rounded up to whole blocks of the pattern.
        gradients: samples whose gradients make the matrix, drawn by seed, anew in every stage; fewer if there are fewer.
        damping: added to the diagonal, relative to its mean over weights that are not zero.
        stages: how often the matrix is computed again on the way, the density falling by the same factor each time; 1 = one shot.
        update: move the weights that stay so that they make up for the others.
    """

    block: Annotated[int, Field(ge=1)] = 50
    gradients: Annotated[int, Field(ge=1)] = 512
    damping: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.1
    stages: Annotated[int, Field(ge=1)] = 8
    update: bool = True

    def check(self, pattern: Pattern) -> None:
        """Every pattern can be held: blocks are what the method is for."""

    def solve_network(self, network: Network, choose: Choose, pattern: Pattern) -> Solved:
        """Prune and repair, stage after stage."""
        orders = {name: Order(tuple(weight.shape), pattern) for name, weight in network.weights().items()}

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
