"""What counts as forgotten, on a model whose losses are known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from sparsify_cli.contracts.unlearner import Request
from sparsify_cli.maths.per_sample_gradients import Coordinates
from sparsify_cli.training.forgetting import ENDS, Judge, draw, margin
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.samples import Samples


def margins(values, target=0):
    """Samples whose logits are (value, 0): loss log(1 + exp(-value)) for class 0."""
    x = torch.tensor([[v, 0.0] for v in values])
    return Samples(x, torch.full((len(values),), target), tuple(f"{target}{i}{v}" for i, v in enumerate(values)))


def together(*parts):
    """Samples of several parts."""
    ids = tuple(f"{j}{i}" for j, p in enumerate(parts) for i in p.ids)
    return Samples(torch.cat([p.inputs for p in parts]), torch.cat([p.targets for p in parts]), ids)


def judge(forget, retain, validation, **options):
    """A judge of the identity: logits are the inputs."""
    model = nn.Linear(2, 2)
    nn.init.eye_(model.weight), nn.init.zeros_(model.bias)
    request = Request(forget, retain, validation)
    options = {"forgotten": 0.0, "tolerance": 0.0, "most": 99, "seed": 0, **options}
    return Judge.of(model, Coordinates.of(model, MaskSet()), request, **options)


def test_target_is_the_loss_on_unseen_samples():
    """Seen with margin 5, unseen with margin 0: the target is log 2, not reached as it is."""
    it = judge(margins([5.0]), margins([5.0]), margins([0.0]))
    assert it.target == pytest.approx(math.log(2))
    assert not it.before.reached
    assert it.before.forget_loss == pytest.approx(math.log(1 + math.exp(-5)))


def test_hard_samples_stay_harder():
    """Samples that cost log 2 while retained ones cost almost nothing are to cost log 2 more than unseen ones."""
    it = judge(margins([0.0]), margins([50.0]), margins([0.0]))
    assert it.target == pytest.approx(2 * math.log(2))


def test_easy_samples_are_not_taken_for_memorised():
    """Seen samples cost log 2, unseen twice that; a sample of a hundredth of log 2 is to cost twice its own loss, not 2 log 2."""
    easy, double = -math.log(2**0.01 - 1), -math.log(2**2 - 1)
    it = judge(margins([easy]), margins([0.0]), margins([double]))
    assert it.target == pytest.approx(0.02 * math.log(2), rel=1e-3)


def test_unseen_samples_are_mixed_like_the_forgotten():
    """Only class 0 is forgotten, so unseen samples of class 1 (loss 9) do not count."""
    retain = together(margins([5.0]), margins([0.0], target=1))
    it = judge(margins([5.0]), retain, together(margins([0.0]), margins([9.0], target=1)))
    assert it.target == pytest.approx(math.log(2))


def test_vanished_class_is_judged_by_accuracy():
    """No sample of class 0 is retained: it counts as forgotten when it is answered wrongly, and its validation samples are left out."""
    it = judge(margins([1.0]), margins([-1.0], target=1), together(margins([1.0]), margins([-3.0, 3.0], target=1)))
    assert (it.before.gone_accuracy, it.before.reached, it.before.validation_accuracy) == (1.0, False, 0.5)
    away = it.read(torch.tensor([0, 0, 0, 0, -2.0, 0.0]))
    assert (away.gone_accuracy, away.reached, away.acceptable) == (0.0, True, True)


def test_vanished_attribute_is_judged_by_its_answers():
    """Nobody that stays has attribute 0: its answers alone are to turn; validation samples that have it are left out."""
    have, lack = torch.tensor([[1, 1], [1, 0]]), torch.tensor([[0, 1], [0, 0]])

    def people(targets, *rows):
        ids = tuple(map(str, range(len(rows))))
        return Samples(torch.tensor(rows), targets, ids, classes=("hat", "coat"))

    both, none = people(have, [2.0, 1.0], [2.0, -1.0]), people(lack, [-2.0, 1.0], [-2.0, -1.0])
    it = judge(both, none, people(torch.cat([have, lack]), [1.0, 1.0], [1.0, 1.0], [1.0, 1.0], [-2.0, -1.0]))
    assert (it.before.gone_accuracy, it.before.reached, len(it.validation), it.before.validation_accuracy) == (1.0, False, 2, 0.75)
    assert it.unheard.tolist() == [[True, False], [True, False]]
    away = it.read(torch.tensor([0, 0, 0, 0, -3.0, 0.0]))
    assert (away.gone_accuracy, away.forget_accuracy, away.reached, away.validation_accuracy) == (0.0, 0.5, True, 1.0)


def test_harm_is_a_fall_beyond_the_tolerance():
    """Moving the bias by 2 makes one of two right answers wrong: 0.5 less, acceptable at tolerance 0.5 and not at 0.4."""
    parts = margins([5.0]), margins([5.0]), margins([1.0, 5.0])
    step = torch.tensor([0, 0, 0, 0, -2.0, 0.0])
    assert judge(*parts, tolerance=0.5).read(step).acceptable
    assert not judge(*parts, tolerance=0.4).read(step).acceptable


def test_draw_is_seeded_and_without_replacement():
    """Three of five samples, the same at every call, each at most once; asking for more gives all in order."""
    samples = margins([1.0, 2.0, 3.0, 4.0, 5.0])
    assert draw(samples, 3, 7).ids == draw(samples, 3, 7).ids
    assert len(set(draw(samples, 3, 7).ids)) == 3
    assert draw(samples, 9, 7).ids == samples.ids


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99, 1.0])
def test_margin_is_that_of_the_answer_that_decides(share):
    """Of logits (0, o_i) and right answer 1 the margin is -o_i: with share * n of ten answers right, the next one decides."""
    ahead = torch.linspace(-3, 4, 10, dtype=torch.float64)[torch.randperm(10)]
    losses = torch.nn.functional.softplus(ahead)
    expected = ENDS if share == 1 else float(ahead.sort().values[int(share * 10)])
    assert margin(losses, share) == pytest.approx(expected, abs=1e-9)
    assert margin(torch.tensor([0.0, 1e30]), 0.0) == -ENDS and margin(torch.tensor([1e30]), 0.0) == ENDS


def test_what_is_missing_ends_where_it_is_reached():
    """A class of two samples that goes: along growing steps `missing` falls in a straight line, below 0 where `reached` holds."""
    it = judge(margins([1.0, 2.0]), margins([-1.0], target=1), margins([-3.0], target=1))
    readings = [it.read(torch.tensor([0, 0, 0, 0, -step, 0.0])) for step in (0.0, 0.5, 1.5, 1.9, 2.1, 3.0)]
    assert [reading.missing for reading in readings] == pytest.approx([2.0, 1.5, 0.5, 0.1, -0.1, -1.0], abs=1e-6)
    assert [reading.reached for reading in readings] == [False] * 4 + [True] * 2
