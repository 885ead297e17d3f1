"""Gradients and Hessian products against finite differences and one pass a sample; refusals in one sentence."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sparsify_cli.errors import BadData, BadRequest, KeyMismatch, NonFinite
from sparsify_cli.maths.loss_gradients import (
    batch_gradients,
    hessian_product,
    loss_gradient,
    private_copy,
    squared_gradients,
)
from sparsify_cli.values.network import Network


class Once(torch.autograd.Function):
    """Doubles; can be differentiated once, and only outside `torch.func`."""

    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        return 2 * gradient


class OnceOnly(nn.Module):
    """A linear layer behind such a function."""

    def __init__(self):
        super().__init__()
        self.line = nn.Linear(3, 2)

    def forward(self, x):
        return Once.apply(self.line(x))


class Attention(nn.Module):
    """Fused attention and a linear head."""

    def __init__(self):
        super().__init__()
        self.qkv, self.head = nn.Linear(4, 12), nn.Linear(4, 2)

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        mixed = nn.functional.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])
        return self.head(mixed.mean((1, 2)))


def network(module, inputs, classes=2, **options):
    """The module in eval mode with its matrices prunable, and labels 0, 1, ... in turn."""
    names = {f"model.{name}": name for name, parameter in module.named_parameters() if parameter.ndim > 1}
    return Network(module.eval(), names, inputs, torch.arange(len(inputs)) % classes, **options)


def small(batch=64):
    """A float64 network with a smooth activation: eleven samples, batch norm with running statistics of its own."""
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2)).double()
    module(torch.randn(8, 3, dtype=torch.float64) * 2 + 1)
    return network(module, torch.randn(11, 3, dtype=torch.float64), batch=batch)


def mean_loss(found, weights):
    """The loss over all samples at other weights."""
    found.put(weights)
    with torch.no_grad():
        return float(found.loss(found.inputs, found.targets))


@pytest.mark.parametrize("batch", [64, 4, 1])
def test_the_gradient_is_that_of_the_mean_loss(batch):
    """Central differences, entry by entry, however samples are batched."""
    found = small(batch)
    weights = found.weights()
    gradient = loss_gradient(private_copy(found, weights))
    for name, weight in weights.items():
        for i in range(weight.numel()):
            nudge = torch.zeros(weight.numel(), dtype=torch.float64).index_fill(0, torch.tensor([i]), 1e-5).view_as(weight)
            slope = (mean_loss(found, weights | {name: weight + nudge}) - mean_loss(found, weights | {name: weight - nudge})) / 2e-5
            assert float(gradient[name].flatten()[i]) == pytest.approx(slope, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("least", [1, 2, 5])
def test_the_hessian_product_is_the_change_of_the_gradient(least):
    """H v = (g(theta + e v) - g(theta - e v)) / 2e, relative error below 1e-5, in one batch or several."""
    found = small()
    weights = found.weights()
    v = {name: torch.randn_like(weight) for name, weight in weights.items()}
    product = hessian_product(private_copy(found, weights), v, least=least)
    ahead, behind = (
        loss_gradient(private_copy(found, {name: weight + step * v[name] for name, weight in weights.items()})) for step in (1e-5, -1e-5)
    )
    for name, ours in product.items():
        torch.testing.assert_close(ours, (ahead[name] - behind[name]) / 2e-5, rtol=1e-5, atol=1e-9)


def test_squares_are_those_of_single_samples():
    """The mean over samples of the squared gradient of one, by one backward pass each."""
    found = small()
    expected = {name: torch.zeros_like(weight) for name, weight in found.weights().items()}
    for x, y in zip(found.inputs, found.targets, strict=True):
        found.module.zero_grad()
        found.loss(x[None], y[None]).backward()
        for name, parameter in found.parameters().items():
            expected[name] += parameter.grad.square() / 11
    squares = squared_gradients(private_copy(found, found.weights()))
    for name, square in squares.items():
        torch.testing.assert_close(square, expected[name], rtol=1e-12, atol=0)


def test_squares_of_what_cannot_be_batched():
    """A function without rules for `torch.func` is differentiated sample by sample: at zero weights p = 1/2, g = +-2 x / 2."""
    module = OnceOnly()
    nn.init.zeros_(module.line.weight), nn.init.zeros_(module.line.bias)
    found = network(module, torch.tensor([[1.0, 2.0, 0.0], [3.0, 0.0, 0.0]]))
    squares = squared_gradients(private_copy(found, found.weights()))
    assert squares["model.line.weight"].tolist() == [pytest.approx([5.0, 2.0, 0.0], rel=1e-14)] * 2


def test_samples_are_shared_out_nearly_equally():
    """Nine samples in batches of four are three of three: no batch of one is left over."""
    found = small(4)
    found = Network(found.module, found.names, found.inputs[:9], found.targets[:9], batch=4)
    assert [share for share, _ in batch_gradients(private_copy(found, found.weights()))] == [pytest.approx(1 / 3)] * 3
    assert len(list(batch_gradients(private_copy(found, found.weights()), batch=1))) == 9


def test_the_network_given_stays_as_it_is():
    """Weights, buffers, modes, what is differentiable and gradients are untouched; the copy holds the weights given."""
    found = small()
    before = {name: tensor.clone() for name, tensor in found.module.state_dict().items()}
    copy = private_copy(found, {name: weight + 1 for name, weight in found.weights().items()}, batch_norm="batch")
    loss_gradient(copy)
    assert all(torch.equal(before[name], tensor) for name, tensor in found.module.state_dict().items())
    assert not any(module.training for module in found.module.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in found.module.parameters())
    assert all(torch.equal(weight, found.weights()[name] + 1) for name, weight in copy.weights().items())


def test_the_copy_is_no_narrower_than_asked():
    """Half precision becomes float32; what is wider stays."""
    half = network(nn.Linear(3, 2).to(torch.bfloat16), torch.randn(4, 3))
    assert private_copy(half, half.weights()).module.weight.dtype is torch.float32
    assert private_copy(half, half.weights(), dtype=torch.float64).module.weight.dtype is torch.float64
    assert private_copy(small(), small().weights()).module[0].weight.dtype is torch.float64


def test_fused_attention_can_be_differentiated_twice():
    """Its plain form stands in for it, and its product agrees with differences of gradients."""
    found = network(Attention().double(), torch.randn(5, 3, 4, dtype=torch.float64))
    weights = found.weights()
    v = {name: torch.randn_like(weight) for name, weight in weights.items()}
    product = hessian_product(private_copy(found, weights), v)
    ahead, behind = (
        loss_gradient(private_copy(found, {name: weight + step * v[name] for name, weight in weights.items()})) for step in (1e-5, -1e-5)
    )
    for name, ours in product.items():
        torch.testing.assert_close(ours, (ahead[name] - behind[name]) / 2e-5, rtol=1e-5, atol=1e-9)


def test_weights_outside_the_loss_have_no_gradient():
    """A layer that is never run gets zeros from every function."""
    module = nn.Sequential(nn.Linear(3, 2))
    module[0].spare = nn.Linear(2, 2)
    found = network(module, torch.randn(4, 3))
    copy = private_copy(found, found.weights())
    gradient = loss_gradient(copy)
    for result in (gradient, hessian_product(copy, gradient), squared_gradients(copy)):
        assert not result["model.0.spare.weight"].any() and result["model.0.weight"].any()


def test_one_derivative_only_is_said():
    """Operations without a second derivative are refused in a sentence, and give their first."""
    found = network(OnceOnly(), torch.randn(4, 3))
    copy = private_copy(found, found.weights())
    gradient = loss_gradient(copy)
    with pytest.raises(BadRequest, match=r"cannot be differentiated twice: .*once_differentiable"):
        hessian_product(copy, gradient)


def test_infinite_gradients_name_their_layer():
    """Logits that overflow leave gradients that are NaN; the sentence says whose."""
    module = nn.Sequential(nn.Linear(3, 2, bias=False))
    found = network(module, torch.full((2, 3), 1e30))
    weights = {name: torch.full_like(weight, 1e30) for name, weight in found.weights().items()}
    with pytest.raises(NonFinite, match=r"gradient of model\.0\.weight has 6 of 6"):
        loss_gradient(private_copy(found, weights))
    with pytest.raises(NonFinite, match=r"gradient of model\.0\.weight"):
        squared_gradients(private_copy(found, weights))


def test_what_does_not_fit_is_said():
    """A tensor the network does not have, one of another shape, labels it has no output for, no samples, inputs it cannot take."""
    found = small()
    with pytest.raises(KeyMismatch, match=r"'other' .* absent"):
        private_copy(found, {"other": torch.zeros(2, 2)})
    with pytest.raises(KeyMismatch, match=r"\(3, 3\); in the network they are \(4, 3\)"):
        private_copy(found, {"model.0.weight": torch.zeros(3, 3)})
    with pytest.raises(BadRequest, match="cannot be differentiated: Target 2 is out of bounds"):
        many = network(nn.Linear(3, 2), torch.randn(4, 3), classes=3)
        loss_gradient(private_copy(many, many.weights()))
    with pytest.raises(BadRequest, match="cannot be differentiated: mat1 and mat2"):
        wide = network(nn.Linear(3, 2), torch.randn(4, 5))
        loss_gradient(private_copy(wide, wide.weights()))
    for function in (loss_gradient, squared_gradients):
        with pytest.raises(BadData, match="no calibration samples"):
            empty = network(nn.Linear(3, 2), torch.randn(0, 3))
            function(private_copy(empty, empty.weights()))


class Silent(nn.Module):
    """Runs without gradients."""

    def __init__(self):
        super().__init__()
        self.line = nn.Linear(3, 2)

    @torch.no_grad()
    def forward(self, x):
        return self.line(x)


@pytest.mark.parametrize("function", [loss_gradient, squared_gradients])
def test_a_network_without_gradients_is_refused(function):
    """It is not taken for one whose gradients are zero; nor is one that returns more than logits."""
    found = network(Silent(), torch.randn(4, 3))
    with pytest.raises(BadRequest, match=r"cannot be differentiated: .*does not require grad"):
        function(private_copy(found, found.weights()))
    found = network(nn.LSTM(3, 2), torch.randn(4, 3))
    with pytest.raises(BadRequest, match=r"cannot be differentiated: .*must be Tensor, not tuple"):
        function(private_copy(found, found.weights()))


@pytest.mark.filterwarnings("ignore")
def test_what_cannot_be_copied_is_refused():
    """TorchScript copies hold no weights of their own that could be differentiated."""
    found = network(torch.jit.script(nn.Sequential(nn.Linear(3, 2))), torch.randn(4, 3))
    with pytest.raises(BadRequest, match="cannot be copied: requires_grad_ is not supported on ScriptModules"):
        private_copy(found, found.weights())
