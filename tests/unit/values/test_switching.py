"""Nests in memory: levels as states and in place."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import fsspec
import pytest
import torch
from torch import nn

import sparsify_cli
from sparsify_cli.errors import BadRequest, KeyMismatch, MissingContext, MissingFile, UnreadableFile
from sparsify_cli.values.nest import Nest
from sparsify_cli.values.nest_file import write_nest
from sparsify_cli.values.nest_plan import read_plan
from sparsify_cli.values.ranges import ranges

PATH = Path("nest.safetensors")


@pytest.fixture
def nested():
    """Ten weights in three levels of 2, 5 and 10, with a bias of its own in each."""
    index = torch.tensor([[1, 1, 2, 2, 2], [3, 3, 3, 3, 3]], dtype=torch.uint8)
    sides = tuple({"bias": torch.full((2,), float(level))} for level in (1, 2, 3))
    write_nest(
        PATH,
        Nest((Fraction(4, 5), Fraction(1, 2), Fraction(0)), {"weight": index}, sides),
        {"weight": torch.arange(1.0, 11.0).reshape(2, 5)},
    )
    return sparsify_cli.Nest.load(PATH)


def test_levels_are_states(nested):
    """By sparsity or number, masked, with their own side state."""
    assert nested.sparsities == (0.8, 0.5, 0.0)
    assert nested.at(0.8)["weight"].tolist() == [[1, 2, 0, 0, 0], [0] * 5]
    assert nested.at("2")["weight"].tolist() == [[1, 2, 3, 4, 5], [0] * 5]
    assert nested.at(2)["bias"].tolist() == [2.0, 2.0]
    with pytest.raises(BadRequest, match=r"0\.8 \(level 1\)"):
        nested.at(0.7)


def test_a_module_is_switched_in_place(nested):
    """Parameters keep their memory and their place in an optimizer; every way there and back gives the same network."""
    module = nn.Linear(5, 2)
    memory = module.weight.data_ptr()
    for level in (3, 1, 2, 1, 3, 0.5, 0.8):
        nested.put(module, level)
        assert all(torch.equal(tensor, nested.at(level)[name]) for name, tensor in module.state_dict().items())
    assert module.weight.data_ptr() == memory
    assert module.weight.requires_grad
    module.double()
    nested.put(module, 0.5)
    assert module.weight.dtype == torch.float64
    assert module.weight.tolist() == [[1, 2, 3, 4, 5], [0] * 5]


def test_a_state_is_a_copy(nested):
    """What a program does to one level harms no other."""
    nested.at(1)["bias"].zero_()
    nested.at(3)["weight"].zero_()
    assert nested.at(1)["bias"].tolist() == [1.0, 1.0]
    assert float(nested.at(3)["weight"].sum()) == 55


def test_only_what_will_be_needed_is_read(nested):
    """Up to a level: the denser ones are not there."""
    del nested
    sparse = sparsify_cli.Nest.load(PATH, upto=0.5)
    assert sparse.sparsities == (0.8, 0.5)
    assert sparse.at(0.5)["weight"].tolist() == [[1, 2, 3, 4, 5], [0] * 5]


def test_what_does_not_fit_is_a_sentence(nested):
    """Another module, no file, another attribute."""
    with pytest.raises(KeyMismatch, match="first 'bias'"):
        nested.put(nn.Linear(5, 2, bias=False), 1)
    with pytest.raises(MissingFile, match="no nest"):
        sparsify_cli.Nest.load("nowhere")
    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = sparsify_cli.nothing_like_it


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_in_place_and_as_a_state_are_the_same_bits(dtype):
    """Signs of zeros too: a negative weight that goes leaves +0, a weight that stays and is -0 keeps its sign."""
    weights = torch.tensor([[-1.0, -0.0, -3.0, 4.0]]).to(dtype)
    write_nest(
        PATH,
        Nest((Fraction(1, 2), Fraction(0)), {"weight": torch.tensor([[1, 1, 2, 2]], dtype=torch.uint8)}, ({}, {})),
        {"weight": weights},
    )
    nest = sparsify_cli.Nest.load(PATH)
    for kind in (dtype, torch.float32):
        module = nn.Linear(4, 1, bias=False).requires_grad_(False)
        module.weight.data = torch.ones(1, 4, dtype=kind)
        for level in (1, 2):
            nest.put(module, level)
            expected = nest.at(level)["weight"].to(kind).float()
            assert torch.equal(module.weight.float().view(torch.int32), expected.view(torch.int32))
        assert torch.signbit(nest.at(1)["weight"].float()).tolist() == [[True, True, False, False]]


def shared(**side: torch.Tensor) -> sparsify_cli.Nest:
    """Two levels that share all state, as they lie in a file."""
    nest = Nest((Fraction(1, 2), Fraction(0)), {"0.weight": torch.tensor([[1, 2]], dtype=torch.uint8)}, (side, side), "shared")
    write_nest(PATH, nest, {"0.weight": torch.tensor([[3.0, 4.0]])})
    return sparsify_cli.Nest.load(PATH)


def test_statistics_that_are_not_there_are_not_replaced_by_others():
    """Of shared state the sparse level is refused in both ways, loaded alone too; the module is left as it was."""
    side = {"0.bias": torch.ones(1), "1.running_mean": torch.ones(1), "1.running_var": torch.ones(1)}
    nest, module = shared(**side), nn.Sequential(nn.Linear(2, 1), nn.BatchNorm1d(1, affine=False))
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    for take in (lambda: nest.at(0.5), lambda: nest.put(module, 1), lambda: sparsify_cli.Nest.load(PATH, upto=1).at(1)):
        with pytest.raises(MissingContext, match=r"level 1 \(0\.5\)\. .* collapses\. .*extract NEST --level 0\.5 --data"):
            take()
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    assert nest.at(2)["0.weight"].tolist() == [[3.0, 4.0]]


def test_shared_state_without_statistics_is_whole():
    """Biases alone: nothing has to be measured."""
    assert shared(**{"0.bias": torch.ones(1)}).at(1)["0.weight"].tolist() == [[3.0, 0.0]]


def test_a_number_with_a_fraction_is_told(nested):
    """1.0 is no sparsity of it, and levels are counted in whole numbers."""
    with pytest.raises(BadRequest, match=r"number is whole: 1, not 1\.0"):
        nested.at(1.0)
    with pytest.raises(BadRequest) as error:
        nested.at(7.0)
    assert "whole" not in str(error.value)


@pytest.mark.parametrize("url", ["memory://nests", "memory://nests/", "memory://nests/nest.safetensors"])
def test_a_folder_elsewhere_is_taken_as_well_as_its_file(nested, url):
    """What `extract` takes."""
    fsspec.filesystem("memory").pipe("/nests/nest.safetensors", PATH.read_bytes())
    assert torch.equal(sparsify_cli.Nest.load(url).at(1)["weight"], nested.at(1)["weight"])


@pytest.mark.parametrize("place", ["folder", "memory://vouched"])
def test_a_file_that_its_manifest_does_not_describe_is_refused(nested, place):
    """In a folder with a manifest, here or elsewhere, the header has to be the one it knows; what is there is said."""
    with ranges(PATH) as source:
        digest = read_plan(source).sha256
    for known, fits in ((digest, True), ("0" * 64, False)):
        put_files(
            place, {"nest.safetensors": PATH.read_bytes(), "manifest.json": json.dumps({"weights": {"header_sha256": known}}).encode()}
        )
        if fits:
            assert torch.equal(sparsify_cli.Nest.load(place).at(1)["weight"], nested.at(1)["weight"])
            continue
        with pytest.raises(UnreadableFile, match="is not the file its manifest describes"):
            sparsify_cli.Nest.load(place)
    for text in (b"{", b"[]"):
        put_files(place, {"manifest.json": text})
        if "://" in place:  # a server may answer anything for a file it has not
            assert sparsify_cli.Nest.load(place).sparsities == nested.sparsities
            continue
        with pytest.raises(UnreadableFile, match=r"manifest\.json is"):
            sparsify_cli.Nest.load(place)


def put_files(place, files):
    """Write files into a folder, here or in memory."""
    for name, text in files.items():
        if "://" in place:
            fsspec.filesystem("memory").pipe(f"/{place.partition('://')[2]}/{name}", text)
        else:
            Path(place).mkdir(exist_ok=True)
            (Path(place) / name).write_bytes(text)


def test_floats_of_eight_bits(nested):
    """They are judged as the numbers they stand for, and come out as they are."""
    weight = torch.tensor([[1.0, -2.0, 0.5, 3.0]]).to(torch.float8_e4m3fn)
    nest = Nest((Fraction(1, 2), Fraction(0)), {"weight": torch.tensor([[1, 2, 1, 2]], dtype=torch.uint8)}, ({}, {}))
    write_nest(Path("small.safetensors"), nest, {"weight": weight})
    found = sparsify_cli.Nest.load("small.safetensors")
    assert found.at(1)["weight"].float().tolist() == [[1.0, 0.0, 0.5, 0.0]]
    assert torch.equal(found.at(2)["weight"].view(torch.uint8), weight.view(torch.uint8))
