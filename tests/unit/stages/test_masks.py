"""Masks as things of their own: out of one network, onto another, beside each other."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sparsify_cli import load
from sparsify_cli.contracts.listener import Listener
from sparsify_cli.errors import BadRequest, KeyMismatch, UnreadableFile
from sparsify_cli.recipes.masks import MasksRecipe
from sparsify_cli.recipes.recipe import resolve
from sparsify_cli.recipes.verbs import PruneRecipe
from sparsify_cli.stages.masks import masks
from sparsify_cli.stages.open_masks import open_masks
from sparsify_cli.stages.prune import prune
from sparsify_cli.values.artifact import Artifact
from sparsify_cli.values.mask_file import read_masks, write_masks, write_tensors
from sparsify_cli.values.mask_set import MaskSet

ONE = torch.tensor([[1.0, 0.0, 2.0, 0.0], [0.0, 3.0, 0.0, 4.0]])
TWO = torch.tensor([[1.0, 2.0, 0.0, 0.0], [0.0, 3.0, 0.0, 4.0]])
DENSE = torch.arange(1.0, 9).reshape(2, 4)


def run(action, *paths, **fields):
    """The outcome of one action."""
    return masks(MasksRecipe(action=action, paths=tuple(map(str, paths)), **fields), Listener())


def saved(name, **layers):
    """A file of weights, a bias and a norm beside them."""
    torch.save(
        {**{f"{layer}.weight": w.clone() for layer, w in layers.items()}, "fc.bias": torch.zeros(2), "norm.weight": torch.ones(4)}, name
    )
    return name


def test_extract_writes_masks_that_are_read_back():
    """The exact zeros of prunable tensors, one bit a weight, in an artifact that says the hash and where they are from."""
    outcome = run("extract", saved("one.pt", fc=ONE))
    stored = read_masks(outcome.artifact / "masks.safetensors")
    assert stored == MaskSet({"fc.weight": ONE != 0})
    assert outcome.files == (outcome.artifact / "masks.safetensors",)
    manifest = Artifact.open(outcome.artifact).manifest
    assert manifest["masks_sha256"] == stored.digest() == outcome.report.facts["masks_sha256"]
    assert stored.digest() in outcome.headline
    assert manifest["weights"] is None and "one.pt" in manifest["parent"]["path"]


def test_every_kind_of_masks_is_the_same():
    """The sparse file, the artifact of its masks, the masks file in it: one hash, and IoU 1."""
    folder = run("extract", saved("one.pt", fc=ONE)).artifact
    for path in ("one.pt", folder, folder / "masks.safetensors"):
        assert open_masks(Path(path)).masks == MaskSet({"fc.weight": ONE != 0})
        outcome = run("diff", "one.pt", path)
        assert outcome.report.get("mask_iou").value == 1
        assert "The same masks" in outcome.headline


def shards(folder, tensors):
    """A folder of shards with their index, one tensor a file."""
    Path(folder).mkdir()
    files = {name: f"model-{at:05}-of-{len(tensors):05}.safetensors" for at, name in enumerate(tensors, 1)}
    for name, file in files.items():
        save_file({name: tensors[name]}, f"{folder}/{file}")
    size = sum(tensor.nbytes for tensor in tensors.values())
    Path(folder, "model.safetensors.index.json").write_text(json.dumps({"metadata": {"total_size": size}, "weight_map": files}))
    Path(folder, "config.json").write_text("{}")
    return folder


def copies():
    """One network with the same zeros in several files: types, wrappers, prefixes and orders differ."""
    state = {"conv.weight": torch.randn(4, 4, 3, 3), "fc.weight": torch.randn(8, 4), "fc.bias": torch.zeros(8)}
    state["conv.weight"][:, ::2] = 0
    state["fc.weight"][1::2] = -0.0
    narrow = {name: tensor.bfloat16() for name, tensor in reversed(state.items())}
    torch.save(state, "single.pt")
    torch.save({"epoch": 3, "state_dict": {f"module.{name}": tensor for name, tensor in narrow.items()}}, "wrapped.pt")
    save_file(narrow, "narrow.safetensors")
    return shards("sharded", narrow)


@pytest.mark.parametrize("copy", ["wrapped.pt", "narrow.safetensors"])
def test_the_hash_depends_on_nothing_but_names_and_zeros(copy):
    """float32 in one file, bfloat16 in a wrapper, with a prefix, in another order: the same hash; other zeros, another."""
    copies()
    first = run("stats", "single.pt").report.facts["masks_sha256"]
    assert first == run("stats", copy).report.facts["masks_sha256"]
    assert first == MaskSet({name: t != 0 for name, t in torch.load("single.pt", weights_only=True).items() if t.ndim > 1}).digest()
    assert first != run("stats", saved("one.pt", fc=ONE)).report.facts["masks_sha256"]


def test_the_hash_of_shards():
    """The bfloat16 copy cut into shards has the hash of the float32 file."""
    folder = copies()
    sharded = run("stats", folder)
    assert sharded.report.facts["masks_sha256"] == run("stats", "single.pt").report.facts["masks_sha256"]


def test_stats_by_hand():
    """Half of eight weights in 2:4; a layer without zeros has no pattern."""
    outcome = run("stats", saved("one.pt", fc=ONE, head=DENSE))
    assert outcome.report.get("sparsity").value == 0.25
    assert outcome.report.get("sparsity", scope="layer:fc.weight").value == 0.5
    cells = {row[0]: dict(zip(outcome.tables[0].columns, row, strict=True)) for row in outcome.tables[0].rows}
    assert cells["fc.weight"]["pattern"] == "1:2" and cells["head.weight"]["pattern"] == ""
    assert outcome.artifact is None


def test_diff_by_hand():
    """Four and four weights, three of them shared: IoU 3/5; the layer that only one has is a note."""
    outcome = run("diff", saved("one.pt", fc=ONE), saved("two.pt", net=TWO, fc=TWO))
    assert outcome.report.get("mask_iou").value == pytest.approx(3 / 5)
    assert outcome.report.get("mask_overlap", scope="layer:fc.weight").value == 3
    assert outcome.notes == ("masked only in B: net.weight",)
    assert outcome.report.facts["only_in_b"] == ["net.weight"]


def test_diff_of_strangers():
    """Other shapes and nothing in common are refused."""
    with pytest.raises(KeyMismatch, match="another shape"):
        run("diff", saved("one.pt", fc=ONE), saved("two.pt", fc=TWO.reshape(4, 2)))
    with pytest.raises(KeyMismatch, match="no masked tensor in common"):
        run("diff", "one.pt", saved("two.pt", net=TWO.reshape(4, 2)))


@pytest.mark.parametrize(("how", "kept"), [("and", (ONE != 0) & (TWO != 0)), ("or", (ONE != 0) | (TWO != 0)), ("vote", (ONE * TWO) != 0)])
def test_merge_is_a_masks_file(how, kept):
    """The result is read like any masks; a vote of two is what both keep."""
    outcome = run("merge", saved("one.pt", fc=ONE), saved("two.pt", fc=TWO), how=how)
    assert open_masks(outcome.artifact).masks == MaskSet({"fc.weight": kept})
    assert outcome.report.facts["masks_sha256"] in outcome.headline
    assert Artifact.open(outcome.artifact).manifest["parent"] is None


@pytest.mark.parametrize("prefix", ["", "module.", "backbone.net."])
def test_apply_makes_zeros(prefix):
    """Weights outside the mask become +0.0, all else is bit for bit what it was, also across a prefix."""
    write_masks(Path("masks.safetensors"), MaskSet({f"{prefix}fc.weight": ONE != 0}))
    outcome = run("apply", saved("dense.pt", fc=-DENSE), masks="masks.safetensors")
    found, before = load(outcome.artifact), torch.load("dense.pt", weights_only=True)
    assert found["fc.weight"].tolist() == [[-1, 0, -3, 0], [0, -6, 0, -8]]
    assert not found["fc.weight"][ONE == 0].signbit().any()
    assert all(torch.equal(found[name], before[name]) for name in before if name != "fc.weight")
    assert open_masks(outcome.artifact).masks == MaskSet({"fc.weight": ONE != 0})
    assert outcome.report.get("sparsity").value == 0.5


def test_a_pruned_artifact_gives_its_masks_to_a_copy():
    """What prune decided for one file zeroes the same places of another."""
    pruned = prune(PruneRecipe(model=saved("dense.pt", fc=DENSE), sparsity=Fraction(1, 2)), Listener()).artifact
    outcome = run("apply", saved("copy.pt", fc=DENSE + 10), masks=str(pruned))
    assert outcome.report.facts["masks_sha256"] == Artifact.open(pruned).manifest["masks_sha256"]
    assert load(outcome.artifact)["fc.weight"].tolist() == [[0, 0, 0, 0], [15, 16, 17, 18]]


def test_names_that_do_not_fit_are_refused_by_name():
    """A tensor without a mask, a mask without a tensor, another shape; nothing is left on the disk."""
    write_masks(Path("masks.safetensors"), MaskSet({"fc.weight": ONE != 0, "gone.weight": ONE != 0}))
    saved("dense.pt", fc=DENSE, head=DENSE)
    with pytest.raises(KeyMismatch, match=r"1 prunable tensors of it have no mask \(head.weight\) and 1 masks .* \(gone.weight\)"):
        run("apply", "dense.pt", masks="masks.safetensors")
    with pytest.raises(KeyMismatch, match="another shape"):
        run("apply", saved("wide.pt", fc=DENSE.reshape(4, 2)), masks="masks.safetensors", include=("fc",))
    assert not Path("runs").exists()


@pytest.mark.parametrize("globs", [{"skip": ("head", "gone")}, {"include": ("fc",)}])
def test_globs_cover_what_does_not_fit(globs):
    """Left out by --skip or not named by --include, neither side is missed."""
    write_masks(Path("masks.safetensors"), MaskSet({"fc.weight": ONE != 0, "gone.weight": ONE != 0}))
    outcome = run("apply", saved("dense.pt", fc=DENSE, head=DENSE), masks="masks.safetensors", **globs)
    found = load(outcome.artifact)
    assert torch.equal(found["head.weight"], DENSE)
    assert torch.equal(found["fc.weight"] != 0, ONE != 0)


def test_globs_choose_tensors_of_every_action():
    """--include takes one layer, --skip leaves one; a glob that names nothing is refused."""
    saved("one.pt", fc=ONE, head=DENSE)
    assert set(open_masks(run("extract", "one.pt", include=("fc",)).artifact).masks) == {"fc.weight"}
    assert run("stats", "one.pt", skip=("head",)).report.get("sparsity").value == 0.5
    with pytest.raises(BadRequest, match="--skip haed names none of the 2 tensors"):
        run("stats", "one.pt", skip=("haed",))


@pytest.mark.parametrize(
    ("action", "paths", "fields", "said"),
    [
        ("stats", (), {}, "takes 1 path, 0 given"),
        ("diff", ("a",), {}, "takes 2 paths, 1 given"),
        ("merge", ("a",), {}, "takes at least 2 paths"),
        ("apply", ("a",), {}, "--masks goes with `masks apply`, and is not given"),
        ("stats", ("a",), {"masks": "b"}, "--masks goes with"),
        ("stats", ("nowhere.pt",), {}, "no file or artifact nowhere.pt"),
    ],
)
def test_requests_that_make_no_sense(action, paths, fields, said):
    """Too few paths, --masks in the wrong place, a file that is not there: one sentence that says how it is written."""
    with pytest.raises(BadRequest, match=said):
        run(action, *paths, **fields)


def test_an_action_that_does_not_exist():
    """The known ones are listed."""
    with pytest.raises(BadRequest, match="'extract', 'apply', 'diff', 'merge' or 'stats'"):
        resolve(MasksRecipe, flags={"action": "copy"})


@pytest.mark.parametrize("shapes", ["", "[]", "{}", '{"w": [9]}', '{"w": [1099511627776, 1099511627776]}', '{"w": [-8]}', '{"w": "8"}'])
def test_a_masks_file_that_lies_is_refused(shapes):
    """Eight bits are there; a header that says otherwise is refused before memory is taken."""
    write_tensors(Path("masks.safetensors"), {"w": torch.tensor([255], dtype=torch.uint8)}, {"shapes": shapes})
    with pytest.raises(UnreadableFile, match="damaged"):
        run("stats", "masks.safetensors")
