"""Weights that share numbers in their file without being one tensor: what is reported is what the file holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sparsify_cli.cli.app import main
from sparsify_cli.values.artifact import MASKS
from sparsify_cli.values.mask_file import read_masks

Tensors = dict[str, Tensor]
WAYS = {"in slices": [], "in memory": ["--extras", "drop"], "by LAMP": ["--criterion", "lamp"]}


def weight(rows: int, columns: int) -> Tensor:
    """Random numbers without a zero."""
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(0)).add(9)


def pruned(tensors: Tensors, *flags: str) -> tuple[Tensors, dict[str, Any], dict[str, Tensor]]:
    """The file that was written, the counts of the manifest, and the masks."""
    torch.save(tensors, "m.pt")
    assert main(["prune", "m.pt", "--out", "o", *flags]) == 0
    manifest = json.loads(Path("o/manifest.json").read_text())
    return torch.load("o/m.pt", weights_only=True), manifest["tensors"], dict(read_masks(Path("o") / MASKS))


def check_told(tensors: Tensors, counts: dict[str, Any], masks: dict[str, Tensor]) -> None:
    """Every count and mask is that of the file."""
    zeros = {name: int((tensor == 0).sum()) for name, tensor in tensors.items()}
    assert {name: count["zeros"] for name, count in counts.items()} == {name: zeros[name] for name in counts}
    assert all(torch.equal(tensors[name] != 0, mask) for name, mask in masks.items())


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("what", [["--pattern", "2:4"], ["--sparsity", "0.7"]])
def test_a_matrix_and_its_transpose_are_pruned_once(way: str, what: list[str]) -> None:
    """The masks match the file, and half the numbers are zero under 2:4."""
    w = weight(64, 64)
    tensors, counts, masks = pruned({"a.weight": w, "t.weight": w.t()}, *what, *WAYS[way])
    check_told(tensors, counts, masks)
    assert list(masks) == ["a.weight"]
    assert torch.equal(tensors["a.weight"].t(), tensors["t.weight"])
    assert int((tensors["a.weight"] == 0).sum()) == (2048 if "--pattern" in what else 2867)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["half.weight", "turned.weight"])
def test_a_skipped_part_keeps_every_number(way: str, name: str) -> None:
    """Both the part and the matrix that it is a part of stay; another weight is pruned."""
    w = weight(64, 32)
    part = w[:32] if name == "half.weight" else w[:32].t()
    before = {"a.weight": w, name: part, "other.weight": weight(32, 32)}
    tensors, counts, masks = pruned(before, "--sparsity", "0.5", "--skip", name, *WAYS[way])
    check_told(tensors, counts, masks)
    assert torch.equal(tensors["a.weight"], w)
    assert int((tensors["other.weight"] == 0).sum()) == 512


@pytest.mark.parametrize("way", WAYS)
def test_columns_of_a_fused_matrix_that_share_nothing_are_pruned_apart(way: str) -> None:
    """Three interleaved views of one storage have a mask each."""
    w = weight(32, 96)
    tensors, counts, masks = pruned(
        {f"{n}.weight": w[:, i * 32 : (i + 1) * 32] for i, n in enumerate("qkv")}, "--sparsity", "0.5", *WAYS[way]
    )
    check_told(tensors, counts, masks)
    assert len(masks) == 3
    assert sum(int((t == 0).sum()) for t in tensors.values()) == 1536


@pytest.mark.parametrize("way", WAYS)
def test_a_part_goes_with_the_fused_matrix(way: str) -> None:
    """The zeros of the part are counted where they are, in the file."""
    w = weight(96, 32)
    tensors, counts, masks = pruned({"fused.weight": w, "q.weight": w[:32]}, "--sparsity", "0.5", *WAYS[way])
    check_told(tensors, counts, masks)
    assert counts["q.weight"]["zeros"] > 0
    assert list(masks) == ["fused.weight"]


@pytest.mark.parametrize("way", WAYS)
def test_weights_in_a_flat_buffer_are_pruned_and_the_buffer_says_so(way: str) -> None:
    """A one-dimensional tensor that holds every weight is no obstacle."""
    flat = weight(1, 2048).reshape(-1)
    tensors, counts, masks = pruned(
        {"flat": flat, "a.weight": flat[:1024].view(32, 32), "b.weight": flat[1024:].view(32, 32)}, "--sparsity", "0.5", *WAYS[way]
    )
    check_told(tensors, counts, masks)
    assert int((tensors["flat"] == 0).sum()) == 1024


def test_a_bias_inside_a_matrix_keeps_its_numbers() -> None:
    """[W | b] with both views in the file: W goes, b stays."""
    both = weight(32, 33)
    tensors, counts, masks = pruned({"both": both, "w.weight": both[:, :32], "w.bias": both[:, 32]}, "--sparsity", "0.5")
    check_told(tensors, counts, masks)
    assert torch.equal(tensors["w.bias"], both[:, 32])
    assert list(masks) == ["w.weight"]


def test_a_matrix_that_repeats_its_numbers_stays() -> None:
    """An expanded row is 32 numbers, not 1024."""
    tensors, counts, masks = pruned({"e.weight": weight(1, 32).expand(32, 32), "a.weight": weight(32, 32)}, "--sparsity", "0.5")
    check_told(tensors, counts, masks)
    assert list(masks) == ["a.weight"]


@pytest.mark.parametrize("flag", ["--skip", "--include"])
def test_a_glob_may_name_a_tied_weight_by_its_second_name(flag: str) -> None:
    """What is skipped or included under one name is so under the other."""
    w, other = weight(32, 32), weight(32, 32)
    tensors, _, masks = pruned({"a.weight": w, "b.weight": w, "c.weight": other}, "--sparsity", "0.5", flag, "b.weight")
    assert list(masks) == [{"--skip": "c.weight", "--include": "a.weight"}[flag]]
    assert torch.equal(tensors["a.weight"], tensors["b.weight"])
