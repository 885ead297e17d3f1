"""Which samples to forget: files of ids, classes, random shares."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from sparsify_cli.errors import BadRequest, MissingFile
from sparsify_cli.stages.forget import forget_positions, split_off
from sparsify_cli.values.samples import Samples

TEN = Samples(
    torch.arange(10.0)[:, None],
    torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 2, 0]),
    tuple(f"s{i}" for i in range(10)),
    {"side": tuple("lr" * 5)},
    ("cat", "dog", "7"),
)


def positions(text, *, seed=0, train=TEN):
    """Shorthand."""
    return forget_positions(text, train, seed=seed)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("f.csv", "id\ns4\ns1\n"),
        ("f.csv", "s1\ns4\n"),
        ("f.csv", "why,id\nold, s4 \nnew,s1\n"),
        ("f.csv", "\ufeffid\r\ns1\r\n\r\ns4\r\n"),
        ("f.txt", "s1,x\ns4,y\n"),
        ("f.json", '["s4", "s1"]'),
        ("f.json", '{"ids": ["s1", "s4"], "by": "me"}'),
    ],
)
def test_a_file_of_ids(name, content):
    """CSV with and without a heading, any column, byte-order mark, repeats; JSON as a list or under `ids`: positions 1 and 4."""
    Path(name).write_text(content, encoding="utf-8")
    assert positions(name) == [1, 4]


def test_numbers_as_ids():
    """Ids in JSON may be numbers."""
    train = Samples(torch.zeros(3, 1), torch.zeros(3, dtype=torch.int64), ("10", "11", "12"))
    Path("f.json").write_text("[11]")
    assert positions("f.json", train=train) == [1]


@pytest.mark.parametrize(("text", "found"), [("class:cat", [0, 3, 6, 9]), ("class:1", [1, 4, 7]), ("class:7", [2, 5, 8])])
def test_a_class_by_name_or_label(text, found):
    """A name wins over a label: `7` is the third class here."""
    assert positions(text) == found


def test_classes_without_names():
    """Labels are the names."""
    train = Samples(TEN.inputs, TEN.targets, TEN.ids)
    assert positions("class:2", train=train) == [2, 5, 8]


def test_a_random_share():
    """30 % of ten are three, the same for the same seed, other ones for another; at least one."""
    assert len(positions("random:30%")) == len(positions("random:0.3")) == 3
    assert positions("random:30%") == positions("random:0.3") == sorted(positions("random:30%"))
    assert len({tuple(positions("random:30%", seed=seed)) for seed in range(8)}) > 3
    assert len(positions("random:1%")) == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "Nothing was named"),
        ("class:bird", "There is no class 'bird'. The data is labelled by class: cat, dog, 7"),
        ("class:3", "There is no class '3'"),
        ("class:²", "There is no class"),
        ("class:", "There is no class"),
        ("random:0%", "not a share between 0 and 1"),
        ("random:100%", "not a share between 0 and 1"),
        ("random:nan", "not a share between 0 and 1"),
        ("random:some", "is not a share"),
    ],
)
def test_what_names_nothing(text, words):
    """Every refusal says what was read and shows the forms."""
    with pytest.raises(BadRequest) as caught:
        positions(text)
    assert words in str(caught.value)
    assert "random:5%" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"id\ns1\ns77\ns78\n", "2 of 3 ids in f.csv are not in the training split, first 's77'"),
        (b"", "names no sample"),
        (b"id\n", "names no sample"),
        (b"\xff\xfe\x00", "cannot be read"),
        ("\n".join(TEN.ids).encode(), "names all 10 training samples"),
    ],
)
def test_files_that_do_not_do(content, words):
    """Unknown ids, no ids, no text, all ids."""
    Path("f.csv").write_bytes(content)
    with pytest.raises(BadRequest) as caught:
        positions("f.csv")
    assert words in str(caught.value)


@pytest.mark.parametrize("content", ["{", "3", '{"names": []}', json.dumps({"ids": "s1"}), "[" * 9999])
def test_json_that_does_not_do(content):
    """Damaged, or no list of ids."""
    Path("f.json").write_text(content)
    with pytest.raises(BadRequest, match=r"f\.json"):
        positions("f.json")


def test_a_missing_file():
    """The path and the forms."""
    with pytest.raises(MissingFile, match=r"nowhere\.csv.*random:5%"):
        positions("nowhere.csv")


def test_splitting_loses_nothing():
    """Forgotten and retained are disjoint, in order, with their columns, and together the training split."""
    forget, retain = split_off(TEN, [1, 4])
    assert (forget.ids, forget.groups["side"]) == (("s1", "s4"), ("r", "l"))
    assert retain.ids == tuple(f"s{i}" for i in (0, 2, 3, 5, 6, 7, 8, 9))
    assert retain.targets.tolist() == [0, 2, 0, 2, 0, 1, 2, 0]


def test_what_is_forgotten_already_is_refused():
    """Ids that are gone are named as such, and a class that is gone as a whole names no sample, with the reason."""
    rest = TEN.take([1, 2, 4, 5, 7, 8])
    gone = frozenset({"s0", "s3", "s6", "s9"})
    Path("f.csv").write_text("s1\ns3\n")
    with pytest.raises(BadRequest, match=r"1 of 2 ids in f.csv are already forgotten, first 's3'"):
        forget_positions("f.csv", rest, seed=0, forgotten=gone)
    with pytest.raises(BadRequest, match=r"names no sample.*4 samples are forgotten already"):
        forget_positions("class:cat", rest, seed=0, forgotten=gone)
