"""Networks with smaller tensors: layers know their sizes, shared tensors stay shared, what does not fit is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sparsify_cli.errors import KeyMismatch
from sparsify_cli.maths.resize import resized
from sparsify_cli.values.checkpoint import Spec


def test_layers_know_their_sizes():
    """A convolution, its batch norm and a linear layer are cut to their first entries, run, and count what they have."""
    module = nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.PReLU(4), nn.Flatten(), nn.Linear(4, 2, bias=False))
    weight = module[0].weight.detach().clone()
    norm = dict.fromkeys(("1.weight", "1.bias", "1.running_mean", "1.running_var", "2.weight"), (3,))
    after = resized(module, {"0.weight": (3, 1, 3, 3), **norm, "4.weight": (2, 3), "4.bias": (2,)})
    assert torch.equal(after[0].weight, weight[:3]) and after(torch.rand(5, 1, 3, 3)).shape == (5, 2)
    assert (after[0].out_channels, after[1].num_features, after[2].num_parameters, after[4].in_features) == (3, 3, 3, 3)
    assert after[4].bias.tolist() == [0, 0] and after[0].weight.requires_grad


def test_shared_tensors_stay_shared():
    """One tensor under two names is cut once."""
    module = nn.ModuleDict({"a": nn.Linear(4, 3, bias=False), "b": nn.Linear(4, 3, bias=False)})
    module["b"].weight = module["a"].weight
    after = resized(module, {"a.weight": (3, 2), "b.weight": (3, 2)})
    assert after["a"].weight is after["b"].weight and after["b"].in_features == 2


def test_a_linear_layer_may_get_more_outputs():
    """What was there stays, the rest is zero; the layer knows its new size, and an optimizer would find its tensors."""
    module = nn.Sequential(nn.Linear(4, 3))
    old = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    after = resized(module, {"0.weight": (5, 4), "0.bias": (5,)})
    assert after[0].out_features == 5 and after(torch.zeros(1, 4)).shape == (1, 5)
    for name, tensor in after.state_dict().items():
        assert torch.equal(tensor[:3], old[name]) and not tensor[3:].any()
    assert all(isinstance(parameter, nn.Parameter) and parameter.requires_grad for parameter in after.parameters())
    with pytest.raises(KeyMismatch, match="cannot be made as small"):
        resized(nn.Sequential(nn.Conv2d(2, 3, 1)), {"0.weight": (5, 2, 1, 1)})


@pytest.mark.parametrize("shapes", [{"0.weight": (3, 9)}, {"0.weight": (2,)}, {"7.weight": (2, 2)}, {"0.gain": (2,)}, {"0.bias": (5,)}])
def test_what_does_not_fit_is_refused(shapes):
    """Tensors that are not there or are smaller than asked, and biases of another length: one sentence."""
    with pytest.raises(KeyMismatch, match="cannot be made as small"):
        resized(nn.Sequential(nn.Linear(4, 3, bias=False)), shapes)


def test_a_spec_keeps_its_shapes_where_tensors_have_them():
    """Shapes survive JSON, old manifests without them load, and a network of other shapes gets the architecture as it was."""
    spec = Spec("mlp", {"hidden": 8}, {"fc1.weight": (5, 64)})
    again = Spec.from_json(spec.to_json())
    assert again is not None and again.to_json() == spec.to_json() and "resized" not in Spec("mlp").to_json()
    assert Spec.from_json({"name": "mlp", "options": {}}) == Spec("mlp")
    assert spec.fitting({"fc1.weight": torch.zeros(5, 64)}).resized and not spec.fitting({"fc1.weight": torch.zeros(8, 64)}).resized
