"""Arrays in a numpy file: keys, scaling, splits, groups, and nothing unpickled."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sparsify_cli.datasets.npz import Npz
from sparsify_cli.errors import BadData, MissingFile


def arrays(**changes):
    """20 training and 4 test rows of 3 features, labels 0 and 1; `changes` replace or (None) remove keys."""
    made = {
        "x_train": np.arange(60, dtype=np.float64).reshape(20, 3),
        "y_train": np.arange(20) % 2,
        "x_test": np.zeros((4, 3), dtype=np.float32),
        "y_test": np.array([0, 1, 0, 1]),
        **changes,
    }
    return {key: value for key, value in made.items() if value is not None}


@pytest.fixture
def saved(tmp_path):
    """Saves arrays and gives the dataset."""

    def save(options=None, **changes):
        np.savez(tmp_path / "data.npz", **arrays(**changes))
        return Npz(str(tmp_path / "data.npz"), **(options or {}))

    return save


def test_values_types_and_ids(saved):
    """float64 becomes float32 unscaled, labels int64, ids the split and the row."""
    samples = saved().load("test")
    assert (samples.inputs.dtype, samples.targets.dtype) == (torch.float32, torch.int64)
    assert samples.ids == ("test-000000", "test-000001", "test-000002", "test-000003")
    assert samples.targets.tolist() == [0, 1, 0, 1]


def test_validation_is_held_out_of_train(saved):
    """Without a validation array 10 % of 20 rows = 2 are held out; the ids still name the row of x_train."""
    dataset = saved()
    train, validation = dataset.load("train"), dataset.load("validation")
    assert sorted(train.ids + validation.ids) == [f"train-{i:06d}" for i in range(20)]
    assert len(validation) == 2
    row = int(validation.ids[1].removeprefix("train-"))
    assert validation.inputs[1].tolist() == [3 * row, 3 * row + 1, 3 * row + 2]


@pytest.mark.parametrize("word", ["validation", "val"])
def test_validation_arrays_are_used(saved, word):
    """x_validation or x_val is the validation split, and train is then whole."""
    dataset = saved(**{f"x_{word}": np.ones((5, 3)), f"y_{word}": np.zeros(5, dtype=int)})
    assert len(dataset.load("validation")) == 5
    assert len(dataset.load("train")) == 20


def test_bytes_are_images(saved):
    """uint8 [n, h, w] becomes [n, 1, h, w] in [0, 1]: 255 is 1 and 51 is 0.2."""
    pixels = np.full((4, 2, 2), 51, dtype=np.uint8)
    pixels[0] = 255
    samples = saved(x_train=np.zeros((20, 2, 2), dtype=np.uint8), x_test=pixels).load("test")
    assert samples.inputs.shape == (4, 1, 2, 2)
    assert samples.inputs[0].unique().tolist() == [1.0]
    assert samples.inputs[1].unique().tolist() == pytest.approx([0.2])


def test_channels_last(saved):
    """With channels_last [n, h, w, c] becomes [n, c, h, w]."""
    test = np.arange(4 * 2 * 3 * 5, dtype=np.float32).reshape(4, 2, 3, 5)
    samples = saved({"channels_last": True}, x_train=np.zeros((20, 2, 3, 5)), x_test=test).load("test")
    assert samples.inputs.shape == (4, 5, 2, 3)
    assert float(samples.inputs[1, 4, 1, 2]) == test[1, 1, 2, 4]


def test_column_labels_are_accepted(saved):
    """Labels [n, 1], as some archives keep them, are labels [n]; small integer inputs are numbers, not images."""
    samples = saved(y_test=np.array([[0], [1], [1], [1]]), x_test=np.full((4, 3), 7, dtype=np.int16)).load("test")
    assert samples.targets.tolist() == [0, 1, 1, 1]
    assert samples.inputs.unique().tolist() == [7.0]


def test_ids_groups_and_classes(saved):
    """ids_<split>, groups_<split>_<column> and classes travel with their samples."""
    extra = {"ids_test": np.array(["a", "b", "c", "d"]), "groups_test_hand": np.array(["l", "r", "l", "l"])}
    samples = saved(**extra, classes=np.array(["no", "yes"])).load("test")
    assert (samples.ids, samples.groups, samples.classes) == (("a", "b", "c", "d"), {"hand": ("l", "r", "l", "l")}, ("no", "yes"))


def test_one_piece_is_cut(tmp_path):
    """Arrays x and y alone are cut into 70 / 15 / 15 % of 20 = 14 / 3 / 3 rows, ids and groups with them."""
    x = np.arange(40.0).reshape(20, 2)
    np.savez(tmp_path / "one.npz", x=x, y=np.arange(20) % 4, groups_parity=np.arange(20) % 2)
    parts = [Npz(str(tmp_path / "one.npz")).load(split) for split in ("train", "validation", "test")]
    assert [len(part) for part in parts] == [14, 3, 3]
    assert sorted(name for part in parts for name in part.ids) == [f"sample-{i:06d}" for i in range(20)]
    row = int(parts[2].ids[0].removeprefix("sample-"))
    assert (parts[2].inputs[0].tolist(), parts[2].groups["parity"][0]) == ([2 * row, 2 * row + 1], str(row % 2))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"x_test": None, "y_test": None}, "no test split"),
        ({"x_train": None, "y_train": None}, "no train split"),
        ({"y_test": None}, "x_test but not y_test"),
        ({"x_test": np.zeros((4, 5))}, r"inputs of test-000000 have shape \[5\], train inputs \[3\]"),
        ({"y_test": np.array([0, 1, 0])}, "4 inputs"),
        ({"y_test": np.array([0, 1, 0, -1])}, "smallest label is -1"),
        ({"y_test": np.array([0.0, 1.0, 2.0, 1.0])}, "labels are torch.float64"),
        ({"y_test": np.eye(4, dtype=int)}, "argmax"),
        ({"y_test": np.array(["a", "b", "a", "b"])}, "not an array of numbers"),
        ({"x_test": np.full((4, 3), np.nan)}, "4 of 4 samples hold NaN"),
        ({"ids_test": np.array(["a", "a", "b", "c"])}, "1 of 4 are duplicates"),
        ({"classes": np.array(["only"])}, "label 1 has no name"),
        ({"x_test": np.zeros((0, 3)), "y_test": np.zeros(0, dtype=int)}, "empty"),
    ],
    ids=[
        "no-test",
        "no-train",
        "no-labels",
        "shape",
        "length",
        "negative",
        "float",
        "one-hot",
        "text",
        "nan",
        "repeated-id",
        "unnamed",
        "empty",
    ],
)
def test_bad_arrays(saved, changes, said):
    """What does not fit is refused with what is wrong."""
    with pytest.raises(BadData, match=said):
        saved(**changes).load("test")


def test_objects_are_not_unpickled(tmp_path):
    """An array of Python objects is refused, and the code inside it does not run."""
    trap = tmp_path / "ran"

    class Trap:
        def __reduce__(self):
            return (trap.touch, ())

    np.savez(tmp_path / "data.npz", **arrays(x_test=np.array([Trap()], dtype=object)))
    with pytest.raises(BadData, match="could run code"):
        Npz(str(tmp_path / "data.npz")).load("test")
    assert not trap.exists()


@pytest.mark.parametrize("cut", [0, 10, 300])
def test_truncated_file(tmp_path, cut):
    """A truncated or empty archive is refused by name."""
    np.savez(tmp_path / "whole.npz", **arrays())
    (tmp_path / "data.npz").write_bytes((tmp_path / "whole.npz").read_bytes()[:cut])
    with pytest.raises(BadData, match=r"data\.npz does not read"):
        Npz(str(tmp_path / "data.npz")).load("train")


def test_bare_array_and_missing_file(tmp_path):
    """One bare .npy array is no archive; a file that is not there is a missing file."""
    with (tmp_path / "bare.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(BadData, match="one bare array"):
        Npz(str(tmp_path / "bare.npz")).load("train")
    with pytest.raises(MissingFile, match=r"nowhere\.npz"):
        Npz(str(tmp_path / "nowhere.npz")).load("train")


def test_group_columns_that_name_no_split_are_refused(saved):
    """`groups_sex` beside x_train would not be read; what to call it is said."""
    with pytest.raises(BadData, match=r"groups_sex, which names no split\..*groups_test_sex"):
        saved(groups_sex=np.array(["f", "m", "f", "m"])).load("test")
    assert saved(groups_test_sex=np.array(["f", "m", "f", "m"])).load("test").groups == {"sex": ("f", "m", "f", "m")}
