"""WoodFisher, oBERT, CAP and M-FAC: exact on small networks, in what they choose, repair, leave alone and hold in memory."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from torch import nn

from sparsify_cli.errors import Anomalous, BadRequest
from sparsify_cli.maths.choose_masks import choose_masks
from sparsify_cli.maths.empirical_fisher import gradient_chunks
from sparsify_cli.recipes.pattern import Pattern
from sparsify_cli.solvers.cap import CAP
from sparsify_cli.solvers.m_fac import MFAC
from sparsify_cli.solvers.obert import OBERT
from sparsify_cli.solvers.woodfisher import WoodFisher
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.network import Network

SOLVERS = (WoodFisher, OBERT, CAP, MFAC)
EACH = pytest.mark.parametrize("solver", SOLVERS, ids=lambda kind: kind.__name__)
ANY = Pattern()


@pytest.fixture
def network():
    """A convolution with batch norm and a linear layer with biases; 72 + 48 prunable weights, 40 samples."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))
    module[1].running_mean.fill_(0.1)
    names = {"conv": "0.weight", "linear": "4.weight"}
    return Network(module.eval(), names, torch.randn(40, 2, 4, 4), torch.randint(3, (40,)), seed=2)


class Recorded:
    """Global ranking with exact counts, the density falling by the same factor in every stage; remembers what it was asked."""

    def __init__(self, sparsity, pattern=ANY):
        self.sparsity, self.pattern, self.asked = sparsity, pattern, []

    def __call__(self, scores, share):
        here = self.sparsity if share == 1 else Fraction(1 - float(1 - self.sparsity) ** float(share)).limit_denominator(10**6)
        masks = choose_masks(scores, pattern=self.pattern, sparsity=here, allocation="global")
        self.asked.append((scores, share, masks))
        return masks


def dense_fisher(network, name, damping):
    """F of one tensor, damped relative to the mean over all tensors, written out."""
    rows = {key: torch.cat([chunk[key] for chunk in gradient_chunks(network, torch.arange(40))]).double() for key in network.names}
    mean = sum(float(row.square().sum()) for row in rows.values()) / 40 / sum(row.shape[1] for row in rows.values())
    return rows[name].T @ rows[name] / 40 + damping * mean * torch.eye(rows[name].shape[1], dtype=torch.float64)


def one_weight(name, place):
    """A choice of all weights but one."""

    def choose(scores, _):
        masks = {key: torch.ones_like(score, dtype=torch.bool) for key, score in scores.items()}
        masks[name].view(-1)[place] = False
        return MaskSet(masks)

    return choose


@pytest.mark.parametrize("solver", [WoodFisher, OBERT, CAP], ids=lambda kind: kind.__name__)
def test_one_weight_is_exact_optimal_brain_surgeon(network, solver):
    """With one block a tensor, removing weight p moves the others by -w_p F^-1_:p / F^-1_pp."""
    inverse, before = torch.linalg.inv(dense_fisher(network, "linear", 0.5)), network.weights()
    found = solver(block=1000, stages=1, damping=0.5).solve_network(network, one_weight("linear", 7), ANY)
    weights = before["linear"].double().flatten()
    expected = weights - weights[7] * inverse[:, 7] / inverse[7, 7]
    torch.testing.assert_close(found.weights["linear"].double().flatten(), expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(found.weights["conv"], before["conv"])
    assert float(found.weights["linear"].flatten()[7]) == 0


def test_scores_of_woodfisher_are_costs_of_single_weights(network):
    """w^2 / (2 [F^-1]_ii) of the dense inverse."""
    inverse, choose = torch.linalg.inv(dense_fisher(network, "conv", 1.0)), Recorded(Fraction(1, 2))
    weights = network.weights()["conv"].double().flatten()
    WoodFisher(block=72, damping=1.0, stages=1).solve_network(network, choose, ANY)
    torch.testing.assert_close(choose.asked[0][0]["conv"].flatten(), weights**2 / inverse.diagonal() / 2, rtol=1e-5, atol=0)


def test_m_fac_knows_correlations_between_layers(network):
    """Removing a weight of one layer moves the other; with all weights in one matrix that is exact optimal brain surgeon."""
    rows = {key: torch.cat([chunk[key] for chunk in gradient_chunks(network, torch.arange(40))]).double() for key in network.names}
    joined, before = torch.cat([rows["conv"], rows["linear"]], dim=1), network.weights()
    fisher = joined.T @ joined / 40
    inverse = torch.linalg.inv(fisher + float(fisher.diagonal().mean()) * torch.eye(120, dtype=torch.float64))
    flat = torch.cat([before["conv"].flatten(), before["linear"].flatten()]).double()
    found = MFAC(damping=1.0, stages=1).solve_network(network, one_weight("linear", 7), ANY)
    expected = flat - flat[79] * inverse[:, 79] / inverse[79, 79]
    ours = torch.cat([found.weights["conv"].flatten(), found.weights["linear"].flatten()]).double()
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)
    assert not torch.equal(found.weights["conv"], before["conv"])


def test_obert_shares_a_blocks_cost_among_its_weights(network):
    """Both weights of a 2x1 block (two outputs, one input) score half of 1/2 w_P^T ([F^-1]_PP)^-1 w_P, and both stay or go."""
    pattern = Pattern.parse("block:2x1")
    choose, weights = Recorded(Fraction(1, 2), pattern), network.weights()["conv"].double()
    places = [0 * 18 + 5, 1 * 18 + 5]  # outputs 0 and 1, input channel 0, kernel position 5
    inverse = torch.linalg.inv(dense_fisher(network, "conv", 1.0))
    pair = weights.flatten()[places]
    cost = float(pair @ torch.linalg.inv(inverse[places][:, places]) @ pair) / 2
    found = OBERT(block=72, damping=1.0, stages=1).solve_network(network, choose, pattern)
    assert choose.asked[0][0]["conv"].flatten()[places].tolist() == pytest.approx([cost / 2] * 2, rel=1e-5)
    assert torch.equal(found.masks["conv"][0::2], found.masks["conv"][1::2]) and not found.masks["conv"].all()


def test_cap_ranks_twins_apart():
    """Of two inputs that are always equal the first to go is cheap and the second dear; WoodFisher finds both cheap."""
    torch.manual_seed(0)
    inputs = torch.randn(200, 3)
    inputs[:, 1] = inputs[:, 0]
    module = nn.Linear(3, 2).eval()
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[0.6, 0.5, 0.5], [-0.6, -0.5, -0.5]]))
    given = {}
    for solver in (CAP, WoodFisher):
        choose = Recorded(Fraction(0))
        twin = Network(module, {"w": "weight"}, inputs, (inputs[:, 0] < 0).long())
        solver(block=3, stages=1, damping=1e-3).solve_network(twin, choose, ANY)
        given[solver] = choose.asked[0][0]["w"][0].tolist()
    assert max(given[CAP][:2]) > 20 * min(given[CAP][:2])
    assert max(given[WoodFisher][:2]) < 2 * min(given[WoodFisher][:2])


@EACH
@pytest.mark.parametrize("pattern", ["unstructured", "1:2"])
def test_what_is_not_pruned_is_not_touched(network, solver, pattern):
    """Batch norm and biases keep their bits, pruned weights are exactly zero, and the network holds what is returned."""
    before = {key: value.clone() for key, value in network.module.state_dict().items()}
    choose = Recorded(Fraction(1, 2), Pattern.parse(pattern))
    stages = 1 if pattern == "1:2" else 3
    found = solver(stages=stages).solve_network(network, choose, choose.pattern)
    prunable = set(network.names.values())
    assert all(torch.equal(value, before[key]) for key, value in network.module.state_dict().items() if key not in prunable)
    assert all(not found.weights[name][~found.masks[name]].any() for name in network.names)
    assert all(torch.equal(found.weights[name], value) for name, value in network.weights().items())
    assert found.masks == choose.asked[-1][2] and len(choose.asked) == stages
    assert found.masks.kept == 60


@EACH
def test_stages_recompute_and_nest(network, solver):
    """Each stage sees the weights as the last left them: what is zero scores 0, is not revived, and shares rise to 1."""
    choose = Recorded(Fraction(3, 4))
    solver(stages=3).solve_network(network, choose, ANY)
    assert [share for _, share, _ in choose.asked] == [Fraction(1, 3), Fraction(2, 3), Fraction(1)]
    for (_, _, before), (scores, _, after) in zip(choose.asked, choose.asked[1:], strict=False):
        assert after <= before and after.kept < before.kept
        assert all(not scores[name][~before[name]].any() for name in scores)


@EACH
def test_without_update_weights_stay_as_they_are(network, solver):
    """`update=False` only zeroes."""
    before = network.weights()
    found = solver(stages=2, update=False).solve_network(network, Recorded(Fraction(1, 2)), ANY)
    assert all(torch.equal(found.weights[name], before[name] * found.masks[name]) for name in before)


@EACH
def test_nothing_to_prune_changes_nothing(network, solver):
    """At sparsity 0 every weight keeps its bits, in every stage."""
    before = network.weights()
    found = solver(stages=2).solve_network(network, Recorded(Fraction(0)), ANY)
    assert all(torch.equal(found.weights[name], before[name]) for name in before)


@EACH
def test_the_unit_of_the_loss_does_not_matter(network, solver):
    """A damping relative to F: the same samples many times over give the same masks and weights."""
    weights = network.weights()
    once = solver(stages=1).solve_network(network, Recorded(Fraction(1, 2)), ANY)
    network.put(weights)
    twice = Network(network.module, network.names, network.inputs.repeat(3, 1, 1, 1), network.targets.repeat(3), seed=2)
    again = solver(stages=1, **({"gradients": 120})).solve_network(twice, Recorded(Fraction(1, 2)), ANY)
    assert once.masks == again.masks
    for name in weights:
        torch.testing.assert_close(once.weights[name], again.weights[name], rtol=1e-4, atol=1e-5)


@EACH
def test_gradients_that_are_not_finite_are_said(network, solver):
    """One infinite sample stops the run with the tensor's name."""
    network.inputs[3] = torch.inf
    with pytest.raises(Anomalous, match="conv"):
        solver(stages=1).solve_network(network, Recorded(Fraction(1, 2)), ANY)


def test_cap_refuses_blocks_and_the_others_take_them():
    """CAP decides weight after weight."""
    block = Pattern.parse("block:2x2")
    with pytest.raises(BadRequest, match="cap"):
        CAP().check(block)
    assert [solver().check(block) for solver in (WoodFisher, OBERT, MFAC)] == [None] * 3


def test_memory_of_blocks():
    """1,000 weights in blocks of 50: 20 blocks of 20,000 bytes, five runs of 16 MiB, 16 gradients, a network and two of its weights."""
    expected = 20 * 20_000 + 5 * 16 * 2**20 + 16 * 1000 * 12 + 24 * 1000
    assert OBERT(block=50).memory([1000], 9) == CAP(block=50).memory([1000], 5000) == WoodFisher(block=50).memory([1000], 1) == expected


def test_memory_of_m_fac():
    """100 gradients of 1,000 weights in float32, two 100 x 100 matrices, three float64 parts, a chunk of 16 twice, five vectors."""
    expected = 400_000 + 160_000 + 2_400_000 + 8 * 16_000 + 40_000
    assert MFAC(gradients=100).memory([600, 400], 5000) == expected
    assert MFAC(gradients=5000).memory([600, 400], 100) == expected
