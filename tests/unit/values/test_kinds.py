"""What samples ask for is seen from their targets."""

import pytest
import torch

from sparsify_cli.errors import BadData
from sparsify_cli.values.arrays import samples_from

IDS = torch.tensor([[5, 1, 2], [0, 3, 3]])


def made(inputs, targets):
    """Samples of a split."""
    return samples_from(inputs, targets, split="train", where="here")


@pytest.mark.parametrize(
    ("inputs", "targets", "kind", "outputs"),
    [
        (torch.rand(2, 3), [0, 2], "classes", 3),
        (torch.rand(2, 3), [[0, 1, 1], [1, 1, 0]], "attributes", 3),
        (torch.rand(2, 3), [[0.5], [2.0]], "numbers", 1),
        (torch.rand(2, 3), [0.5, 2.0], "numbers", 1),
        (torch.rand(2, 1, 4, 4), torch.zeros(2, 1, 4, 4), "numbers", 16),
        (IDS, IDS, "tokens", 6),
        (IDS, [1, 0], "classes", 2),
        (IDS, [[1, 1], [0, 1]], "attributes", 2),
    ],
)
def test_kind_of_targets(inputs, targets, kind, outputs):
    """By type and shape; a part of them asks for the same."""
    samples = made(inputs, targets)
    assert (samples.kind, samples.outputs) == (kind, outputs) and samples.take([1]).kind == kind


def test_texts_without_targets_ask_for_each_next_token():
    """Nothing is right after the last."""
    samples = made(IDS, None)
    assert samples.targets.tolist() == [[1, 2, -100], [3, 3, -100]] and samples.texts


@pytest.mark.parametrize(
    ("inputs", "targets", "words"),
    [
        (torch.rand(2, 3), None, "there are none"),
        (torch.rand(2, 3), [1.0, 3.0], "may be classes"),
        (torch.rand(2, 3), [[1.0], [float("nan")]], "NaN"),
        (IDS, torch.full((2, 3), -100), "no token counts"),
        (torch.rand(2, 3), [[0, 2], [1, 0]], "each 0 or 1"),
        (torch.rand(2, 1, 4, 4), torch.zeros(2, 4, 4, dtype=torch.uint8), "class for each position"),
    ],
)
def test_targets_that_ask_for_nothing_known(inputs, targets, words):
    """Refused with the reason."""
    with pytest.raises(BadData, match=words):
        made(inputs, targets)


@pytest.mark.parametrize(
    ("inputs", "targets", "kind"),
    [
        (IDS, [[1, 0, 1], [0, 1, 1]], "attributes"),
        (IDS, torch.rand(2, 3), "numbers"),
        (torch.tensor([[0, 1, 1], [1, 0, 1]]), torch.tensor([[0, 1, 1], [1, 1, 0]]), "tokens"),
    ],
)
def test_as_many_targets_as_tokens_are_not_always_texts(inputs, targets, kind):
    """Yes and no about categories, and numbers along a series of integers, are what they were."""
    assert made(inputs, targets).kind == kind


@pytest.mark.parametrize(
    ("inputs", "targets", "words"),
    [
        (torch.rand(2, 3), [[0.0, 1.0], [1.0, 0.0]], "exactly one 1"),
        (torch.tensor([[3], [4]]), None, "there are none"),
        (IDS, [[1, 2, 3], [4]], "not an array"),
    ],
)
def test_what_may_be_meant_otherwise_is_refused(inputs, targets, words):
    """One-hot rows, a single token, and rows of different lengths."""
    with pytest.raises(BadData, match=words):
        made(inputs, targets)


def test_floating_zeros_and_ones_are_answers():
    """As binary cross-entropy wants them: [n] and [n, 1] are labels, wider rows attributes."""
    for targets, kind in (([0.0, 1.0], "classes"), ([[0.0], [1.0]], "classes"), ([[0.0, 1.0], [1.0, 1.0]], "attributes")):
        found = made(torch.rand(2, 3), targets)
        assert found.kind == kind and found.targets.dtype == torch.int64


def test_one_number_a_sample_is_a_column():
    """Whether the network puts out [n] or [n, 1]."""
    assert made(torch.rand(3, 2), [0.5, 1.5, 2.0]).targets.shape == (3, 1)
