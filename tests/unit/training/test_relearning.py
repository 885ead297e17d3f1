"""Relearn time of networks of which it is known what they saw."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from sparsify_cli.contracts.unlearner import Request
from sparsify_cli.stages.audit import Audit, audit_notes, relearned
from sparsify_cli.training.relearning import MOST, SEEN, SHOWN, Relearning, mean_loss, most_passes
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.samples import Samples


def drawn(n: int, seed: int) -> Samples:
    """Samples whose class is the largest of four inputs, among 16 that say nothing."""
    generator = torch.Generator().manual_seed(seed)
    ids = tuple(f"{seed}-{i}" for i in range(n))
    inputs = torch.randn(n, 20, generator=generator)
    return Samples(inputs, inputs[:, :4].argmax(dim=1), ids)


def trained(samples: Samples) -> nn.Module:
    """A network that knows its samples by heart."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 4))
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(30):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(samples.inputs), samples.targets).backward()
        optimizer.step()
    return model


def test_what_forgot_little_is_back_sooner_than_what_never_saw_them():
    """48 samples are two steps a pass, learned well: nought, few and many passes, none of them the most."""
    forget, others = drawn(48, 0), drawn(200, 1)
    inputs, targets = (torch.cat(both) for both in ((forget.inputs, others.inputs), (forget.targets, others.targets)))
    knows = trained(Samples(inputs, targets, (*forget.ids, *others.ids)))
    target, slightly = mean_loss(knows, forget), copy.deepcopy(knows)
    for weight in slightly.parameters():
        weight.data *= 0.97
    found = [Relearning().passes(model, MaskSet(), forget, target) for model in (knows, slightly, trained(others))]
    assert target < 0.3
    assert found[0] == 0
    assert None not in found
    assert 0 < found[1] < found[2] / 3


def test_pruned_weights_stay_zero_and_the_network_is_left_as_it_was():
    """The copy is trained, within its masks: with no weight left it never comes back."""
    model, samples = trained(drawn(20, 2)), drawn(20, 2)
    target = mean_loss(model, samples)
    nothing = MaskSet({name: torch.zeros_like(weight, dtype=torch.bool) for name, weight in model.named_parameters() if weight.ndim > 1})
    model.load_state_dict(nothing.apply(model.state_dict()))
    before = copy.deepcopy(model.state_dict())
    assert Relearning().passes(model, nothing, samples, target) is None
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("passes", "values", "told"),
    [
        ({"after": None, "reference": None}, [None, None], True),
        ({"after": None}, [None], True),
        ({"after": None, "reference": 9}, [MOST, 9], False),
        ({"after": 4, "reference": None}, [4, MOST], False),
    ],
)
def test_where_no_network_comes_back_nothing_is_told(passes, values, told):
    """No number that could be taken for a good one, and a sentence; where one does, the other took more."""
    found = tuple(relearned(passes, 48))
    assert [one.value for one in found] == values
    assert [one.note for one in found] == [f"more than {MOST}" if count is None else "" for count in passes.values()]
    assert any("relearning tells nothing" in note for note in audit_notes(found)) == told


@pytest.mark.parametrize(("n", "passes"), [(1, 200), (48, 200), (64, 200), (100, 128), (256, 50)])
def test_work_is_bounded_by_samples_shown(n, passes):
    """Few samples are shown often, many seldom: never more than 12,800 of them, which is less than an epoch of most trainings."""
    assert most_passes(n) == passes
    assert n * passes <= SEEN


def test_of_many_forgotten_samples_some_are_shown():
    """A class of thousands would be relearned for longer than it took to learn: 256 of them are drawn."""
    forget, others, unseen = drawn(300, 0), drawn(50, 1), drawn(60, 2)
    model = trained(others)
    audit = Audit(Request(forget, others, unseen, MaskSet()), unseen, {"before": model, "after": copy.deepcopy(model)})
    found = {one.name: one for one in audit.findings()}
    assert found["relearn_passes_after"].n == SHOWN == 256
    assert found["distance_forget_before"].n == 300
