"""What a file is when it is no checkpoint."""

from pathlib import Path

import pytest

from sparsify_cli.values.file_kind import foreign_kind

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("m.onnx", POINTER, "a Git LFS pointer; the file itself was never fetched"),
        ("m.bin", POINTER, "a Git LFS pointer; the file itself was never fetched"),
        ("m.onnx", b"\x08\x0a", "an ONNX model"),
        ("m.bin", b"\x08\x07\x12\x07pytorch", "an ONNX model"),
        ("m.bin", b"GGUF\x03\x00", "a GGUF file (llama.cpp)"),
        ("m.bin", b"\x89HDF\r\n\x1a\n", "an HDF5 file (Keras)"),
        ("m.bin", b"no magic", ""),
    ],
)
def test_first_bytes_say_what_it_is(tmp_path: Path, name: str, content: bytes, kind: str) -> None:
    """A pointer of Git LFS has the name of the file that it stands for, so its content counts before its name."""
    (tmp_path / name).write_bytes(content)
    assert foreign_kind(tmp_path / name) == kind
