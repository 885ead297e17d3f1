"""Computed sizes of tensor files: equal, to the byte, to the files themselves."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsify_cli.values.tensor_file import save_dense, save_packed
from sparsify_cli.values.tensor_size import WORDS, dense_bytes, packed_bytes
from tests.strategies import tiny_cnn, tiny_mlp


def sparse(count: int, every: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """`count` values of which the first of every `every` is 1."""
    tensor = torch.zeros(count)
    tensor[::every] = 1
    return tensor.to(dtype)


def require_exact(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Both computed sizes are those of the files."""
    save_dense(folder / "dense", tensors)
    save_packed(folder / "packed", tensors)
    assert dense_bytes(tensors) == (folder / "dense").stat().st_size
    assert packed_bytes(tensors) == (folder / "packed").stat().st_size


SHARED = sparse(40_000, 20)
CASES = {
    "cnn": tiny_cnn().state_dict(),
    "mlp": tiny_mlp().state_dict(),
    "nothing": {},
    "every form": {"dense": torch.ones(7), "bitmask": sparse(9999, 2), "gaps8": sparse(9999, 40), "gaps16": sparse(999_999, 9999)},
    "tied": {"head": SHARED, "embedding": SHARED, "other": sparse(40_000, 20)},
    "odd names": {'q"uote\\': torch.ones(1), "é·\u2028\n\x7f": sparse(40_000, 40), "": torch.ones(2), "数": sparse(40_000, 2)},
    "names like entries": {"w": sparse(40_000, 40), "w::values": torch.ones(3), "w::bitmask": torch.ones(2)},
    "scalars and empty": {"s": torch.tensor(3), "e": torch.zeros(0, 4), "z": torch.zeros(5000), "n": torch.full((5000,), -0.0)},
    "views": {"grid": torch.arange(12.0).view(3, 4), "turned": torch.arange(12.0).view(3, 4).T},
}


@pytest.mark.parametrize("case", CASES)
def test_the_size_is_that_of_the_file(case: str, tmp_path: Path) -> None:
    """Header, metadata, padding, forms, ties: to the byte."""
    require_exact(tmp_path, CASES[case])


def test_every_dtype_beside_every_other(tmp_path: Path) -> None:
    """Sizes of entries of all types in one file; their order decides how many digits the places take."""
    kinds = [getattr(torch, name) for name in WORDS if name != "float8_e8m0fnu"]
    require_exact(tmp_path, {f"{i}": sparse(37 * (i + 1), 1 + i % 5, kind) for i, kind in enumerate(kinds)})


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.text(max_size=9), st.tuples(st.integers(0, 3000), st.integers(1, 400)), max_size=6))
def test_any_names_and_shapes(tmp_path_factory: pytest.TempPathFactory, made: dict[str, tuple[int, int]]) -> None:
    """Whatever the names, counts and densities."""
    made.pop("__metadata__", None)
    require_exact(tmp_path_factory.mktemp("sizes"), {name: sparse(*numbers) for name, numbers in made.items()})
