"""Per-sample gradients against closed forms and one backward pass a sample."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from sparsify_cli.errors import BadRequest, KeyMismatch
from sparsify_cli.maths.fisher_forms import BlockForm
from sparsify_cli.maths.per_sample_gradients import Coordinates, gradient_sum, per_sample_gradients
from sparsify_cli.values.mask_set import MaskSet


class Branching(nn.Module):
    """Decides by a value, which vmap cannot batch."""

    def __init__(self):
        super().__init__()
        self.line = nn.Linear(3, 2)

    def forward(self, x):
        return self.line(x) if float(x.sum().detach()) > 0 else self.line(-x)


def convnet():
    """A small network with batch norm, in train mode, with running statistics that are not the default."""
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Flatten(), nn.Linear(12, 3))
    model(torch.randn(8, 1, 4, 4))
    return model


def rows(model, x, y, masks=None, chunk=0):
    """All rows at once."""
    return torch.cat(list(per_sample_gradients(model, x, y, Coordinates.of(model, masks or MaskSet()), chunk=chunk)))


def one_by_one(model, x, y):
    """One backward pass a sample in evaluation mode, all parameters."""
    training, result = model.training, []
    model.eval()
    for i in range(len(x)):
        model.zero_grad()
        cross_entropy(model(x[i : i + 1]), y[i : i + 1]).backward()
        result.append(torch.cat([p.grad.reshape(-1) for p in model.parameters()]))
    model.train(training)
    return torch.stack(result)


def test_zero_weights_give_the_known_gradient():
    """At zero weights p = 1/2, so the gradient of sample x of class 0 is (-x/2, x/2) and of the bias (-1/2, 1/2)."""
    model = nn.Linear(2, 2)
    nn.init.zeros_(model.weight), nn.init.zeros_(model.bias)
    assert rows(model, torch.tensor([[2.0, 4.0]]), torch.tensor([0])).tolist() == [[-1.0, -2.0, 1.0, 2.0, -0.5, 0.5]]


@pytest.mark.parametrize("chunk", [0, 1, 3])
def test_equals_one_backward_pass_a_sample(chunk):
    """Rows are the gradients of single samples in evaluation mode, in sample order, however they are chunked."""
    model, x, y = convnet(), torch.randn(7, 1, 4, 4), torch.arange(7) % 3
    torch.testing.assert_close(rows(model, x, y, chunk=chunk), one_by_one(model, x, y), atol=1e-6, rtol=1e-5)


def test_layers_that_cannot_be_batched_still_work():
    """A branch on a value falls back to one sample at a time, with the same numbers."""
    model, x, y = Branching(), torch.randn(5, 3), torch.tensor([0, 1, 0, 1, 1])
    torch.testing.assert_close(rows(model, x, y), one_by_one(model, x, y))


class Counting(nn.Linear):
    """Counts its passes, which `torch.func` does not let it."""

    def __init__(self):
        super().__init__(3, 2)
        self.register_buffer("passes", torch.zeros(1))
        self.spare = nn.Parameter(torch.ones(2))

    def forward(self, x):
        self.passes.add_(x.sum().detach())
        return super().forward(x)


def test_networks_that_write_into_themselves_still_work():
    """One ordinary backward pass a sample; a weight that is not used has none; the count itself stays."""
    torch.manual_seed(0)
    net, x, y = Counting(), torch.randn(5, 3), torch.arange(5) % 2
    found = rows(net, x, y)
    plain = nn.Linear(3, 2)
    plain.load_state_dict({name: t for name, t in net.state_dict().items() if name in ("weight", "bias")})
    expected = rows(plain, x, y)
    assert torch.allclose(found, torch.cat([expected, torch.zeros(5, 2)], dim=1))
    assert float(net.passes) == 0


class Past(nn.Module):
    """What is negative goes past the layer, and no number that counts is in its loss."""

    def __init__(self):
        super().__init__()
        self.line = nn.Linear(3, 2)

    def forward(self, x):
        return self.line(x) if float(x.detach().sum()) > 0 else x[:, :2]


def test_a_sample_that_goes_past_all_weights_has_no_gradient():
    """Zeros; also where nobody asked for gradients around."""
    torch.manual_seed(0)
    net, x = Past(), torch.tensor([[1.0, 2.0, 3.0], [-1.0, -2.0, -3.0]])
    with torch.no_grad():
        found = rows(net, x, torch.tensor([0, 1]))
    assert bool(found[0].any()) and not bool(found[1].any())


def test_narrow_gradients_come_wide():
    """Of bfloat16 as float32, so that sums of their products keep more than eight bits."""
    torch.manual_seed(0)
    net, x, y = nn.Linear(3, 2).bfloat16(), torch.randn(40, 3), torch.arange(40) % 2
    found = rows(net, x, y)
    assert found.dtype == torch.float32
    block = BlockForm.gathered(iter([found]), found.shape[1], 8, net.weight, torch.float64).spectral()
    assert float(block.values.min()) > -1e-6 * float(block.values.max())


def test_model_is_left_as_it_was():
    """Mode, running statistics and gradients are untouched."""
    model = convnet()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    rows(model, torch.randn(4, 1, 4, 4), torch.tensor([0, 1, 2, 0]))
    assert model.training and all(p.grad is None for p in model.parameters())
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


def test_masked_and_frozen_weights_are_no_coordinates():
    """Of 2 x 2 weights with one pruned and a frozen bias, the three kept weights remain, in order."""
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    coordinates = Coordinates.of(model, MaskSet({"weight": torch.tensor([[True, False], [True, True]])}))
    assert coordinates.count == 3
    assert coordinates.flatten({"weight": torch.tensor([[1.0, 2.0], [3.0, 4.0]])}).tolist() == [1, 3, 4]
    moved = coordinates.moved({"weight": torch.tensor([[1.0, 0.0], [3.0, 4.0]])}, torch.tensor([10.0, 20.0, 30.0]))
    assert moved["weight"].tolist() == [[11, 0], [23, 34]]
    assert set(moved) == {"weight"}


@pytest.mark.parametrize("masks", [{"weight": torch.ones(3, 2, dtype=torch.bool)}, {"nothing": torch.ones(2, 2, dtype=torch.bool)}])
def test_masks_of_another_model_are_refused(masks):
    """A mask with another shape or name is an error that names it."""
    with pytest.raises(KeyMismatch, match=next(iter(masks))):
        Coordinates.of(nn.Linear(2, 2), MaskSet(masks))


def test_nothing_to_move_is_refused():
    """A wholly frozen model cannot be edited."""
    with pytest.raises(BadRequest, match="no weight that may move"):
        Coordinates.of(nn.Linear(2, 2).requires_grad_(False), MaskSet())


def test_sum_is_that_of_the_rows():
    """Ordinary backward passes over batches give the sum of per-sample gradients, batch norm in eval mode and pruned weights left out."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    where = Coordinates.of(model, MaskSet({"0.weight": torch.rand(4, 3) > 0.4}))
    x, y = torch.randn(23, 3), torch.arange(23) % 2
    rows = torch.cat(list(per_sample_gradients(model, x, y, where)))
    torch.testing.assert_close(gradient_sum(model, x, y, where, batch=5), rows.double().sum(dim=0), rtol=1e-5, atol=1e-6)
    assert model.training
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(("shape", "sizes"), [((3,), [500, 100]), ((1, 3, 1), 6 * [100]), ((300,), [218, 218, 164])])
def test_short_rows_go_by_the_hundreds(shape, sizes):
    """Rows of few numbers in passes of up to 500 and 2^16 numbers; pictures, however small, by 100."""
    model, seen = nn.Sequential(nn.Flatten(), nn.Linear(torch.Size(shape).numel(), 2)), list[int]()
    model[0].register_forward_pre_hook(lambda layer, inputs: seen.append(len(inputs[0])))
    gradient_sum(model, torch.randn(600, *shape), torch.arange(600) % 2, Coordinates.of(model, MaskSet()))
    assert seen == sizes


def test_sum_over_images_is_that_of_the_rows():
    """More than a batch of them lies channels last; the sum is the same to rounding, and the images are as they were."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 5, 2), nn.Flatten(), nn.Linear(20, 3))
    seen = list[bool]()
    model[0].register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0].stride(1) == 1))
    where = Coordinates.of(model, MaskSet())
    x, y = torch.randn(23, 3, 8, 8), torch.arange(23) % 3
    before, rows = x.clone(), torch.cat(list(per_sample_gradients(model, x, y, where)))
    seen.clear()
    torch.testing.assert_close(gradient_sum(model, x, y, where, batch=5), rows.double().sum(dim=0), rtol=1e-4, atol=1e-5)
    assert seen == [False, True] + 5 * [True]
    assert torch.equal(x, before)
