"""What counts as an erasure that changed nothing."""

from __future__ import annotations

from dataclasses import replace

import torch

from sparsify_cli.contracts.unlearner import Erasure, Request
from sparsify_cli.stages.erase import Erased
from sparsify_cli.stages.subject import Subject
from sparsify_cli.stages.unchanged import ALL, unforgotten, unmoved
from sparsify_cli.unlearners.fisher_forgetting import FisherForgetting
from sparsify_cli.unlearners.ssd import Ssd
from sparsify_cli.unlearners.ssse import Ssse
from sparsify_cli.values.checkpoint import Checkpoint, Source
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.samples import Samples

ONE = Samples(torch.zeros(1, 2), torch.tensor([0]), ("a",))


class Network(Subject):
    """A subject whose module is batch norm."""

    def module(self) -> torch.nn.Module:
        """The network."""
        return torch.nn.BatchNorm1d(2)


def level(number: int, *changed: str, forget: Samples = ONE) -> Erased:
    """A level of batch norm in which the named tensors moved."""
    tensors = {name: t.clone() for name, t in torch.nn.BatchNorm1d(2).state_dict().items()}
    before = Network(Checkpoint(tensors, Source("x", "")), MaskSet())
    after = replace(before, checkpoint=before.checkpoint.with_tensors({n: t + 1 if n in changed else t for n, t in tensors.items()}))
    return Erased(number, Request(forget, ONE, ONE), before, after, Erasure({}))


def test_running_statistics_are_no_weights() -> None:
    """A level changed where a weight did; levels that did not are named."""
    still, moved = level(1, "running_mean", "num_batches_tracked"), level(2, "weight")
    assert unmoved([still]) == ALL
    assert unmoved([moved]) == ""
    assert unmoved([still, moved]) == "no weight of level 1 changed"
    assert unmoved([level(1, forget=ONE.take([]))]) == ""


def test_it_is_a_failure_unless_it_was_asked_for() -> None:
    """A step or noise of length 0 is what a person wanted."""
    assert "ssd forgot nothing" in str(unforgotten(Ssd(), "ssd", ALL))
    assert "level 1" in str(unforgotten(Ssse(), "ssse", "no weight of level 1 changed"))
    assert unforgotten(Ssse(), "ssse", "") is None
    assert unforgotten(Ssse(epsilon=0), "ssse", ALL) is None and unforgotten(FisherForgetting(noise=0), "fisher-forgetting", ALL) is None
