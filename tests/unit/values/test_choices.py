"""Attributes as choices between no and yes: the same numbers as by their own formulas."""

from __future__ import annotations

import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from sparsify_cli.values.choices import alike, choices, kinds, of_samples, options, unheard_of

LABELS, ATTRIBUTES = torch.tensor([2, 0]), torch.tensor([[1, 0, 1], [0, 0, 1]])


def logits() -> torch.Tensor:
    """Two rows of three outputs."""
    return torch.randn(2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_labels_stay_what_they_are():
    """Rows and labels as given."""
    rows, right = choices(logits(), LABELS)
    assert torch.equal(rows, logits()) and torch.equal(right, LABELS)
    assert torch.equal(of_samples(torch.tensor([1.0, 2.0]), LABELS), torch.tensor([1.0, 2.0]))


def test_cross_entropy_of_attributes_is_the_binary_one():
    """Mean over samples and attributes; and the sum over the attributes of each sample."""
    rows, right = choices(logits(), ATTRIBUTES)
    assert rows.shape == (6, 2)
    wanted = binary_cross_entropy_with_logits(logits(), ATTRIBUTES.double(), reduction="none")
    torch.testing.assert_close(cross_entropy(rows, right), wanted.mean())
    torch.testing.assert_close(of_samples(cross_entropy(rows, right, reduction="none"), ATTRIBUTES), wanted.sum(dim=1))
    torch.testing.assert_close(options(logits(), attributes=True).softmax(1)[:, 1], logits().sigmoid().flatten())


def test_kinds_are_labels_or_one():
    """Samples with attributes are all of one kind."""
    assert kinds(LABELS).tolist() == [2, 0]
    assert kinds(ATTRIBUTES).tolist() == [0, 0]


def test_answers_that_nobody_has_any_more():
    """Label 3 is left nowhere; nobody that stays lacks attribute 1."""
    assert unheard_of(torch.tensor([3, 1, 3]), torch.tensor([1, 2])).tolist() == [True, False, True]
    left = torch.tensor([[0, 1], [1, 1]])
    assert unheard_of(torch.tensor([[1, 0], [0, 1]]), left).tolist() == [[False, True], [False, False]]


def test_sets_are_told_apart_by_the_attributes_that_differ():
    """One attribute that all of one set and half of the other have makes two kinds; one as common in both makes none."""
    one, other = torch.tensor([[1, 0], [1, 1]]), torch.tensor([[1, 0], [0, 1], [1, 1], [0, 0]])
    first, second = alike(one, other)
    assert first.tolist() == [1, 1] and second.tolist() == [1, 0, 1, 0]
    assert [side.tolist() for side in alike(other, other)] == [[0] * 4, [0] * 4]
    assert all(torch.equal(a, b) for a, b in zip(alike(LABELS, LABELS), (LABELS, LABELS), strict=True))
    assert alike(one[:0], other)[0].tolist() == []
