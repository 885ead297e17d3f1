"""What every dataset on the shelf promises; those that need a location get a small one made here."""

from __future__ import annotations

import dataclasses
import struct

import numpy as np
import pytest
import torch
from PIL import Image

from sparsify_cli.errors import MissingFile
from sparsify_cli.shelf import Shelf
from sparsify_cli.stages.resolve import load_samples
from sparsify_cli.values.checkpoint import Spec

SPLITS = ("train", "validation", "test")
EACH = pytest.mark.parametrize("name", Shelf("datasets").names())


def make_idx(folder):
    """Two idx pairs of 30 and 10 images."""
    for prefix, n in (("train", 30), ("t10k", 10)):
        head = bytes((0, 0, 8, 3)) + struct.pack(">3I", n, 4, 4)
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(head + bytes(i % 256 for i in range(n * 16)))
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(bytes((0, 0, 8, 1)) + struct.pack(">I", n) + bytes(i % 3 for i in range(n)))
    return folder


def make_folder(folder):
    """Sixty images of two classes."""
    for i in range(60):
        place = folder / ("even", "odd")[i % 2]
        place.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4), (4 * i, 0, 0)).save(place / f"{i}.png")
    return folder


def make_npz(folder):
    """Thirty training and ten test rows."""
    rows = np.random.default_rng(0).normal(size=(40, 5))
    np.savez(folder / "data.npz", x_train=rows[:30], y_train=np.arange(30) % 2, x_test=rows[30:], y_test=np.arange(10) % 2)
    return folder / "data.npz"


MAKERS = {"idx": make_idx, "folder": make_folder, "npz": make_npz}


@pytest.fixture
def spec(name, tmp_path):
    """The dataset, with a small location where it needs one."""
    needs_path = "path" in [field.name for field in dataclasses.fields(Shelf("datasets").load(name))]
    return Spec(name, {"path": str(MAKERS[name](tmp_path))} if needs_path else {})


@EACH
def test_splits_are_disjoint(name, spec):
    """No id is in two splits, and no split is empty."""
    ids = [load_samples(spec, split).ids for split in SPLITS]
    assert min(map(len, ids)) > 0
    assert len({i for part in ids for i in part}) == sum(map(len, ids))


@EACH
def test_loading_twice_is_the_same(name, spec):
    """The same split is the same samples in the same order at every call."""
    for split in SPLITS:
        first, second = (load_samples(spec, split) for _ in range(2))
        assert first.ids == second.ids
        assert torch.equal(first.inputs, second.inputs)
        assert torch.equal(first.targets, second.targets)
        assert first.groups == second.groups


@EACH
def test_splits_look_alike(name, spec):
    """Inputs are finite float32 of one shape, labels int64 from 0, and all splits name the same classes and group columns."""
    parts = [load_samples(spec, split) for split in SPLITS]
    assert {(part.inputs.dtype, part.targets.dtype) for part in parts} == {(torch.float32, torch.int64)}
    assert all(bool(part.inputs.isfinite().all()) and int(part.targets.min()) >= 0 for part in parts)
    assert len({(tuple(part.inputs.shape[1:]), part.classes, tuple(sorted(part.groups))) for part in parts}) == 1


@EACH
def test_labels_are_below_the_classes(name, spec):
    """Every label has an output: it is smaller than `outputs`."""
    assert all(int(part.targets.max()) < part.outputs for part in (load_samples(spec, split) for split in SPLITS))


@EACH
def test_loading_leaves_the_generators_alone(name, spec):
    """Loading draws nothing from torch's or numpy's global generator."""
    state, drawn = torch.get_rng_state(), np.random.get_state()[1].copy()
    load_samples(spec, "train")
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], drawn)


@pytest.mark.parametrize("name", sorted(MAKERS))
def test_missing_location(name, tmp_path):
    """A location that is not there is a missing file, named."""
    with pytest.raises(MissingFile, match="nowhere"):
        load_samples(Spec(name, {"path": str(tmp_path / "nowhere")}), "train")
