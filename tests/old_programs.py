"""Exported programs as torch wrote them before 2.9: the pieces that torch still makes, put together the way it did then."""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch._export.serde.schema import SCHEMA_VERSION
from torch._export.serde.serialize import SerializedArtifact, serialize
from torch.export import ExportedProgram
from torch.export.pt2_archive._package import PT2ArchiveWriter


def write_before_28(path: Path, program: ExportedProgram, *, pad: int = 0, weights: str = "serialized_state_dict.pt") -> Path:
    """As torch 2.7 and before: Python's zip archive of five members; `pad` bytes of white space before the weights."""
    parts = serialize(program)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("serialized_exported_program.json", parts.exported_program + b" " * pad)
        archive.writestr(weights, parts.state_dict)
        archive.writestr("serialized_constants.pt", parts.constants)
        archive.writestr("serialized_example_inputs.pt", parts.example_inputs)
        archive.writestr("version", ".".join(map(str, SCHEMA_VERSION)))
    return path


def write_28(path: Path, *programs: ExportedProgram, weights: Mapping[str, bytes] | None = None) -> Path:
    """As torch 2.8: torch's own archive, of several models called model, model1, ...; some weights replaced by other bytes."""
    with PT2ArchiveWriter(str(path)) as archive:
        for number, program in enumerate(programs):
            _write_model(archive, f"model{number or ''}", serialize(program), weights or {})
    return path


def _write_model(archive: PT2ArchiveWriter, name: str, parts: SerializedArtifact, weights: Mapping[str, bytes]) -> None:
    archive.write_bytes(f"models/{name}.json", parts.exported_program)
    archive.write_bytes(f"data/weights/{name}.pt", weights.get(name, parts.state_dict))
    archive.write_bytes(f"data/constants/{name}.pt", parts.constants)
    archive.write_bytes(f"data/sample_inputs/{name}.pt", parts.example_inputs)


WRITERS: dict[str, Callable[[Path, ExportedProgram], Path]] = {"2.7": write_before_28, "2.8": write_28}
"""Release of torch -> what writes a program the way it did."""


def load_old(path: Path) -> ExportedProgram:
    """What torch loads, without its warnings that the file is old."""
    loggers = [logging.getLogger(name) for name in ("torch.export", "torch.export.pt2_archive._package")]
    before = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        return torch.export.load(path)
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def inner_archive(path: Path) -> bytes:
    """The torch file with the weights of such an archive, whose checksum is compared as it is read."""
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        return archive.read(next(name for name in archive.namelist() if "state_dict" in name or "/data/weights/" in name))
