"""Code and versions that a result comes from, and what a resumed run should be told of: other ones do not repeat its bits.

The weights, the recipe and the training data are compared too (`workplace`), and refused where they differ; code may have been mended.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sparsify_cli.stages.subject import Subject
from sparsify_cli.values.file_hash import fingerprint

LIBRARIES = ("torch", "numpy", "safetensors", "onnx", "onnxruntime")
COMPUTING = ("sparsify", "torch")
"""Versions on which the bits of a step depend."""


@cache
def versions() -> dict[str, str]:
    """Versions of everything a result may depend on."""
    return {"sparsify": version("sparsify-cli"), "python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}


def code_of(subject: Subject, loss: str = "") -> dict[str, str]:
    """Path -> sha256 of the files a user's architecture, data and loss are in; what they import is not followed."""
    names = (*(spec.name for spec in (subject.architecture, subject.data) if spec), loss)
    files = {text for text, mark, _ in (name.rpartition(":") for name in names) if mark and text.endswith(".py")}
    return {text: fingerprint(Path(text), whole=True) for text in sorted(files) if Path(text).is_file()}


def origin_notes(manifest: Mapping[str, Any]) -> tuple[str, ...]:
    """Sentences about code and versions that are not those the run began with."""
    changed = [f"{Path(path).name} has changed" for path, digest in manifest.get("code", {}).items() if _now(path) != digest]
    old, new = manifest.get("versions", {}), versions()
    changed += [f"{name} is {new[name]} and was {old[name]}" for name in COMPUTING if old.get(name, new[name]) != new[name]]
    if not changed:
        return ()
    return (f"since the run began, {' and '.join(changed)}: it goes on, and does not end with the bits of an uninterrupted one.",)


def _now(path: str) -> str:
    return fingerprint(Path(path), whole=True) if Path(path).is_file() else ""
