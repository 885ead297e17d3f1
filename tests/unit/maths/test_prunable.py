"""What is prunable by name, type and shape."""

from __future__ import annotations

import time

import pytest

from sparsify_cli.maths.prunable import is_called_otherwise, verdict, verdicts
from sparsify_cli.values.layout import Hint


@pytest.mark.parametrize(
    ("name", "dtype", "shape", "why"),
    [
        ("fc.weight", "float32", (3, 4), ""),
        ("fc.weight", "float8_e4m3fn", (3, 4), ""),
        ("conv.weight", "bfloat16", (8, 4, 3, 3), ""),
        ("fc.bias", "float32", (4,), "not a matrix"),
        ("steps", "int64", (3, 4), "not of a floating type"),
        ("scale", "float8_e8m0fnu", (3, 4), "of a type without order"),
        ("fc.weight", "float32", (0, 4), "empty"),
        ("cls.scale", "float32", (1, 8, 1), "a vector"),
        ("model.embed_tokens.weight", "float32", (30, 4), "named like no weight"),
        ("layer_norm.weight", "float32", (3, 4), "named like no weight"),
    ],
)
def test_one_tensor(name, dtype, shape, why):
    """Matrices of floats are, unless their names say otherwise; every other one has its reason."""
    assert verdict(name, dtype, shape) == ((False, why) if why else (True, "looks like a weight"))


def test_a_graph_knows_better():
    """What takes a tensor decides before its name does, but not before its shape."""
    assert verdict("embed", "float32", (3, 4), Hint("MatMul")) == (True, "MatMul weight")
    assert verdict("w", "float32", (3, 4), Hint("Gather")) == (False, "used by Gather")
    assert not verdict("w", "float32", (3,), Hint("MatMul")).matched


def test_tied_tensors():
    """The second name is never pruned; the first neither when the second is an embedding."""
    matrix = ("float32", (30, 4))
    found = verdicts({"head.weight": matrix, "wte.weight": matrix, "a": matrix, "b": matrix}, {"wte.weight": "head.weight", "b": "a"}, {})
    assert {name: one.matched for name, one in found.items()} == {"head.weight": False, "wte.weight": False, "a": True, "b": False}
    assert found["head.weight"].why == "tied to wte.weight" and found["b"].why == "tied to a"


WEIGHTS = """
mlp.shared_experts.gate_proj.weight postnet.conv.weight post_quant_conv.weight cls_score.weight cls.predictions.transform.dense.weight
pos_ffn.w_1.weight token_mixer.fc.weight time_embed.0.weight embedder.linear_1.weight embeddings.patch_embeddings.projection.weight
vision_model.embeddings.patch_embedding.weight class_embed.weight bbox_embed.layers.0.weight x_embedder.weight emb_layers.1.weight
norm1.linear.weight encoder.embedding_hidden_mapping_in.weight linear_pos.weight post_attention.dense.kernel attn.in_proj_weight
weight_ih_l0 text_projection experts.gate_up_proj 0.weight weight classifier.parametrizations.weight.original1 onnx::MatMul_12
bert/encoder/layer_0/attention/self/query/kernel:0 lnet.fc.weight cls.seq_relationship.weight lm_head.weight
"""
OTHERS = """
layers.0.attn_mask pe A_log shared.weight wte.weight wpe.weight embed_tokens.weight word_embeddings.weight position_embeddings.weight
pos_embed pos_embedding relative_position_bias_table rel_pos_h relative_attention_bias.weight cls_token mask_token tok_emb.weight
token_embedding.weight emb.weight embedding.weight bn1.weight ln_1.weight layernorm.weight norm.weight running_mean layer.running_var bias
a.bias_buffer rope_buffer basis dft_basis_real quantizer.codebook codebook.weight codebooks.0.weight decoder.embed_tokens.0.weight
LayerNorm.weight ln_f.weight token_embd.weight token_type_embeddings.weight embed_positions.weights positional_embedding shared.embedding
bert/embeddings/word_embeddings:0 embed_tokens.base_layer.weight y_embedder.embedding_table.weight query_embed.weight inv_freq
scale_shift_table tokens.weight transformer.wte.parametrizations.weight.original freqs_cis norm_weight embed.pe model.embed_in.weight
"""


@pytest.mark.parametrize("name", WEIGHTS.split())
def test_layers_whose_names_only_remind_of_others(name):
    """Linear and convolution layers of well-known networks are weights: only the last word of a path judges."""
    assert not is_called_otherwise(name)


@pytest.mark.parametrize("name", OTHERS.split())
def test_names_of_no_weights(name):
    """Embeddings, positions, norms, tokens, masks, statistics and state-space constants of well-known networks stay dense."""
    assert is_called_otherwise(name)


def test_a_name_without_end():
    """A hostile name takes no time, and its end still tells."""
    begun = time.perf_counter()
    assert not is_called_otherwise("norm" * 100_000 + "-")
    assert is_called_otherwise("norm-" * 100_000 + ".wte.weight")
    assert time.perf_counter() - begun < 1
