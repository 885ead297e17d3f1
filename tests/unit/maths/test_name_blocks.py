"""Blocks of networks as they are named: what counts as a block of a transformer, a stage, an expert, a layer by itself."""

import pytest

from sparsify_cli.maths.name_blocks import blocks_of


def named(*patterns: str, n: int = 2) -> list[str]:
    """Names with {} replaced by 0, 1, ..."""
    return [pattern.replace("{}", str(i)) for i in range(n) for pattern in patterns]


@pytest.mark.parametrize(
    ("names", "block"),
    [
        (named("encoder.layer.{}.attention.self.query.weight", "encoder.layer.{}.output.dense.weight"), "encoder.layer.{}"),
        (named("encoder.block.{}.layer.0.SelfAttention.q.weight", "encoder.block.{}.layer.0.SelfAttention.k.weight",
               "encoder.block.{}.layer.1.DenseReluDense.wi.weight"), "encoder.block.{}"),
        (named("encoder.layers.encoder_layer_{}.mlp.0.weight", "encoder.layers.encoder_layer_{}.self_attention.in_proj_weight"),
         "encoder.layers.encoder_layer_{}"),
        (named("layers.{}.self_attn.q_proj.weight", *(f"layers.{{}}.moe.experts.{i}.{w}.weight" for i in (0, 1) for w in ("w1", "w2"))),
         "layers.{}"),
        (named("transformer_blocks.{}.ff.net.0.proj.weight", "transformer_blocks.{}.ff.net.2.weight",
               "transformer_blocks.{}.attn1.to_q.weight"), "transformer_blocks.{}"),
        (named("features.{}.conv.0.0.weight", "features.{}.conv.1.0.weight", "features.{}.conv.2.weight"), "features.{}"),
        (named("{}.weight"), "{}.weight"),
    ],
)  # fmt: skip
def test_every_layer_of_a_block_belongs_to_it(names, block):
    """Sublayers, experts and numbered convolutions do not come between."""
    found = blocks_of(names)
    assert all(found[name] in (block.replace("{}", "0"), block.replace("{}", "1")) and name.startswith(found[name]) for name in names)
    assert len(set(found.values())) == 2


def test_stages_of_different_depth_are_no_blocks():
    """As in Swin: stages hold two and three blocks; a block whose neighbour has a layer more is still one."""
    names = [f"layers.{i}.blocks.{j}.{w}.weight" for i, depth in ((0, 2), (1, 3)) for j in range(depth) for w in ("attn.qkv", "mlp.fc1")]
    assert set(blocks_of(names).values()) == {"layers.0.blocks.0", "layers.0.blocks.1", *(f"layers.1.blocks.{j}" for j in range(3))}
    resnet = ["layer1.0.conv1.weight", "layer1.0.conv2.weight", "layer1.0.downsample.0.weight", "layer1.1.conv1.weight", "fc.weight"]
    assert [blocks_of(resnet)[name] for name in resnet] == ["layer1.0", "layer1.0", "layer1.0", "layer1.1.conv1.weight", "fc.weight"]
