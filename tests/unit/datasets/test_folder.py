"""Class folders of images: splits, ids, scaling, groups, and images that do not read."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from PIL import Image

from sparsify_cli.datasets.folder import Folder
from sparsify_cli.errors import BadData, BadRequest, MissingFile

SPLITS = ("train", "validation", "test")


def draw(path, colour=(255, 0, 0), size=(4, 4)):
    """One image of one colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


@pytest.fixture
def flat(tmp_path):
    """60 images in the class folders cats (red) and dogs (blue)."""
    for i in range(30):
        draw(tmp_path / "dogs" / f"{i}.png", (0, 0, 255))
        draw(tmp_path / "cats" / f"{i}.png", (255, 0, 0))
    return tmp_path


@pytest.fixture
def parted(tmp_path):
    """Train, val and test folders with the classes a and b, two images each."""
    for split in ("train", "val", "test"):
        for name, shade in (("a", 0), ("b", 255)):
            for i in range(2):
                draw(tmp_path / split / name / f"{i}.png", (shade,) * 3)
    return tmp_path


def test_pixels_classes_and_ids(flat):
    """Classes are the sorted folder names, ids the relative paths, and red is (1, 0, 0)."""
    samples = Folder(str(flat)).load("train")
    first = samples.ids.index(next(name for name in samples.ids if name.startswith("cats/")))
    assert samples.classes == ("cats", "dogs")
    assert samples.inputs.shape[1:] == (3, 4, 4)
    assert samples.inputs[first, :, 0, 0].tolist() == [1.0, 0.0, 0.0]
    assert [samples.classes[label] for label in samples.targets.tolist()] == [name.split("/")[0] for name in samples.ids]


def test_hash_decides_the_split(flat):
    """All images go to exactly one split, and to the one their path's sha256 names."""
    found = {split: Folder(str(flat)).load(split).ids for split in SPLITS}
    assert sorted(name for ids in found.values() for name in ids) == sorted(f"{c}/{i}.png" for c in ("cats", "dogs") for i in range(30))
    leading = {name: int(hashlib.sha256(name.encode()).hexdigest()[:4], 16) / 0x10000 for ids in found.values() for name in ids}
    assert max(leading[name] for name in found["train"]) < 0.7 <= min(leading[name] for name in found["validation"])
    assert max(leading[name] for name in found["validation"]) < 0.85 <= min(leading[name] for name in found["test"])


def test_adding_an_image_moves_no_other(flat, tmp_path_factory):
    """An image stays in its split when others arrive."""
    before, more = Folder(str(flat)).load("test").ids, tmp_path_factory.mktemp("more")
    for name in [*before, *(f"cats/{i}.png" for i in range(30, 60))]:
        draw(more / name)
    after = Folder(str(more)).load("test").ids
    assert set(before) < set(after)


def test_split_folders(parted):
    """train, val and test folders are the splits."""
    ids = {split: Folder(str(parted)).load(split).ids for split in SPLITS}
    assert ids["validation"] == ("val/a/0.png", "val/a/1.png", "val/b/0.png", "val/b/1.png")
    assert [name.split("/")[0] for name in ids["train"] + ids["test"]] == ["train"] * 4 + ["test"] * 4


def test_without_a_validation_folder_some_of_train_is_held_out(tmp_path):
    """Train images are then divided into train and validation; none is in both, none is lost."""
    for i in range(60):
        draw(tmp_path / "train" / "ab"[i % 2] / f"{i}.png")
    train, validation = (Folder(str(tmp_path)).load(split).ids for split in SPLITS[:2])
    assert len(train) + len(validation) == len({*train, *validation}) == 60
    assert 1 <= len(validation) <= 15
    with pytest.raises(BadData, match="no test folder"):
        Folder(str(tmp_path)).load("test")


def test_a_class_may_be_called_train(tmp_path):
    """A folder called train that holds images itself is a class, for instance of vehicles."""
    for i in range(20):
        draw(tmp_path / "train" / f"{i}.png")
        draw(tmp_path / "bus" / f"{i}.png")
    assert Folder(str(tmp_path)).load("train").classes == ("bus", "train")


def test_grayscale_mean_and_std(parted):
    """Grey white pixels with mean 0.5 and std 0.25 are (1 - 0.5) / 0.25 = 2."""
    samples = Folder(str(parted), grayscale=True, mean=0.5, std=0.25).load("test")
    assert samples.inputs.shape == (4, 1, 4, 4)
    assert samples.inputs[samples.targets == 1].unique().tolist() == [2.0]


def test_mean_and_std_for_each_channel(parted):
    """`0,0.5,1` shifts each channel of a white image by its own number."""
    white = Folder(str(parted), mean="0,0.5,1", std="1,0.5,1").load("test").inputs[-1, :, 0, 0]
    assert white.tolist() == [1.0, 1.0, 0.0]


def test_different_sizes_need_a_size(parted):
    """Images that differ in size are refused with both files named; with size they are resized."""
    draw(parted / "test" / "b" / "1.png", (9, 9, 9), size=(5, 4))
    with pytest.raises(BadData, match=r"0\.png has 4 x 4, .*1\.png has 5 x 4 pixels.*size=64"):
        Folder(str(parted)).load("test")
    assert Folder(str(parted), size=8).load("test").inputs.shape == (4, 3, 8, 8)


@pytest.mark.parametrize("content", [b"", b"not an image", None], ids=["empty", "text", "truncated"])
def test_corrupt_image(parted, content):
    """A corrupt image is refused by name."""
    file = parted / "test" / "b" / "1.png"
    Image.fromarray(np.arange(48 * 48 * 3, dtype=np.uint8).reshape(48, 48, 3)).save(file)
    file.write_bytes(file.read_bytes()[:200] if content is None else content)
    with pytest.raises(BadData, match=r"test/b/1\.png does not read"):
        Folder(str(parted)).load("test")


def test_sixteen_bits_are_refused(parted):
    """A 16-bit image would be clipped to white without a word; it is refused."""
    Image.fromarray(np.full((4, 4), 40000, dtype=np.uint16)).save(parted / "test" / "b" / "1.png")
    with pytest.raises(BadData, match="8 bits"):
        Folder(str(parted)).load("test")


def test_groups_come_from_a_table(parted):
    """groups.csv gives one value a sample and column; an empty cell is `unknown`."""
    rows = [f"{split}/{c}/{i}.png,{c}{i}," for split in ("train", "val", "test") for c in "ab" for i in range(2)]
    (parted / "groups.csv").write_text("\n".join(["id,name,light", *rows]), encoding="utf-8")
    assert Folder(str(parted)).load("test").groups == {"name": ("a0", "a1", "b0", "b1"), "light": ("unknown",) * 4}


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("name\nx\n", "header"),
        ("id,light\ntrain/a/0.png,day\n", "no row for 3 of 4 images"),
        ("id\ntrain/a/0.png\n", "header"),
        ("", "header"),
    ],
    ids=["no-id", "missing-rows", "no-column", "empty"],
)
def test_bad_group_table(parted, table, said):
    """A table without ids, columns or a row for each sample is refused."""
    (parted / "groups.csv").write_text(table, encoding="utf-8")
    with pytest.raises(BadData, match=said):
        Folder(str(parted)).load("train")


def test_missing_folder_is_named(tmp_path):
    """A folder that is not there is a missing file."""
    with pytest.raises(MissingFile, match="nowhere"):
        Folder(str(tmp_path / "nowhere")).load("train")


def test_nothing_to_load(tmp_path):
    """A folder without class folders, and a class folder without images, are refused."""
    with pytest.raises(BadData, match="no image for the train split"):
        Folder(str(tmp_path)).load("train")
    (tmp_path / "cats").mkdir()
    with pytest.raises(BadData, match="cats holds no image"):
        Folder(str(tmp_path)).load("validation")


def test_class_only_in_test(parted):
    """A test class that training never saw is refused by name."""
    draw(parted / "test" / "c" / "0.png")
    with pytest.raises(BadData, match="first 'c'"):
        Folder(str(parted)).load("test")


@pytest.mark.parametrize(
    "options",
    [
        {"size": 0},
        {"std": "nan"},
        {"mean": "inf"},
        {"std": 0.0},
        {"std": "1,0,1"},
        {"mean": "1,2"},
        {"mean": "dark"},
        {"mean": "0,0,0", "grayscale": True},
    ],
)
def test_options_that_make_no_data(options):
    """Impossible sizes and scalings are refused before any image is read."""
    with pytest.raises(BadRequest):
        Folder("somewhere", **options)


def test_same_samples_twice(parted):
    """The same split is the same samples in the same order."""
    first, second = Folder(str(parted)).load("train"), Folder(str(parted), size=None).load("train")
    assert first.ids == second.ids
    assert torch.equal(first.inputs, second.inputs)
