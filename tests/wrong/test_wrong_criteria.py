"""Known-wrong scores and statistics, rejected by the checks that accept ours."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sparsify_cli.criteria.lamp import Lamp
from sparsify_cli.criteria.ria import Ria
from sparsify_cli.criteria.wanda import Wanda
from sparsify_cli.maths.activity import Activity
from sparsify_cli.maths.channel_activity import ranked_by_channel
from sparsify_cli.maths.gram import input_rows
from sparsify_cli.maths.keep import top_k
from sparsify_cli.maths.row_competition import within_rows
from sparsify_cli.values.stats import Inputs, Stats

# ------------------------------------------------------------------------------------------------- relative importance


def ria(sizes, roots):
    """Ours, on |w| [out, in] and the root mean squares of inputs."""
    return Ria().score("a", sizes, Stats(gram={"a": torch.diag(roots.square())}))


def ria_without_rows(sizes, roots):
    """Only the share of what reads the input."""
    return sizes / sizes.sum(0) * roots.sqrt()


def ria_without_columns(sizes, roots):
    """Only the share of what the output reads."""
    return sizes / sizes.sum(1, keepdim=True) * roots.sqrt()


def ria_of_the_layer(sizes, roots):
    """Shares of the whole layer: nothing but the order of magnitude."""
    return 2 * sizes / sizes.sum() * roots.sqrt()


def ria_with_full_inputs(sizes, roots):
    """Power 1: inputs count as much as in Wanda."""
    return (sizes / sizes.sum(0) + sizes / sizes.sum(1, keepdim=True)) * roots


def ria_of_the_product(sizes, roots):
    """Shares multiplied, not added."""
    return sizes / sizes.sum(0) * (sizes / sizes.sum(1, keepdim=True)) * roots.sqrt()


def check_ria(score):
    """Assert, for |w| = 6 2 and 2 6 but the second output ten times larger, four scores done by hand up to one factor."""
    sizes, roots = torch.tensor([[6.0, 2.0], [20.0, 60.0]], dtype=torch.float64), torch.tensor([9.0, 4.0], dtype=torch.float64)
    found = score(sizes, roots)
    expected = [3 * (6 / 26 + 6 / 8), 2 * (2 / 62 + 2 / 8), 3 * (20 / 26 + 20 / 80), 2 * (60 / 62 + 60 / 80)]
    assert (found / found[0, 0]).flatten().tolist() == pytest.approx([value / expected[0] for value in expected], rel=1e-12)


# ---------------------------------------------------------------------------------------------------------------- Wanda


def wanda(weight, gram):
    """Ours."""
    return Wanda().score("a", weight, Stats(gram={"a": gram}))


def wanda_of_mean_squares(weight, gram):
    """The mean square of the input where its root should be."""
    return weight.abs().double() * gram.diagonal().reshape(weight.shape[2], weight.shape[1]).T


def wanda_kernel_fastest(weight, gram):
    """Columns read as (channel, kernel position)."""
    return weight.abs().double() * gram.diagonal().sqrt().reshape(weight.shape[1:])


def check_wanda(score):
    """Assert that a score squared is the mean square of what the weight alone adds to the output of a convolution."""
    torch.manual_seed(0)
    layer, inputs = nn.Conv1d(2, 3, 3, padding=1), torch.randn(4, 2, 5) * torch.tensor([[1.0], [5.0]])
    rows = input_rows(layer, inputs)[0].double()
    found, weight = score(layer.weight.detach(), rows.T @ rows / len(rows)), layer.weight.detach()
    for out, channel, position in [(0, 0, 0), (1, 1, 0), (2, 0, 2), (2, 1, 1)]:
        alone = nn.Conv1d(2, 3, 3, padding=1, bias=False)
        alone.weight.data = torch.zeros_like(weight)
        alone.weight.data[out, channel, position] = weight[out, channel, position]
        assert float(found[out, channel, position] ** 2) == pytest.approx(float(alone(inputs)[:, out].detach().square().mean()), rel=1e-5)


# ----------------------------------------------------------------------------------------------------------------- rows


def places_alone(scores):
    """Places without levels: of the rows that keep one more, the first are taken."""
    return -scores.argsort(dim=1, descending=True).argsort(dim=1).double()


def places_with_raw_scores(scores):
    """Scores added to the places as they are: a large one jumps over a place."""
    return places_alone(scores) + scores


def shares_of_the_row(scores):
    """Scores over their row's sum: comparable, yet not equal counts."""
    return scores / scores.sum(1, keepdim=True)


def check_rows(compete):
    """Assert for every count that rows keep as many to within one, and that those with one more are the ones whose next is highest."""
    scores = torch.tensor([[0.5, 9.0, 3.0], [40.0, 39.0, 2.0], [6.0, 5.0, 4.0]], dtype=torch.float64)
    best = {1: [0, 1, 0], 2: [1, 1, 0], 4: [1, 2, 1], 5: [1, 2, 2], 7: [2, 2, 3], 8: [2, 3, 3]}
    for count, kept in best.items():
        assert top_k(compete(scores).flatten(), count).view(3, 3).sum(1).tolist() == kept


# ------------------------------------------------------------------------------------------------------------- channels


def sizes_added(values, weight):
    """|w| added to the channel's number: large weights of a poor channel pass those of a rich one."""
    return values + weight.abs()


def sizes_multiplied(values, weight):
    """|w| times the channel's number."""
    return values * weight.abs()


def no_order_inside(values, weight):
    """The channel's number alone."""
    return values.expand_as(weight)


def check_channels(rank):
    """Assert channels 1, 3, 2 in order, and the larger weight first in each."""
    weight = torch.tensor([[0.5, 0.1, 8.0], [7.0, 0.2, 0.0]], dtype=torch.float64)
    found = rank(torch.tensor([[1.0, 3.0, 2.0]], dtype=torch.float64), weight)
    assert found.flatten().argsort(descending=True, stable=True).tolist() == [4, 1, 2, 5, 3, 0]


# ------------------------------------------------------------------------------------------------------------- activity


def activity(layer, batches):
    """Ours."""
    gathered = Activity()
    for batch in batches:
        gathered.add(layer, batch)
    return gathered.result()


def mean_of_batches(layer, batches):
    """Batches count alike, however many rows they have, and spread between them is lost."""
    found = [activity(layer, [batch]) for batch in batches]
    return Inputs(*(torch.stack([getattr(each, of) for each in found]).mean(0) for of in ("mean", "variance", "active")))


def low_precision_squares(layer, batches):
    """E[x^2] - E[x]^2 in the precision of the inputs: all digits cancel."""
    rows = torch.cat([input_rows(layer, batch)[0] for batch in batches])
    return Inputs(rows.mean(0).double(), (rows.square().mean(0) - rows.mean(0).square()).double(), (rows != 0).double().mean(0))


def unbiased(layer, batches):
    """Divided by n - 1."""
    rows = torch.cat([input_rows(layer, batch)[0] for batch in batches]).double()
    return Inputs(rows.mean(0), rows.var(0), (rows != 0).double().mean(0))


def positive_is_active(layer, batches):
    """Inputs below zero taken for inactive."""
    rows = torch.cat([input_rows(layer, batch)[0] for batch in batches]).double()
    return Inputs(rows.mean(0), rows.var(0, correction=0), (rows > 0).double().mean(0))


def check_activity(gather):
    """Assert mean, variance and share of 4097, 4099, 4099 and of 0, -3, 0 in batches of one and two rows."""
    found = gather(nn.Linear(2, 1), [torch.tensor([[4097.0, 0.0]]), torch.tensor([[4099.0, -3.0], [4099.0, 0.0]])])
    assert found.mean.tolist() == pytest.approx([4097 + 4 / 3, -1], rel=1e-12)
    assert found.variance.tolist() == pytest.approx([8 / 9, 2], rel=1e-9)
    assert found.active.tolist() == pytest.approx([1, 1 / 3], rel=1e-12)


# ----------------------------------------------------------------------------------------------------------------- LAMP


def lamp(weight):
    """Ours."""
    return Lamp().score("a", weight, Stats())


def lamp_shared(weight):
    """Equal magnitudes share a score, as the formula says to the letter: they fall together."""
    squares = weight.double().square()
    return squares / (squares * (squares[None] >= squares[:, None])).sum(1)


def lamp_over_the_smaller(weight):
    """Divided by the weights that go first."""
    squares = weight.double().square()
    return squares / (squares * (squares[None] <= squares[:, None])).sum(1)


def lamp_without_squares(weight):
    """|w| in the place of its square."""
    return lamp(weight.abs().sqrt())


def check_lamp(score):
    """Assert the scores of 1, 2, 2 by hand: 1/9, 1 and 1/2."""
    assert score(torch.tensor([1.0, -2.0, 2.0])).tolist() == pytest.approx([1 / 9, 1, 1 / 2], rel=1e-12)


CHECKS = {
    check_ria: (ria, [ria_without_rows, ria_without_columns, ria_of_the_layer, ria_with_full_inputs, ria_of_the_product]),
    check_wanda: (wanda, [wanda_of_mean_squares, wanda_kernel_fastest]),
    check_rows: (within_rows, [places_alone, places_with_raw_scores, shares_of_the_row]),
    check_channels: (ranked_by_channel, [sizes_added, sizes_multiplied, no_order_inside]),
    check_activity: (activity, [mean_of_batches, low_precision_squares, unbiased, positive_is_active]),
    check_lamp: (lamp, [lamp_shared, lamp_over_the_smaller, lamp_without_squares]),
}
BY_NAME = {"ids": lambda function: function.__name__}


@pytest.mark.parametrize(("check", "right"), [(check, right) for check, (right, _) in CHECKS.items()], **BY_NAME)
def test_right_ones_pass(check, right):
    """Ours pass."""
    assert check(right) is None


@pytest.mark.parametrize(("check", "wrong"), [(check, wrong) for check, (_, all_wrong) in CHECKS.items() for wrong in all_wrong], **BY_NAME)
def test_wrong_ones_are_rejected(check, wrong):
    """Each known-wrong one fails the same check."""
    with pytest.raises(AssertionError):
        check(wrong)
