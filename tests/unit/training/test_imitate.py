"""Imitation: pruned weights stay zero, the loss falls, statistics are left alone, and the same seed trains the same network."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from sparsify_cli.errors import Anomalous
from sparsify_cli.training.imitate import Imitation, _Seen, blocks_of


def pair():
    """A small convolutional network, half of whose weights are zero, the dense one, masks and samples."""
    dense = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.Sequential(nn.Sequential(nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3)), nn.Dropout(0.5)),
        nn.Flatten(),
        nn.Linear(64, 5),
    ).train()
    module = copy.deepcopy(dense)
    masks = {name: torch.rand_like(weight) < 0.5 for name, weight in module.named_parameters() if weight.ndim > 1}
    for name, mask in masks.items():
        module.get_parameter(name).data.mul_(mask)
    return module, dense, masks, torch.randn(40, 1, 8, 8)


def losses(module, dense, inputs, masks, **options):
    """The loss of each step."""
    heard = []
    Imitation(**{"passes": 4, "batch": 16, **options}).run(module, dense, inputs, masks, lambda *now: heard.append(now))
    assert [now[:2] for now in heard] == [(step, len(heard)) for step in range(1, len(heard) + 1)]
    return [now[2] for now in heard]


def test_pruned_weights_stay_zero_and_the_others_move():
    """Exact zeros after every step of Adam; each kind of parameter moves, biases and batch-norm weights too."""
    module, dense, masks, x = pair()
    before = copy.deepcopy(module.state_dict())
    zeros = []
    module.register_forward_pre_hook(
        lambda *_: zeros.append(all(not bool(module.get_parameter(name)[~mask].any()) for name, mask in masks.items())) or None
    )
    assert len(losses(module, dense, x, masks)) == 12 == len(zeros)
    assert all(zeros) and all(not bool(module.get_parameter(name)[~mask].any()) for name, mask in masks.items())
    assert all(not torch.equal(before[name], weight) for name, weight in module.named_parameters())


def test_statistics_modes_and_the_dense_network_are_left_alone():
    """Running statistics bit for bit, modes, and every tensor of the dense network; nothing wants gradients and no hook is left."""
    module, dense, masks, x = pair()
    old, buffers = copy.deepcopy(dense.state_dict()), copy.deepcopy(dict(module.named_buffers()))
    losses(module, dense, x, masks)
    assert all(torch.equal(buffers[name], buffer) for name, buffer in module.named_buffers())
    assert all(torch.equal(old[name], tensor) for name, tensor in dense.state_dict().items())
    assert all(part.training for net in (module, dense) for part in net.modules())
    assert not any(weight.requires_grad for weight in module.parameters())
    assert not any(part._forward_hooks for net in (module, dense) for part in net.modules())


def test_the_loss_falls():
    """A network with half of its weights comes nearer to the dense one: outputs on samples as they are, by a third at least."""
    module, dense, masks, x = pair()
    first = functional.mse_loss(module.eval()(x), dense.eval()(x)).item()
    heard = losses(module, dense, x, masks, passes=20, lr=1e-2)
    assert sum(heard[-3:]) < 0.5 * sum(heard[:3])
    assert functional.mse_loss(module(x), dense(x)).item() < 2 / 3 * first


def test_the_same_seed_trains_the_same_network():
    """Bit for bit, from any state of torch's generator; another seed another."""
    module, dense, masks, x = pair()
    found = []
    for seed in (0, 0, 1):
        torch.rand(7)
        one = copy.deepcopy(module)
        losses(one, dense, x, masks, seed=seed)
        found.append(torch.cat([weight.flatten() for weight in one.parameters()]))
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_the_loss_by_hand():
    """T^2 KL of softened predictions plus the relative distance of the one block, of vectors that no augmentation touches."""
    block = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3))
    dense = nn.Sequential(nn.Sequential(block), nn.ReLU(), nn.Linear(3, 4))
    module = copy.deepcopy(dense)
    module[0][0][0].weight.data[0] = 0
    x = torch.randn(5, 3)
    with torch.no_grad():
        (ours, theirs), (a, b) = [[net(x) / 2 for net in (module, dense)], [net[0][0](x) for net in (module, dense)]]
    p, q = theirs.softmax(1), ours.softmax(1)
    expected = 4 * float((p * (p.log() - q.log())).sum()) / 5 + 0.5 * float((a - b).square().sum() / b.square().sum())
    assert losses(module, dense, x, {}, passes=1, batch=5, blocks=0.5, lr=0.0) == [pytest.approx(expected, rel=1e-5)]


def test_an_imitation_of_itself_has_no_loss():
    """The dense network's copy starts at zero, blocks and predictions."""
    _, dense, _, x = pair()
    assert losses(copy.deepcopy(dense), dense, x, {}, passes=1, batch=40) == [0.0]


def test_a_loss_that_is_not_finite_is_said():
    """NaN in the samples: refused in words with the step."""
    module, dense, masks, x = pair()
    with pytest.raises(Anomalous, match="nan in step 1"):
        losses(module, dense, torch.full_like(x, math.nan), masks)


def test_masks_of_tied_weights_hold_under_either_name():
    """A weight that two layers share is still under its second name too."""
    module = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    module[2].weight = module[0].weight
    dense = copy.deepcopy(module)
    mask = torch.rand(4, 4) < 0.5
    module[0].weight.data.mul_(mask)
    losses(module, dense, torch.randn(8, 4), {"2.weight": mask}, lr=0.1)
    assert not bool(module[0].weight[~mask].any()) and module[2].weight is module[0].weight


def test_tokens_and_outputs_by_name():
    """A network that takes token ids and puts out a dictionary with logits of every token is imitated too."""

    class Language(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.head = nn.Embedding(7, 4, padding_idx=0), nn.Linear(4, 7)

        def forward(self, ids):
            return {"logits": self.head(self.embedding(ids))}

    dense, ids = Language(), torch.randint(1, 7, (6, 3))
    module = copy.deepcopy(dense)
    module.head.weight.data[:3] = 0
    with torch.no_grad():
        p, q = (functional.log_softmax(net(ids)["logits"].flatten(0, 1) / 2, 1) for net in (dense, module))
    heard = losses(module, dense, ids, {}, passes=30, batch=6, lr=0.1)
    assert heard[0] == pytest.approx(4 * float((p.exp() * (p - q)).sum()) / 18, rel=1e-4)
    assert heard[-1] < 0.2 * heard[0]


def test_blocks_are_the_innermost_with_several_layers():
    """Members of sequences and lists that hold at least two matrices; none of them holds another."""
    small, block = nn.Sequential(nn.Linear(2, 2), nn.ReLU()), nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    net = nn.ModuleDict({"stem": small, "layers": nn.ModuleList([nn.Sequential(block, copy.deepcopy(block)), copy.deepcopy(block), small])})
    assert blocks_of(net) == ["layers.1", "layers.0.0", "layers.0.1"]
    assert blocks_of(small) == []


class Experts(nn.Module):
    """Samples go to the expert that the first layer chooses; blocks of two layers each."""

    def __init__(self):
        super().__init__()
        self.gate, self.last = nn.Linear(6, 2), nn.Linear(4, 3)
        self.experts = nn.ModuleList([nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)) for _ in range(2)])

    def forward(self, x):
        chosen, out = self.gate(x).argmax(1), x.new_zeros(len(x), 4)
        for i, expert in enumerate(self.experts):
            if bool((chosen == i).any()):
                out[chosen == i] = expert(x[chosen == i])
        return self.last(out)


def test_blocks_that_see_other_samples_are_not_compared():
    """An expert of the pruned network is asked about others than the dense one's; outputs are imitated all the same."""
    dense = Experts()
    module, x = copy.deepcopy(dense), torch.randn(64, 6)
    masks = {name: torch.rand_like(weight) < 0.4 for name, weight in module.named_parameters() if weight.ndim > 1}
    for name, mask in masks.items():
        module.get_parameter(name).data.mul_(mask)
    with torch.no_grad():
        assert not torch.equal(module.gate(x).argmax(1), dense.gate(x).argmax(1))
    found = losses(module, dense, x, masks, passes=30, lr=1e-2)
    assert sum(found[-4:]) < 0.8 * sum(found[:4]) and all(math.isfinite(one) for one in found)


def test_blocks_that_a_batch_passes_by_say_nothing():
    """What they put out for other samples is gone with its graph."""
    seen = _Seen({"a": torch.ones(4, 2)}, {"a": torch.zeros(4, 2), "b": torch.ones(4, 2)})
    assert float(seen.distance(4)) == pytest.approx(1 / 1e-12) and float(seen.distance(5)) == 0
    seen.forget()
    assert float(seen.distance(4)) == 0


def test_a_network_without_gradients_is_told_of():
    """It writes into what a gradient needs: a sentence instead of torch's own."""

    class Writing(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = nn.Linear(4, 4)

        def forward(self, x):
            y = self.one(x).exp()
            z = y * 2
            y += 1
            return z + y.exp() + (self.one(x).sigmoid_().mul_(2))

    net = Writing()
    with pytest.raises(Anomalous, match="cannot be trained to imitate"):
        Imitation(passes=1, kind="numbers").run(copy.deepcopy(net), net, torch.randn(8, 4), {})
