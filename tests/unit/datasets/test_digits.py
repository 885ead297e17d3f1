"""The embedded digits: sizes, splits, and groups that mean what they say."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from sparsify_cli.datasets.digits import Digits, slant, stroke_width

SIZES = {"train": 1077, "validation": 360, "test": 360}
PINNED = ("digits-0007", "digits-0015", "digits-0016", "digits-0017")


@pytest.mark.parametrize("split", SIZES)
def test_sizes_and_range(split):
    """Each split has the documented size, 1x8x8 float32 inputs in [0, 1] and ten named classes."""
    samples = Digits().load(split)
    assert samples.inputs.shape == (SIZES[split], 1, 8, 8)
    assert samples.inputs.dtype == torch.float32
    assert (float(samples.inputs.min()), float(samples.inputs.max())) == (0.0, 1.0)
    assert samples.classes == tuple("0123456789")


def test_splits_cover_everything_once():
    """The three splits together are all 1,797 digits, each once."""
    ids = [name for split in SIZES for name in Digits().load(split).ids]
    assert sorted(ids) == [f"digits-{i:04d}" for i in range(1797)]


@pytest.mark.parametrize("split", ["validation", "test"])
def test_split_is_stratified(split):
    """A class has a fifth of its samples in a held-out split, within one."""
    whole = sum(torch.bincount(Digits().load(s).targets, minlength=10) for s in SIZES)
    part = torch.bincount(Digits().load(split).targets, minlength=10)
    assert bool(((part - whole / 5).abs() < 1).all())


def test_id_is_the_row_in_scikit_learn():
    """`digits-0042` is row 42 of scikit-learn's table, pixels and label."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    samples = Digits().load("test")
    row = int(samples.ids[7].removeprefix("digits-"))
    assert int(samples.targets[7]) == bunch.target[row]
    assert samples.inputs[7, 0].tolist() == (bunch.images[row] / 16).tolist()


def test_split_is_pinned():
    """The split does not change from one release or machine to the next: its first ids are written down here."""
    assert Digits().load("test").ids[:4] == PINNED


@pytest.mark.parametrize("split", SIZES)
def test_groups_are_large_enough(split):
    """Every group holds at least a quarter of its split's share, so that a report by group has samples to stand on."""
    groups = Digits().load(split).groups
    assert {column: set(values) for column, values in groups.items()} == {
        "stroke": {"thin", "thick"},
        "slant": {"left", "upright", "right"},
    }
    assert min(min(Counter(values).values()) for values in groups.values()) > SIZES[split] / 4


@pytest.mark.parametrize(("column", "value", "share"), [("stroke", "thick", 1 / 2), ("slant", "left", 1 / 3), ("slant", "right", 1 / 3)])
def test_no_group_is_a_class_in_disguise(column, value, share):
    """Thresholds are quantiles of the training digits of a class, so every class has about the same share in a group."""
    samples = Digits().load("train")
    member = torch.tensor([entry == value for entry in samples.groups[column]])
    shares = [float(member[samples.targets == label].float().mean()) for label in range(10)]
    assert max(abs(found - share) for found in shares) < 0.06


def test_stroke_width_of_a_bar():
    """A 2 x 8 bar: A = 16, P = 20, so 2 A / P = 1.6; a 1 x 8 bar: 2 * 8 / 18."""
    images = np.zeros((2, 8, 8))
    images[0, :, 3:5], images[1, :, 3] = 1.0, 1.0
    assert stroke_width(images).tolist() == pytest.approx([1.6, 16 / 18])


def test_slant_of_lines():
    """A diagonal that rises to the right has slant 1, one that falls has -1, an upright bar 0."""
    upright = np.zeros((8, 8))
    upright[:, 3] = 1.0
    assert slant(np.stack([np.eye(8)[::-1], np.eye(8), upright])).tolist() == pytest.approx([1.0, -1.0, 0.0])


def test_right_leans_more_than_left():
    """Within a class, every digit called right has a larger slant than every upright one, and those than every left one."""
    samples = Digits().load("test")
    lean, names = slant(samples.inputs[:, 0].double().numpy()), np.array(samples.groups["slant"])
    seven = samples.targets.numpy() == 7
    parts = [lean[seven & (names == name)] for name in ("left", "upright", "right")]
    assert parts[0].max() < parts[1].min()
    assert parts[1].max() < parts[2].min()
