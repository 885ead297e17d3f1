"""In which form a network answers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sparsify_cli.stages.output_form import Forms, as_written, forms_of, in_a_column, in_logits, puts_out_one_number, yes_or_no
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
        (lambda y: {"a": [y.softmax(1)]}, ""),
    ],
)  # fmt: skip
def test_only_what_made_the_answer_counts(end, form):
    """A gate, a threshold or a softmax over samples is no end in probabilities; a change of shape or range after one does not hide it."""
    assert forms_of(Ends(end), SAMPLES) == Forms(form, form)


class Several(nn.Module):
    """Features and answers in some arrangement, another one while it trains."""

    def __init__(self, evaluated, trained=None) -> None:
        super().__init__()
        self.one, self.two, self.ways = nn.Linear(4, 5), nn.Linear(5, 3), (evaluated, trained or evaluated)

    def forward(self, x):
        """As the mode says."""
        features = self.one(x)
        return self.ways[self.training](features, self.two(features))


@pytest.mark.parametrize(
    ("way", "entry"),
    [
        (lambda f, y: (f, y), 1), (lambda f, y: (y, f), 0), (lambda f, y: [f, y, None], 1),
        (lambda f, y: (y, 2 * y), None), (lambda f, y: (y, y[:1]), 0), (lambda f, y: {"h": f, "y": y}, "y"),
        (lambda f, y: {"y": y, "logits": 3 * y}, "logits"), (lambda f, y: {"h": f}, None), (lambda f, y: (f, None), None),
        (lambda f, y: ([y], f), None), (lambda f, y: y, None),
    ],
)  # fmt: skip
def test_of_several_things_the_answer_is_taken(way, entry):
    """The one called so, or the only one with a number for each class; where none is or several are, others say so."""
    net, x = Several(way), torch.rand(5, 4)
    plain, found = net.eval()(x), forms_of(net, SAMPLES)
    assert found == Forms(entry=entry, trained_entry=entry)
    taken = in_logits(net, found)(x)
    assert torch.equal(taken, plain[entry]) if entry is not None else type(taken) is type(plain)


def test_what_is_exported_puts_out_the_answer_as_it_is():
    """Probabilities stay probabilities, without what was beside them."""
    net, x = Several(lambda f, y: (f, y.softmax(1))).eval(), torch.rand(5, 4)
    _, wanted = net(x)
    in_logits(net, forms_of(net, SAMPLES))
    assert not torch.equal(net(x), wanted)
    assert torch.equal(as_written(net)(x), wanted)
    assert torch.equal(as_written(as_written(net))(x), wanted)


def test_what_is_put_out_while_training_may_differ():
    """An auxiliary answer only then; probabilities only in eval mode."""
    net, x = Several(lambda f, y: y.softmax(1), lambda f, y: (f, y)), torch.rand(5, 4)
    assert forms_of(Several(lambda f, y: y, lambda f, y: (y, 2 * y)), SAMPLES) == Forms(trained_entry=0)
    found = forms_of(net, SAMPLES)
    assert found == Forms("softmax", "", None, 1)
    in_logits(net, found)
    torch.testing.assert_close(net.eval()(x).softmax(1), net.train()(x).softmax(1))


def test_a_network_that_takes_no_two_samples_in_training():
    """Batch norm of single rows, say: the answer is taken to be where it is in eval mode."""

    def failing(features, answers):
        raise ValueError("more than one value per channel")

    assert forms_of(Several(lambda f, y: (f, y), failing), SAMPLES) == Forms(entry=1, trained_entry=1)
    moved = Several(lambda f, y: {"h": f, "y": y}, lambda f, y: {"y": y, "aux": 2 * y})
    assert forms_of(moved, SAMPLES) == Forms(entry="y", trained_entry="y")


def test_one_number_beside_features_is_a_yes_or_no():
    """Labels 0 and 1; beside an answer for each of two classes it could be either, and nothing is taken."""
    samples = Samples(torch.rand(6, 4), torch.arange(6) % 2, tuple("abcdef"))
    net = Several(lambda f, y: (f, y[:, :1]))
    assert puts_out_one_number(net, samples) and forms_of(net, yes_or_no(samples)).entry == 1
    assert not puts_out_one_number(Several(lambda f, y: (f, y[:, :2])), samples)
    either = Several(lambda f, y: (y[:, :1], y[:, :2]))
    assert forms_of(either, samples).entry is None


@pytest.mark.parametrize(
    ("samples", "out", "entry"),
    [
        (Samples(torch.rand(6, 4), torch.rand(6, 2), tuple("abcdef")), (6, 2), 1),
        (Samples(torch.rand(6, 4), torch.ones(6, 5, dtype=torch.int64), tuple("abcdef")), (6, 5), 1),
        (Samples(torch.ones(6, 4, dtype=torch.int64), torch.ones(6, 4, dtype=torch.int64), tuple("abcdef"), texts=True), (6, 4, 7), 1),
        (Samples(torch.ones(6, 4, dtype=torch.int64), torch.ones(6, 4, dtype=torch.int64), tuple("abcdef"), texts=True), (6, 7), None),
    ],
    ids=["numbers", "attributes", "tokens", "a class for a text"],
)
def test_answers_of_other_kinds(samples, out, entry):
    """Numbers as the targets are, an output for each attribute, logits at each token."""

    class Fixed(nn.Module):
        def forward(self, x):
            return torch.zeros(len(x), 9), torch.zeros(len(x), *out[1:])

    assert forms_of(Fixed(), samples).entry == entry


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
