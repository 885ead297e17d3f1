"""Packed safetensors: size against the formulas, and how many tensors lie in each form."""

from pathlib import Path

import pytest
import torch

import sparsify_cli
from sparsify_cli.contracts.exporter import Exportable
from sparsify_cli.exporters.packed import Packed
from sparsify_cli.values.checkpoint import Checkpoint, Source
from sparsify_cli.values.mask_set import MaskSet

ROWS = COLUMNS = 512
N = ROWS * COLUMNS


def subject(**tensors: torch.Tensor) -> Exportable:
    """Tensors alone: no architecture, no inputs."""
    return Exportable(Checkpoint(tensors, Source("x", "")), MaskSet.from_zeros(tensors))


def weight(kept: int) -> torch.Tensor:
    """`kept` of N values are not zero, at random places."""
    flat = torch.zeros(N)
    flat[torch.randperm(N)[:kept]] = torch.rand(kept) + 1
    return flat.reshape(ROWS, COLUMNS)


@pytest.mark.parametrize(
    ("density", "bits"), [(0.5, 1 + 0.5 * 32), (0.2, 1 + 0.2 * 32), (0.1, 0.1 * 40), (0.05, 0.05 * 40), (0.01, 0.01 * 40.67)]
)
def test_size_follows_the_published_formula(density: float, bits: float, tmp_path: Path) -> None:
    """N + dNv bits for the bitmap, dN(v + 8) for the gaps (at 1 %: and .083 escapes of 8 bits a value), within the header and 1 %."""
    made = subject(w=weight(round(density * N)))
    Packed().export(made, tmp_path)
    found = {(finding.name, finding.of): finding.value for finding in Packed().verify(made, tmp_path) if finding.scope == "all"}
    assert found["bytes", "dense"] == 4 * N
    assert abs(found["bytes", "compressed"] - bits * N / 8) <= 500 + 0.01 * bits * N / 8


def test_two_of_four(tmp_path: Path) -> None:
    """Keeping 2 of 4 costs .531 of the dense bytes, as with two 2-bit indices a group."""
    tensor = torch.ones(N // 4, 4)
    tensor[:, 1:3] = 0
    made = subject(w=tensor)
    size = Packed().export(made, tmp_path)[0].stat().st_size
    assert 0.531 <= size / (4 * N) <= 0.532


def test_forms_are_counted(tmp_path: Path) -> None:
    """A bias stays as it is, half a matrix is a bitmask, a twentieth is gaps8, a thousandth gaps16."""
    made = subject(bias=torch.ones(512), half=weight(N // 2), twentieth=weight(N // 20), thousandth=weight(N // 1000))
    Packed().export(made, tmp_path)
    counts = {finding.scope: finding.value for finding in Packed().verify(made, tmp_path) if finding.name == "tensors"}
    assert counts == {"form:dense": 1, "form:bitmask": 1, "form:gaps8": 1, "form:gaps16": 1}


def test_the_package_loads_it(tmp_path: Path) -> None:
    """`sparsify_cli.load` gives the exported tensors back, bit for bit."""
    made = subject(w=weight(N // 10), steps=torch.tensor(7))
    Packed().export(made, tmp_path)
    back = sparsify_cli.load(tmp_path)
    assert all(torch.equal(back[name], tensor) for name, tensor in made.checkpoint.tensors.items())
