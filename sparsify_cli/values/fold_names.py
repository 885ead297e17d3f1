"""Finding masked tensors that other tools left behind, by names, types and shapes alone; needs no torch.

    torch-prune      X_orig, X_mask                                          torch.nn.utils.prune, Lightning
    modelopt         layer.weight, layer._weight_mask                        NVIDIA ModelOpt
    nncf             layer.weight, layer.pre_ops.N.op._binary_mask           NNCF before 3: magnitude, RB and movement sparsity
                     layer.weight, __nncf_hooks.post_hooks.layer:weight__0.N.binary_mask (or .mask, a logit)    NNCF since 3
    sparse-bitmask   X.compressed, X.bitmask, X.shape, X.row_offsets         compressed-tensors until its sparse formats were removed

What is not certain (a mask without its weight, another shape, two masks for one weight, a name that is taken) is left alone.

Source: torch/nn/utils/prune.py; modelopt/torch/sparsity/weight_sparsity/module.py; nncf/torch/sparsity/layers.py and
nncf/torch/function_hook/hook_storage.py; compressed_tensors/compressors/sparse_compressors/base.py.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from sparsify_cli.values.layout import FLOATS

Headers = Mapping[str, tuple[str, tuple[int, ...]]]
"""Name of a tensor -> torch's word for its type, and its shape."""

WRAPPED = re.compile(r"(?P<state>(?P<layer>|.*\.)pre_ops\.\d+\.op\.)(?:(?P<which>weight|bias)_ctx\.)?_binary_mask")
"""Masks of NNCF before 3: a layer holds the module that masks it."""

HOOKED = re.compile(r"(?P<state>(?P<network>|.*\.)__nncf_hooks\.post_hooks\.(?P<weight>[^.]+)__0\.\d+\.)(?P<what>binary_mask|mask)")
"""Masks of NNCF since 3: the network holds hooks named after the weight, with colons for dots."""

ENTRY = re.compile(r"(?:|.*\.)(?:pre_ops\.\d+\.op|__nncf_hooks\.post_hooks\.[^.]+\.\d+)\.")
"""What the names of everything that a masking module of NNCF stores begin with."""

BITMASK = (".compressed", ".bitmask", ".shape", ".row_offsets")
"""Endings of the entries of a bitmask tensor: values, packed positions, sizes, and where each row's values begin."""

PARAMETERS = (".weight", ".bias")
"""Endings that names of parameters have and names of layers have not."""


WEIGHTS = FLOATS - {"float8_e8m0fnu"}
"""Types of number that a masked weight has; the one that is left out cannot say 0."""

MASKS = frozenset({"bool", "uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32", "float64"})
"""Types of number that masks are kept in."""


@dataclass(frozen=True)
class Fold:
    """Entries of a file that are one tensor of the plain network.

    Args:
        name: the tensor that results.
        kind: `torch-prune`, `modelopt`, `nncf` or `sparse-bitmask`.
        parts: keys that go into it: the weight (or its values), then the mask (or bitmask), then what goes with the mask.
    """

    name: str
    kind: str
    parts: tuple[str, ...]


def find_folds(shapes: Headers) -> tuple[Fold, ...]:
    """What can be folded, in the order of the file.

    Args:
        shapes: every tensor of the file: name -> (type, shape).
    """
    finders: tuple[Callable[[Headers], Iterator[Fold]], ...] = (_torch_prune, _modelopt, _nncf, _bitmasks)
    found = [fold for finder in finders for fold in finder(shapes)]
    used = Counter(key for fold in found for key in fold.parts)
    made = Counter(fold.name for fold in found)
    certain = [f for f in found if made[f.name] == 1 and all(used[key] == 1 for key in f.parts) and _is_free(f, shapes)]
    place = {name: index for index, name in enumerate(shapes)}
    return tuple(sorted(certain, key=lambda fold: min(place[key] for key in fold.parts)))


def _is_free(fold: Fold, shapes: Headers) -> bool:
    """True when no other tensor has the name that results."""
    return fold.name in fold.parts or fold.name not in shapes


def _fits(weight: str, mask: str, shapes: Headers) -> bool:
    """True when a weight and its mask are both there, of one shape, and of types that weights and masks have."""
    if weight not in shapes or mask not in shapes or shapes[weight][1] != shapes[mask][1]:
        return False
    return shapes[weight][0] in WEIGHTS and shapes[mask][0] in MASKS


def _torch_prune(shapes: Headers) -> Iterator[Fold]:
    for name in shapes:
        plain = name.removesuffix("_orig")
        if plain != name and plain and _fits(name, f"{plain}_mask", shapes):
            yield Fold(plain, "torch-prune", (name, f"{plain}_mask"))


def _modelopt(shapes: Headers) -> Iterator[Fold]:
    for mask in shapes:
        weight = f"{mask.removesuffix('_weight_mask')}weight"
        if f".{mask}".endswith("._weight_mask") and _fits(weight, mask, shapes):
            yield Fold(weight, "modelopt", (weight, mask))


def _nncf(shapes: Headers) -> Iterator[Fold]:
    rest = _masking_entries(shapes)
    for mask in shapes:
        if found := WRAPPED.fullmatch(mask):
            which = found["which"] or "weight"
            weight = f"{found['layer']}{which}"
            extra = rest.get(found["state"], []) if which == "weight" else []
        elif found := HOOKED.fullmatch(mask):
            weight = f"{found['network']}{found['weight'].replace(':', '.')}"
            extra = [name for name in rest.get(found["state"], []) if name != mask]
        else:
            continue
        if _fits(weight, mask, shapes):
            yield Fold(weight, "nncf", (weight, mask, *extra))


def _masking_entries(shapes: Headers) -> Mapping[str, list[str]]:
    """What else the modules of NNCF store that hold masks (scores, noise): begin of their names -> names."""
    found: dict[str, list[str]] = {}
    for name in shapes:
        if (begin := ENTRY.match(name)) and not name.endswith("binary_mask"):
            found.setdefault(begin[0], []).append(name)
    return found


def _bitmasks(shapes: Headers) -> Iterator[Fold]:
    """Early files name the tensor (`layer.weight.bitmask`), later ones its layer (`layer.bitmask`)."""
    stems = [stem for name in shapes if (stem := name.removesuffix(BITMASK[0])) != name and _is_bitmask(stem, shapes)]
    ending = "" if any(f".{stem}".endswith(PARAMETERS) for stem in stems) else ".weight"
    for stem in stems:
        yield Fold(f"{stem}{ending}", "sparse-bitmask", tuple(stem + end for end in BITMASK if stem + end in shapes))


def _is_bitmask(stem: str, shapes: Headers) -> bool:
    values, bits, sizes = (shapes.get(stem + end) for end in BITMASK[:3])
    if values is None or bits is None or sizes is None:
        return False
    counts = (sizes, shapes.get(stem + BITMASK[3], sizes))
    return len(values[1]) in (1, 2) and bits[0] == "uint8" and len(bits[1]) > 0 and all(one[0] in ("int64", "int32") for one in counts)
