"""Ssse: what may move, what is refused, and how the step is limited."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from sparsify_cli.contracts.unlearner import Request
from sparsify_cli.errors import Anomalous, BadRequest, MissingContext
from sparsify_cli.maths.fisher_forms import SpectralForm
from sparsify_cli.training.newton_step import Attempt, Line
from sparsify_cli.unlearners import ssse
from sparsify_cli.unlearners.ssse import Ssse
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.samples import Samples


def line(values, start=0):
    """Samples of one feature; negative ones are class 0."""
    x = torch.tensor(values).reshape(-1, 1)
    return Samples(x, (x[:, 0] > 0).long(), tuple(f"s{start + i}" for i in range(len(values))))


TRAIN = line([-3.0, -2.0, -1.0, 1.0, 2.0, 3.0])
HALF_BIAS = MaskSet({"bias": torch.tensor([True, False])})
REQUEST = Request(TRAIN.take([0]), TRAIN.take(range(1, 6)), line([-0.5, 0.5], start=10))


@pytest.fixture
def model():
    """Logits (-x, x): every sample is right."""
    model = nn.Linear(1, 2)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[-1.0], [1.0]]))
        model.bias.zero_()
    return model


def found(erasure):
    """Findings by name."""
    return {f.name: f.value for f in erasure.findings}


def blocks(memo):
    """The blocks that a preparation keeps by their eigenvectors."""
    return SpectralForm(memo["vectors"], memo["values"], int(memo["coordinates"])).blocks(slice(None))


def test_absolute_damping_is_relative_to_the_mean_diagonal():
    """At zero weights all gradients of x = -2 and x = 2 are (+-1, -+1, +-1/2, -+1/2): mean diagonal 5/8, at 0.4 damping 1/4."""
    zero = nn.Linear(1, 2)
    nn.init.zeros_(zero.weight), nn.init.zeros_(zero.bias)
    memo = Ssse(damping=0.4).prepare(zero, line([-2.0, 2.0]), MaskSet())
    assert float(memo["damping"]) == pytest.approx(0.25)
    torch.testing.assert_close(blocks(memo).diagonal(dim1=1, dim2=2).reshape(-1), torch.tensor([1.0, 1.0, 0.25, 0.25], dtype=torch.float64))
    assert (int(memo["n"]), int(memo["samples"]), int(memo["coordinates"])) == (2, 2, 4)


def test_dense_is_one_block(model):
    """Four parameters: one 4 x 4 block dense, two 3 x 3 blocks (padded) in blocks of three."""
    assert blocks(Ssse(fisher="dense", block=3).prepare(model, TRAIN, MaskSet())).shape == (1, 4, 4)
    assert blocks(Ssse(block=3).prepare(model, TRAIN, MaskSet())).shape == (2, 3, 3)


def test_step_is_cut_to_the_trust_region(model):
    """Parameters have norm sqrt 2, so a huge epsilon at trust 0.1 moves them by exactly 0.1 sqrt 2, and says so."""
    method = Ssse(epsilon=1e6, trust=0.1)
    erasure = method.erase(model, REQUEST, method.prepare(model, TRAIN, MaskSet()))
    moved = torch.cat([(erasure.tensors[n] - p).reshape(-1) for n, p in model.state_dict().items()])
    assert float(moved.norm()) == pytest.approx(0.1 * 2**0.5, rel=1e-5)
    assert found(erasure)["relative_step_norm"] == pytest.approx(0.1)
    assert found(erasure)["clipped"] == 1
    allowed = Ssse(epsilon=found(erasure)["epsilon"], trust=0.1)
    assert found(allowed.erase(model, REQUEST, method.prepare(model, TRAIN, MaskSet())))["clipped"] == 0


def test_given_epsilon_is_used_and_halves_with_it(model):
    """The step is linear in epsilon, and an epsilon of 0 moves nothing."""
    memo = Ssse().prepare(model, TRAIN, MaskSet())
    norms = [found(Ssse(epsilon=e).erase(model, REQUEST, memo))["step_norm"] for e in (0.0, 1e-3, 2e-3)]
    assert norms[0] == 0
    assert norms[2] == pytest.approx(2 * norms[1])


def test_step_forgets(model):
    """A positive epsilon raises the loss of what is forgotten."""
    values = found(Ssse(epsilon=0.01).erase(model, REQUEST, Ssse().prepare(model, TRAIN, MaskSet())))
    assert values["forget_loss_after"] > values["forget_loss_before"]


def test_chosen_epsilon_reaches_the_loss_of_unseen_samples(model):
    """Losses are log(1+e^-2|x|): forgotten 0.00248, retained 0.0725 (mean), unseen 0.3133, so the target is 0.00248 * 0.3133 / 0.0725."""
    values = found(Ssse(tolerance=1.0, trust=2.0).erase(model, REQUEST, Ssse().prepare(model, TRAIN, MaskSet())))
    assert values["forget_loss_before"] == pytest.approx(0.00248, abs=1e-5)
    assert 0.0107 < values["forget_loss_after"] < 0.0140


@pytest.mark.parametrize(("gain", "times"), [(-1, 1), (1, 1.5)])
def test_it_goes_on_past_its_target_only_where_what_stays_gains(model, monkeypatch, gain, times):
    """A step half as long again is taken where the measured loss of what stays falls with it, and not where it rises."""
    memo = Ssse().prepare(model, TRAIN, MaskSet())
    method = Ssse(tolerance=1.0, trust=2.0)
    plain = found(method.erase(model, REQUEST, memo))["epsilon"]
    monkeypatch.setattr(Line, "lowest", lambda _, least=0.0: 1.5 * least)
    monkeypatch.setattr(Line, "objective", lambda _, epsilon: -gain * epsilon)
    assert found(method.erase(model, REQUEST, memo))["epsilon"] == pytest.approx(times * plain)


def test_a_loss_of_what_stays_that_rises_ends_the_step(model):
    """Retained samples lose by every step here, so the step ends where the target is reached, whatever slopes promise."""
    memo = Ssse().prepare(model, TRAIN, MaskSet())
    chosen = found(Ssse(tolerance=1.0, trust=2.0).erase(model, REQUEST, memo))
    assert 0.0107 < chosen["forget_loss_after"] < 0.0140
    losses = []
    for epsilon in (0.0, chosen["epsilon"], 1.5 * chosen["epsilon"]):
        erased = Ssse(epsilon=epsilon, trust=2.0).erase(model, REQUEST, memo).tensors
        with torch.no_grad():
            losses.append(float(cross_entropy(functional_call(model, erased, (REQUEST.retain.inputs,)), REQUEST.retain.targets)))
    assert losses == sorted(losses)


def test_model_without_a_gap_gets_the_step_that_suits_what_stays(model):
    """Validation samples easier than the forgotten ones show no gap: epsilon is at most 1, and a note says what it suits."""
    easy = Request(REQUEST.forget, REQUEST.retain, line([-9.0, 9.0], start=10))
    erasure = Ssse(trust=100.0).erase(model, easy, Ssse().prepare(model, TRAIN, MaskSet()))
    epsilon = next(f for f in erasure.findings if f.name == "epsilon")
    assert 0 < epsilon.value <= 1
    assert "no gap" in epsilon.note or "does not tell" in epsilon.note


def test_target_out_of_reach_is_said(model):
    """A trust region of 1e-6 ends before anything is forgotten; the step is the longest allowed, and a note says so."""
    erasure = Ssse(trust=1e-6).erase(model, REQUEST, Ssse().prepare(model, TRAIN, MaskSet()))
    assert found(erasure)["clipped"] == 1
    assert "trust region (1e-06" in next(f for f in erasure.findings if f.name == "epsilon").note


def test_pruned_weights_and_batch_norm_statistics_stay():
    """Pruned weights stay exactly zero, the kept ones move; running statistics are neither changed nor returned."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(1, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
    masks = MaskSet({"0.weight": torch.arange(8).reshape(8, 1) % 2 == 0, "2.weight": torch.arange(16).reshape(2, 8) % 3 == 0})
    net.load_state_dict(masks.apply(net.state_dict()))
    net(TRAIN.inputs)
    statistics = net[1].running_mean.clone(), net[1].running_var.clone()
    asked = Request(REQUEST.forget, REQUEST.retain, REQUEST.validation, masks)
    tensors = Ssse(epsilon=0.1).erase(net, asked, Ssse().prepare(net, TRAIN, masks)).tensors
    assert all(int(tensors[name][~masks[name]].count_nonzero()) == 0 for name in masks)
    assert all(not torch.equal(tensors[name], net.state_dict()[name]) for name in masks)
    assert torch.equal(net[1].running_mean, statistics[0]) and torch.equal(net[1].running_var, statistics[1])
    assert set(tensors) == {name for name, _ in net.named_parameters()}


def test_sample_order_does_not_matter(model):
    """The Fisher of the training set in another order is the same to rounding."""
    memo, turned = Ssse().prepare(model, TRAIN, MaskSet()), Ssse().prepare(model, TRAIN.take(range(5, -1, -1)), MaskSet())
    torch.testing.assert_close(blocks(memo), blocks(turned))


def test_sampling_is_seeded(model):
    """Three of six samples: the same Fisher for the same seed, and the memo still knows n = 6."""
    memo, again = (Ssse(samples=3, seed=4).prepare(model, TRAIN, MaskSet()) for _ in range(2))
    assert torch.equal(blocks(memo), blocks(again))
    assert (int(memo["n"]), int(memo["samples"])) == (6, 3)


def test_dense_fisher_too_large_for_memory_is_refused_in_gigabytes():
    """A million parameters need 20,000 GB dense: refused before anything is computed, with the number and the way out."""
    with pytest.raises(BadRequest, match=r"1,000,000 parameters needs 20,000\.0 GB.*fisher=block"):
        Ssse(fisher="dense").prepare(nn.Linear(1000, 1000, bias=False), TRAIN, MaskSet())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda r: Request(r.forget, r.retain, r.validation, HALF_BIAS), "another model or other masks"),
        (lambda r: Request(r.forget, r.retain.take([0, 1]), r.validation), "1 to forget and 2 to retain make 3"),
        (lambda r: Request(TRAIN, TRAIN.take([]), r.validation), "All 6 training samples"),
        (lambda r: Request(r.forget, r.retain, r.validation.take([])), "no validation samples"),
    ],
)
def test_requests_that_do_not_fit_are_refused(model, change, sentence):
    """Other masks, another training set, everything, or nothing to choose epsilon on: one sentence each."""
    memo = Ssse().prepare(model, TRAIN, MaskSet())
    with pytest.raises((BadRequest, MissingContext), match=sentence):
        Ssse().erase(model, change(REQUEST), memo)


@pytest.mark.parametrize("memo", [None, {}, {"fisher": torch.zeros(1, 4, 4)}])
def test_missing_memo_is_refused(model, memo):
    """Without the memo of `prepare` there is no Fisher to erase with."""
    with pytest.raises(BadRequest, match="no Fisher"):
        Ssse().erase(model, REQUEST, memo)


def test_running_statistics_are_part_of_the_identity():
    """A memo is refused when only a running mean has changed: the Fisher depends on it."""
    net = nn.Sequential(nn.BatchNorm1d(1), nn.Linear(1, 2)).eval()
    memo = Ssse().prepare(net, TRAIN, MaskSet())
    net[0].running_mean += 1
    with pytest.raises(BadRequest, match="another model"):
        Ssse().erase(net, REQUEST, memo)


def test_gradients_of_nothing_are_refused(model):
    """A model so sure that every gradient underflows has no Fisher."""
    with torch.no_grad():
        model.weight.mul_(1e6)
    with pytest.raises(Anomalous, match="mean squared gradient over 6 samples is 0"):
        Ssse().prepare(model, TRAIN, MaskSet())


@pytest.mark.parametrize(
    "options",
    [
        {"fisher": "diagonal"},
        {"block": 0},
        {"samples": -1},
        {"damping": 0},
        {"epsilon": -1},
        {"trust": 0},
        {"weight_decay": -1},
        {"tolerance": 2},
    ],
)
def test_options_without_a_meaning_are_refused(options):
    """The sentence names the option."""
    with pytest.raises(BadRequest, match=next(iter(options))):
        Ssse(**options)


def test_a_class_that_is_wrong_already_gets_the_step_that_suits_what_stays(model):
    """Nothing of class 0 is right any more: no long step is made for it, and the note says so."""
    with torch.no_grad():
        model.bias.copy_(torch.tensor([-20.0, 0.0]))
    request = Request(TRAIN.take(range(3)), TRAIN.take(range(3, 6)), line([0.5, 1.5], start=10))
    erasure = Ssse(trust=100.0).erase(model, request, Ssse().prepare(model, TRAIN, MaskSet()))
    epsilon = next(f for f in erasure.findings if f.name == "epsilon")
    assert "does not tell these samples from unseen ones" in epsilon.note and epsilon.value <= 1


@pytest.mark.parametrize(("pays", "expected"), [(False, 1), (True, 2)])
def test_where_going_on_pays_the_next_damping_is_gone_along_too(model, monkeypatch, pays, expected):
    """Losses of what stays 1, 2 at the shortest steps of two dampings; where the first gains by going on, the second is tried as well."""
    request = Request(TRAIN.take(range(3)), TRAIN.take(range(3, 6)), line([0.5, 1.5], start=10))
    tried = []

    def further(self, short):
        tried.append(short.line.damping)
        return Attempt(short.line, 2 * short.epsilon, short.reading) if pays else short

    dampings = []

    def objective(self):
        if self.line.damping not in dampings:
            dampings.append(self.line.damping)
        return float(dampings.index(self.line.damping)) - (10 * len(tried) if tried and self.line.damping == tried[-1] else 0)

    monkeypatch.setattr(Ssse, "_further", further)
    monkeypatch.setattr(Attempt, "objective", property(objective))
    chosen = found(Ssse(trust=100.0, tolerance=1.0).erase(model, request, Ssse().prepare(model, TRAIN, MaskSet())))
    assert len(tried) == expected and chosen["damping"] == tried[-1]


@pytest.mark.parametrize(("times", "losses", "expected"), [(1, (3, 2, 1), 0), (3, (3, 2, 1), 2), (3, (3, 2, 4), 1), (3, (3, 4, 1), 0)])
def test_a_step_that_what_stays_pays_dearly_for_is_tried_at_smaller_damping(model, monkeypatch, times, losses, expected):
    """Only where its loss more than doubles, and on as long as the objective falls: of dampings 1, .1 and .01 the one before it rises."""
    memo = Ssse().prepare(model, TRAIN, MaskSet())
    asked = float(memo["damping"])
    monkeypatch.setattr(Attempt, "objective", property(lambda self: float(losses[round(math.log10(asked / self.line.damping))])))
    monkeypatch.setattr(Attempt, "retained", property(lambda self: times * self.line.judge.stays))
    chosen = found(Ssse(tolerance=1.0, trust=100.0).erase(model, REQUEST, memo))
    assert chosen["damping"] == pytest.approx(asked * 0.1**expected)


def overfitted():
    """A network that fits 90 samples of ten features, a fifth of them mislabelled; and 90 more of the same kind."""
    draw = torch.Generator().manual_seed(0)
    inputs = torch.randn(180, 10, generator=draw)
    labels = ((inputs[:, 0] > 0) ^ (torch.rand(180, generator=draw) < 0.2)).long()
    samples = Samples(inputs, labels, tuple(f"s{i}" for i in range(180)))
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(10, 40), nn.Tanh(), nn.Linear(40, 2))
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(400):
        optimizer.zero_grad()
        cross_entropy(network(inputs[:90]), labels[:90]).backward()
        optimizer.step()
    return network.eval(), samples


def test_what_is_fitted_by_heart_is_forgotten_at_smaller_damping(monkeypatch):
    """Here the first step costs what stays over a hundred times what it did; a tenth of the damping forgets as much for half of that."""
    network, samples = overfitted()
    request = Request(samples.take(range(9)), samples.take(range(9, 90)), samples.take(range(90, 180)))
    method, left = Ssse(tolerance=1.0, damping=1.0), {}
    memo = method.prepare(network, samples.take(range(90)), MaskSet())
    for dear in (1e9, ssse.DEAR):
        monkeypatch.setattr(ssse, "DEAR", dear)
        erasure = method.erase(network, request, memo)
        with torch.no_grad():
            costs = cross_entropy(functional_call(network, erasure.tensors, (request.retain.inputs,)), request.retain.targets)
        left[dear] = float(costs), found(erasure)["damping"] / float(memo["damping"]), found(erasure)["forget_loss_after"]
    plain, chosen = left.values()
    assert chosen[1] == pytest.approx(0.1 * plain[1])
    assert chosen[0] < 0.6 * plain[0] and chosen[2] > 0.9 * plain[2]


def test_a_step_that_no_target_ends_stops_where_the_samples_cost_twice_what_unseen_ones_do(model, monkeypatch):
    """A network at no minimum promises that going far pays; losses 0.0025 before, 0.0000 unseen: it ends below 0.0050, half of it above."""
    easy = Request(REQUEST.forget, REQUEST.retain, line([-9.0, 9.0], start=10))
    memo = Ssse().prepare(model, TRAIN, MaskSet())
    monkeypatch.setattr(Line, "lowest", lambda one, least=0.0: one.limit)
    values = found(Ssse(trust=2.0).erase(model, easy, memo))
    assert 0.5 * 2 * values["forget_loss_before"] < values["forget_loss_after"] <= 2 * values["forget_loss_before"]
