"""The plan of a pruning: every tensor, whether it is prunable, and why.

With an architecture, module types decide: weights of linear, convolution and attention-projection layers. Without one,
names and shapes decide: floating tensors of 2 to 5 dimensions that are no norms, embeddings, positions or statistics.
"""

from __future__ import annotations

import difflib
import fnmatch
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor, nn

from sparsify_cli.errors import BadRequest
from sparsify_cli.maths.prunable import Verdict, is_called_otherwise, no_matrix, no_ranking, verdict
from sparsify_cli.stages.fit_keys import fitting_names
from sparsify_cli.stages.reading import odd_names, odd_places
from sparsify_cli.stages.resolve import build_architecture
from sparsify_cli.stages.rows import Row
from sparsify_cli.stages.shared_memory import SKIPPED, apart, without_shared
from sparsify_cli.training.attention import leaves
from sparsify_cli.values.checkpoint import Checkpoint, Spec
from sparsify_cli.values.layout import Hint, Place
from sparsify_cli.values.tensor_file import tied

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Bilinear)
TURNED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
"""Layers that store their weights [in, out]; so does what transformers calls Conv1D."""


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
    rows = _turned(rows_of(checkpoint, architecture, skip=skip, include=include), checkpoint, architecture)
    if not any(row.matched for row in rows):
        raise _nothing_matched(checkpoint, skip, include)
    return rows


def rows_of(checkpoint: Checkpoint, architecture: Spec | None, *, skip: Sequence[str] = (), include: Sequence[str] = ()) -> list[Row]:
    """Every tensor, matched or not and why; maybe none is, and globs may name nothing."""
    rows, home = _verdicts(checkpoint, architecture, skip, include), checkpoint.home
    return without_shared(rows, home.places, asked=bool(include), skipped=_skipped(checkpoint, skip)) if home else rows


def _verdicts(checkpoint: Checkpoint, architecture: Spec | None, skip: Sequence[str], include: Sequence[str]) -> list[Row]:
    """What names, shapes and globs say of each tensor by itself."""
    types, aliases, hints = _layer_weights(checkpoint.tensors, architecture), tied_names(checkpoint, architecture), _hints(checkpoint)
    also = {first: tuple(alias for alias, name in aliases.items() if name == first) for first in aliases.values()}
    rows = [_row((n, *also.get(n, ())), tensor, types, skip, include, hints.get(n)) for n, tensor in checkpoint.tensors.items()]
    rows = [replace(row, matched=False, why=f"tied to {aliases[row.name]}") if row.name in aliases else row for row in rows]
    return _without_shared_embeddings(rows, aliases, include)


def _skipped(checkpoint: Checkpoint, skip: Sequence[str]) -> dict[str, Place]:
    """Where the tensors lie that are to stay as they are, whatever they are; also those that are not plain numbers."""
    home = checkpoint.home
    places = {**home.places, **odd_places(checkpoint)} if home and skip else {}
    return {name: place for name, place in places.items() if matches(name, skip)}


def _without_shared_embeddings(rows: list[Row], aliases: Mapping[str, str], include: Sequence[str]) -> list[Row]:
    """A matrix that is an embedding under its other name stays dense, unless it was asked for."""
    shared = {first: alias for alias, first in aliases.items() if is_called_otherwise(alias)}
    return [
        replace(r, matched=False, why=f"tied to {shared[r.name]}") if r.name in shared and r.matched and not include else r for r in rows
    ]


def _turned(rows: list[Row], checkpoint: Checkpoint, architecture: Spec | None) -> list[Row]:
    """The rows with what is known of how each weight is stored."""
    found = turned_names(checkpoint, architecture)
    return [
        replace(row, transposed=True, groups=found[row.name], why=f"{row.why}, stored [in, out]")
        if row.name in found and row.matched
        else row
        for row in rows
    ]


def turned_of(rows: Sequence[Row]) -> dict[str, int]:
    """The weights of a plan that are stored [in, out / groups], and their groups."""
    return {row.name: row.groups for row in rows if row.transposed}


def turned_names(checkpoint: Checkpoint, architecture: Spec | None) -> dict[str, int]:
    """The weights that are stored [in, out / groups], as an architecture, a graph or a config says, and their groups."""
    if architecture is None:
        sizes = {name: (*tensor.shape, 1)[0] for name, tensor in checkpoint.tensors.items()}  # a graph may say what is not so
        return {name: math.gcd(hint.groups, sizes[name]) for name, hint in _hints(checkpoint).items() if hint.transposed}
    module = build_architecture(architecture)
    layers = [(f"{path}.weight", layer) for path, layer in module.named_modules()]
    groups = {name: int(getattr(layer, "groups", 1)) for name, layer in layers if _is_turned(layer)}
    return {theirs: count for ours, count in groups.items() for theirs in _theirs(checkpoint.tensors, module, {ours})}


def _is_turned(layer: nn.Module) -> bool:
    return isinstance(layer, TURNED) or type(layer).__name__ == "Conv1D"


def _hints(checkpoint: Checkpoint) -> dict[str, Hint]:
    """What the file's own graph or config says, by canonical name."""
    home = checkpoint.home
    if home is None:
        return {}
    return {name: home.layout.hints[there] for name in checkpoint.tensors if (there := home.names.get(name, name)) in home.layout.hints}


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
    """Names of all prunable tensors, no two of which share a number; may be empty."""
    return [row.name for row in rows_of(checkpoint, architecture) if row.matched]


def masked_names(rows: Sequence[Row], checkpoint: Checkpoint, architecture: Spec | None) -> list[str]:
    """Names of the tensors that have masks in a file that was pruned before, no two of which share a number.

    Args:
        rows: the plan of what is done now; of tensors that share numbers, the one that is pruned now stands for all.
        checkpoint: the tensors.
        architecture: decides by module types when known.
    """
    now = {row.name for row in rows if row.matched}
    usual = {row.name for row in _verdicts(checkpoint, architecture, (), ()) if row.matched}
    names = prunable_names(checkpoint, architecture)
    rest = set(apart(names, now, checkpoint.home.places) if checkpoint.home else names)
    return [row.name for row in rows if row.name in rest or row.name in now & usual]


def matches(name: str, globs: Sequence[str]) -> bool:
    """True when a glob names the tensor, its layer, or a part the layer belongs to, e.g. `conv1`; `re:` begins an expression."""
    return any(_matches(name, glob) for glob in globs)


def _matches(name: str, glob: str) -> bool:
    if glob.startswith("re:"):
        return re.search(glob.removeprefix("re:"), name) is not None
    return fnmatch.fnmatchcase(name, glob) or fnmatch.fnmatchcase(name, f"{glob}.*")


def _row(
    names: Sequence[str], tensor: Tensor, types: set[str] | None, skip: Sequence[str], include: Sequence[str], hint: Hint | None
) -> Row:
    """The row of a tensor that goes by one name or several; a glob that names one of them means them all."""
    name = names[0]
    matched, why = _verdict(name, tensor, types, hint)
    dtype, shape = _word(tensor), tuple(tensor.shape)
    if include:
        asked = any(matches(one, include) for one in names)  # embeddings may be asked for, biases and what cannot be ranked not
        why = (no_ranking(dtype, shape) or ("" if len(shape) >= 2 else "not a matrix")) if asked else "not in --include"
        matched, why = not why, why or "included"
    if matched and any(matches(one, skip) for one in names):
        matched, why = False, SKIPPED
    return Row(name, shape, matched, why, dtype=dtype)


def _word(tensor: Tensor) -> str:
    """Torch's word for the type of its numbers."""
    return str(tensor.dtype).removeprefix("torch.")


def _verdict(name: str, tensor: Tensor, types: set[str] | None, hint: Hint | None) -> Verdict:
    dtype, shape = _word(tensor), tuple(tensor.shape)
    if types is None:
        return verdict(name, dtype, shape, hint)
    if why := no_matrix(dtype, shape):
        return Verdict(False, why)
    return Verdict(True, "layer weight") if name in types else Verdict(False, "not a layer's weight")


def _check_globs(checkpoint: Checkpoint, skip: Sequence[str], include: Sequence[str]) -> None:
    """Refuse a glob that names nothing: a misspelt --skip would prune what was to be protected.

    Raises:
        BadRequest: with the nearest name.
    """
    for flag, globs in (("--skip", skip), ("--include", include)):
        for glob in globs:
            _check_expression(flag, glob)
            if not any(matches(name, [glob]) for name in (*checkpoint.tensors, *(odd_names(checkpoint) if flag == "--skip" else ()))):
                near = difflib.get_close_matches(glob, checkpoint.tensors, n=1, cutoff=0.4)
                hint = f"The nearest is {near[0]!r}." if near else f"The first is {next(iter(checkpoint.tensors), '')!r}."
                raise BadRequest(f"{flag} {glob} names no tensor of {checkpoint.source.path}.", hint, "`sparsify inspect` lists them.")


def _check_expression(flag: str, glob: str) -> None:
    try:
        re.compile(glob.removeprefix("re:") if glob.startswith("re:") else "")
    except re.error as error:
        raise BadRequest(
            f"{flag} {glob} is not a regular expression.", f"{error}.", "Mend it, or use a glob such as 'layer1.*'."
        ) from error


def _layer_weights(tensors: Mapping[str, Tensor], architecture: Spec | None) -> set[str] | None:
    """Names (as in the checkpoint) of the weights of prunable layers; None without an architecture."""
    if architecture is None:
        return None
    module = build_architecture(architecture)
    ours = {f"{path}.weight" for path, layer in module.named_modules() if isinstance(layer, LAYERS)}
    attentions = ((path, layer) for path, layer in module.named_modules() if isinstance(layer, nn.MultiheadAttention))
    ours |= {f"{path}.{leaf}" for path, layer in attentions for leaf in leaves(layer)}
    return set(_theirs(tensors, module, ours))


def _theirs(tensors: Mapping[str, Tensor], module: nn.Module, ours: set[str]) -> frozenset[str]:
    """Names in the checkpoint of tensors that a network calls by `ours`."""
    renamed = fitting_names(tensors, module.state_dict())
    return frozenset(name for name, new in zip(tensors, renamed, strict=True) if new in ours)


def _nothing_matched(checkpoint: Checkpoint, skip: Sequence[str], include: Sequence[str]) -> BadRequest:
    names = ", ".join(list(checkpoint.tensors)[:4])
    globs = "".join(f" --{flag} {' '.join(g)}" for flag, g in (("include", include), ("skip", skip)) if g)
    return BadRequest(
        f"No tensor of {checkpoint.source.path} is prunable{f' with{globs}' if globs else ''}.",
        f"It holds {len(checkpoint.tensors)} tensors: {names}, ...",
        "Name layers with --include GLOB; `sparsify inspect` lists them.",
    )
