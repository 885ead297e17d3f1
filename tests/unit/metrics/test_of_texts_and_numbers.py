"""Metrics of texts and numbers: closed forms, and the same numbers from torchmetrics."""

import math

import pytest
import torch
from torchmetrics.regression import MeanAbsoluteError, MeanSquaredError, R2Score
from torchmetrics.text import Perplexity as TheirPerplexity

from sparsify_cli.contracts.metric import Evidence
from sparsify_cli.metrics.accuracy import Accuracy
from sparsify_cli.metrics.mae import MAE
from sparsify_cli.metrics.nll import NLL
from sparsify_cli.metrics.output_shift import OutputShift
from sparsify_cli.metrics.perplexity import Perplexity
from sparsify_cli.metrics.r2 import R2
from sparsify_cli.metrics.rmse import RMSE
from sparsify_cli.metrics.token_agreement import TokenAgreement
from sparsify_cli.values.positions import Positions, number_positions, token_positions

N = 40
G = torch.Generator().manual_seed(3)
TOKENS = torch.randint(5, (N, 6), generator=G)
TOKENS[::3, 2:] = -100
LOGITS = torch.randn(N, 6, 5, generator=G)
NUMBERS = torch.randn(N, 2, generator=G)
GUESSES = NUMBERS + 0.3 * torch.randn(N, 2, generator=G)


def texts(logits) -> Positions:
    """What a model with these logits says of the texts."""
    said, losses, counted = token_positions(logits, TOKENS)
    return Positions("tokens", said, TOKENS, losses, counted, tuple(map(str, range(N))))


def numbers(out) -> Positions:
    """What a model with these outputs says."""
    said, losses, counted = number_positions(out, NUMBERS)
    return Positions("numbers", said, NUMBERS, losses, counted, tuple(map(str, range(N))))


def value(metric, one, dense=None):
    """The number about all samples."""
    return metric.measure(Evidence(positions=(one,), dense_positions=(dense,) if dense is not None else ()))[0].value


def test_a_uniform_guess_among_five():
    """Perplexity 5, ln 5 nats; a certain and right one 1 and 0."""
    uniform, sure = torch.zeros(N, 6, 5), 100.0 * torch.nn.functional.one_hot(TOKENS.clamp_min(0), 5)
    assert value(Perplexity(), texts(uniform)) == pytest.approx(5) and value(NLL(), texts(uniform)) == pytest.approx(math.log(5))
    assert value(Perplexity(), texts(sure)) == pytest.approx(1) and value(Accuracy(), texts(sure)) == 1.0


def test_texts_as_others_measure_them():
    """torchmetrics: perplexity over all tokens that count; accuracy by a loop."""
    theirs = TheirPerplexity(ignore_index=-100)
    assert value(Perplexity(), texts(LOGITS)) == pytest.approx(float(theirs(LOGITS, TOKENS)), rel=1e-6)
    hits = [int(LOGITS[i, j].argmax() == TOKENS[i, j]) for i in range(N) for j in range(6) if TOKENS[i, j] >= 0]
    assert value(Accuracy(), texts(LOGITS)) == pytest.approx(sum(hits) / len(hits), rel=1e-12)


def test_agreement_counts_tokens_that_count():
    """Another guess at one place of two that count in every third text, and where nothing counts: only the former is seen."""
    other = LOGITS.clone()
    other[::3, 1:] = -other[::3, 1:]
    changed = sum(1 for i in range(0, N, 3) if other[i, 1].argmax() != LOGITS[i, 1].argmax())
    wanted = 1 - changed / int((TOKENS >= 0).sum())
    assert value(TokenAgreement(), texts(other), texts(LOGITS)) == pytest.approx(wanted, rel=1e-12)


def test_numbers_as_others_measure_them():
    """torchmetrics, one column at a time for the explained variance of one number."""
    assert value(RMSE(), numbers(GUESSES)) == pytest.approx(float(MeanSquaredError(squared=False)(GUESSES, NUMBERS)), rel=1e-6)
    assert value(MAE(), numbers(GUESSES)) == pytest.approx(float(MeanAbsoluteError()(GUESSES, NUMBERS)), rel=1e-6)
    one = Positions("numbers", GUESSES[:, :1], NUMBERS[:, :1], (GUESSES - NUMBERS)[:, :1].double() ** 2, torch.ones(N, 1) > 0, ("a",) * N)
    assert value(R2(), one) == pytest.approx(float(R2Score()(GUESSES[:, 0], NUMBERS[:, 0])), rel=1e-5)


def test_the_mean_explains_nothing():
    """R^2 of the mean of each number is 0, of the truth 1."""
    assert value(R2(), numbers(NUMBERS.mean(0).expand(N, 2))) == pytest.approx(0, abs=1e-6) and value(R2(), numbers(NUMBERS)) == 1.0


def test_halved_outputs_moved_by_half():
    """Whatever the truth."""
    assert value(OutputShift(), numbers(GUESSES / 2), numbers(GUESSES)) == pytest.approx(0.5, rel=1e-6)


def test_a_broken_model_has_a_number_too():
    """A loss of a thousand nats a token is no overflow."""
    found = value(Perplexity(), texts(-1000.0 * torch.nn.functional.one_hot(TOKENS.clamp_min(0), 5)))
    assert found > 1e100 and math.isfinite(found)


def test_a_group_is_explained_by_its_own_mean():
    """Two groups far apart, answered with their means: nothing is explained within either, nearly all between them."""
    sides = torch.arange(N) % 2
    truth = 20.0 * sides.unsqueeze(1) + NUMBERS[:, :1]
    said = torch.stack([truth[sides == side].mean() for side in (0, 1)])[sides].unsqueeze(1)
    groups = {"side": tuple(map(str, sides.tolist()))}
    one = Positions("numbers", said, truth, (said - truth).double() ** 2, torch.ones(N, 1) > 0, tuple(map(str, range(N))), groups)
    found = {f.scope: f.value for f in R2().measure(Evidence(positions=(one,)))}
    assert found["all"] > 0.98 and abs(found["group:side=0"]) < 1e-6 and abs(found["group:side=1"]) < 1e-6
