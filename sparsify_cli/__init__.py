"""Prune, train, nest, unlearn, judge and ship sparse PyTorch networks; `load` reads what was shipped."""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from sparsify_cli.values.switching import NestedNetworks as Nest

__version__ = "0.1.0"
__all__ = ["Nest", "__version__", "load"]


def __getattr__(name: str) -> object:
    """`Nest`, imported with torch when it is first asked for."""
    if name == "Nest":
        from sparsify_cli.values.switching import NestedNetworks

        return NestedNetworks
    raise AttributeError(f"module 'sparsify_cli' has no attribute {name!r}")


def load(path: str | PathLike[str]) -> dict[str, Tensor]:
    """The tensors of an exported network, ready for `module.load_state_dict`; torch is imported here, not before.

    Args:
        path: a packed or plain safetensors file, a folder that holds one, the artifact of any verb that makes a network, or a torch file.

    Returns:
        Name -> tensor, sorted by name, bit for bit what was exported; tied tensors are tied again.

    Raises:
        MissingFile: there is no such file, or none in the folder.
        BadRequest: the folder holds several and none is called `model.packed.safetensors` or `model.safetensors`; it is ONNX.
        UnreadableFile: it is truncated, corrupt or of an unknown kind.
    """
    from pathlib import Path

    from sparsify_cli.errors import BadRequest
    from sparsify_cli.values.artifact import Artifact, is_artifact
    from sparsify_cli.values.tensor_file import find, read

    given = Path(path)
    weights = (
        (Artifact.open(given).manifest.get("weights") or {}) if is_artifact(given) else {"file": given.name if given.is_file() else ""}
    )
    suffix = Path(str(weights.get("file", ""))).suffix
    if suffix == ".onnx":
        what = f"{path} is an ONNX graph, whose tensors are no module's."
        raise BadRequest(what, "", "Run it with onnxruntime, or load what `sparsify export --to packed` writes.")
    if suffix not in ("", ".safetensors"):
        from sparsify_cli.stages.subject import open_path

        return dict(sorted(open_path(given).checkpoint.tensors.items()))
    return read(find(given))
