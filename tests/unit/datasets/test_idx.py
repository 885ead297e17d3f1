"""MNIST-family files: what is read, how it is split, and what is said about files that are not whole."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import pytest
import torch

from sparsify_cli.datasets.idx import Idx
from sparsify_cli.errors import BadData, BadRequest, MissingFile

SHARED = Path(__file__).parents[4] / "shared" / "data" / "fashion_mnist"
IMAGES = "train-images-idx3-ubyte"
LABELS = "train-labels-idx1-ubyte"


def idx_bytes(shape, values):
    """A well-formed idx file of unsigned bytes."""
    return bytes((0, 0, 8, len(shape))) + struct.pack(f">{len(shape)}I", *shape) + bytes(values)


@pytest.fixture
def folder(tmp_path):
    """20 training and 4 test images of 2x3 pixels; every pixel of image i is i * 10; labels i % 3."""
    for prefix, n in (("train", 20), ("t10k", 4)):
        pixels = [i * 10 for i in range(n) for _ in range(6)]
        (tmp_path / f"{prefix}-images-idx3-ubyte").write_bytes(idx_bytes((n, 2, 3), pixels))
        (tmp_path / f"{prefix}-labels-idx1-ubyte").write_bytes(idx_bytes((n,), [i % 3 for i in range(n)]))
    return tmp_path


def test_pixels_labels_and_ids(folder):
    """Image 3 of the test file: pixels 30 / 255, label 0, id test-000003, shape 1x2x3."""
    samples = Idx(str(folder)).load("test")
    assert samples.inputs.shape == (4, 1, 2, 3)
    assert samples.inputs[3].tolist() == torch.full((1, 2, 3), 30 / 255).tolist()
    assert (int(samples.targets[3]), samples.ids[3], samples.classes) == (0, "test-000003", ("0", "1", "2"))


def test_scaling(folder):
    """With mean 0.5 and std 0.25 a black image is (0 - 0.5) / 0.25 = -2."""
    assert Idx(str(folder), mean=0.5, std=0.25).load("test").inputs[0].unique().tolist() == [-2.0]


def test_train_and_validation_share_the_training_file(folder):
    """10 % of 20 is 2 validation samples; the other 18 are train; ids name the row of the file in its order."""
    train, validation = (Idx(str(folder)).load(split) for split in ("train", "validation"))
    assert (len(train), len(validation)) == (18, 2)
    assert sorted(train.ids + validation.ids) == [f"train-{i:06d}" for i in range(20)]
    assert list(train.ids) == sorted(train.ids)
    row = int(validation.ids[0].removeprefix("train-"))
    assert float(validation.inputs[0].max()) == pytest.approx(row * 10 / 255)


def test_limit_takes_fewer_of_the_same(folder):
    """limit=5 leaves 5 training samples, all of them training samples without it; validation does not change."""
    few, all_ = Idx(str(folder), limit=5), Idx(str(folder))
    assert len(few.load("train")) == 5
    assert set(few.load("train").ids) < set(all_.load("train").ids)
    assert few.load("validation").ids == all_.load("validation").ids


def test_gzip_reads_the_same(folder):
    """A file compressed with gzip gives the same samples."""
    plain = Idx(str(folder)).load("train")
    packed = folder / IMAGES
    (folder / f"{IMAGES}.gz").write_bytes(gzip.compress(packed.read_bytes()))
    packed.unlink()
    assert torch.equal(Idx(str(folder)).load("train").inputs, plain.inputs)


def test_two_loads_are_equal_and_apart(folder):
    """Loading twice gives the same values in tensors of their own."""
    first, second = (Idx(str(folder)).load("train") for _ in range(2))
    first.inputs.zero_()
    assert first.ids == second.ids
    assert float(second.inputs.max()) > 0


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "nothing"),
        (b"\x89PNG\r\n\x1a\n" + bytes(40), "89 50 4e 47"),
        (idx_bytes((20,), range(20)), "00 00 08 01"),
        (idx_bytes((20, 2, 3), bytes(119)), "20 x 2 x 3 = 120"),
        (idx_bytes((20, 2, 3), bytes(121)), "121 bytes"),
        (idx_bytes((19, 2, 3), bytes(114)), "19 train images but 20 labels"),
        (gzip.compress(idx_bytes((20, 2, 3), bytes(120)))[:-12], "does not unpack"),
    ],
    ids=["empty", "png", "labels", "truncated", "appended", "other-count", "truncated-gzip"],
)
def test_damaged_images(folder, content, said):
    """A file that is not a whole idx file is refused with its name and what is wrong."""
    (folder / IMAGES).write_bytes(content)
    with pytest.raises(BadData, match=said) as caught:
        Idx(str(folder)).load("train")
    assert str(folder) in str(caught.value)


def test_files_without_samples(folder):
    """Two well-formed files of no sample are refused."""
    (folder / IMAGES).write_bytes(idx_bytes((0, 2, 3), b""))
    (folder / LABELS).write_bytes(idx_bytes((0,), b""))
    with pytest.raises(BadData, match="hold no sample"):
        Idx(str(folder)).load("train")


@pytest.mark.parametrize("split", ["train", "test"])
def test_missing_folder_and_file(tmp_path, split):
    """A missing folder is told from a missing file, and the name looked for is said."""
    with pytest.raises(MissingFile, match="does not exist"):
        Idx(str(tmp_path / "nowhere")).load(split)
    with pytest.raises(MissingFile, match=r"images-idx3-ubyte\.gz in .* no such file"):
        Idx(str(tmp_path)).load(split)


@pytest.mark.parametrize(
    "options", [{"std": 0.0}, {"std": float("nan")}, {"mean": float("inf")}, {"validation": 1.0}, {"validation": -0.1}, {"limit": -1}]
)
def test_options_that_make_no_data(options):
    """A std of zero, a share outside [0, 1) and a negative count are refused before any file is read."""
    with pytest.raises(BadRequest):
        Idx("somewhere", **options)


def test_no_validation_split(folder):
    """With validation=0 all 20 are train, and asking for the validation split says why there is none."""
    dataset = Idx(str(folder), validation=0.0)
    assert len(dataset.load("train")) == 20
    with pytest.raises(BadData, match="validation split is empty"):
        dataset.load("validation")


@pytest.mark.skipif(not SHARED.is_dir(), reason="Fashion-MNIST is not beside the repository")
def test_fashion_mnist():
    """The real files: 54,000 + 6,000 + 10,000 images, mean pixel 0.286 as published."""
    sizes = {split: len(Idx(str(SHARED)).load(split)) for split in ("train", "validation", "test")}
    assert sizes == {"train": 54000, "validation": 6000, "test": 10000}
    assert float(Idx(str(SHARED)).load("test").inputs.mean()) == pytest.approx(0.286, abs=0.002)
