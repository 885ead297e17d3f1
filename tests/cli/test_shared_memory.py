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


def half_pruned(rows: int, columns: int) -> Tensor:
    """Every second number is zero."""
    return weight(rows, columns) * (torch.arange(columns) % 2)


FLAT = weight(1, 1024).reshape(-1)
WHOLE = weight(32, 32)
SKIPPED = {
    "a flat buffer": ({"flat": FLAT, "a.weight": FLAT[:512].view(16, 32)}, "flat"),
    "a bias that is a row": ({"a.weight": WHOLE, "x.bias": WHOLE[0]}, "x.bias"),
    "a second name of a matrix with a part": ({"y.weight": WHOLE, "a.weight": WHOLE, "p.weight": WHOLE[:8]}, "y.weight"),
    "an expanded row": ({"a.weight": WHOLE, "e.weight": WHOLE[:1].expand(8, 32)}, "e.weight"),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", SKIPPED)
def test_what_is_skipped_keeps_its_numbers_whatever_it_is(case: str, way: str) -> None:
    """A tensor that is no matrix, goes by a second name or repeats its numbers is protected too; another weight is pruned."""
    before, name = SKIPPED[case]
    tensors, counts, masks = pruned({**before, "o.weight": weight(32, 32)}, "--sparsity", "0.5", "--skip", name, *WAYS[way])
    check_told({key: tensors[key] for key in counts}, counts, masks)
    assert torch.equal(tensors[name], before[name])
    assert list(masks) == ["o.weight"]
    assert int((tensors["o.weight"] == 0).sum()) == 512


def test_what_is_included_loses_nothing_that_is_skipped() -> None:
    """--include of a matrix does not outweigh --skip of a bias inside it."""
    torch.save({"a.weight": WHOLE, "x.bias": WHOLE[0]}, "m.pt")
    assert main(["prune", "m.pt", "--out", "o", "--sparsity", "0.5", "--include", "a.weight", "--skip", "x.bias"]) == 2
    assert not Path("o").exists()


def test_an_expanded_row_follows_its_matrix_and_that_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody skipped it: it is the same memory, and a note says so."""
    tensors, _, masks = pruned({"a.weight": WHOLE, "e.weight": WHOLE[:1].expand(8, 32)}, "--sparsity", "0.5")
    assert torch.equal(tensors["e.weight"][3], tensors["a.weight"][0])
    assert list(masks) == ["a.weight"]
    assert "e.weight (with a.weight)" in capsys.readouterr().err


PRUNED_BEFORE = {
    "with its transpose": lambda w: {"a.weight": w, "t.weight": w.t()},
    "with a part": lambda w: {"a.weight": w, "q.weight": w[:16]},
    "turned, with a part": lambda w: {"a.weight": w.t(), "q.weight": w[:16]},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", PRUNED_BEFORE)
def test_a_pruned_file_is_pruned_further(case: str, way: str) -> None:
    """Only the matrix has a mask, 819 of 1024 numbers are zero, and those that were zero are."""
    before = PRUNED_BEFORE[case](half_pruned(32, 32))
    tensors, counts, masks = pruned(before, "--sparsity", "0.8", *WAYS[way])
    check_told(tensors, counts, masks)
    assert {name: int((~mask).sum()) for name, mask in masks.items()} == {"a.weight": 819}
    assert bool((tensors["a.weight"][before["a.weight"] == 0] == 0).all())


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("first", ["q.weight", "a.weight"])
def test_an_artifact_of_a_part_is_pruned_as_a_whole_and_the_other_way_round(first: str, way: str) -> None:
    """What was pruned stays so under the mask of the tensor that is pruned now, and only that one has a mask."""
    now = {"q.weight": "a.weight", "a.weight": "q.weight"}[first]
    torch.save({"a.weight": WHOLE, "q.weight": WHOLE[:16]}, "m.pt")
    assert main(["prune", "m.pt", "--out", "s", "--sparsity", "0.5", "--include", first]) == 0
    assert main(["prune", "s", "--out", "o", "--sparsity", "0.75", "--include", now, *WAYS[way]]) == 0
    old, tensors = torch.load("s/m.pt", weights_only=True), torch.load("o/m.pt", weights_only=True)
    masks = dict(read_masks(Path("o") / MASKS))
    check_told(tensors, json.loads(Path("o/manifest.json").read_text())["tensors"], masks)
    assert {name: int((~mask).sum()) for name, mask in masks.items()} == {now: WHOLE.numel() * 3 // 4 if now == "a.weight" else 384}
    assert bool((tensors["a.weight"][old["a.weight"] == 0] == 0).all())


@pytest.mark.parametrize("way", WAYS)
def test_every_name_of_a_buffer_is_counted(way: str) -> None:
    """Two names of the flat buffer around a weight, and a second name of the weight, say how many zeros there are."""
    part = FLAT[:512].view(16, 32)
    tensors, counts, masks = pruned({"flat": FLAT, "flat2": FLAT, "a.weight": part, "b.weight": part}, "--sparsity", "0.5", *WAYS[way])
    check_told(tensors, counts, masks)
    assert {name: count["zeros"] for name, count in counts.items()} == dict.fromkeys(tensors, 256)


@pytest.mark.parametrize("flags", [[], ["--include", "t.weight"]])
def test_the_masks_of_a_pruning_are_applied_to_its_file(flags: list[str]) -> None:
    """What comes out is what the pruning wrote; a mask of the transpose does for the matrix."""
    before = {"a.weight": WHOLE, "t.weight": WHOLE.t(), "o.weight": weight(32, 32)}
    tensors, _, masks = pruned(before, "--sparsity", "0.5", *flags)
    skip = ["--skip", "o.weight"] if flags else []
    assert main(["masks", "apply", "m.pt", "--masks", "o", "--out", "p", *skip]) == 0
    applied = torch.load("p/m.pt", weights_only=True)
    assert all(torch.equal(applied[name], tensor) for name, tensor in tensors.items())
    check_told(applied, json.loads(Path("p/manifest.json").read_text())["tensors"], dict(read_masks(Path("p") / MASKS)))
    assert len(masks) == 2 - len(skip) // 2


def test_masks_are_not_applied_to_what_shares_numbers_with_a_skipped_tensor() -> None:
    """The part that is skipped keeps its numbers, the other weight gets its mask."""
    pruned({"a.weight": WHOLE, "q.weight": WHOLE[:16], "o.weight": weight(32, 32)}, "--sparsity", "0.5")
    assert main(["masks", "apply", "m.pt", "--masks", "o", "--out", "p", "--skip", "q.weight"]) == 0
    applied = torch.load("p/m.pt", weights_only=True)
    assert torch.equal(applied["a.weight"], WHOLE)
    assert int((applied["o.weight"] == 0).sum()) == int((torch.load("o/m.pt", weights_only=True)["o.weight"] == 0).sum()) > 0


def test_masks_are_applied_by_the_second_name_of_a_tied_weight() -> None:
    """The mask goes by the first name, and --include says the second, as when it was made."""
    before = {"a.weight": WHOLE, "b.weight": WHOLE, "o.weight": weight(32, 32)}
    tensors, _, _ = pruned(before, "--sparsity", "0.5", "--include", "b.weight")
    assert main(["masks", "apply", "m.pt", "--masks", "o", "--out", "p", "--include", "b.weight"]) == 0
    applied = torch.load("p/m.pt", weights_only=True)
    assert all(torch.equal(applied[name], tensor) for name, tensor in tensors.items())
