"""Networks of the transformers library answer with their logits, and padding is not attended to."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from sparsify_cli.stages.hugging_face import plainly_called

transformers = pytest.importorskip("transformers", reason="transformers is not installed")


def bert() -> nn.Module:
    """A small classifier with token 0 as padding."""
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, max_position_embeddings=16
    )
    return transformers.BertForSequenceClassification(config).eval()


def test_logits_come_out_and_padding_makes_no_difference():
    """One tensor in, one out; a mask follows from the ids, and one that is given counts."""
    net, ids = plainly_called(bert()), torch.randint(1, 50, (4, 6))
    padded = torch.cat([ids, torch.zeros(4, 3, dtype=torch.long)], dim=1)
    with torch.no_grad():
        assert net(ids).shape == (4, 2)
        assert torch.allclose(net(ids), net(padded), atol=1e-5)
        assert torch.allclose(copy.deepcopy(net)(padded), net(padded))
        given = net(input_ids=padded, attention_mask=torch.ones_like(padded))
    assert not torch.allclose(given, net(padded), atol=1e-5)  # a mask that is given counts


def test_other_networks_stay_as_they_are():
    """No hooks on networks of no known library."""
    net = nn.Linear(2, 2)
    assert plainly_called(net) is net
    assert not net._forward_hooks
    assert not net._forward_pre_hooks


def test_a_network_without_a_mask_is_given_none():
    """FNet mixes all positions and takes no attention mask."""
    config = transformers.FNetConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1, intermediate_size=32, max_position_embeddings=16)
    net = plainly_called(transformers.FNetForSequenceClassification(config).eval())
    with torch.no_grad():
        assert net(torch.randint(0, 50, (3, 6))).shape == (3, 2)
