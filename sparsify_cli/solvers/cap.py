"""CAP: inside each block prune one weight after another, and rank weights by all that was lost until they went.

    repeat  p = argmin w_p^2 / (2 A_pp) ; lost += that ; score_p = lost        A = F^-1 over what is left of the block
            w -= A_:p w_p / A_pp ; A -= A_:p A_p: / A_pp
    then    rank the scores of all blocks together ; each block loses a first part of its own order

Weights that stand in for each other are cheap alone and dear together: the second of them is judged after the first has gone. Scores
grow along each block's order, so for unstructured pruning a threshold takes a prefix, and its repaired weights are those of the
recorded trace; they are found directly, since optimal brain surgeon's result depends on the set that goes and not on its order.
For N:M the same scores are ranked inside groups and the same repair serves the set that goes.

Source: Kuznedelev, Kurtic, Frantar and Alistarh 2023, arXiv 2210.09223, section 3, code IST-DASLab/CAP. Differs: no trace is stored
(B times the memory of the weights); damping relative to the mean diagonal (theirs is 1e-8, absolute); exact counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from sparsify_cli.contracts.solver import Choose, NetworkSolver, Solved
from sparsify_cli.maths.curvature import BlockCurvature, prune_in_stages
from sparsify_cli.maths.empirical_fisher import Order, block_bytes, chunk_numbers, drawn, fisher_blocks
from sparsify_cli.maths.woodbury import cumulative_costs, in_flight
from sparsify_cli.recipes.pattern import Pattern
from sparsify_cli.values.network import Network


@dataclass(frozen=True)
class CAP(NetworkSolver):
    """Correlation-aware pruning: greedy inside blocks, one ranking over all.

    Args:
        block: consecutive weights of a tensor whose correlations are known.
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

    def solve_network(self, network: Network, choose: Choose, pattern: Pattern) -> Solved:
        """Prune and repair, stage after stage."""
        orders = {name: Order(tuple(weight.shape)) for name, weight in network.weights().items()}

        def curvature(stage: int) -> BlockCurvature:
            samples = drawn(network, self.gradients, stage)
            fisher = fisher_blocks(network, samples, orders, block=self.block, damping=self.damping)
            return BlockCurvature(fisher, orders, lambda weights, inverse, _: cumulative_costs(weights, inverse))

        masks = prune_in_stages(network, choose, curvature, stages=self.stages, update=self.update)
        return Solved(network.weights(), masks)

    def memory(self, sizes: Sequence[int], samples: int) -> int:
        """Blocks and the work on some, a chunk of gradients in float32 and float64, a copy of the network and two of its weights.

        What the network remembers of the 16 samples of a chunk on the way is not told by sizes and comes on top.
        """
        del samples  # gradients stream by
        weights = sum(sizes)
        return block_bytes(sizes, self.block) + in_flight(self.block) + 12 * chunk_numbers(weights) + 24 * weights
