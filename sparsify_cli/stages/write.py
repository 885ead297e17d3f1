"""Writing the artifact of a verb: weights, masks, nest, and last the manifest that vouches for them."""

from __future__ import annotations

import datetime
import hashlib
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sparsify_cli.recipes.recipe import Recipe
from sparsify_cli.recipes.shared import OutputFields, SparsityFields
from sparsify_cli.stages.forgotten import FORGOTTEN, forgotten_ids
from sparsify_cli.stages.subject import Subject
from sparsify_cli.values.artifact import MASKS, MEMO, NEST, PACKED, WEIGHTS, relative_to, reserve, write_manifest
from sparsify_cli.values.checkpoint import Checkpoint
from sparsify_cli.values.file_hash import sha256_of
from sparsify_cli.values.mask_file import write_masks
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.nest import Nest
from sparsify_cli.values.nest_file import write_nest
from sparsify_cli.values.report import Report
from sparsify_cli.values.samples import Samples
from sparsify_cli.values.tensor_file import save_dense
from sparsify_cli.values.trust import seal

STORED = (WEIGHTS, PACKED, MASKS, NEST, MEMO)
"""Files whose content the manifest vouches for."""

LIBRARIES = ("torch", "numpy", "safetensors", "onnx", "onnxruntime")


@dataclass(frozen=True, eq=False)
class Product:
    """What a verb made.

    Args:
        recipe: the request.
        parent: what it was made from; None for training from scratch.
        checkpoint: the new weights; None when the artifact holds no network.
        masks: which weights stay.
        subject: context (architecture, data) to remember.
        report: every number.
        nest: levels, for an embedded artifact.
        facts: further plain values for the manifest.
    """

    recipe: Recipe
    subject: Subject
    report: Report
    parent: Subject | None = None
    checkpoint: Checkpoint | None = None
    masks: MaskSet = field(default_factory=MaskSet)
    nest: Nest | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


def output_folder(recipe: OutputFields, name: str) -> tuple[Path, bool]:
    """The folder a recipe asks for, and whether it is already ours: `--out`, or the next `runs/NNN-verb-name`."""
    return (Path(recipe.out), False) if recipe.out else (reserve(recipe.verb, name), True)


def write_product(folder: Path, product: Product) -> None:
    """Write everything into a claimed folder, the manifest last.

    Raises:
        DiskFailure: the file system refused; what was written is not yet an artifact.
    """
    if product.checkpoint is not None and product.nest is not None:
        write_nest(folder / NEST, product.nest, product.checkpoint.tensors, block=_block(product.recipe))
    elif product.checkpoint is not None:
        save_dense(folder / WEIGHTS, product.checkpoint.tensors)
    if product.masks and product.nest is None:
        write_masks(folder / MASKS, product.masks)
    write_manifest(folder, manifest(folder, product))


def manifest(folder: Path, product: Product, *, status: str = "complete") -> dict[str, Any]:
    """The manifest of a product: plain JSON values."""
    subject = product.subject
    specs = {name: spec.to_json() if spec else None for name, spec in (("architecture", subject.architecture), ("data", subject.data))}
    return {
        "status": status,
        "verb": product.recipe.verb,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "recipe": product.recipe.to_plain(),
        "recipe_sha256": product.recipe.digest(),
        "recipe_seal": seal({"recipe": product.recipe.to_plain(), "origin": str(Path.cwd().resolve())}),
        "versions": versions(),
        "parent": parent_entry(product.parent, folder),
        **specs,
        "seal": seal(specs),
        "weights": weights_entry(folder),
        "files": {name: sha256_of(folder / name) for name in STORED if (folder / name).is_file()},
        "masks_sha256": product.masks.digest() if product.masks else None,
        "tensors": _counts(product.checkpoint, product.masks),
        "numbers": [asdict(finding) for finding in product.report],
        "facts": {**product.report.facts, **_forgotten(product.parent), **product.facts},
    }


def _block(recipe: Recipe) -> int:
    return recipe.pattern.block_size if isinstance(recipe, SparsityFields) else 1


def weights_entry(folder: Path) -> dict[str, str] | None:
    """Name and sha256 of the file that holds the artifact's tensors, or None."""
    there = [name for name in (WEIGHTS, PACKED, NEST) if (folder / name).is_file()]
    return {"file": there[0], "sha256": sha256_of(folder / there[0])} if there else None


def versions() -> dict[str, str]:
    """Versions of everything a result may depend on."""
    return {"sparsify": version("sparsify-cli"), "python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}


def parent_entry(parent: Subject | None, folder: Path) -> dict[str, str] | None:
    """Path (seen from `folder`) and sha256 of what something was made from."""
    if parent is None:
        return None
    return {"path": relative_to(parent.path, folder), "sha256": parent.checkpoint.source.sha256}


def data_identity(samples: Samples) -> str:
    """sha256 over ids, targets and inputs of a split."""
    state = hashlib.sha256("\n".join(samples.ids).encode())
    state.update(samples.targets.numpy().tobytes())
    state.update(samples.inputs.contiguous().numpy().tobytes())
    return state.hexdigest()


def _forgotten(parent: Subject | None) -> dict[str, list[str]]:
    """What the parent had forgotten stays forgotten, whatever becomes of the parent's folder."""
    ids = forgotten_ids(parent.artifact) if parent is not None else frozenset()
    return {FORGOTTEN: sorted(ids)} if ids else {}


def _counts(checkpoint: Checkpoint | None, masks: MaskSet) -> dict[str, dict[str, Any]]:
    if checkpoint is None:
        return {}
    return {
        name: {
            "shape": list(tensor.shape),
            "dtype": str(tensor.dtype).removeprefix("torch."),
            "zeros": int((tensor == 0).sum()),
            **({"kept": int(masks[name].sum())} if name in masks else {}),
        }
        for name, tensor in checkpoint.tensors.items()
    }
