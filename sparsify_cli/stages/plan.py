"""The plan of a pruning: every tensor, whether it is prunable, and why.

With an architecture, module types decide: weights of linear, convolution and attention-projection layers. Without one,
names and shapes decide: floating tensors of 2 to 5 dimensions that are no norms, embeddings, positions or statistics.
"""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from sparsify_cli.errors import BadRequest
from sparsify_cli.stages.fit_keys import fitting_names
from sparsify_cli.stages.resolve import build_architecture
from sparsify_cli.values.checkpoint import Checkpoint, Spec
from sparsify_cli.values.tensor_file import tied

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Bilinear)
NOT_WEIGHTS = re.compile(
    r"(^|[._])(embed\w*|wte|wpe|pos\w*|\w*norm\w*|bn\d*|ln\d*\w*|running_\w+|token\w*|cls\w*|bias\w*)([._]|$)", re.IGNORECASE
)


@dataclass(frozen=True)
class Row:
    """One tensor of a plan.

    Args:
        name: its name.
        shape: its shape.
        matched: True when it is prunable.
        why: the reason, in a few words.
    """

    name: str
    shape: tuple[int, ...]
    matched: bool
    why: str

    @property
    def weights(self) -> int:
        """How many numbers it holds."""
        count = 1
        for size in self.shape:
            count *= size
        return count


def plan(checkpoint: Checkpoint, architecture: Spec | None, *, skip: Sequence[str] = (), include: Sequence[str] = ()) -> list[Row]:
    """Every tensor, matched or not and why.

    Args:
        checkpoint: the tensors.
        architecture: decides by module types when known.
        skip: globs of tensors (or layers) to leave dense.
        include: globs of the only tensors (or layers) to prune; may name embeddings.

    Raises:
        BadRequest: no tensor is matched.
    """
    _check_globs(checkpoint, skip, include)
    types, aliases = _layer_weights(checkpoint.tensors, architecture), tied_names(checkpoint, architecture)
    rows = [_row(name, tensor, types, skip, include) for name, tensor in checkpoint.tensors.items()]
    rows = [replace(row, matched=False, why=f"tied to {aliases[row.name]}") if row.name in aliases else row for row in rows]
    if not any(row.matched for row in rows):
        raise _nothing_matched(checkpoint, skip, include)
    return rows


def tied_names(checkpoint: Checkpoint, architecture: Spec | None) -> dict[str, str]:
    """Second names of tensors that are one (tied weights) -> the name that stands for all of them.

    With an architecture the network says what is tied, and its own first name stands; else the file's sharing does.
    """
    if architecture is None:
        return tied(checkpoint.tensors)
    module = build_architecture(architecture)
    first = {id(parameter): name for name, parameter in module.named_parameters()}
    ours = {name: first[id(parameter)] for name, parameter in module.named_parameters(remove_duplicate=False)}
    renamed = dict(zip(fitting_names(checkpoint.tensors, module.state_dict()), checkpoint.tensors, strict=True))
    pairs = ((renamed.get(alias), renamed.get(name)) for alias, name in ours.items() if alias != name)
    return {alias: name for alias, name in pairs if alias and name}


def untied(tensors: Mapping[str, Tensor], aliases: Mapping[str, str]) -> dict[str, Tensor]:
    """Tensors whose second names hold what the names that stand for them hold."""
    return {name: tensors[aliases.get(name, name)] for name in tensors}


def prunable_names(checkpoint: Checkpoint, architecture: Spec | None) -> list[str]:
    """Names of all prunable tensors; may be empty."""
    types = _layer_weights(checkpoint.tensors, architecture)
    aliases = tied_names(checkpoint, architecture)
    return [name for name, tensor in checkpoint.tensors.items() if name not in aliases and _row(name, tensor, types, (), ()).matched]


def matches(name: str, globs: Sequence[str]) -> bool:
    """True when a glob names the tensor, its layer, or a part the layer belongs to, e.g. `conv1` or `stage2.*`."""
    return any(fnmatch.fnmatchcase(name, glob) or fnmatch.fnmatchcase(name, f"{glob}.*") for glob in globs)


def _row(name: str, tensor: Tensor, types: set[str] | None, skip: Sequence[str], include: Sequence[str]) -> Row:
    matched, why = _verdict(name, tensor, types)
    if include:
        wide = tensor.is_floating_point() and tensor.ndim >= 2  # embeddings may be asked for, biases and statistics not
        matched = wide and matches(name, include)
        why = "included" if matched else "not in --include"
    if matched and matches(name, skip):
        matched, why = False, "skipped"
    return Row(name, tuple(tensor.shape), matched, why)


def _verdict(name: str, tensor: Tensor, types: set[str] | None) -> tuple[bool, str]:
    if not tensor.is_floating_point() or not 2 <= tensor.ndim <= 5:
        return False, "not a matrix"
    if types is not None:
        return (True, "layer weight") if name in types else (False, "not a layer's weight")
    if NOT_WEIGHTS.search(name):
        return False, "named like no weight"
    return True, "looks like a weight"


def _check_globs(checkpoint: Checkpoint, skip: Sequence[str], include: Sequence[str]) -> None:
    """Refuse a glob that names nothing: a misspelt --skip would prune what was to be protected.

    Raises:
        BadRequest: with the nearest name.
    """
    for flag, globs in (("--skip", skip), ("--include", include)):
        for glob in globs:
            if not any(matches(name, [glob]) for name in checkpoint.tensors):
                near = difflib.get_close_matches(glob, checkpoint.tensors, n=1, cutoff=0.4)
                hint = f"The nearest is {near[0]!r}." if near else f"The first is {next(iter(checkpoint.tensors), '')!r}."
                raise BadRequest(f"{flag} {glob} names no tensor of {checkpoint.source.path}.", hint, "`sparsify inspect` lists them.")


def _layer_weights(tensors: Mapping[str, Tensor], architecture: Spec | None) -> set[str] | None:
    """Names (as in the checkpoint) of the weights of prunable layers; None without an architecture."""
    if architecture is None:
        return None
    module = build_architecture(architecture)
    ours = {f"{path}.weight" for path, layer in module.named_modules() if isinstance(layer, LAYERS)}
    ours |= {f"{path}.in_proj_weight" for path, layer in module.named_modules() if isinstance(layer, nn.MultiheadAttention)}
    renamed = fitting_names(tensors, module.state_dict())
    return {name for name, new in zip(tensors, renamed, strict=True) if new in ours}


def _nothing_matched(checkpoint: Checkpoint, skip: Sequence[str], include: Sequence[str]) -> BadRequest:
    names = ", ".join(list(checkpoint.tensors)[:4])
    globs = "".join(f" --{flag} {' '.join(g)}" for flag, g in (("include", include), ("skip", skip)) if g)
    return BadRequest(
        f"No tensor of {checkpoint.source.path} is prunable{f' with{globs}' if globs else ''}.",
        f"It holds {len(checkpoint.tensors)} tensors: {names}, ...",
        "Name layers with --include GLOB; `sparsify inspect` lists them.",
    )
