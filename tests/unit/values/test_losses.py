"""Losses of every kind of answer."""

import pytest
import torch
from torch.nn import functional

from sparsify_cli.errors import BadData
from sparsify_cli.values.arrays import samples_from
from sparsify_cli.values.losses import divergence, loss, require_answers, shaped_as

TEXTS = torch.tensor([[1, 2, -100], [0, -100, -100]])


def test_loss_of_a_uniform_guess():
    """Ln of the number of choices, whatever is asked; only tokens that count are averaged."""
    assert float(loss(torch.zeros(3, 4), torch.tensor([0, 1, 3]))) == pytest.approx(1.3862944)
    assert float(loss(torch.zeros(2, 3), torch.tensor([[0, 1, 1], [0, 0, 1]]))) == pytest.approx(0.6931472)
    assert float(loss(torch.zeros(2, 3, 5), TEXTS)) == pytest.approx(1.6094379)
    assert float(loss(torch.zeros(2, 3, 5), TEXTS, reduction="sum")) == pytest.approx(3 * 1.6094379)


def test_loss_of_numbers_by_hand():
    """Errors 1 and 2 of two numbers: (1 + 4) / 2; the shape of a column does not matter."""
    out, truth = torch.tensor([[1.0], [4.0]]), torch.tensor([2.0, 2.0])
    assert float(loss(out, truth)) == 2.5 == float(loss(out, truth.unsqueeze(1)))


def test_what_is_not_counted_has_no_gradient():
    """Logits where no token is right do not move."""
    logits = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    loss(logits, TEXTS).backward()
    assert torch.equal(logits.grad.abs().sum(-1) > 0, TEXTS >= 0)


def test_divergence_by_hand():
    """KL of (1/2, 1/2) from (1/4, 3/4), in nats; attributes likewise; numbers relative to the other's square."""
    ours, theirs = torch.tensor([[0.25, 0.75]]).log(), torch.tensor([[0.5, 0.5]]).log()
    wanted = 0.5 * (torch.tensor(0.5 / 0.25).log() + torch.tensor(0.5 / 0.75).log())
    assert float(divergence(ours, theirs, "classes")) == pytest.approx(float(wanted))
    logit = torch.tensor([[float(torch.tensor(0.75 / 0.25).log())]])
    assert float(divergence(logit, torch.zeros(1, 1), "attributes")) == pytest.approx(float(wanted))
    assert float(divergence(ours.unsqueeze(0), theirs.unsqueeze(0), "tokens")) == pytest.approx(float(wanted))
    assert float(divergence(torch.tensor([[3.0, 4.0]]), torch.tensor([[3.0, 3.0]]), "numbers")) == pytest.approx(1 / 18)


def test_divergence_at_a_temperature_is_that_of_softer_logits_times_its_square():
    """As in distillation."""
    g = torch.Generator().manual_seed(1)
    ours, theirs = torch.randn(4, 3, generator=g), torch.randn(4, 3, generator=g)
    logs = [functional.log_softmax(one / 3, dim=1) for one in (ours, theirs)]
    wanted = 9 * functional.kl_div(logs[0], logs[1], log_target=True, reduction="batchmean")
    torch.testing.assert_close(divergence(ours, theirs, "classes", temperature=3.0), wanted)


def test_numbers_of_other_shapes_are_refused():
    """Three outputs for two numbers."""
    with pytest.raises(BadData, match="numbers of shape"):
        shaped_as(torch.zeros(2, 3), torch.zeros(2, 2))


@pytest.mark.parametrize(
    ("shape", "words"), [((2, 3), "one row of logits for each token"), ((2, 2, 9), "3 tokens"), ((2, 3, 4), "the token 4")]
)
def test_outputs_that_answer_no_text_are_refused(shape, words):
    """No logits for each token, too few rows, or a token beyond them."""
    samples = samples_from(torch.tensor([[0, 1, 2], [3, 4, 0]]), None, split="test", where="here")
    with pytest.raises(BadData, match=words):
        require_answers(torch.zeros(*shape), samples)


def test_nothing_but_padding_costs_nothing():
    """A batch in which no token counts has loss 0 and gradient 0, not NaN; so has its divergence."""
    logits, none = torch.randn(1, 3, 5).requires_grad_(), torch.full((1, 3), -100)
    (loss(logits, none) + divergence(logits, torch.zeros(1, 3, 5), "tokens", targets=none)).backward()
    assert float(logits.grad.abs().max()) == 0.0


def test_padding_is_not_compared():
    """The divergence of the places that count alone."""
    g = torch.Generator().manual_seed(5)
    ours, theirs = torch.randn(2, 3, 5, generator=g), torch.randn(2, 3, 5, generator=g)
    there = TEXTS >= 0
    wanted = divergence(ours[there], theirs[there], "classes")
    torch.testing.assert_close(divergence(ours, theirs, "tokens", targets=TEXTS), wanted)
