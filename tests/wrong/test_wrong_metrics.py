"""Known-wrong metrics and intervals: each is a mistake people make, and the checks of the suite reject it."""

import math

import pytest
import torch

from sparsify_cli.maths.calibration_error import gap_contributions
from tests import metric_checks as checks


def eleventh_bin(confidence, correct):
    """floor(10 p) without putting p = 1 into the last bin, as torchmetrics and the paper's code do."""
    return gap_contributions(confidence, correct, (confidence * 10).long())


def ece_without_bins(confidence, correct):
    """Mean of |confidence - correct|: the gaps inside a bin do not cancel."""
    return (confidence - correct.double()).abs()


def unweighted_bins(confidence, correct):
    """Mean over non-empty bins, whatever their size."""
    bins = (confidence * 10).long().clamp(max=9)
    gaps = [(confidence[bins == b] - correct[bins == b].double()).mean().abs() for b in bins.unique()]
    return torch.stack(gaps)


def mean_class_accuracy(predictions):
    """Macro accuracy under the name of accuracy."""
    return float(torch.stack([predictions.correct[predictions.targets == k].double().mean() for k in predictions.targets.unique()]).mean())


def brier_mean_over_classes(predictions):
    """Divided by the number of classes."""
    truth = torch.nn.functional.one_hot(predictions.targets, predictions.logits.shape[1])
    return float(((predictions.probabilities - truth) ** 2).mean())


def brier_of_the_true_class(predictions):
    """Only (1 - p of the truth)^2: the other classes are forgotten."""
    p = predictions.probabilities.gather(1, predictions.targets[:, None])
    return float(((1 - p) ** 2).mean())


def nll_in_bits(predictions):
    """log2 under the name of nats."""
    return float(-predictions.probabilities.gather(1, predictions.targets[:, None]).log2().mean())


def nll_of_the_answer(predictions):
    """-ln of the largest probability: the model's confidence, not its fit to the truth."""
    return float(-predictions.probabilities.amax(dim=1).log().mean())


def auc_ties_win(scores, positive):
    """A tie counted as a win."""
    return float((scores[positive][:, None] >= scores[~positive]).double().mean())


def auc_ties_lose(scores, positive):
    """A tie counted as a loss."""
    return float((scores[positive][:, None] > scores[~positive]).double().mean())


def one_sided_uncertainty(predictions):
    """Probability of class 1 below .9: a confident "no" counts as unsure."""
    return float((predictions.probabilities[:, 1] < 0.9).double().mean())


def median_upper(values):
    """The upper of the two middle values."""
    return sorted(values)[len(values) // 2]


def median_torch(values):
    """torch.median: the lower of the two middle values."""
    return float(torch.tensor(values).median())


def wald(k, n):
    """Normal interval of a share: of width zero at 0 and n."""
    half = 1.96 * math.sqrt(k / n * (1 - k / n) / n)
    return k / n - half, k / n + half


def unpaired(after, before):
    """Two independent shares, though the samples are the same."""
    p, q, n = float(after.double().mean()), float(before.double().mean()), len(after)
    half = 1.96 * math.sqrt(p * (1 - p) / n + q * (1 - q) / n)
    return p - q - half, p - q + half


def paired_wald(after, before):
    """Normal paired interval: of width zero when no answer changed."""
    gap = after.double() - before.double()
    half = 1.96 * float(gap.std()) / math.sqrt(len(gap))
    return float(gap.mean()) - half, float(gap.mean()) + half


def dense_minus_compressed(after, before):
    """The sign turned around."""
    low, high = paired_wald(before, after)
    return low, high


def standard_error_bars(values):
    """Plus and minus one standard error: 68 %, not 95 %."""
    half = float(values.std()) / math.sqrt(len(values))
    return float(values.mean()) - half, float(values.mean()) + half


def spread_of_samples(values):
    """Quantiles of the samples instead of the interval of their mean."""
    return float(values.quantile(0.025)), float(values.quantile(0.975))


WRONG = [
    (eleventh_bin, checks.check_top_bin_is_shared),
    (ece_without_bins, checks.check_gaps_cancel_inside_a_bin),
    (unweighted_bins, checks.check_bins_are_weighted_by_size),
    (mean_class_accuracy, checks.check_accuracy_counts_samples),
    (brier_mean_over_classes, checks.check_brier_sums_over_classes),
    (brier_of_the_true_class, checks.check_brier_sums_over_classes),
    (nll_in_bits, checks.check_nll_is_in_nats),
    (nll_of_the_answer, checks.check_nll_is_in_nats),
    (auc_ties_win, checks.check_auc_halves_ties),
    (auc_ties_lose, checks.check_auc_halves_ties),
    (one_sided_uncertainty, checks.check_uncertainty_is_two_sided),
    (median_upper, checks.check_median_of_even_number),
    (median_torch, checks.check_median_of_even_number),
    (wald, checks.check_share_is_honest_at_the_edge),
    (unpaired, checks.check_pairs_use_their_pairing),
    (paired_wald, checks.check_no_change_is_not_certainty),
    (dense_minus_compressed, checks.check_pairs_use_their_pairing),
    (standard_error_bars, checks.check_covers_the_mean),
    (spread_of_samples, checks.check_covers_the_mean),
]


@pytest.mark.parametrize(("wrong", "check"), WRONG, ids=[wrong.__name__ for wrong, _ in WRONG])
def test_the_suite_rejects_it(wrong, check):
    """The check that the right implementation passes fails for the known-wrong one."""
    with pytest.raises(AssertionError):
        check(wrong)
