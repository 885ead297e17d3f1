"""Padding: known from embeddings or the configuration; rows at such positions are left out whichever axis comes first."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import nn

from sparsify_cli.training.padding import batches_of, counted, only_real, padding_id, real_positions

IDS = torch.tensor([[3, 4, 0], [5, 0, 0]])


def test_the_configuration_counts_before_embeddings_and_embeddings_have_to_agree():
    """Two embeddings with two ids say nothing."""
    one, other = nn.Embedding(9, 2, padding_idx=0), nn.Embedding(9, 2, padding_idx=1)
    assert padding_id(nn.Sequential(one)) == 0
    assert padding_id(nn.Sequential(one, other)) is None
    assert padding_id(nn.Linear(2, 2)) is None
    said = nn.Sequential(one)
    said.config = SimpleNamespace(pad_token_id=7)
    assert padding_id(said) == 7


def test_only_token_ids_have_padding():
    """Numbers with a point and stacks of matrices have none."""
    net = nn.Sequential(nn.Embedding(9, 2, padding_idx=0))
    assert real_positions(net, IDS).tolist() == [[True, True, False], [True, False, False]]
    assert real_positions(net, IDS.float()) is None
    assert real_positions(net, torch.zeros(2, 3, 4, dtype=torch.long)) is None
    assert real_positions(nn.Linear(3, 2), IDS) is None


def test_rows_of_padding_go_and_others_stay():
    """Batch first, length first, or no positions at all."""
    real = IDS != 0
    x = torch.randn(2, 3, 4)
    expected = torch.stack([x[0, 0], x[0, 1], x[1, 0]])
    assert torch.equal(only_real(nn.Linear(4, 4), x, real), expected)
    turned = only_real(nn.Linear(4, 4), x.transpose(0, 1), real)
    assert {tuple(row.tolist()) for row in turned} == {tuple(row.tolist()) for row in expected}
    assert only_real(nn.Linear(4, 4), x, None) is x
    assert only_real(nn.Linear(4, 4), torch.ones(2, 4), real).shape == (2, 4)
    assert only_real(nn.Linear(4, 4), torch.ones(5, 3, 4), real).shape == (5, 3, 4)
    assert torch.equal(only_real(nn.Linear(4, 4), x.flatten(0, 1), real), expected)
    channels = torch.randn(2, 3, 3)
    assert only_real(nn.Conv1d(3, 2, 1), channels, real) is channels


def test_no_batch_has_as_many_samples_as_a_sequence_is_long():
    """Else nothing tells a network whose sequences come first from others."""
    for samples, length in ((64, 64), (96, 32), (200, 64), (3, 3), (63, 63), (130, 65), (5, 1)):
        parts = batches_of(torch.ones(samples, length, dtype=torch.long), 64)
        assert sum(len(part) for part in parts) == samples
        assert all(len(part) != length for part in parts) or length == 1
    assert [len(part) for part in batches_of(torch.ones(130, 3, 8, 8), 64)] == [64, 64, 2]


def test_answers_at_padding_do_not_count():
    """Said as targets say it; of answers that are no tokens, one a sample, nothing is known."""
    net = nn.Sequential(nn.Embedding(9, 2, padding_idx=0))
    assert counted(net, IDS, torch.zeros(2, 3, 9)).tolist() == [[0, 0, -1], [0, -1, -1]]
    assert counted(net, IDS, torch.zeros(2, 9)) is None and counted(nn.Linear(3, 2), IDS, torch.zeros(2, 3, 9)) is None
