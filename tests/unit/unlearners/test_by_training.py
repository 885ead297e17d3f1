"""Methods that train: what each does to two clouds of points, and what its formula says in a case that can be worked out."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from sparsify_cli.contracts.unlearner import Request
from sparsify_cli.errors import Anomalous, BadRequest
from sparsify_cli.training.erasing import Student
from sparsify_cli.unlearners import salun
from sparsify_cli.unlearners.finetune import Finetune
from sparsify_cli.unlearners.gradient_ascent import GradientAscent
from sparsify_cli.unlearners.retrain import Retrain
from sparsify_cli.unlearners.salun import Salun, salient_weights, wrong_labels
from sparsify_cli.unlearners.scrub import Scrub
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.samples import Samples


def clouds(n, start):
    """Three clouds in the plane, far apart."""
    generator = torch.Generator().manual_seed(start)
    y = torch.arange(n) % 3
    centres = torch.tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 3.0]])
    return Samples(torch.randn(n, 2, generator=generator) * 0.7 + centres[y], y, tuple(f"c{start + i}" for i in range(n)))


def trained(samples, epochs=60):
    """A linear model with nothing left to learn."""
    torch.manual_seed(0)
    model = nn.Linear(2, 3)
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    for _ in range(epochs):
        optimizer.zero_grad()
        cross_entropy(model(samples.inputs), samples.targets).backward()
        optimizer.step()
    model.zero_grad(set_to_none=True)
    return model


TRAIN, VALIDATION = clouds(120, 0), clouds(60, 1000)
TWOS = (TRAIN.targets == 2).nonzero().reshape(-1)
REST = (TRAIN.targets != 2).nonzero().reshape(-1)
REQUEST = Request(TRAIN.take(TWOS), TRAIN.take(REST), VALIDATION)


@pytest.fixture
def model():
    """Trained on all three clouds."""
    return trained(TRAIN)


def answered(model, erasure, samples):
    """Share of right answers after an erasure."""
    logits = functional_call(model, {**dict(model.named_parameters()), **erasure.tensors}, (samples.inputs,))
    return float((logits.argmax(dim=1) == samples.targets).double().mean())


@pytest.mark.parametrize(
    "method",
    [
        Retrain(epochs=20, lr=0.3, weight_decay=0.0),
        GradientAscent(lr=0.1, epochs=200, tolerance=0.05),
        Scrub(lr=0.2, epochs=25, max_epochs=8, weight_decay=0.0, batch_size=64, forget_batch=64),
        Salun(lr=0.3, share=1.0, batch_size=64),
    ],
    ids=lambda method: type(method).__name__,
)
def test_a_class_is_forgotten_and_the_others_stay(model, method):
    """All of cloud 2: answered at most 15 % of the time afterwards, the others at least 90 %."""
    erasure = method.erase(model, REQUEST, None)
    assert answered(model, erasure, REQUEST.forget) <= 0.15
    assert answered(model, erasure, REQUEST.retain) >= 0.9


def test_finetuning_keeps_what_it_does_not_rehearse(model):
    """One short epoch on the others: they are as good as before, and the class is still known."""
    erasure = Finetune(epochs=1, lr=0.001).erase(model, REQUEST, None)
    assert answered(model, erasure, REQUEST.retain) >= answered(model, Finetune().erase(model, REQUEST, None), REQUEST.retain) - 0.05
    assert answered(model, erasure, REQUEST.forget) >= 0.9


def test_retraining_hangs_on_nothing_that_was_forgotten(model):
    """Another model and other samples to forget, the same samples that stay: bit for bit the same network."""
    method, other = Retrain(epochs=2), trained(VALIDATION, epochs=3)
    first = method.erase(model, REQUEST, None)
    second = method.erase(other, Request(VALIDATION.take([0, 1]), REQUEST.retain, VALIDATION), None)
    assert all(torch.equal(first.tensors[name], second.tensors[name]) for name in ("weight", "bias"))


def test_retraining_takes_the_network_it_is_given(model):
    """`fresh` makes the network that is trained; without rate nothing moves, and it comes back as it was made."""
    fresh = nn.Linear(2, 3)
    start = copy.deepcopy(fresh.state_dict())
    method = Retrain(epochs=1, lr=1e-12, weight_decay=0.0)
    erasure = method.erase(model, Request(REQUEST.forget, REQUEST.retain, VALIDATION, fresh=lambda seed: fresh), None)
    torch.testing.assert_close(erasure.tensors["weight"], start["weight"], rtol=0, atol=1e-9)


def test_a_layer_that_cannot_be_drawn_anew_is_named():
    """A bare parameter has no way to be drawn."""

    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(2, 3))

        def forward(self, x):
            return x @ self.scale

    with pytest.raises(BadRequest, match="does not say how its weights are drawn"):
        Retrain(epochs=1).erase(Bare(), REQUEST, None)


def test_ascent_goes_up_the_mean_loss_by_its_gradient(model):
    """One batch, no momentum: theta + lr * grad, exactly."""
    method = GradientAscent(lr=0.25, epochs=1, batch_size=500, stop=False)
    loss = cross_entropy(model(REQUEST.forget.inputs), REQUEST.forget.targets)
    gradient = torch.autograd.grad(loss, model.weight)[0]
    erasure = method.erase(model, REQUEST, None)
    torch.testing.assert_close(erasure.tensors["weight"], model.weight.detach() + 0.25 * gradient, rtol=1e-5, atol=1e-6)


def test_ascent_stops_before_harm(model):
    """A huge step is not taken: the weights are those before it, and a note says so."""
    erasure = GradientAscent(lr=500.0, epochs=3, tolerance=0.0, forgotten=0.0).erase(
        model, Request(TRAIN.take([0, 4, 8]), REQUEST.retain, VALIDATION), None
    )
    found = {f.name: f for f in erasure.findings}
    assert found["steps"].value == 0
    assert "tolerance" in found["steps"].note
    assert erasure.tensors == {}


def test_a_step_that_leaves_the_numbers_is_an_anomaly(model):
    """Losses beyond all numbers end in a sentence."""
    with pytest.raises(Anomalous, match="smaller lr"):
        GradientAscent(lr=1e38, epochs=50, stop=False).erase(model, REQUEST, None)


def test_scrub_with_only_agreement_does_not_move(model):
    """No max pass and gamma 0: the student agrees with its teacher from the start, so nothing pulls it."""
    erasure = Scrub(epochs=2, max_epochs=0, gamma=0.0, alpha=1.0, weight_decay=0.0).erase(model, REQUEST, None)
    moved = [(erasure.tensors.get(name, p) - p).abs().max() for name, p in model.named_parameters()]
    assert max(moved) < 1e-6


def test_scrub_takes_steps_of_two_sizes(model, monkeypatch):
    """40 samples to forget in steps of 16, two max passes of three; 80 that stay in steps of 32."""
    seen = []
    real = Student.step
    monkeypatch.setattr(Student, "step", lambda self, batch, cost: (seen.append(len(batch)), real(self, batch, cost))[1])
    Scrub(epochs=3, batch_size=32, forget_batch=16).erase(model, REQUEST, None)
    assert seen == [16, 16, 8, 32, 32, 16] * 2 + [32, 32, 16]


def test_scrub_rewinds_to_the_error_of_unseen_samples(model):
    """Some of a cloud that stays: the epoch taken is the one whose error on them is nearest to that on unseen ones."""
    request = Request(TRAIN.take(TWOS[:10]), TRAIN.take(torch.cat([REST, TWOS[10:]])), VALIDATION)
    rewound = Scrub(lr=0.2, epochs=6, max_epochs=1, rewind=True).erase(model, request, None)
    last = Scrub(lr=0.2, epochs=6, max_epochs=1).erase(model, request, None)
    taken = {f.name: f.value for f in rewound.findings}["epoch_taken"]
    assert 1 <= taken <= 6
    unseen = VALIDATION.take((VALIDATION.targets == 2).nonzero().reshape(-1))
    wanted = 1 - answered(model, last, unseen)
    assert abs(1 - answered(model, rewound, request.forget) - wanted) <= abs(1 - answered(model, last, request.forget) - wanted)


def test_saliency_is_the_largest_gradients_of_the_samples_to_forget(model):
    """A third of nine numbers: the three with the largest gradient, exactly three."""
    loss = cross_entropy(model(REQUEST.forget.inputs), REQUEST.forget.targets)
    gradients = torch.cat([g.reshape(-1).abs() for g in torch.autograd.grad(loss, list(model.parameters()))])
    masks = salient_weights(model, REQUEST, 1 / 3)
    chosen = torch.cat([masks["weight"].reshape(-1), masks["bias"].reshape(-1)])
    assert chosen.nonzero().reshape(-1).tolist() == gradients.topk(3).indices.sort().values.tolist()


def test_wrong_labels_are_drawn_anew_in_each_epoch(model, monkeypatch):
    """No label is learnt by heart: of 40 samples some go to each other class, and to others the next time."""
    drawn = []
    monkeypatch.setattr(salun, "wrong_labels", lambda *asked: drawn.append(wrong_labels(*asked)) or drawn[-1])
    Salun(epochs=3).erase(model, REQUEST, None)
    assert len(drawn) == 3
    assert all(set(labels.tolist()) == {0, 1} for labels in drawn)
    assert not torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[1], drawn[2])


def test_saliency_leaves_the_other_weights_as_they_are(model):
    """Bit for bit, through momentum and decay."""
    erasure = Salun(epochs=2, share=1 / 3).erase(model, REQUEST, None)
    masks = salient_weights(model, REQUEST, 1 / 3)
    for name, p in model.named_parameters():
        assert torch.equal(erasure.tensors.get(name, p.detach())[~masks[name]], p.detach()[~masks[name]])


def test_wrong_labels_are_wrong_and_all_others_are_drawn():
    """Never the true one; over 3,000 draws both others about as often."""
    samples = clouds(3000, 5)
    wrong = wrong_labels(samples, torch.arange(3), 0)
    assert not (wrong == samples.targets).any()
    zeros = wrong[samples.targets == 0]
    assert 0.45 < float((zeros == 1).double().mean()) < 0.55
    with pytest.raises(BadRequest, match="one class only"):
        wrong_labels(samples, torch.tensor([0]), 0)
    assert set(wrong_labels(samples.take((samples.targets == 1).nonzero()[:, 0]), torch.tensor([0, 2]), 0).tolist()) == {0, 2}


def test_a_lone_sample_joins_the_batch_before():
    """Batch norm needs two: 65 samples in batches of 64 are one batch of 65."""
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 3))
    student = Student.descending(model, MaskSet(), lr=0.1, batch_size=64, seed=0)
    sizes = [n for _, n in student.steps(TRAIN.take(range(65)), lambda m, x, y: cross_entropy(m(x), y))]
    assert sizes == [65]


@pytest.mark.parametrize("options", [{"epochs": 0}, {"lr": 0.0}, {"batch_size": 1}, {"momentum": 1.0}])
def test_options_without_a_meaning_are_refused(options):
    """The sentence names the option."""
    with pytest.raises(BadRequest, match=next(iter(options))):
        Finetune(**options)
