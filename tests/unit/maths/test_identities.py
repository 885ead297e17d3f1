"""Parts that return what they are given: which are found, which only look so, and what leaving them out does."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from sparsify_cli.maths.identities import identities, without

BATCHES = [torch.randn(9, 4, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)]


class Block(nn.Module):
    """relu(x + branch(x)); in place where asked for."""

    def __init__(self, *, inplace: bool = False) -> None:
        super().__init__()
        self.one, self.norm, self.two, self.inplace = nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 4), inplace

    def forward(self, x: Tensor) -> Tensor:
        """The block."""
        branch = self.two(torch.relu(self.norm(self.one(x))))
        return (x.add_(branch) if self.inplace else x + branch).relu()


def silent(block: Block) -> Block:
    """A block whose branch puts out zeros."""
    nn.init.zeros_(block.two.weight)
    nn.init.zeros_(block.two.bias)
    return block


def network(*blocks: nn.Module) -> nn.Sequential:
    """Blocks between a rectified layer and a classifier."""
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU(), *blocks, nn.Linear(4, 3)).eval()


def test_silent_blocks_are_found_and_leave_no_trace() -> None:
    """The second block of three; outputs are the same bits without it, and its tensors are gone."""
    module = network(Block(), silent(Block()), Block())
    assert identities(deepcopy(module), BATCHES) == ("3",)
    after = without(deepcopy(module), ("3",)).double()
    for batch in BATCHES:
        assert torch.equal(after(batch.double()), module.double()(batch.double()))
    assert not any(name.startswith("3.") for name in after.state_dict())


def test_the_outermost_part_is_named() -> None:
    """Two silent blocks in a row go as one where they are one part."""
    assert identities(network(nn.Sequential(silent(Block()), silent(Block()))), BATCHES) == ("2",)


def test_a_rectifier_that_cuts_something_is_no_identity() -> None:
    """Behind a layer that is not rectified, the block's own rectifier counts."""
    module = nn.Sequential(nn.Linear(4, 4), silent(Block()), nn.Linear(4, 3)).eval()
    assert identities(module, BATCHES) == ()


def test_a_block_that_changes_its_input_in_place_is_not_taken_for_one_that_returns_it() -> None:
    """The input is compared as it was."""
    assert identities(network(Block(inplace=True)), BATCHES) == ()
    assert identities(network(silent(Block(inplace=True))), BATCHES) == ("2",)


def test_a_bias_is_no_silence() -> None:
    """A branch that adds a constant changes something."""
    block = silent(Block())
    nn.init.constant_(block.two.bias, 1e-6)
    assert identities(network(block), BATCHES) == ()


def test_parts_of_two_names_and_shared_weights_stay() -> None:
    """A block that is used twice under two names, or whose weights are another's, is left alone."""
    block = silent(Block())
    assert identities(network(block, block), BATCHES) == ()
    first, second = silent(Block()), silent(Block())
    second.one.weight = first.one.weight
    assert identities(network(first, second), BATCHES) == ()


def test_every_call_counts() -> None:
    """One block called twice, once with what its rectifier cuts: no identity."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block, self.last = silent(Block()), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            """Rectified and not."""
            return self.last(self.block(x.relu()) + self.block(-x.relu()))

    assert identities(Twice().eval(), BATCHES) == ()


def test_what_is_not_there_is_an_error() -> None:
    """A wrong name is not passed over."""
    with pytest.raises(AttributeError):
        without(network(Block()), ("7",))
