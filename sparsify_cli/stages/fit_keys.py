"""Loading tensors into a module: exact names and shapes, or one sentence that says what differs."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping

from torch import Tensor, nn

from sparsify_cli.errors import KeyMismatch
from sparsify_cli.values.checkpoint import Checkpoint
from sparsify_cli.values.tensor_file import tied

PLAIN = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""Layers that never write to their weights."""
WORTH = 1 << 20
"""Bytes from which a copy is worth saving."""
COUNTERS = "num_batches_tracked"
"""A batch-norm counter that old checkpoints lack and that no output depends on."""


def loaded(module: nn.Module, checkpoint: Checkpoint) -> nn.Module:
    """`module` with the checkpoint's tensors, in eval mode.

    Raises:
        KeyMismatch: names or shapes differ; says which, how many, and the nearest names.
    """
    expected = module.state_dict()
    module.load_state_dict({**expected, **fitted(module, checkpoint)})
    return module.eval()


def lent(module: nn.Module, checkpoint: Checkpoint) -> nn.Module:
    """As `loaded`, but large matrices of plain layers are the checkpoint's own memory: to be run, not to be changed.

    Other layers get copies, since some write to their own weights when they are run (an embedding with a largest norm, for instance).

    Raises:
        KeyMismatch: as `loaded`.
    """
    module = loaded(module, checkpoint)
    given = fitted(module, checkpoint)
    for path, layer in module.named_modules():
        tensor = given.get(f"{path}.weight")
        if tensor is not None and type(layer) in PLAIN and not layer._forward_pre_hooks and _is_worth(tensor, layer.weight):
            layer.weight = nn.Parameter(tensor.detach(), requires_grad=False)
    return module


def _is_worth(tensor: Tensor, weight: Tensor) -> bool:
    return tensor.nbytes >= WORTH and tensor.dtype == weight.dtype and tensor.is_contiguous()


def fitted(module: nn.Module, checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The checkpoint's tensors under the names of the module that they fit, tied ones under all of theirs; no number is read.

    Raises:
        KeyMismatch: names or shapes differ; says which, how many, and the nearest names.
    """
    expected = module.state_dict()
    given = fitting_names(checkpoint.tensors, expected)
    alike = _alike(expected)
    given |= {name: given[other] for name in expected if name not in given for other in alike[name] if other in given}
    missing = [n for n in expected if n not in given and not n.endswith(COUNTERS)]
    extra = [name for name in given if name not in expected]
    if missing or extra:
        raise _names_differ(checkpoint, missing, extra)
    _check_shapes(checkpoint, expected, given)
    return given


def fitting_names(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors renamed by the one wrapper prefix (removed or added, of any dotted parts) that makes them fit, or as they are.

    One name of a tied weight is enough.
    """
    alike = _alike(expected)
    needed = [name for name in expected if not name.endswith(COUNTERS)]

    def fit(names: Mapping[str, Tensor]) -> bool:
        return all(name in names or any(other in names for other in alike[name]) for name in needed)

    if not fit(tensors):
        one = min(needed, key=lambda name: (len(alike[name]), name))
        for renamed in (found for wanted in (one, *alike[one]) for found in _renamings(tensors, wanted)):
            if fit(renamed) and len(renamed) == len(tensors):
                return renamed
    return dict(tensors)


def _alike(expected: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """Name -> the other names of the same tensor."""
    first = tied(expected)
    groups: dict[str, list[str]] = {}
    for name in expected:
        groups.setdefault(first.get(name, name), []).append(name)
    return {name: [other for other in groups[first.get(name, name)] if other != name] for name in expected}


def _renamings(tensors: Mapping[str, Tensor], wanted: str) -> Iterator[dict[str, Tensor]]:
    """The tensors under the names that each prefix would give them which lets one of them be called `wanted`."""
    for name in tensors:
        if name.endswith(f".{wanted}"):
            prefix = name.removesuffix(wanted)
            yield {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
        elif wanted.endswith(f".{name}"):
            prefix = wanted.removesuffix(name)
            yield {prefix + name: tensor for name, tensor in tensors.items()}


def _names_differ(checkpoint: Checkpoint, missing: list[str], extra: list[str]) -> KeyMismatch:
    lacking = f"{_counted(missing, 'is', 'are')} missing ({_with_nearest(missing, extra)})" if missing else ""
    surplus = f"{len(extra)} {'has' if len(extra) == 1 else 'have'} no place in it ({_listed(extra)})" if extra else ""
    return KeyMismatch(
        f"{checkpoint.source.path} does not fit the architecture: {' and '.join(filter(None, (lacking, surplus)))}.",
        f"The checkpoint holds {_counted(list(checkpoint.tensors))}.",
        "Check --arch and --arch-arg; `sparsify inspect` lists the checkpoint's names and shapes.",
    )


def _with_nearest(missing: list[str], extra: list[str]) -> str:
    near = difflib.get_close_matches(missing[0], extra, n=1, cutoff=0.4)
    return _listed(missing) + (f"; nearest to {missing[0]} is {near[0]}" if near else "")


def _counted(names: list[str], one: str = "", many: str = "") -> str:
    """`1 tensor is`, `2 tensors are`."""
    return f"{len(names)} {f'tensor {one}' if len(names) == 1 else f'tensors {many}'}".rstrip()


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _check_shapes(checkpoint: Checkpoint, expected: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    wrong = [name for name, tensor in given.items() if tensor.shape != expected[name].shape]
    if wrong:
        first = wrong[0]
        raise KeyMismatch(
            f"{checkpoint.source.path} does not fit the architecture: {_counted(wrong, 'has', 'have')} another shape, first {first}.",
            f"It is {tuple(given[first].shape)} in the checkpoint and {tuple(expected[first].shape)} in the architecture.",
            "Check --arch-arg.",
        )
