"""AUC from placements, against pair counting and scikit-learn."""

import pytest
import torch
from sklearn.metrics import roc_auc_score

from sparsify_cli.maths.ranking import auc_contributions, macro_auc_contributions, midranks, placements
from tests import metric_checks as checks


def count_pairs(scores, positive):
    """The definition: every pair of a positive and a negative, a tie counting half."""
    pairs = [(a, b) for a in scores[positive].tolist() for b in scores[~positive].tolist()]
    return sum((a > b) + (a == b) / 2 for a, b in pairs) / len(pairs)


def test_midranks_share_the_mean_rank():
    """10, 30, 30, 20 -> 1, 3.5, 3.5, 2."""
    assert midranks(torch.tensor([10.0, 30.0, 30.0, 20.0])).tolist() == [1.0, 3.5, 3.5, 2.0]


def test_placements_by_hand():
    """Positives {3, 1}, negatives {2}: 3 beats all, 1 beats none, and the negative is below one of the two positives."""
    assert placements(torch.tensor([3.0, 1.0, 2.0]), torch.tensor([True, True, False])).tolist() == [1.0, 0.0, 0.5]


def test_ties_count_half():
    """Two of four pairs tied: 3/4."""
    checks.check_auc_halves_ties(lambda scores, positive: float(auc_contributions(scores, positive).mean()))


@pytest.mark.parametrize("seed", range(5))
def test_auc_is_the_share_of_ordered_pairs(seed):
    """Counting all pairs of 40 samples with many ties gives the same."""
    generator = torch.Generator().manual_seed(seed)
    scores, positive = torch.randint(6, (40,), generator=generator).double(), torch.arange(40) % 3 == 0
    assert float(auc_contributions(scores, positive).mean()) == pytest.approx(count_pairs(scores, positive))


def test_macro_auc_is_scikit_learns():
    """roc_auc_score(multi_class="ovr", average="macro") on 200 samples of 4 classes."""
    generator = torch.Generator().manual_seed(0)
    p = torch.softmax(torch.randn(200, 4, generator=generator, dtype=torch.float64), dim=1)
    targets = torch.arange(200) % 4
    oracle = roc_auc_score(targets.numpy(), p.numpy(), multi_class="ovr", average="macro")
    assert float(macro_auc_contributions(p, targets).mean()) == pytest.approx(oracle, abs=1e-12)


def test_spread_of_contributions_is_the_standard_error():
    """Over 400 simulated test sets the standard deviation of AUC is the one a single set predicts, within 10 %."""
    generator = torch.Generator().manual_seed(1)
    positive = torch.arange(200) < 80
    sets = [auc_contributions(torch.randn(200, generator=generator, dtype=torch.float64) + positive, positive) for _ in range(400)]
    predicted = torch.stack([s.std() / 200**0.5 for s in sets]).mean()
    assert float(torch.stack([s.mean() for s in sets]).std()) == pytest.approx(float(predicted), rel=0.1)
