"""Accuracy with the help of the dense model, against a loop over samples."""

import pytest
import torch

from sparsify_cli.contracts.metric import Evidence
from sparsify_cli.metrics.routing import SHARES, Routing
from sparsify_cli.values.predictions import Predictions

N = 200
G = torch.Generator().manual_seed(2)
TARGETS = torch.randint(4, (N,), generator=G)
IDS = tuple(map(str, range(N)))


def model(skill: float) -> Predictions:
    """A model that is right the more often the higher its skill."""
    logits = torch.randn(N, 4, generator=G) + skill * torch.nn.functional.one_hot(TARGETS, 4)
    return Predictions(logits, TARGETS, IDS)


NOW, DENSE = model(1.5), model(3.0)


def found(name: str, of: str = "compressed", scope: str = "all", *, now: Predictions = NOW):
    """One number."""
    [value] = [f.value for f in Routing().measure(Evidence((now,), (DENSE,))) if (f.name, f.of, f.scope) == (name, of, scope)]
    return value


@pytest.mark.parametrize("share", SHARES)
def test_a_loop_gives_the_same(share):
    """Sort by confidence, take the dense model's answers of the first, count."""
    order = sorted(range(N), key=lambda i: float(NOW.probabilities[i].max()))
    sent = set(order[: round(share * N)])
    hits = sum(bool((DENSE if i in sent else NOW).correct[i]) for i in range(N))
    assert found("routing", scope=f"routed:{share:g}") == pytest.approx(hits / N)


def test_against_the_dense_model():
    """The change is that accuracy less the dense model's."""
    assert found("routing", "dense") == pytest.approx(float(DENSE.correct.double().mean()))
    assert found("routing", "change") == pytest.approx(found("routing") - found("routing", "dense"))


def test_share_that_is_needed_is_the_first_that_suffices():
    """In steps of a hundredth, by the loop; a model as good as the dense one needs none."""
    order = sorted(range(N), key=lambda i: float(NOW.probabilities[i].max()))
    wanted = int(DENSE.correct.sum())
    enough = [k for k in range(101) if sum(bool((DENSE if i in set(order[: 2 * k]) else NOW).correct[i]) for i in range(N)) >= wanted]
    assert found("routing_share") == pytest.approx(enough[0] / 100) and found("routing_share", now=DENSE) == 0.0


def test_several_models_are_paired_with_all_dense_ones():
    """The mean over pairs, whatever the order in which they are named."""
    other = model(2.0)
    both = Routing().measure(Evidence((NOW, other), (DENSE, NOW)))[0].value
    each = [Routing().measure(Evidence((a,), (b,)))[0].value for a in (NOW, other) for b in (DENSE, NOW)]
    assert both == pytest.approx(sum(each) / 4)
