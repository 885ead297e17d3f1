"""`sparsify_cli.load`: what was exported, from a file or a folder, without importing torch beforehand."""

import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import sparsify_cli
from sparsify_cli.errors import BadRequest, MissingFile, UnreadableFile
from sparsify_cli.values.tensor_file import save_dense, save_packed


def test_a_file_and_its_folder(tmp_path: Path) -> None:
    """A packed file, as text or path, and the folder that holds it give the same tensors."""
    tensors = {"w": torch.eye(60), "b": torch.ones(60)}
    save_packed(tmp_path / "model.packed.safetensors", tensors)
    for path in (tmp_path, str(tmp_path), tmp_path / "model.packed.safetensors"):
        back = sparsify_cli.load(path)
        assert list(back) == ["b", "w"]
        assert torch.equal(back["w"], torch.eye(60))


def test_plain_files(tmp_path: Path) -> None:
    """Our dense file and one that somebody else wrote load the same way."""
    save_dense(tmp_path / "ours", {"w": torch.eye(3)})
    save_file({"w": torch.eye(3)}, tmp_path / "theirs", metadata={"format": "pt"})
    assert torch.equal(sparsify_cli.load(tmp_path / "ours")["w"], torch.eye(3))
    assert torch.equal(sparsify_cli.load(tmp_path / "theirs")["w"], torch.eye(3))


def test_loads_into_a_module(tmp_path: Path) -> None:
    """What comes back is a state dict."""
    module = torch.nn.Linear(40, 30)
    save_packed(tmp_path / "a", module.state_dict())
    other = torch.nn.Linear(40, 30)
    other.load_state_dict(sparsify_cli.load(tmp_path / "a"))
    assert torch.equal(other.weight, module.weight)


def test_nothing_there(tmp_path: Path) -> None:
    """No file, an empty folder and a file of another kind are told apart."""
    with pytest.raises(MissingFile, match="There is no file"):
        sparsify_cli.load(tmp_path / "absent")
    with pytest.raises(MissingFile, match="holds no safetensors file"):
        sparsify_cli.load(tmp_path)
    (tmp_path / "a").write_text("a,b\n")
    with pytest.raises(UnreadableFile, match="not a readable safetensors file"):
        sparsify_cli.load(tmp_path / "a")


def test_importing_the_package_is_cheap(python: str) -> None:
    """`import sparsify_cli` imports neither torch nor numpy."""
    code = "import sys, sparsify_cli; sparsify_cli.load; print([m for m in ('torch', 'numpy', 'safetensors') if m in sys.modules])"
    assert subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_torch_files_and_onnx(tmp_path: Path) -> None:
    """A torch file is read by content; an ONNX graph is refused, as is a folder that holds one and masks."""
    weights = {"b": torch.ones(2), "a": torch.zeros(3, 2)}
    torch.save({"state_dict": weights}, tmp_path / "model.th")
    found = sparsify_cli.load(tmp_path / "model.th")
    assert list(found) == ["a", "b"] and torch.equal(found["b"], weights["b"])
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "model.onnx").write_bytes(b"\x08\x08")
    save_file({"a": torch.ones(2, dtype=torch.uint8)}, tmp_path / "out" / "masks.safetensors")
    with pytest.raises(BadRequest, match="ONNX graph"):
        sparsify_cli.load(tmp_path / "out" / "model.onnx")
    with pytest.raises(MissingFile, match="no safetensors file"):
        sparsify_cli.load(tmp_path / "out")
