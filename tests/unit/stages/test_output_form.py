"""In which form a network answers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sparsify_cli.stages.output_form import Forms, forms_of, in_a_column, in_logits
from sparsify_cli.values.samples import Samples

SAMPLES = Samples(torch.rand(6, 4), torch.arange(6) % 3, tuple("abcdef"))


class Ends(nn.Module):
    """A linear layer and an end; it keeps what it has computed."""

    def __init__(self, end: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.one, self.end = nn.Linear(4, 3), [end]

    def forward(self, x: Tensor) -> Tensor:
        """Whatever the end makes of it."""
        self.kept = self.one(x)
        return self.end[0](self.kept)


@pytest.mark.parametrize(
    ("end", "form"),
    [
        (lambda y: y, ""), (lambda y: y.softmax(1), "softmax"), (lambda y: y.log_softmax(1), ""), (lambda y: y.sigmoid(), "sigmoid"),
        (lambda y: y.sigmoid()[:, :2].clone(), "sigmoid"), (lambda y: y.softmax(1).clamp(1e-7, 1), "softmax"),
        (lambda y: y.softmax(0), ""), (lambda y: torch.tanh(y.softmax(1)), ""), (lambda y: functional.threshold(y.sigmoid(), 0.5, 0.0), ""),
        (lambda y: y.softmax(1).topk(2).values, ""), (lambda y: y * y.sigmoid(), ""), (lambda y: y.sigmoid() * 3, ""),
        (lambda y: {"a": y.softmax(1)}, ""),
    ],
)  # fmt: skip
def test_only_what_made_the_answer_counts(end, form):
    """A gate, a threshold or a softmax over samples is no end in probabilities; a change of shape or range after one does not hide it."""
    assert forms_of(Ends(end), SAMPLES) == Forms(form, form)


def test_probabilities_become_logits_and_go_back():
    """Also in 16 bits, where 0.999 has a logarithm only in 32."""
    x = torch.randn(5, 4)
    for end, back in ((lambda y: y.softmax(1), lambda o: o.softmax(1)), (torch.sigmoid, torch.sigmoid)):
        net = Ends(end)
        plain = net(x)
        torch.testing.assert_close(back(in_logits(net, forms_of(net, SAMPLES))(x)), plain)
    short = Ends(lambda y: torch.sigmoid(20 * y)).bfloat16()
    found = in_logits(short, Forms("sigmoid", "sigmoid"))(torch.full((1, 4), 9.0).bfloat16())
    assert found.dtype == torch.float32 and float(found.abs().max().detach()) > 10


@pytest.mark.parametrize("count", [1, 5])
def test_one_number_a_sample_is_a_column_also_of_one_sample(count: int):
    """`squeeze()` leaves no axis of a batch of one."""
    net = in_a_column(nn.Sequential(nn.Linear(4, 1), nn.Flatten(0)))
    squeezed = in_a_column(Ends(lambda y: y[:, :1].squeeze()))
    assert net(torch.rand(count, 4)).shape == squeezed(torch.rand(count, 4)).shape == (count, 1)
