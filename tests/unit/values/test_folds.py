"""Folds: what other tools leave behind becomes the weights that their networks compute with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.utils import prune

from sparsify_cli.errors import UnreadableFile
from sparsify_cli.values.folds import Fold, find_folds, fold_masks, folded
from tests.strategies import masks

SHARED = Path(__file__).parents[3] / "../shared/data/loader_zoo/derived_resnet20_torch_prune_orig_mask.pt"
WILD = torch.tensor([[1.5, -2.0, float("nan")], [-0.0, float("inf"), -3.0]])
KEEP = torch.tensor([[True, False, False], [True, False, True]])
PLAIN = torch.tensor([[1.5, 0.0, 0.0], [-0.0, 0.0, -3.0]])


def headers(tensors):
    """Names, types and shapes, as a file's header says them."""
    return {name: (str(t.dtype).removeprefix("torch."), tuple(t.shape)) for name, t in tensors.items()}


def plain(tensors):
    """Found and folded."""
    return folded(tensors, find_folds(headers(tensors)))


def same_bits(one, other):
    """Equal values, signs of zeros included."""
    return one.dtype == other.dtype and one.shape == other.shape and one.numpy().tobytes() == other.numpy().tobytes()


def packed_by_hand(dense):
    """The entries of a bitmask tensor, position by position: a slow and obvious writer."""
    rows = dense.flatten(0, -2) if dense.ndim > 1 else dense[None]
    values, bits, starts = [], [], []
    for row in rows:
        starts.append(len(values))
        line = [0] * -(-len(row) // 8)
        for column, weight in enumerate(row.tolist()):
            if weight != 0:
                values.append(weight)
                line[column // 8] += 2 ** (column % 8)
        bits.append(line)
    packed = torch.tensor(bits, dtype=torch.uint8).reshape(*dense.shape[:-1], -(-dense.shape[-1] // 8))
    return torch.tensor(values, dtype=dense.dtype), packed, torch.tensor(starts)


def bitmask_file(dense, stem="layer"):
    """What compressed-tensors stores for a matrix under its format sparse-bitmask."""
    values, bits, starts = packed_by_hand(dense)
    return {
        f"{stem}.shape": torch.tensor(dense.shape),
        f"{stem}.compressed": values,
        f"{stem}.bitmask": bits,
        f"{stem}.row_offsets": starts,
    }


def test_torch_prune_and_its_file_agree():
    """What modules pruned by torch compute with, a bias among it, is what is folded, under names that load strictly."""
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(4, 2))
    prune.random_unstructured(net[0], "weight", amount=0.5)
    prune.l1_unstructured(net[2], "bias", amount=1)
    wanted = {"0.weight": net[0].weight, "0.bias": net[0].bias, "2.weight": net[2].weight, "2.bias": net[2].bias}
    found = plain(net.state_dict())
    assert {fold.name for fold in find_folds(headers(net.state_dict()))} == {"0.weight", "2.bias"}
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())
    fresh = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(4, 2))
    assert fresh.load_state_dict(found, strict=True)


@pytest.mark.parametrize(
    ("weight", "mask", "name", "kind"),
    [
        ("net.fc.weight_orig", "net.fc.weight_mask", "net.fc.weight", "torch-prune"),
        ("weight_orig", "weight_mask", "weight", "torch-prune"),
        ("net.fc.weight", "net.fc._weight_mask", "net.fc.weight", "modelopt"),
        ("weight", "_weight_mask", "weight", "modelopt"),
        ("nncf_module.fc.weight", "nncf_module.fc.pre_ops.0.op._binary_mask", "nncf_module.fc.weight", "nncf"),
        ("fc.weight", "fc.pre_ops.1.op.weight_ctx._binary_mask", "fc.weight", "nncf"),
        ("fc.bias", "fc.pre_ops.0.op.bias_ctx._binary_mask", "fc.bias", "nncf"),
        ("features.0.weight", "__nncf_hooks.post_hooks.features:0:weight__0.0.binary_mask", "features.0.weight", "nncf"),
        ("module.fc.weight", "module.__nncf_hooks.post_hooks.fc:weight__0.2.binary_mask", "module.fc.weight", "nncf"),
    ],
)
@pytest.mark.parametrize("kept", [torch.bool, torch.float32])
def test_weight_and_mask_are_one_tensor(weight, mask, name, kind, kept):
    """Kept weights bit for bit, +0.0 under the mask also for NaN, infinity and negatives; the rest is untouched and in order."""
    tensors = {"first": torch.ones(2), mask: KEEP.to(kept), weight: WILD, "last": torch.ones(3)}
    assert find_folds(headers(tensors)) == (Fold(name, kind, (weight, mask)),)
    found = plain(tensors)
    assert list(found) == ["first", name, "last"]
    assert found["first"] is tensors["first"] and found["last"] is tensors["last"]
    assert same_bits(found[name], PLAIN)
    assert torch.equal(fold_masks(tensors, find_folds(headers(tensors)))[name], KEEP)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn])
def test_the_type_of_the_weight_stays(dtype):
    """A float32 mask beside a narrower weight widens nothing."""
    tensors = {"a_orig": torch.tensor([1.0, 2.0, -4.0]).to(dtype), "a_mask": torch.tensor([1.0, 0.0, 1.0])}
    found = plain(tensors)["a"]
    assert found.dtype == dtype
    assert found.float().tolist() == [1.0, 0.0, -4.0]


def test_a_mask_that_scales_is_multiplied():
    """A mask of other numbers than 0 and 1 is what the network multiplies with: 3 * 0.5 = 1.5."""
    assert plain({"a_orig": torch.tensor([3.0, 3.0]), "a_mask": torch.tensor([0.5, 0.0])})["a"].tolist() == [1.5, 0.0]


def test_what_a_masking_module_stores_beside_its_mask_goes():
    """Scores and noise of RB sparsity are no part of the plain network; a quantizer beside it is left alone."""
    op = "nncf_module.fc.pre_ops.0.op."
    tensors = {"nncf_module.fc.weight": WILD, f"{op}_binary_mask": KEEP.float(), f"{op}_mask": WILD, f"{op}uniform": WILD}
    tensors["nncf_module.fc.pre_ops.1.op.scale"] = torch.ones(1)
    assert list(plain(tensors)) == ["nncf_module.fc.weight", "nncf_module.fc.pre_ops.1.op.scale"]


def test_scores_decide_where_nncf_stores_them():
    """RB sparsity of NNCF since 3 keeps where sigmoid(score) > 0.5, so where the score is above 0."""
    tensors = {"fc.weight": torch.tensor([1.0, -2.0, 3.0]), "__nncf_hooks.post_hooks.fc:weight__0.0.mask": torch.tensor([4.6, -0.1, 0.0])}
    found = plain(tensors)
    assert list(found) == ["fc.weight"]
    assert found["fc.weight"].tolist() == [1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    "shapes",
    [
        {"a_orig": (2, 3), "a_mask": (3, 2)},
        {"a_orig": (2, 3), "a_mask": (2, 3), "a": (2, 3)},
        {"a_orig": (2, 3)},
        {"a.weight": (2, 3), "a._weight_mask": (2,)},
        {"a.weight": (2, 3), "a.sample_weight_mask": (2, 3)},
        {"a.weight": (2, 3), "a.pre_ops.0.op._binary_mask": (2, 1)},
        {"a.weight": (2, 3), "a.pre_ops.0.op._binary_mask": (2, 3), "a.pre_ops.1.op._binary_mask": (2, 3)},
        {"a.weight": (2,), "a.pre_ops.0.op._binary_filter_pruning_mask": (2,)},
        {"a.weight": (2, 3), "__nncf_hooks.post_hooks.b:weight__0.0.binary_mask": (2, 3)},
        {"weight": (2, 3), "_weight_orig": (2, 3), "_weight_mask": (2, 3)},
    ],
)
def test_what_is_not_certain_stays(shapes):
    """Other shapes, names that are taken, masks without a weight or two for one: nothing is folded."""
    tensors = {name: torch.ones(shape) for name, shape in shapes.items()}
    assert find_folds(headers(tensors)) == ()
    assert plain(tensors) == tensors


@given(st.data(), st.integers(1, 3), st.integers(0, 20))
def test_bitmasks_are_unpacked(data, rows, columns):
    """Values and bits written position by position give the matrix they were written from, whatever its width."""
    kept = data.draw(masks((rows, columns)))
    dense = torch.where(kept, torch.arange(1.0, rows * columns + 1).reshape(rows, columns), torch.zeros(()))
    tensors = {"norm": torch.ones(1), **bitmask_file(dense)}
    found = plain(tensors)
    assert list(found) == ["norm", "layer.weight"]
    assert same_bits(found["layer.weight"], dense)
    assert torch.equal(fold_masks(tensors, find_folds(headers(tensors)))["layer.weight"], kept)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float8_e4m3fn])
def test_bitmasks_of_narrow_types(dtype):
    """Two bytes or one a weight are unpacked as they are."""
    values, bits = torch.tensor([2.0, -4.0]).to(dtype), torch.tensor([[0b101]], dtype=torch.uint8)
    found = plain({"a.compressed": values, "a.bitmask": bits, "a.shape": torch.tensor([1, 3])})["a.weight"]
    assert found.dtype == dtype
    assert found.float().tolist() == [[2.0, 0.0, -4.0]]


def test_early_files_name_the_tensor():
    """The first versions packed every tensor, vectors and convolutions too, and kept its whole name."""
    tensors = {"fc.weight": torch.tensor([[0.0, 5.0]]), "fc.bias": torch.tensor([0.0, 0, 0, 0, 0, 0, 0, 0, 9]), "scale": torch.ones(2)}
    tensors["conv.weight"] = torch.tensor([1.0, 0, 0, 2, 0, 0, 0, 3, 4, 0, 0, 5]).reshape(2, 1, 2, 3)
    stored = {key: value for name, dense in tensors.items() for key, value in bitmask_file(dense, name).items()}
    stored["fc.bias.row_offsets"], stored["scale.row_offsets"] = torch.tensor(0), torch.tensor(0)
    stored["conv.weight.row_offsets"] = torch.tensor([[[0, 0]], [[1, 1]]])  # counts are summed along the first dimension only
    found = plain(stored)
    assert list(found) == list(tensors)
    assert all(same_bits(found[name], tensors[name]) for name in tensors)


def test_bitmasks_of_two_in_four():
    """sparse-24-bitmask: values [rows, columns / 2], the shape as a column, no row offsets; a kept zero stays kept."""
    stored = {
        "fc.shape": torch.tensor([[2], [4]]),
        "fc.compressed": torch.tensor([[1.0, 0.0], [3.0, 4.0]]),
        "fc.bitmask": torch.tensor([[0b0011], [0b1010]], dtype=torch.uint8),
    }
    assert plain(stored)["fc.weight"].tolist() == [[1, 0, 0, 0], [0, 3, 0, 4]]
    kept = fold_masks(stored, find_folds(headers(stored)))["fc.weight"]
    assert kept.tolist() == [[True, True, False, False], [False, True, False, True]]


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("compressed", torch.tensor([1.0]), "marks 3 weights and 1 values"),
        ("shape", torch.tensor([2, 9]), r"shape is \[2, 9\]"),
        ("shape", torch.tensor([2**40, 2**40]), "its bitmask is"),
        ("shape", torch.tensor([2, -3]), "is no shape"),
        ("shape", torch.zeros(0, dtype=torch.int64), "is no shape"),
        ("shape", torch.tensor([2, 2]), "behind the 2 columns"),
        ("row_offsets", torch.tensor([0, 2]), "row offsets"),
        ("row_offsets", torch.tensor([0]), "row offsets"),
        ("compressed", torch.tensor([[1.0], [2.0], [3.0]]), "marks others"),
    ],
)
def test_contradictions_are_refused(key, value, why):
    """Counts, shapes and offsets that do not agree are one sentence that names the tensor; no memory is taken first."""
    stored = bitmask_file(torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, 3.0]]))
    with pytest.raises(UnreadableFile, match=rf"layer\.weight cannot be unpacked.*{why}"):
        plain({**stored, f"layer.{key}": value})


@pytest.mark.parametrize(
    ("weight", "mask"), [("int64", "bool"), ("float8_e8m0fnu", "bool"), ("float32", "uint16"), ("float32", "complex64")]
)
def test_types_that_no_masked_weight_has(weight, mask):
    """Integers are no weights, and odd types no masks: such pairs are left alone."""
    assert find_folds({"a_orig": (weight, (2, 3)), "a_mask": (mask, (2, 3))}) == ()


@pytest.mark.parametrize("key", ["shape", "row_offsets", "bitmask"])
def test_bitmasks_of_odd_types_are_left_alone(key):
    """Sizes and offsets are integers and bits are bytes; else it is something else."""
    stored = headers(bitmask_file(torch.eye(3)))
    assert find_folds(stored)
    assert find_folds({**stored, f"layer.{key}": ("bfloat16", stored[f"layer.{key}"][1])}) == ()


@given(st.data())
def test_damaged_bitmasks_end_in_a_tensor_or_a_sentence(data):
    """Any bits, sizes, offsets and number of values: nothing but our own error."""
    small, count = st.integers(0, 3), data.draw(st.integers(0, 6))
    rows, columns = data.draw(small), data.draw(small)
    stored = {
        "a.compressed": torch.ones(data.draw(st.sampled_from([(count,), (count, 2), (2, count)]))),
        "a.bitmask": torch.tensor(data.draw(st.lists(st.integers(0, 255), min_size=rows * columns, max_size=rows * columns))).byte(),
        "a.shape": torch.tensor(data.draw(st.lists(st.integers(-1, 24) | st.just(2**62), max_size=3)), dtype=torch.int64),
        "a.row_offsets": torch.tensor(data.draw(st.lists(small, max_size=3)), dtype=torch.int64),
    }
    stored["a.bitmask"] = stored["a.bitmask"].reshape(rows, columns)
    try:
        found = plain(stored)["a.weight"]
    except UnreadableFile as error:
        assert "a.weight cannot be unpacked" in str(error)
    else:
        assert list(found.shape) == stored["a.shape"].tolist()


def test_a_mask_without_numbers_is_refused():
    """A mask that holds NaN does not say what stays."""
    with pytest.raises(UnreadableFile, match="a_mask"):
        plain({"a_orig": torch.ones(2), "a_mask": torch.tensor([1.0, float("nan")])})


@pytest.mark.skipif(not SHARED.is_file(), reason="the collection of other people's checkpoints is not beside this checkout")
def test_a_real_file_of_torch_prune():
    """Every masked layer of a pruned ResNet becomes one tensor whose zeros are the mask's."""
    content = torch.load(SHARED, map_location="cpu", weights_only=True)
    state = content.get("state_dict", content)
    found = plain(state)
    pairs = [name.removesuffix("_orig") for name in state if name.endswith("_orig")]
    assert pairs and not [name for name in found if name.endswith(("_orig", "_mask"))]
    assert all(torch.equal(found[name], state[f"{name}_orig"] * state[f"{name}_mask"]) for name in pairs)
