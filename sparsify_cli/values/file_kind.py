"""What a file is when it is no checkpoint: told from its first bytes and the names in its archive, without running anything."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from pathlib import Path

from sparsify_cli.errors import UnreadableFile

POINTER = b"version https://git-lfs"
"""First bytes of a Git LFS pointer, which bears the name of the file that it stands for."""

MAGIC = {
    b"\x89HDF\r\n\x1a\n": "an HDF5 file (Keras)",
    b"GGUF": "a GGUF file (llama.cpp)",
    b"\x93NUMPY": "a NumPy array",
    b"\x1f\x8b": "a gzip archive",
    b"\x28\xb5\x2f\xfd": "a zstandard archive",
    b"\x89PNG": "a picture",
    POINTER: "a Git LFS pointer; the file itself was never fetched",
}
"""First bytes of a file -> what it is."""

INSIDE = {
    "/code/": "a TorchScript archive",
    "archive_format": "an exported program (torch.export)",
    ".npy": "a NumPy archive",
    "config.json": "a Keras archive",
}
"""Part of a name inside a zip archive -> what the archive is; the first that is found counts."""

ADVICE = "Save the network's state_dict() in the program that made it, and pass that file."


def require_fetched(path: Path) -> None:
    """Refuse a file that stands for another one.

    Raises:
        UnreadableFile: it is a Git LFS pointer.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        if file.read(len(POINTER)) == POINTER:
            raise UnreadableFile(f"{path} is {MAGIC[POINTER]}.", "It holds no weights.", "Fetch it: git lfs pull.")


def foreign_kind(path: Path) -> str:
    """What a file is that holds no torch pickle and no safetensors, with its article; nothing when it is not known."""
    if not path.is_file():
        return "a pipe, a device or a socket"  # to open it could take for ever
    with path.open("rb") as file:
        head = file.read(64)
    if head.startswith(POINTER):
        return MAGIC[POINTER]
    if path.suffix == ".onnx" or (head[:1] == b"\x08" and (b"pytorch" in head or b"onnx" in head)):
        return "an ONNX model"
    if head[4:8] == b"TFL3":
        return "a TensorFlow Lite model"
    found = next((kind for magic, kind in MAGIC.items() if head.startswith(magic)), "")
    return found or (_archive_kind(_names(path)) if head[:2] == b"PK" else "")


def folder_kind(path: Path) -> str:
    """What a folder without a manifest is; nothing when it is not known."""
    names = sorted(file.name for file in path.iterdir())
    if any(name.endswith(".index.json") for name in names) or "config.json" in names:
        return "a Hugging Face folder"
    return ""


def _names(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except Exception:  # zipfile raises many kinds of exception for a damaged archive (NotImplementedError, struct.error, ...)
        return []


def _archive_kind(names: Iterable[str]) -> str:
    joined = "\n".join(names)
    return next((kind for part, kind in INSIDE.items() if part in joined), "")
