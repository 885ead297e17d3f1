"""What counts as forgotten, on a model whose losses are known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from sparsify_cli.contracts.unlearner import Request
from sparsify_cli.maths.per_sample_gradients import Coordinates
from sparsify_cli.training.forgetting import ENDS, Judge, draw, lead, outcomes
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


@pytest.mark.parametrize("most", [2, 3, 9])
def test_draw_from_some_is_that_from_them_taken(most):
    """Positions to draw from: as if those samples had been taken first."""
    samples, some = margins([1.0, 2.0, 3.0, 4.0, 5.0]), torch.tensor([4, 0, 3])
    assert draw(samples, most, 7, of=some).ids == draw(samples.take(some), most, 7).ids
    assert draw(samples, most, 7, of=torch.arange(5)).ids == draw(samples, most, 7).ids


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99, 1 - 1e-12, 1.0])
def test_lead_is_that_of_the_answer_that_decides(share):
    """With share * n of ten answers right, the next one has to be wrong."""
    ahead = torch.linspace(-3, 4, 10, dtype=torch.float64)
    expected = ENDS if share * 10 > 9.5 and share != 0.99 else float(ahead[int(share * 10)])
    assert lead(ahead[torch.randperm(10)], share) == expected
    assert lead(ahead[:0], share) == ENDS


def test_what_is_missing_ends_where_it_is_reached():
    """A class of two samples that goes: along growing steps `missing` falls in a straight line, below 0 where `reached` holds."""
    it = judge(margins([1.0, 2.0]), margins([-1.0], target=1), margins([-3.0], target=1))
    readings = [it.read(torch.tensor([0, 0, 0, 0, -step, 0.0])) for step in (0.0, 0.5, 1.5, 1.9, 2.1, 3.0)]
    assert [reading.missing[1] for reading in readings] == pytest.approx([2.0, 1.5, 0.5, 0.1, -0.1, -1.0], abs=1e-6)
    assert [reading.reached for reading in readings] == [False] * 4 + [True] * 2
    assert all(reading.missing[0] <= 0 for reading in readings)


def test_what_is_missing_counts_the_one_wrong_answer_that_is_ahead():
    """Of a hundred classes, all but one far behind: the lead is that over the best of them, however many there are."""
    rows = torch.zeros(1, 100)
    rows[0, 3], rows[0, 7] = 2.0, 1.5
    found = outcomes(nn.Identity(), Samples(rows, torch.tensor([3]), ("a",)))
    assert float(found.ahead) == pytest.approx(-0.5) and float(found.right) == 1


def test_samples_whose_class_stays_count_beside_a_class_that_goes():
    """Class 0 goes as a whole, a sample of class 1 is forgotten alone: both parts are told, and both have to be reached."""
    forget = together(margins([1.0]), margins([-5.0], target=1))
    it = judge(forget, margins([-5.0], target=1), margins([0.0], target=1))
    assert it.target == pytest.approx(math.log(2)) and it.before.missing == pytest.approx((math.log(2) - math.log1p(math.exp(-5)), 1.0))
    gone = it.read(torch.tensor([0, 0, 0, 0, -2.0, 0.0]))
    assert gone.missing[1] < 0 < gone.missing[0] and not gone.reached


def test_losses_of_attributes_are_summed_for_each_sample():
    """The mean loss of two samples of two attributes is the sum of four binary cross-entropies over two."""
    people = Samples(torch.zeros(2, 2), torch.tensor([[1, 0], [0, 1]]), ("a", "b"), classes=("hat", "coat"))
    it = judge(people, people, people)
    assert it.retained_loss(torch.zeros(6)) == pytest.approx(2 * math.log(2)) == it.before.forget_loss


@pytest.mark.parametrize("seed", range(4))
def test_a_class_that_goes_is_always_looked_at(seed):
    """One sample of a class that goes among 600 that stay is in a probe of 20."""
    many = together(margins([1.0] * 300), margins([1.0] * 301, target=1))
    only = seed % 2
    few = Samples(many.inputs, torch.where(torch.arange(601) == 600, only, 1 - only), many.ids)
    it = judge(few, margins([1.0], target=1 - only), margins([1.0], target=1 - only), most=20, seed=seed)
    assert len(it.forget) == 20 and int(it.gone.sum()) == 1


def test_the_probe_is_a_third_where_whole_classes_go_and_nobody_said_otherwise():
    """3,000 of 6,000 samples: 200 (a third of 600) to forget and retained, and 600 for validation; with a probe of one's own, that."""
    one, other = margins([1.0] * 3000), margins([-1.0] * 3000, target=1)
    own = judge(one, other, other, most=0)
    assert [len(part) for part in (own.forget, own.retain, own.validation)] == [200, 200, 600]
    told = judge(one, other, other, most=300)
    assert [len(part) for part in (told.forget, told.retain, told.validation)] == [300, 300, 300]
    part = judge(together(one.take(range(2000)), other.take(range(1))), other.take(range(1, 3000)), other, most=0)
    assert len(part.forget) == len(part.retain) > 200


def test_sureness_is_the_mean_chance_of_other_answers():
    """Margins 0 and 50: a half and nothing."""
    it = judge(margins([0.0, 50.0]), margins([-1.0], target=1), margins([-1.0], target=1))
    assert it.sureness == pytest.approx(0.25)


def test_many_samples_of_classes_that_stay_are_drawn():
    """300 of 600 with the probe they are told; nothing goes as a whole."""
    many = together(margins([1.0] * 300), margins([1.0] * 300, target=1))
    assert len(judge(many, many, many, most=300).forget) == 300


def test_images_are_looked_at_channels_last():
    """Each probe, where the network takes them so; what is read of them is the same to rounding."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 3)).eval()
    parts = [Samples(torch.randn(9, 1, 8, 8), torch.arange(9) % 3, tuple(f"{part}{i}" for i in range(9))) for part in range(3)]
    found = Judge.of(model, Coordinates.of(model, MaskSet()), Request(*parts), forgotten=0.0, tolerance=0.0, most=99, seed=0)
    assert [probe.inputs.stride()[1] for probe in (found.forget, found.retain, found.validation)] == [1, 1, 1]
    losses = torch.nn.functional.cross_entropy(model(parts[0].inputs).double(), parts[0].targets)
    assert found.before.forget_loss == pytest.approx(float(losses.detach()), rel=1e-5)
