"""Single-step erasure of samples with several yes-or-no attributes, on a convex model whose retrained twin is known.

Source: Peste, Alistarh, Lampert 2021 (arXiv 2107.03860), multi-attribute binary classification; the set-up and the numbers are ours.
"""

from __future__ import annotations

from functools import cache

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cosine_similarity

from sparsify_cli.contracts.unlearner import Request
from sparsify_cli.maths.closeness import answer_distance
from sparsify_cli.maths.fisher import erasure_step
from sparsify_cli.maths.per_sample_gradients import Coordinates, gradient_sum, per_sample_gradients
from sparsify_cli.training.erasing import copied
from sparsify_cli.unlearners.gradient_ascent import GradientAscent
from sparsify_cli.unlearners.ssse import Ssse
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.predictions import Predictions
from sparsify_cli.values.samples import Samples

MU = 1e-3
"""Weight decay: mean of the samples' summed binary cross-entropies + MU/2 |theta|^2."""
ATTRIBUTES = {"even": {0, 2, 4, 6, 8}, "large": {5, 6, 7, 8, 9}, "loop": {0, 6, 8, 9}, "prime": {2, 3, 5, 7}}


@cache
def digits() -> Samples:
    """1,797 digits with four attributes, shuffled, float64: the first 1,257 train, the next 180 validate."""
    x, y = load_digits(return_X_y=True)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    labels = torch.tensor(y)[order]
    targets = torch.stack([torch.isin(labels, torch.tensor(sorted(some))) for some in ATTRIBUTES.values()], dim=1).long()
    return Samples(torch.tensor(x)[order] / 16, targets, tuple(map(str, order.tolist())), classes=tuple(ATTRIBUTES))


def regression(train: Samples) -> nn.Linear:
    """The one minimum of the regularised loss, by L-BFGS in float64."""
    model = nn.Linear(64, 4).double()
    nn.init.zeros_(model.weight), nn.init.zeros_(model.bias)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=1000, tolerance_grad=1e-7, tolerance_change=0, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        losses = binary_cross_entropy_with_logits(model(train.inputs), train.targets.double(), reduction="none").sum(dim=1)
        loss = losses.mean() + MU / 2 * sum(p.square().sum() for p in model.parameters())
        loss.backward()
        return loss

    optimizer.step(closure)
    return model


@cache
def trained() -> nn.Linear:
    """On all training samples."""
    return regression(digits().take(range(1257)))


@cache
def to_forget(which: str) -> Tensor:
    """Positions of 62 random samples, or of half of those that have a loop and are large."""
    both = digits().targets[:1257, 1:3].all(dim=1).nonzero()[:, 0]
    return {"random": torch.randperm(1257, generator=torch.Generator().manual_seed(1))[:62], "some": both[: len(both) // 2]}[which]


@cache
def request(which: str) -> Request:
    """Forget a set, keep the rest."""
    stays = torch.ones(1257, dtype=torch.bool)
    stays[to_forget(which)] = False
    rest = digits().take(range(1257)).take(stays.nonzero()[:, 0])
    return Request(digits().take(to_forget(which)), rest, digits().take(range(1257, 1437)), MaskSet())


@cache
def retrained(which: str) -> nn.Linear:
    """Trained again without a set."""
    return regression(request(which).retain)


def flat(model: nn.Module) -> Tensor:
    """Parameters as one vector."""
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def apart(one: nn.Module, other: nn.Module, samples: Samples) -> float:
    """Distance of two networks' answers."""
    said = [Predictions(model(samples.inputs).detach(), samples.targets, samples.ids).chances for model in (one, other)]
    return answer_distance(*said).value


def after(method, which: str) -> nn.Module:
    """The model with what a method changed."""
    model = copied(trained())
    memo = method.prepare(model, digits().take(range(1257)), MaskSet())
    model.load_state_dict({**model.state_dict(), **method.erase(model, request(which), memo).tensors})
    return model


def test_gradients_are_those_of_all_attributes_together():
    """The sum over samples of the gradients of their summed binary cross-entropies; and it is what the rows add up to."""
    model, some = trained(), digits().take(range(40))
    loss = binary_cross_entropy_with_logits(model(some.inputs), some.targets.double(), reduction="sum")
    wanted = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, list(model.parameters()))])
    coordinates = Coordinates.of(model, MaskSet())
    torch.testing.assert_close(gradient_sum(model, some.inputs, some.targets, coordinates), wanted)
    rows = torch.cat(list(per_sample_gradients(model, some.inputs, some.targets, coordinates)))
    torch.testing.assert_close(rows.sum(dim=0), wanted)


@pytest.mark.parametrize("which", ["random", "some"])
def test_the_direction_is_nearer_to_that_of_retraining_than_ascent_is(which):
    """Cosine with the true change of the weights, for the Fisher of all samples and for the gradient alone."""
    train = digits().take(range(1257))
    coordinates = Coordinates.of(trained(), MaskSet())
    rows = torch.cat(list(per_sample_gradients(trained(), train.inputs, train.targets, coordinates)))
    summed = rows[to_forget(which)].sum(dim=0)
    fisher = (rows.T @ rows / len(rows)).unsqueeze(0)
    step = erasure_step(fisher, summed, flat(trained()), n=1257, k=len(to_forget(which)), damping=1e-3, weight_decay=MU)
    change = flat(retrained(which)) - flat(trained())
    newton, ascent = (float(cosine_similarity(one, change, dim=0)) for one in (step, summed))
    assert newton > ascent + 0.1


@pytest.mark.parametrize("which", ["random", "some"])
def test_the_whole_step_brings_answers_nearer_to_the_retrained_model(which):
    """Epsilon = 1 on the forgotten samples, beside no step and gradient ascent with its defaults."""
    forget = request(which).forget
    nothing = apart(trained(), retrained(which), forget)
    step, ascent = (
        apart(after(method, which), retrained(which), forget) for method in (Ssse(epsilon=1, weight_decay=MU), GradientAscent())
    )
    assert step < 0.85 * nothing
    assert step < ascent


def test_the_chosen_step_is_as_near():
    """With every default, where forgetting moves answers by more than 180 validation samples can tell."""
    forget = request("some").forget
    nothing, step = (apart(one, retrained("some"), forget) for one in (trained(), after(Ssse(), "some")))
    assert step < 0.7 * nothing
