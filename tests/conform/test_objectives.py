"""Every objective keeps its contract; closed forms for the two that are here."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from sparsify_cli.errors import BadRequest
from sparsify_cli.objectives.cross_entropy import CrossEntropy
from sparsify_cli.objectives.distill import Distill
from sparsify_cli.shelf import Shelf
from sparsify_cli.values.samples import Samples

SHELF = Shelf("objectives")


class Says(nn.Module):
    """Gives the same logits for every sample."""

    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits))

    def forward(self, inputs: Tensor) -> Tensor:
        """The logits, one row a sample."""
        return self.logits.expand(len(inputs), -1)


def batch(*targets: int) -> Samples:
    """Samples of two features with these labels."""
    inputs = torch.randn(len(targets), 2, generator=torch.Generator().manual_seed(4))
    return Samples(inputs, torch.tensor(targets), tuple(str(i) for i in range(len(targets))))


@pytest.mark.parametrize("name", SHELF.names())
def test_a_loss_is_a_mean_over_the_batch(name: str) -> None:
    """One finite scalar, equal to the mean of the samples' own losses, with a gradient for the model only."""
    torch.manual_seed(0)
    model, teacher = nn.Linear(2, 3), nn.Linear(2, 3)
    loss = SHELF.load(name)().prepare(lambda: teacher)
    value = loss(model, batch(0, 1, 2, 1))
    singles = [loss(model, batch(0, 1, 2, 1).take([i])).item() for i in range(4)]
    value.backward()
    assert value.ndim == 0 and value.item() == pytest.approx(sum(singles) / 4, rel=1e-6)
    assert model.weight.grad is not None and model.weight.grad.abs().sum() > 0
    assert teacher.weight.grad is None


@pytest.mark.parametrize("name", SHELF.names())
def test_every_objective_is_documented(name: str) -> None:
    """Listed with a summary, and its default options build."""
    assert len(SHELF.summary(name)) > 15
    assert SHELF.load(name)() == SHELF.load(name)()


def test_cross_entropy_by_hand() -> None:
    """Probabilities 3/4 and 1/4: -ln(3/4) and -ln(1/4); smoothing by 0.2 mixes them 0.9 to 0.1."""
    right, wrong = math.log(4 / 3), math.log(4)
    model = Says(math.log(3), 0.0)
    assert CrossEntropy().prepare(Says)(model, batch(0, 1)).item() == pytest.approx((right + wrong) / 2)
    assert CrossEntropy(label_smoothing=0.2).prepare(Says)(model, batch(0)).item() == pytest.approx(0.9 * right + 0.1 * wrong)


def test_cross_entropy_builds_no_teacher() -> None:
    """An objective that wants no teacher does not pay for one."""
    built: list[int] = []

    def teacher() -> nn.Module:
        built.append(1)
        return Says(0.0)

    assert CrossEntropy().prepare(teacher)(Says(0.0, 0.0), batch(0)).item() == pytest.approx(math.log(2))
    assert built == []


def test_divergence_by_hand() -> None:
    """Teacher 3/4, student 1/2 at T = 2: T^2 KL = 4 (3/4 ln(3/2) + 1/4 ln(1/2)), teacher first."""
    teacher, student = Says(2 * math.log(3), 0.0), Says(0.0, 0.0)
    divergence = 4 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    loss = Distill(temperature=2.0, weight=1.0).prepare(lambda: teacher)
    assert loss(student, batch(0, 1, 1)).item() == pytest.approx(divergence, rel=1e-5)
    mixed = Distill(temperature=2.0, weight=0.7).prepare(lambda: teacher)
    assert mixed(student, batch(0, 1, 1)).item() == pytest.approx(0.3 * math.log(2) + 0.7 * divergence, rel=1e-5)


def test_labels_are_smoothed_and_the_teacher_is_not() -> None:
    """The sum of what smoothed labels alone and the teacher alone cost, by their shares."""
    teacher, student, samples = Says(2.0, 0.0), Says(-0.5, 1.0), batch(0, 1, 1)
    both = Distill(weight=0.7, label_smoothing=0.2).prepare(lambda: teacher)(student, samples)
    hard = CrossEntropy(label_smoothing=0.2).prepare(lambda: teacher)(student, samples)
    soft = Distill(weight=1.0).prepare(lambda: teacher)(student, samples)
    assert both.item() == pytest.approx(0.3 * hard.item() + 0.7 * soft.item(), rel=1e-6)


def test_no_divergence_from_oneself() -> None:
    """A teacher that says the same costs nothing beyond the labels."""
    loss = Distill(weight=1.0).prepare(lambda: Says(1.0, -2.0, 0.5))
    assert loss(Says(1.0, -2.0, 0.5), batch(0)).item() == pytest.approx(0.0, abs=1e-6)


def test_the_gradient_at_temperature_one_is_a_residual() -> None:
    """T = 1, weight 1: the gradient of the logits is p_student - p_teacher = 1/2 - 3/4."""
    student = Says(0.0, 0.0)
    Distill(temperature=1.0, weight=1.0).prepare(lambda: Says(math.log(3), 0.0))(student, batch(0)).backward()
    assert student.logits.grad is not None
    assert student.logits.grad.tolist() == pytest.approx([-0.25, 0.25], abs=1e-6)


def test_the_teacher_is_in_eval_mode_and_stays_as_it_is() -> None:
    """Batch norm and dropout of the teacher are off; its state does not move."""
    teacher = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout(0.9)).train()
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    loss = Distill(weight=1.0).prepare(lambda: teacher)
    student = nn.Linear(2, 2)
    assert loss(student, batch(0, 1)).item() == loss(student, batch(0, 1)).item()
    assert not teacher.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())


def test_a_teacher_of_another_width_is_refused() -> None:
    """Both widths are named."""
    loss = Distill().prepare(lambda: Says(0.0, 0.0, 0.0))
    with pytest.raises(BadRequest, match="teacher has 3 outputs, the model 2"):
        loss(Says(0.0, 0.0), batch(0))


def test_options_out_of_range_are_refused() -> None:
    """Temperature, weight and smoothing have ranges."""
    for make in (
        lambda: Distill(temperature=0.0),
        lambda: Distill(weight=1.5),
        lambda: Distill(label_smoothing=-0.1),
        lambda: CrossEntropy(label_smoothing=1.0),
    ):
        with pytest.raises(BadRequest):
            make()
