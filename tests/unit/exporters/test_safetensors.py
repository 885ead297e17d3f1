"""Dense safetensors: what any other program finds in the file."""

from pathlib import Path

import pytest
import safetensors
import torch
from safetensors.torch import load_file

import sparsify_cli
from sparsify_cli.contracts.exporter import Exportable
from sparsify_cli.errors import DiskFailure, Regression
from sparsify_cli.exporters.safetensors import Safetensors
from sparsify_cli.values.checkpoint import Checkpoint, Source
from sparsify_cli.values.mask_set import MaskSet


def subject(**tensors: torch.Tensor) -> Exportable:
    """Tensors alone: no architecture, no inputs."""
    return Exportable(Checkpoint(tensors, Source("x", "")), MaskSet())


def test_loads_anywhere(tmp_path: Path) -> None:
    """The public loader finds every tensor under its own name, pruned weights as real zeros, and the usual format tag."""
    weight = torch.tensor([[0.0, 1.5], [-2.0, 0.0]])
    files = Safetensors().export(subject(weight=weight.T, bias=torch.ones(2)), tmp_path)
    assert files == [tmp_path / "model.safetensors"]
    back = load_file(files[0])
    assert back["weight"].tolist() == [[0.0, -2.0], [1.5, 0.0]]
    assert back["bias"].tolist() == [1, 1]
    with safetensors.safe_open(files[0], framework="pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_tied_tensors_are_written_under_both_names(tmp_path: Path) -> None:
    """Other programs find both; ours ties them again; the findings count both as values."""
    shared = torch.arange(6.0)
    tied = subject(a=shared, b=shared)
    Safetensors().export(tied, tmp_path)
    assert set(load_file(tmp_path / "model.safetensors")) == {"a", "b"}
    back = sparsify_cli.load(tmp_path)
    assert back["a"].data_ptr() == back["b"].data_ptr()
    assert {finding.name: finding.n for finding in Safetensors().verify(tied, tmp_path)}["differing_values"] == 12


def test_a_sign_of_zero_counts(tmp_path: Path) -> None:
    """-0.0 where 0.0 was exported is a difference, although the two are equal."""
    Safetensors().export(subject(w=torch.tensor([-0.0, 1.0])), tmp_path)
    with pytest.raises(Regression, match="1 values differ in 1 tensors, first 'w'"):
        Safetensors().verify(subject(w=torch.tensor([0.0, 1.0])), tmp_path)


def test_no_folder(tmp_path: Path) -> None:
    """A folder that is not there is a sentence, not a traceback."""
    with pytest.raises(DiskFailure, match="folder is not there"):
        Safetensors().export(subject(w=torch.ones(1)), tmp_path / "no")
