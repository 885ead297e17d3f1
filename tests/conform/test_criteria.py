"""Every criterion on the shelf keeps the promises of its contract, under each of its named choices; a new file is found by itself."""

from __future__ import annotations

import dataclasses
import typing

import pytest
import torch
from torch import nn
from torch.nn import functional

from sparsify_cli.errors import BrokenPlugin, MissingContext
from sparsify_cli.maths.activity import Activity
from sparsify_cli.maths.gram import gram_sum
from sparsify_cli.shelf import Shelf
from sparsify_cli.stages.calibrate import watchable, watching
from sparsify_cli.values.network import Network
from sparsify_cli.values.stats import Stats

SHAPES = {"conv.weight": (4, 3, 3, 3), "fc.weight": (5, 8), "conv1d.weight": (2, 4, 3), "grouped.weight": (4, 2, 3, 3)}
GROUPS = {"grouped.weight": 2}
SAMPLES = 12


class TinyCnn(nn.Module):
    """One layer of each kind, batch norm among them."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.grouped = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, padding=1, groups=2)
        self.conv1d, self.fc = nn.Conv1d(4, 2, 3), nn.Linear(8, 5)

    def forward(self, images):
        seen = functional.relu(self.norm(self.conv(images)))
        seen = functional.relu(self.conv1d(functional.relu(self.grouped(seen)).mean(-1)))
        return self.fc(seen.flatten(1))


def choices(name):
    """Options to test: the defaults, and each other value of every field that names its values."""
    try:
        strategy = Shelf("criteria").load(name)
    except BrokenPlugin:  # its own tests say so
        return [{}]
    found, hints = [{}], typing.get_type_hints(strategy)
    for field in dataclasses.fields(strategy):
        if typing.get_origin(hints[field.name]) is typing.Literal:
            found += [{field.name: value} for value in typing.get_args(hints[field.name]) if value != field.default]
    return found


CASES = {
    " ".join([name, *(f"{field}={value}" for field, value in options.items())]): (name, options)
    for name in Shelf("criteria").names()
    for options in choices(name)
}
EACH = pytest.mark.parametrize("case", CASES)


def needs(case):
    """What a criterion asks calibration for."""
    return Shelf("criteria").load(CASES[case][0]).needs


def is_local(case):
    """True where scores come from weights and the layer's own inputs, so that outputs may be renumbered and signs turned."""
    try:
        return not case.startswith("random") and not needs(case) & {"network", "movement"}
    except BrokenPlugin:
        return False


LOCAL = pytest.mark.parametrize("case", [case for case in CASES if is_local(case)])


def weights(dtype=torch.float32, fill=None):
    """One tensor of each kind: random, or all equal to `fill`."""
    generator = torch.Generator().manual_seed(0)
    made = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    return {name: (tensor if fill is None else torch.full_like(tensor, fill)).to(dtype) for name, tensor in made.items()}


def network(tensors):
    """A network that holds these weights, with grey values between 0 and 1, more than half of them 0, and labels."""
    torch.manual_seed(1)
    module = TinyCnn().eval().requires_grad_(False)
    images = (torch.rand(SAMPLES, 3, 6, 6) * 2 - 1.1).clamp(0, 1)
    probed = Network(module, {name: name for name in SHAPES}, images, torch.arange(SAMPLES) % 5)
    probed.put(tensors)
    for parameter in probed.parameters().values():
        parameter.requires_grad_(True)
    return probed


def stats(tensors=None):
    """What calibration gathers, all of it: of inputs that random weights make (the first is never active), and a network with `tensors`."""
    seen = network(weights())
    activity, sums, layers = {name: Activity() for name in SHAPES}, {}, watchable(seen.module, SHAPES, seen.inputs)

    def add(name, layer, inputs):
        dead = inputs.clone()
        dead.select(1, 0).zero_()
        activity[name].add(layer, dead)
        sums[name] = gram_sum(layer, dead)

    with watching(seen.module, layers, add), torch.no_grad():
        seen.module(seen.inputs)
    grams, rows = {name: total / count for name, (total, count) in sums.items()}, {name: count for name, (_, count) in sums.items()}
    inputs = {name: each.result() for name, each in activity.items()}
    moved = {name: -weight * torch.arange(weight.numel()).view_as(weight).cos() for name, weight in weights().items()}
    return Stats(rows, grams, inputs, network(tensors or weights()), moved)


def scored(case, tensors, given=None):
    """Scores under a criterion, of weights that are also the network's."""
    name, options = CASES[case]
    return Shelf("criteria").load(name)(**options).scores(tensors, given or stats(tensors))


def renumbered(name, tensor):
    """Outputs in reverse order, in each group."""
    return tensor.unflatten(0, (GROUPS.get(name, 1), -1)).flip(1).flatten(0, 1)


@EACH
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("fill", [None, 0.0, 0.25, -1.0], ids=["random", "zeros", "equal", "negative"])
def test_scores_fit_and_are_finite(case, dtype, fill):
    """Same names and shapes, floating point, finite: for any dtype, and for tensors of equal or zero weights."""
    tensors = weights(dtype, fill)
    scores = scored(case, tensors)
    assert {key: value.shape for key, value in scores.items()} == {key: value.shape for key, value in tensors.items()}
    assert all(value.is_floating_point() and bool(value.isfinite().all()) for value in scores.values())


@EACH
def test_inputs_are_left_alone(case):
    """Weights are not written to, and scores carry no gradient."""
    tensors = {key: torch.nn.Parameter(value) for key, value in weights().items()}
    scores = scored(case, tensors)
    assert not any(value.requires_grad for value in scores.values())
    assert all(torch.equal(tensors[key], value) for key, value in weights().items())


@EACH
def test_statistics_are_left_alone(case):
    """Gram matrices and activity stay as they were, and so does the network: buffers, modes, what is differentiable, no gradients left."""
    given, fresh = stats(), stats()
    scored(case, weights(), given)
    for key in SHAPES:
        assert torch.equal(given.gram[key], fresh.gram[key])
        assert all(torch.equal(getattr(given.inputs[key], of), getattr(fresh.inputs[key], of)) for of in ("mean", "variance", "active"))
    module, like = given.network.module, fresh.network.module
    state = like.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in module.state_dict().items() if key not in SHAPES)
    assert not any(part.training for part in module.modules())
    assert [p.requires_grad for p in module.parameters()] == [p.requires_grad for p in like.parameters()]
    assert all(p.grad is None for p in module.parameters())


@EACH
def test_scores_do_not_alias_the_weights(case):
    """Writing into the scores writes neither into the weights nor into the statistics."""
    tensors, given = weights(), stats()
    for value in scored(case, tensors, given).values():
        value.fill_(7)
    assert all(torch.equal(tensors[key], value) for key, value in weights().items())
    assert all(torch.equal(given.gram[key], value) for key, value in stats().gram.items())
    assert all(torch.equal(given.inputs[key].active, value.active) for key, value in stats().inputs.items())


@EACH
def test_scores_are_deterministic(case):
    """The same request gives the same scores, also with the same statistics again, whatever torch's global generator holds."""
    given = stats()
    torch.manual_seed(2)
    first = scored(case, weights(), given)
    torch.manual_seed(3)
    second, third = scored(case, weights(), given), scored(case, weights())
    assert all(torch.equal(first[key], second[key]) and torch.equal(first[key], third[key]) for key in SHAPES)


@EACH
def test_order_and_company_of_tensors_do_not_matter(case):
    """A tensor's scores are the same in any order of tensors."""
    forwards, backwards = scored(case, weights()), scored(case, dict(reversed(weights().items())))
    assert all(torch.equal(forwards[key], backwards[key]) for key in SHAPES)


@EACH
def test_weights_need_not_be_contiguous(case):
    """A transposed view scores as its copy."""
    strided = {key: value.transpose(0, 1).contiguous().transpose(0, 1) for key, value in weights().items()}
    dense, views = scored(case, weights()), scored(case, strided)
    assert all(torch.equal(dense[key], views[key]) for key in SHAPES)


@EACH
def test_what_is_missing_is_said(case):
    """A criterion that needs calibration says what to add when there was none; the others score without it."""
    if needs(case):
        with pytest.raises(MissingContext, match="finetune" if "movement" in needs(case) else "--data"):
            scored(case, weights(), Stats())
    else:
        assert list(scored(case, weights(), Stats())) == list(SHAPES)


@EACH
def test_only_what_is_needed_is_asked_for(case):
    """Statistics that the criterion does not name are not looked at."""
    given, asked = stats(), needs(case)
    gram, inputs = (given.gram if "gram" in asked else {}), (given.inputs if "inputs" in asked else {})
    moved = given.movement if "movement" in asked else {}
    least = Stats(given.rows, gram, inputs, given.network if "network" in asked else None, moved)
    assert asked <= {"gram", "inputs", "network", "movement"}
    assert all(torch.equal(value, scored(case, weights())[key]) for key, value in scored(case, weights(), least).items())


@LOCAL
def test_permuted_outputs_permute_the_scores(case):
    """Renumbering a layer's outputs renumbers its scores (but random ones belong to positions, and the next layer to its inputs)."""
    permuted = scored(case, {key: renumbered(key, value) for key, value in weights().items()})
    for key, value in scored(case, weights()).items():
        torch.testing.assert_close(permuted[key], renumbered(key, value), rtol=1e-12, atol=0)


@LOCAL
def test_the_sign_of_weights_does_not_matter(case):
    """Pruning removes |w|: negated weights score the same, unless the network is run with them."""
    negated = scored(case, {key: -value for key, value in weights().items()})
    assert all(torch.equal(negated[key], value) for key, value in scored(case, weights()).items())
