"""`sparsify env`: versions and machine, for bug reports."""

from __future__ import annotations

import json
import os
import platform
from importlib.metadata import PackageNotFoundError, version

from sparsify_cli.cli import console
from sparsify_cli.cli.console import Format
from sparsify_cli.cli.options import FormatFlag
from sparsify_cli.stages.outcome import Table

PACKAGES = (
    "sparsify-cli", "torch", "numpy", "safetensors", "onnx", "onnxruntime", "lightning-fabric",
    "typer", "rich", "pydantic", "scikit-learn", "Pillow", "Jinja2", "matplotlib",
)  # fmt: skip


def env(how: FormatFlag = Format.HUMAN) -> None:
    """Show versions and the machine, for bug reports."""
    facts = {name: _version(name) for name in PACKAGES}
    facts |= {"python": platform.python_version(), "system": platform.platform(), "cores": str(os.cpu_count())}
    facts |= {"device": _device()}
    if how is Format.HUMAN:
        console.table(Table("environment", ("what", "which"), tuple(facts.items())))
    else:
        console.say(json.dumps(facts, indent=1) if how is Format.JSON else "\n".join(f"{name}={fact}" for name, fact in facts.items()))


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _device() -> str:
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else f"cpu, {torch.get_num_threads()} threads"
