"""The plan: which tensors are prunable, and why."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sparsify_cli.errors import BadRequest
from sparsify_cli.stages.plan import matches, plan, prunable_names
from sparsify_cli.values.checkpoint import Checkpoint, Source, Spec

CNN = Spec("cnn", {"width": 2})
CONVS = ["conv1.weight", "conv2.weight", "conv3.weight", "conv4.weight"]


def checkpoint(**shapes):
    """Zeros of the given shapes; `__` in a name stands for a dot."""
    return Checkpoint({name.replace("__", "."): torch.zeros(shape) for name, shape in shapes.items()}, Source("model.pt", ""))


def cnn(prefix=""):
    """A checkpoint of the small CNN."""
    from sparsify_cli.stages.resolve import build_architecture

    return Checkpoint({prefix + name: tensor for name, tensor in build_architecture(CNN).state_dict().items()}, Source("model.pt", ""))


@pytest.mark.parametrize("architecture", [CNN, None])
@pytest.mark.parametrize("prefix", ["", "net."])
def test_a_cnn_with_and_without_its_architecture(architecture, prefix):
    """Both ways find the four convolutions and the linear layer, under a wrapper's prefix too; never batch norm or biases."""
    assert prunable_names(cnn(prefix), architecture) == [prefix + name for name in (*CONVS, "fc.weight")]


def test_every_tensor_has_a_row_and_a_reason():
    """The plan of a CNN has a row a tensor, in file order, with its size."""
    rows = plan(cnn(), CNN)
    assert [row.name for row in rows] == list(cnn().tensors)
    assert all(row.why for row in rows)
    by_name = {row.name: row for row in rows}
    assert (by_name["conv1.weight"].shape, by_name["conv1.weight"].weights) == ((2, 1, 3, 3), 18)
    assert by_name["bn1.num_batches_tracked"].weights == 1


@pytest.mark.parametrize(
    "name",
    [
        "embed.weight",
        "tok_embeddings.weight",
        "wte.weight",
        "pos_embed",
        "norm1.weight",
        "bn2.weight",
        "ln_f.weight",
        "cls_token",
        "a.bias",
    ],
)
def test_names_that_are_no_weights(name):
    """Without an architecture, matrices named like embeddings, positions, norms and tokens stay dense."""
    found = Checkpoint({name: torch.zeros(4, 4), "fc.weight": torch.zeros(4, 4)}, Source("m", ""))
    assert prunable_names(found, None) == ["fc.weight"]


def test_shapes_that_are_no_weights():
    """Vectors, scalars, six dimensions and whole numbers are not pruned."""
    found = Checkpoint(
        {"a": torch.zeros(4), "b": torch.zeros(()), "c": torch.zeros([2] * 6), "d": torch.zeros(4, 4).long(), "e": torch.zeros(2, 2)},
        Source("m", ""),
    )
    assert prunable_names(found, None) == ["e"]


def test_attention_is_prunable_by_its_modules():
    """Projections of torch's attention, packed and output, are weights of layers; an embedding is not."""

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens, self.attention = nn.Embedding(5, 4), nn.MultiheadAttention(4, 2)

    state = Block().state_dict()
    found = Checkpoint(state, Source("m", ""))
    assert prunable_names(found, None) == ["attention.in_proj_weight", "attention.out_proj.weight"]


@pytest.mark.parametrize(
    ("name", "glob", "found"),
    [
        ("conv1.weight", "conv1", True),
        ("conv1.weight", "conv1.weight", True),
        ("conv1.weight", "conv*", True),
        ("conv11.weight", "conv1", False),
        ("stage2.0.conv1.weight", "stage2", True),
        ("stage2.0.conv1.weight", "stage2.*", True),
        ("stage2.0.conv1.weight", "*.conv1", True),
        ("stage2.0.conv1.weight", "conv1", False),
        ("Conv1.weight", "conv1", False),
    ],
)
def test_globs_name_tensors_layers_and_parts(name, glob, found):
    """A glob matches the whole name or a whole leading part of it, never half a word."""
    assert matches(name, [glob]) is found
    assert not matches(name, [])


def test_skip_wins_over_include():
    """Included layers minus skipped ones; the rows say which is which."""
    rows = {row.name: row for row in plan(cnn(), CNN, include=("conv*",), skip=("conv1",))}
    assert [name for name, row in rows.items() if row.matched] == CONVS[1:]
    assert (rows["conv1.weight"].why, rows["fc.weight"].why) == ("skipped", "not in --include")


def test_an_embedding_only_when_asked():
    """--include names what is otherwise left alone."""
    found = checkpoint(embed__weight=(6, 4), fc__weight=(4, 4))
    assert [row.name for row in plan(found, None, include=("embed",)) if row.matched] == ["embed.weight"]


@pytest.mark.parametrize("globs", [{"skip": ("*",)}, {"include": ("nothing",)}])
def test_nothing_matched_is_an_error(globs):
    """It says with which globs, and what names there are."""
    refused = r"(No tensor of model\.pt is prunable with --skip \*|--include nothing names no tensor of model\.pt).*conv1\.weight"
    with pytest.raises(BadRequest, match=refused):
        plan(cnn(), CNN, **globs)


@pytest.mark.parametrize("include", [("*",), ("e", "none", "fc", "embed", "bias")])
def test_what_cannot_be_ranked_is_not_included(include):
    """A matrix of exponents, an empty one and a vector stay out however they are asked for; an embedding and a long 3-D vector go."""
    exponents = torch.zeros(4, 16, dtype=torch.uint8).view(torch.float8_e8m0fnu)
    tensors = {"e": exponents, "none": torch.zeros(0, 16), "bias": torch.zeros(4), "embed.weight": torch.zeros(4, 4)}
    found = Checkpoint({**tensors, "fc.weight": torch.zeros(1, 8, 1)}, Source("m", ""))
    assert {row.name: row.why for row in plan(found, None, include=include)} == {
        "e": "of a type without order",
        "none": "empty",
        "bias": "not a matrix",
        "embed.weight": "included",
        "fc.weight": "included",
    }
