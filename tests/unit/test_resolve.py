"""Words -> networks and data: the shelf, a user's own code, and clear answers when they do not fit."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from sparsify_cli.architectures.cnn import SmallCnn
from sparsify_cli.errors import BadData, BadRequest, BrokenPlugin, MissingContext, MissingFile, UnknownName
from sparsify_cli.shelf import user_callable
from sparsify_cli.stages.resolve import build_architecture, check_inputs, load_samples, parse_spec, scalar
from sparsify_cli.values.checkpoint import Spec
from sparsify_cli.values.samples import Samples

HEAD = """
import torch
from torch import nn
from torch.utils.data import Dataset, TensorDataset
"""


def written(text, name="mine.py"):
    """A user's file in the current folder."""
    Path(name).write_text(HEAD + text, encoding="utf-8")
    return name


def loaded(text, split, *args):
    """One split of `data` in a user's file."""
    return load_samples(parse_spec(f"{written(text)}:data", args), split)


def built(text, *args):
    """What `net` in a user's file builds."""
    return build_architecture(parse_spec(f"{written(text)}:net", args))


# ------------------------------------------------------------------------------------------------------------ parse_spec


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3), ("-3", -3), ("010", 10), ("1e-3", 0.001), (".5", 0.5), ("2.", 2.0), ("true", True), ("False", False), ("null", None),
        ("2:4", "2:4"), ("no", "no"), ("64,64", "64,64"), ("'3'", "3"), ('"true"', "true"), ("", ""), ("nan", "nan"), ("1_000", "1_000"),
    ],
)  # fmt: skip
def test_scalars(text, value):
    """Values mean what they look like; what looks like nothing else is text."""
    assert scalar(text) == value
    assert type(scalar(text)) is type(value)


def test_shelf_name_with_options():
    """`digits` and `cnn` are names; options become values, kebab becomes snake."""
    assert parse_spec("digits", []) == Spec("digits")
    assert parse_spec("cnn", ["in-channels=3", "width=8"]) == Spec("cnn", {"in_channels": 3, "width": 8})


def test_location_becomes_absolute(tmp_path):
    """`idx:FOLDER` and `file.py:name` are relative to the current folder; a module name stays as it is."""
    assert parse_spec("idx:some/place", ["limit=5"]) == Spec("idx", {"path": str(tmp_path / "some" / "place"), "limit": 5})
    assert parse_spec("sub/net.py:make", []).name == f"{tmp_path}/sub/net.py:make"
    assert parse_spec("package.module:make", []).name == "package.module:make"


@pytest.mark.parametrize("args", [["width"], ["=3"], ["a b=3"], ["width=3", "width=4"]])
def test_bad_options(args):
    """An option without key or value, or given twice, is refused."""
    with pytest.raises(BadRequest):
        parse_spec("cnn", args)


def test_empty_location():
    """`idx:` names no location."""
    with pytest.raises(BadRequest, match="idx:PATH"):
        parse_spec("idx:", [])


# ------------------------------------------------------------------------------------------------------------- the shelf


def test_architecture_from_the_shelf():
    """Options reach the strategy and are converted to its types."""
    module = build_architecture(Spec("cnn", {"classes": 3, "width": "4"}))
    assert isinstance(module, SmallCnn)
    assert module.fc.out_features == 3


def test_unknown_names_list_the_known():
    """An unknown architecture or dataset is answered with the nearest match and the list."""
    with pytest.raises(UnknownName, match=r"'cnm'. Did you mean 'cnn'\? Known: cnn"):
        build_architecture(Spec("cnm"))
    with pytest.raises(UnknownName, match="Known: digits"):
        load_samples(Spec("digist"), "train")


def test_unknown_option_lists_the_known():
    """An unknown option is named with the nearest match, the known ones and the flag that sets them."""
    with pytest.raises(BadRequest, match=r"'widht'.*Did you mean 'width'\? Known: classes, in_channels, width.*--arch-arg"):
        build_architecture(Spec("cnn", {"widht": 4}))


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (Spec("idx"), "needs a location.*idx:PATH"),
        (Spec("digits", {"path": "here"}), "takes no location"),
        (Spec("idx", {"path": "here", "limit": "few"}), "limit: .*integer.*'few'"),
        (Spec("idx", {"path": "here", "std": 0}), "std is 0"),
    ],
)
def test_data_options_that_do_not_fit(spec, said):
    """A missing or needless location and values of the wrong type or range are refused."""
    with pytest.raises(BadRequest, match=said):
        load_samples(spec, "train")


# ------------------------------------------------------------------------------------------------------- a user's network


@pytest.mark.parametrize(
    "text",
    [
        "def net(width=2): return nn.Linear(width, 3)",
        "class net(nn.Linear):\n    def __init__(self, width): super().__init__(width, 3)",
        "from functools import partial\nnet = lambda **options: nn.Linear(options['width'], 3)",
    ],
    ids=["function", "class", "keywords"],
)
def test_user_network(text):
    """A function, a module class and a callable with any keywords all build the module."""
    assert built(text, "width=5").in_features == 5


def test_user_network_instance_is_copied():
    """A module instance is copied, so that two builds do not share weights."""
    first = built("net = nn.Linear(2, 2)")
    second = build_architecture(parse_spec("mine.py:net", []))
    assert torch.equal(first.weight, second.weight)
    assert first.weight.data_ptr() != second.weight.data_ptr()


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("def net(): return {'weight': 1}", BrokenPlugin, "returned dict"),
        ("def net(): return nn.Linear", BrokenPlugin, "returned type"),
        ("def net():\n    raise RuntimeError('too small')", BrokenPlugin, r"mine\.py, line 6\. RuntimeError: too small"),
        ("def net(depth): return nn.Linear(1, 1)", BadRequest, "depth"),
        ("net = 3", BadRequest, "int, which cannot be called"),
        ("def nets(): pass", UnknownName, "Did you mean 'nets'"),
        ("import nowhere_to_be_found", BrokenPlugin, "nowhere_to_be_found"),
        ("def net(: pass", BrokenPlugin, "SyntaxError"),
        ("raise SystemExit(3)", BrokenPlugin, "SystemExit"),
    ],
    ids=["dict", "class", "raises", "options", "number", "name", "import", "syntax", "exit"],
)
def test_user_network_that_does_not_work(text, error, said):
    """Whatever a user's file does wrong is one sentence that names the file and the reason."""
    with pytest.raises(error, match=said) as caught:
        built(text)
    assert "mine.py" in str(caught.value)


def test_missing_file_and_module():
    """A file or module that is not there is a missing file; a text without a name is refused."""
    with pytest.raises(MissingFile, match=r"nowhere\.py"):
        build_architecture(Spec("nowhere.py:net"))
    with pytest.raises(MissingFile, match="no module nowhere_at_all"):
        build_architecture(Spec("nowhere_at_all.models:net"))
    with pytest.raises(BadRequest, match=r"package\.module:name"):
        user_callable("justaname")


def test_siblings_can_be_imported():
    """A file may import its neighbour, and the search path is as before afterwards."""
    Path("own").mkdir()
    written("SIZE = 7", "own/neighbour_of_mine.py")
    written("from neighbour_of_mine import SIZE\ndef net(): return nn.Linear(SIZE, 1)", "own/mine.py")
    before = list(sys.path)
    assert build_architecture(parse_spec("own/mine.py:net", [])).in_features == 7
    assert sys.path == before


def test_module_of_the_current_folder():
    """`module:name` finds a module in the current folder, as `python -m` would."""
    written("def net(): return nn.Linear(4, 1)", "only_in_this_folder.py")
    assert build_architecture(parse_spec("only_in_this_folder:net", [])).in_features == 4


# ---------------------------------------------------------------------------------------------------------- a user's data

ROWS = "X = torch.arange(40.).view(20, 2)\nY = torch.arange(20) % 3\n"
SPLITTERS = {
    "split": "def data(split): return None if split == 'validation' else (X, Y)",
    "first": "def data(part, scale=1): return None if part == 'validation' else (X, Y)",
    "keyword": "def data(*, split): return {'x': X, 'y': Y} if split != 'validation' else None",
    "dict": "def data(): return {'train': (X, Y), 'test': {'x': X, 'y': Y}}",
    "pair": "def data(root='unused'): return (X.numpy(), Y.numpy()), (X, Y)",
    "torch": "def data(): return {'train': TensorDataset(X, Y), 'test': TensorDataset(X, Y)}",
}


@pytest.mark.parametrize("kind", SPLITTERS)
def test_user_data_without_validation(kind):
    """However the callable is written: 10 % of 20 rows are held out of train, test is whole."""
    train, validation, test = (loaded(ROWS + SPLITTERS[kind], split) for split in ("train", "validation", "test"))
    assert (len(train), len(validation), len(test)) == (18, 2, 20)
    assert sorted(train.ids + validation.ids) == [f"train-{i:06d}" for i in range(20)]
    row = int(validation.ids[0].removeprefix("train-"))
    assert (validation.inputs[0].tolist(), int(validation.targets[0])) == ([2 * row, 2 * row + 1], row % 3)
    assert test.ids[19] == "test-000019"


def test_user_data_with_everything():
    """A mapping may bring ids, groups and names of classes; a third part is the validation split; options are passed on."""
    text = """
def data(n):
    def part(word): return {"x": torch.zeros(n, 4), "y": [0] * n, "ids": [f"{word}{i}" for i in range(n)],
                            "groups": {"side": ["l"] * n}, "classes": ["no", "yes"]}
    return part("a"), part("b"), part("c")
"""
    samples = loaded(text, "validation", "n=3")
    assert (samples.ids, samples.groups, samples.classes) == (("b0", "b1", "b2"), {"side": ("l", "l", "l")}, ("no", "yes"))
    assert loaded(text, "train", "n=3").ids == ("a0", "a1", "a2")


def test_user_data_as_samples_and_dataset():
    """`Samples` and a class that keeps the Dataset promise are taken as they are."""
    text = """
from dataclasses import dataclass
from sparsify_cli.contracts.dataset import Dataset as Promise
from sparsify_cli.values.samples import Samples
@dataclass(frozen=True)
class data(Promise):
    n: int = 2
    def load(self, split):
        names = tuple(f"{split}{i}" for i in range(self.n))
        return Samples(torch.zeros(self.n, 1), torch.zeros(self.n, dtype=torch.int64), names)
"""
    assert loaded(text, "test", "n=2").ids == ("test0", "test1")


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("def data(): return {'train': (X, Y)}", MissingContext, "no test split"),
        ("def data(split): return None", MissingContext, "no test split"),
        ("def data(): return X, Y", BadData, "holds no splits"),
        ("def data(): return 3", BadData, "returned int"),
        ("def data(split): return X", BadData, r"returned torch\.Tensor for test"),
        ("def data(split): return {'x': X}", BadData, "there are none"),
        ("def data(split): return X, Y[:5]", BadData, "20 inputs"),
        ("def data(split): return X / 0, Y", BadData, "NaN or infinite"),
        ("def data(split): return [(X[0], 0), (X[0, :1], 1), (X[0], 0)]", BadData, r"test\[1\] has \[1\]"),
        ("def data(split): return [('a', 0), ('b', 1), ('c', 1)]", BadData, r"test\[0\] is str"),
        ("def data(split): return [(X[0], 'cat')] * 3", BadData, "label 'cat'"),
        ("def data(split): return [(X[0], 'cat')] * 3", BadData, "label 'cat'"),
        ("def data(split): return {'x': X, 'y': Y, 'groups': ['l'] * 20}", BadData, "groups as list"),
        ("def data(split): return []", BadData, "no sample in test"),
        ("def data(split):\n    raise OSError('disk gone')", BrokenPlugin, "OSError: disk gone.*returns None for a split"),
        (
            "class Bad(list):\n    def __getitem__(self, i): raise KeyError(i)\ndef data(split): return Bad([1, 2, 3])",
            BrokenPlugin,
            "KeyError: 0",
        ),
    ],
)
def test_user_data_that_does_not_work(text, error, said):
    """Whatever a callable returns that is no data is refused with what it returned."""
    with pytest.raises(error, match=said):
        loaded(ROWS + text, "test")


def test_user_option_it_does_not_take():
    """An option the callable has no parameter for is refused and its signature shown."""
    with pytest.raises(BadRequest, match=r"colour.*\(split\)"):
        loaded(ROWS + "def data(split): return X, Y", "test", "colour=3")


def test_user_data_without_train():
    """Without train there is nothing to hold a validation split out of."""
    with pytest.raises(MissingContext, match="no train split"):
        loaded(ROWS + "def data(split): return (X, Y) if split == 'test' else None", "validation")


# ---------------------------------------------------------------------------------------------------------- check_inputs


def images(shape=(3, 1, 8, 8), labels=(0, 1, 9), classes=()):
    """Blank samples."""
    return Samples(torch.zeros(shape), torch.tensor(labels), tuple(map(str, range(shape[0]))), {}, classes)


def test_fitting_data_changes_nothing():
    """A network that fits is left in its modes, submodule by submodule, and with its statistics."""
    module = build_architecture(Spec("cnn")).train()
    module.bn2.eval()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    check_inputs(module, images())
    assert (module.training, module.bn1.training, module.bn2.training) == (True, True, False)
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())


def test_shape_that_does_not_fit():
    """The shape of the data and what the network says are both named; modes are put back."""
    module = build_architecture(Spec("cnn")).train()
    with pytest.raises(BadData, match=r"shape \[3, 8, 8\].*It says: .*channels.*--arch-arg"):
        check_inputs(module, images((3, 3, 8, 8)))
    assert module.training


@pytest.mark.parametrize(("labels", "classes", "needed"), [((0, 1, 4), (), 5), ((0, 1, 1), tuple("abcdef"), 6)])
def test_too_few_outputs(labels, classes, needed):
    """Labels or named classes beyond the outputs are refused with both numbers."""
    with pytest.raises(BadData, match=f"{needed} classes, the network 4 outputs.*classes={needed}"):
        check_inputs(build_architecture(Spec("cnn", {"classes": 4})), images(labels=labels, classes=classes))


@pytest.mark.parametrize(("module", "said"), [(nn.Conv2d(1, 2, 3), r"shape \[2, 2, 6, 6\]"), (nn.LSTM(8, 4), "does not take|type tuple")])
def test_outputs_that_are_no_logits(module, said):
    """An output that is not [n, classes] is refused."""
    with pytest.raises(BadData, match=said):
        check_inputs(module, images())
