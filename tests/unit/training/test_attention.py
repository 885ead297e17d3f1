"""Attention spelled out: the same outputs, every projection seen as a layer, and nothing left behind."""

from __future__ import annotations

import copy
from contextlib import closing

import pytest
import torch
from torch import nn

from sparsify_cli.training.attention import KEPT, projections, side_by_side, spelled_out, tell_apart
from sparsify_cli.training.lockstep import calls, lockstep


def encoder(**options: object) -> nn.Module:
    """Torch's own encoder layer."""
    torch.manual_seed(0)
    return nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, **options).eval()


class Two(nn.Module):
    """Attention between two sequences, with a mask and shares asked for."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.attend = nn.MultiheadAttention(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mixed, shares = self.attend(x, x.flip(0), x.flip(0), need_weights=True)
        return mixed + shares.sum()


@pytest.mark.parametrize("net", [encoder(), encoder(norm_first=True), Two().eval()], ids=["post", "pre", "between two"])
def test_outputs_are_the_same_and_the_network_is_put_back(net):
    """To rounding; parameters, attributes and the global switch are as before."""
    x, before = torch.randn(5, 7, 8), copy.deepcopy(net.state_dict())
    keys = {name: set(part.__dict__) for name, part in net.named_modules()}
    with torch.no_grad():
        plain = net(x)
        with spelled_out(net), spelled_out(net):
            spelled = net(x)
        again = net(x)
    assert torch.allclose(plain, spelled, atol=1e-6)
    assert torch.equal(plain, again)
    assert list(net.state_dict()) == list(before)
    assert {name: set(part.__dict__) - {KEPT} for name, part in net.named_modules()} == keys
    assert torch.backends.mha.get_fastpath_enabled()


class Own(nn.MultiheadAttention):
    """A subclass with another signature and a tail of its own."""

    def forward(self, x):
        return x + super().forward(x, x, x)[0]


def test_subclasses_are_left_alone():
    """What they do before and after is not known: their outputs stay bit for bit, and they have no projection."""
    net, x = nn.Sequential(Own(8, 2, batch_first=True)).eval(), torch.randn(3, 4, 8)
    with torch.no_grad():
        plain = net(x)
        with spelled_out(net):
            assert torch.equal(net(x), plain)
    assert projections(net) == {}


def test_projections_are_layers_with_the_attentions_own_weights():
    """Shared, not copied, in copies of the network too; no parameter is owned twice."""
    net = copy.deepcopy(nn.Sequential(encoder()))
    found = projections(net)
    assert list(found) == ["0.self_attn.in_proj_weight"]
    layer = found["0.self_attn.in_proj_weight"]
    assert layer.weight is net[0].self_attn.in_proj_weight
    assert layer.bias is net[0].self_attn.in_proj_bias
    assert projections(net)["0.self_attn.in_proj_weight"] is layer
    assert list(layer.parameters()) == []
    twin = copy.deepcopy(net)
    assert projections(twin)["0.self_attn.in_proj_weight"].weight is twin[0].self_attn.in_proj_weight


def test_a_pass_stops_in_front_of_every_projection_and_sees_what_goes_in():
    """Packed projection, output projection and the layers around them, in the order of running."""
    net, x = encoder(), torch.randn(6, 5, 8)
    layers = {**projections(net), "out": net.self_attn.out_proj, "wide": net.linear1}
    assert list(calls(net, x, layers)) == ["self_attn.in_proj_weight", "out", "wide"]
    with torch.no_grad(), closing(lockstep(net, x.split(2), layers)) as visits:
        seen = {visit.name: torch.cat(list(visit.inputs)) for visit in visits}
    assert torch.equal(seen["self_attn.in_proj_weight"], x)
    with torch.no_grad():
        torch.nn.init.eye_(layers["out"].weight)
        layers["out"].bias.zero_()
        mixed, _ = net.self_attn(x, x, x)
    assert torch.allclose(seen["out"], mixed, atol=1e-6)


def test_the_switch_is_put_back_in_whatever_order_passes_end():
    """Two networks side by side: the first to begin may be the first to end."""
    first, second = spelled_out(encoder()), spelled_out(encoder())
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert not torch.backends.mha.get_fastpath_enabled()
    second.__exit__(None, None, None)
    assert torch.backends.mha.get_fastpath_enabled()


def test_what_a_visit_changes_counts():
    """Values emptied in front of the projection are empty in the layers behind."""
    net, x = encoder(), torch.randn(4, 5, 8)
    emptied = copy.deepcopy(net)
    with torch.no_grad():
        emptied.self_attn.in_proj_weight[16:] = 0
        expected = emptied(x)
        with closing(lockstep(net, [x], {**projections(net), "wide": net.linear1})) as visits:
            for visit in visits:
                if visit.name.endswith("in_proj_weight"):
                    visit.layer.weight[16:] = 0
                else:
                    wide = visit.inputs[0]
        assert torch.allclose(net(x), expected, atol=1e-6)
        assert torch.allclose(wide, emptied.norm1(x + emptied.self_attn(x, x, x)[0]), atol=1e-5)


class Between(nn.Module):
    """Queries of one sequence, keys of a shorter one, values of that without positions; and one attention of its own."""

    def __init__(self, **options: object) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.alone, self.across = nn.MultiheadAttention(8, 2, batch_first=True), nn.MultiheadAttention(8, 2, batch_first=True, **options)
        self.narrow = nn.Linear(8, options.get("vdim", 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mixed, _ = self.alone(x, x, x)
        return self.across(mixed, key=x[:, :2] + 1, value=self.narrow(x[:, :2]))[0]


def seen_by(net: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """What each projection sees of samples, told apart before."""
    tell_apart(net, x)
    with torch.no_grad(), closing(lockstep(net.eval(), [x], projections(net))) as visits:
        return {visit.name: visit.inputs[0] for visit in visits}


def test_different_sequences_come_side_by_side():
    """Queries whole, each of the two keys and values as often; an attention of one sequence sees that; told in eval mode, and undone."""
    net, x = Between(), torch.randn(6, 4, 8)
    plain = net(x)
    seen = seen_by(net, x)
    counts = {name: layer.inputs_side_by_side for name, layer in projections(net).items()}
    assert counts == {"alone.in_proj_weight": 1, "across.in_proj_weight": 3}
    assert torch.equal(seen["alone.in_proj_weight"], x)
    queries, keys, values = seen["across.in_proj_weight"].flatten(0, 1).chunk(3, dim=1)
    assert torch.allclose(queries, net.alone(x, x, x)[0].flatten(0, 1), atol=1e-6)
    for found, short in ((keys, x[:, :2] + 1), (values, net.narrow(x[:, :2]))):
        assert torch.allclose(found, short.repeat(1, 2, 1).flatten(0, 1))
    assert torch.equal(net(x), plain)
    assert not net.across._forward_pre_hooks


def test_rounds_that_do_not_fit_end_at_random():
    """Eleven tokens beside four: each where it was, once more in order, and three drawn ones, of each sample others, the same each time."""
    short = torch.arange(4.0).repeat(50, 1).unsqueeze(-1)
    found = side_by_side([torch.zeros(50, 11, 2), short], batch_first=True)
    assert found.shape == (50, 11, 3) and not found[..., :2].any()
    seen = found[..., 2]
    assert seen[:, :8].tolist() == [2 * [0.0, 1.0, 2.0, 3.0]] * 50
    assert all(len(set(row)) == 3 for row in seen[:, 8:].tolist())
    assert seen[:, 8:].unique(return_counts=True)[1].min() > 20  # of 150, 37.5 each on average
    assert torch.equal(found, side_by_side([torch.zeros(50, 11, 2), short], batch_first=True))


def test_sequences_come_in_the_orientation_they_had():
    """Tokens first, or no samples at all; a sequence without tokens is zeros, and no samples stay none."""
    long, short = torch.randn(3, 4, 2), torch.randn(3, 2, 5)
    expected = side_by_side([long, short], batch_first=True)
    assert torch.equal(side_by_side([long.transpose(0, 1), short.transpose(0, 1)], batch_first=False), expected.transpose(0, 1))
    assert torch.equal(side_by_side([long[0], short[0]], batch_first=False), torch.cat([long[0], short[0].repeat(2, 1)], dim=1))
    assert not side_by_side([long, short[:, :0]], batch_first=True)[..., 2:].any()
    assert side_by_side([long[:0], short[:0]], batch_first=True).shape == (0, 4, 7)


def test_telling_apart_leaves_the_network_as_it_was():
    """In train mode, too: running statistics and modes stay, and nothing is drawn."""
    net = nn.Sequential(nn.BatchNorm1d(4), Between(), nn.Dropout(0.5)).train()
    before, state = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    tell_apart(net, torch.randn(6, 4, 8, generator=torch.Generator().manual_seed(0)))
    assert all(torch.equal(t, before[name]) for name, t in net.state_dict().items())
    assert all(part.training for part in net.modules())
    assert torch.equal(torch.get_rng_state(), state)


def test_separate_matrices_are_layers_with_their_part_of_the_bias():
    """Keys and values of other widths: each sees its own sequence, and what is written into its bias is written into the attention's."""
    net, x = Between(kdim=8, vdim=5), torch.randn(6, 4, 8)
    seen = seen_by(net, x)
    assert list(seen) == ["alone.in_proj_weight", "across.q_proj_weight", "across.k_proj_weight", "across.v_proj_weight"]
    assert torch.equal(seen["across.k_proj_weight"], x[:, :2] + 1)
    assert seen["across.v_proj_weight"].shape == (6, 2, 5)
    layer = projections(net)["across.v_proj_weight"]
    assert layer.weight is net.across.v_proj_weight
    layer.bias.detach().fill_(7)
    assert net.across.in_proj_bias.tolist() == 16 * [0] + 8 * [7]


def test_encoders_and_decoders_are_told_apart():
    """Of a decoder layer one attention has a single sequence, the other has two."""
    net = nn.Transformer(8, 2, 1, 1, 16, batch_first=True).eval()
    whole = Whole(net)
    tell_apart(whole, torch.randn(3, 4, 8))
    assert {name: layer.inputs_side_by_side for name, layer in projections(whole).items()} == {
        "net.encoder.layers.0.self_attn.in_proj_weight": 1,
        "net.decoder.layers.0.self_attn.in_proj_weight": 1,
        "net.decoder.layers.0.multihead_attn.in_proj_weight": 3,
    }


class Whole(nn.Module):
    """An encoder and a decoder on the same samples."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x, x.flip(1)[:, :3])
