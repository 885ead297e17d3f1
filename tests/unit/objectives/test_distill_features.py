"""Distances of hidden layers from a teacher's."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from sparsify_cli.errors import BadRequest
from sparsify_cli.objectives.distill_features import DistillFeatures
from sparsify_cli.values.samples import Samples


def network(seed: int, hidden: int = 6) -> nn.Sequential:
    """4 features, hidden layer, 3 classes."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, hidden), nn.Tanh(), nn.Linear(hidden, 3))


def batch() -> Samples:
    """Ten samples."""
    inputs = torch.randn(10, 4, generator=torch.Generator().manual_seed(7))
    return Samples(inputs, inputs[:, :3].argmax(1), tuple(map(str, range(10))))


def test_the_loss_by_hand() -> None:
    """Cross-entropy plus weight times the mean relative squared distance, sample by sample, of the first two parts' outputs."""
    student, teacher, given = network(0), network(1), batch()
    loss = DistillFeatures(weight=0.5).prepare(lambda: teacher)(student, given)
    apart = []
    for depth in (1, 2):
        ours, theirs = student[:depth](given.inputs), teacher[:depth](given.inputs)
        apart.append(float((((ours - theirs) ** 2).sum(1) / (theirs**2).sum(1)).mean().detach()))
    hard = float(functional.cross_entropy(student(given.inputs), given.targets).detach())
    assert float(loss) == pytest.approx(hard + 0.5 * sum(apart) / 2, rel=1e-6)


def test_like_its_teacher_only_labels_count() -> None:
    """A student with the teacher's weights has no distance; gradients reach the student alone, and no hook stays."""
    student, teacher, given = network(1), network(1), batch()
    loss = DistillFeatures(layers="0,1").prepare(lambda: teacher)(student, given)
    assert float(loss) == pytest.approx(float(functional.cross_entropy(student(given.inputs), given.targets)))
    loss.backward()  # type: ignore[no-untyped-call]
    assert student[0].weight.grad is not None and teacher[0].weight.grad is None
    assert not student[0]._forward_hooks and not teacher[0]._forward_hooks


def test_what_does_not_fit_is_refused() -> None:
    """Unknown layers, layers the model lacks, and outputs of other shapes: one sentence each."""
    with pytest.raises(BadRequest, match="No layer of the teacher is called head"):
        DistillFeatures(layers="head").prepare(lambda: network(0))
    loss = DistillFeatures().prepare(lambda: network(0, hidden=5))
    with pytest.raises(BadRequest, match="The layer 0 puts out"):
        loss(network(0), batch())
    with pytest.raises(BadRequest, match="no layer 1"):
        DistillFeatures(layers="1").prepare(lambda: network(0))(nn.Sequential(nn.Linear(4, 3)), batch())
    with pytest.raises(BadRequest, match="weight"):
        DistillFeatures(weight=0)


class Chosen(nn.Module):
    """A first part, a list of which one part is called, and a part used by its weight alone."""

    def __init__(self, only: int = 0) -> None:
        """The same weights each time."""
        super().__init__()
        torch.manual_seed(3)
        self.first, self.several = nn.Linear(4, 4), nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
        self.last, self.only = nn.Linear(4, 3), only

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        return functional.linear(self.several[self.only](self.first(x)), self.last.weight)


def test_parts_that_are_not_called_have_no_distance() -> None:
    """A list of experts has no output of its own, an expert that one network passes by none to compare; without any it is refused."""
    given, student = batch(), Chosen(0)
    plain = float(functional.cross_entropy(student(given.inputs), given.targets).detach())
    for layers in ("", "first,several.1"):
        loss = DistillFeatures(layers=layers).prepare(lambda: Chosen(1))(student, given)
        assert float(loss.detach()) == pytest.approx(plain)
    with pytest.raises(BadRequest, match="No output of several"):
        DistillFeatures(layers="several").prepare(lambda: Chosen(0))(student, given)
