"""What a config.json says about weights: transposed layers of GPT-2, and bitmask storage that is no more."""

import json

import pytest

from sparsify_cli.values.layout import Hint, Place
from sparsify_cli.values.model_config import plain_config, transposed_weights

NAMES = [
    "transformer.h.0.attn.c_attn.weight",
    "h.11.mlp.c_fc.weight",
    "h.1.crossattention.q_attn.weight",
    "h.0.attn.c_attn.bias",
    "wte.weight",
    "h.0.ln_1.weight",
]
PLACES = {name: Place("f", 0, "float32", (2, 6) if "weight" in name and "ln" not in name else (6,)) for name in NAMES}


@pytest.mark.parametrize("config", [{"model_type": "gpt2"}, {"model_type": "vision-encoder-decoder", "decoder": {"model_type": "gpt2"}}])
def test_the_projections_of_gpt2_are_transposed(tmp_path, config):
    """Attention and MLP projections are Conv1D; embeddings, norms and biases are not."""
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert transposed_weights(tmp_path, PLACES) == dict.fromkeys(NAMES[:3], Hint("Conv1D", transposed=True))


@pytest.mark.parametrize("text", ['{"model_type":"llama"}', '{"model_type":["gpt2"]}', "[", "[]", "\xff", "[" * 100_000, "9" * 5000, ""])
def test_another_or_a_broken_config_says_nothing(tmp_path, text):
    """A config of another network, or one that cannot be read, gives no hint and no error."""
    (tmp_path / "config.json").write_text(text, encoding="latin-1")
    assert transposed_weights(tmp_path, PLACES) == {}


def test_no_config_says_nothing(tmp_path):
    """A folder without a config gives no hint."""
    assert transposed_weights(tmp_path, PLACES) == {}


BITMASK = {"format": "sparse-bitmask", "targets": ["Linear"]}


@pytest.mark.parametrize(
    ("entry", "left"),
    [
        ({"sparsity_config": BITMASK}, {}),
        ({"compression_config": {"quant_method": "compressed-tensors", "sparsity_config": BITMASK}}, {}),
        ({"quantization_config": {"config_groups": {}, "sparsity_config": BITMASK}}, {}),
        (
            {"quantization_config": {"config_groups": {"g": 1}, "sparsity_config": BITMASK}},
            {"quantization_config": {"config_groups": {"g": 1}}},
        ),
    ],
)
def test_bitmask_storage_is_taken_out(entry, left):
    """The entry that describes the bitmask goes, quantization beside it and everything else stays."""
    text = json.dumps({"model_type": "llama", **entry, "eps": 1e-05, "none": None}, indent=2) + "\n"
    assert plain_config(text) == json.dumps({"model_type": "llama", **left, "eps": 1e-05, "none": None}, indent=2) + "\n"


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1}',
        "[1]",
        "{",
        "[" * 100_000,
        '{"sparsity_config": 3}',
        '{ "quantization_config":{"quant_method":"awq","sparsity_config":{"format":"dense"}}}',
    ],
)
def test_any_other_config_stays_as_it_is(text):
    """Without such an entry, not one byte changes."""
    assert plain_config(text) == text
