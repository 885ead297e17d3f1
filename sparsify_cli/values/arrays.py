"""Arrays from outside -> samples: type, range and shape are checked here, once.

uint8 inputs are images and become float32 in [0, 1]; other floating inputs become float32 as they are; other integers
(token ids, say) stay integers, int64.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, Num
from torch import Tensor, nn

from sparsify_cli.errors import BadData
from sparsify_cli.values.samples import Samples

UNCOUNTED = -100
"""Target where no token is right: padding, and after the last token."""


def samples_from(
    inputs: Any,
    targets: Any,
    *,
    split: str,
    where: str,
    ids: Iterable[Any] | None = None,
    groups: Mapping[str, Iterable[Any]] | None = None,
    classes: Iterable[Any] = (),
) -> Samples:
    """Check two arrays and name their rows.

    Args:
        inputs: array or tensor [n, ...].
        targets: integer labels [n] or [n, 1]; or 0 and 1 for each of several attributes, [n, a]; or, where inputs are ids of tokens
            [n, t], as many ids, those below 0 not counted (None: each token's next one); or numbers, floating [n, ...]. Floating 0 and 1
            and nothing else are labels or attributes, too.
        split: for default ids, `train-000017`.
        where: what to call the data in an error.
        ids: n unique names; default the split and the row.
        groups: column -> n values.
        classes: names by label, or of the attributes; default their numbers.

    Raises:
        BadData: an array has the wrong type, shape or range.
    """
    _require_one(inputs, targets, f"{where}, {split} inputs")
    x, place = input_tensor(inputs, where=f"{where}, {split} inputs"), f"{where}, {split} labels"
    texts = is_text(x, targets)
    y = token_tensor(x, targets, where=place) if texts else target_tensor(targets, where=place)
    names = tuple(map(str, ids)) if ids is not None else tuple(f"{split}-{row:06d}" for row in range(len(x)))
    columns = {str(column): tuple(map(str, values)) for column, values in (groups or {}).items()}
    samples = Samples(x, y, names, columns, tuple(map(str, classes)), texts)
    _require_named_labels(samples, where)
    return samples


def as_taken_by(module: nn.Module, inputs: Tensor) -> Tensor:
    """Inputs on the device of a module's parameters; floating ones in their dtype, integers (token ids, say) as they are."""
    like = next((p for p in module.parameters() if p.is_floating_point()), None)
    if like is None:
        return inputs
    return inputs.to(device=like.device, dtype=like.dtype if inputs.is_floating_point() else inputs.dtype)


def handy_batch(module: nn.Module) -> int:
    """Samples of a forward pass without gradients: on a processor few, so that activations stay in its caches; elsewhere many."""
    on_processor = all(parameter.device.type == "cpu" for parameter in module.parameters())
    return 64 if on_processor else 512


SMALL, TOGETHER = 500, 2**16
"""Samples, and numbers, of a pass over small samples."""


def small_batch(inputs: Num[Tensor, "n ..."], few: int) -> int:
    """`few`, but small samples by the hundreds, or calls cost more than products; of a pass without gradients, whose samples do not meet.

    Tokens are not small: each becomes a long vector.
    """
    return max(few, min(SMALL, TOGETHER // max(1, inputs[:1].numel()))) if inputs.is_floating_point() else few


NUMBERS = 2**25
"""Outputs of a forward pass that are kept at a time."""


def frugal_batch(module: nn.Module, out: object) -> int:
    """As `handy_batch`, but fewer samples where one has many outputs: a text of a thousand tokens and a vocabulary of 50,000 has 5e7.

    Args:
        module: the network.
        out: what it puts out for one sample.
    """
    each = out.numel() if isinstance(out, Tensor) else 1
    return max(1, min(handy_batch(module), NUMBERS // max(1, each)))


def input_tensor(values: Any, *, where: str) -> Tensor:
    """A finite tensor [n, ...], n >= 1; see the module about types.

    Raises:
        BadData: it is no array of numbers, is empty, or holds NaN or infinite values.
    """
    tensor = _tensor(values, where)
    if tensor.ndim < 1 or not tensor.numel():
        raise BadData(f"{where}: the array is empty (shape {list(tensor.shape)}).", "At least one sample is needed.")
    if tensor.dtype == torch.uint8:
        return tensor.to(torch.float32) / 255
    if not tensor.is_floating_point() and tensor.dtype != torch.bool:
        return tensor.to(torch.int64)
    _require_finite(tensor, where)
    return tensor.to(torch.float32)


def _require_one(values: Any, targets: Any, where: str) -> None:
    """Refuse what several arguments of a network would be: a mapping, or a few arrays with a row for each target."""
    several = list(values.values() if isinstance(values, Mapping) else values if isinstance(values, tuple | list) else ())
    rows = {_rows(one) for one in several}
    wanted = _rows(targets)
    if isinstance(values, Mapping) or (wanted is not None and several and rows == {wanted} and len(several) != wanted):
        raise BadData(
            f"{where}: {len(several)} array{'s' * (len(several) > 1)} by name or in a list, and a network is given one.",
            "Networks with several inputs are not known here.",
            "Put them side by side in one array, and take them apart in `forward`.",
        )


def _rows(values: Any) -> int | None:
    """How many there are; None of what has no length."""
    try:
        return len(values)
    except TypeError:
        return None


def is_text(inputs: Tensor, targets: Any) -> bool:
    """True where inputs are ids of tokens, and an answer is wanted at each: as many integers, or none given."""
    if inputs.is_floating_point() or inputs.ndim != 2 or inputs.shape[1] < 2:
        return False
    if targets is None:
        return True
    given = _tensor(targets, "labels")
    return given.shape == inputs.shape and not given.is_floating_point() and not _are_attributes(given, inputs)


def _are_attributes(targets: Tensor, inputs: Tensor) -> bool:
    """True where targets are 0 and 1 only and inputs are more: yes and no about as many attributes as there are columns."""
    return bool(((targets == 0) | (targets == 1)).all()) and bool((inputs > 1).any())


def token_tensor(inputs: Int[Tensor, "n t"], values: Any, *, where: str) -> Int[Tensor, "n t"]:
    """Ids of the tokens that are right, int64; None = each token's next one, nothing after the last.

    Raises:
        BadData: they are not integers, or none counts.
    """
    if values is None:
        return torch.cat([inputs[:, 1:], torch.full_like(inputs[:, :1], UNCOUNTED)], dim=1)
    tensor = _tensor(values, where)
    if tensor.is_floating_point() or tensor.is_complex():
        raise BadData(f"{where}: ids of tokens are {tensor.dtype}.", "An id is an integer.", "Convert them.")
    if not bool((tensor >= 0).any()):
        raise BadData(f"{where}: no token counts.", "All ids are below 0.", "Give the ids that are right, -100 where none is.")
    return tensor.to(torch.int64)


def target_tensor(values: Any, *, where: str) -> Num[Tensor, "n *a"]:
    """Labels, attributes, or, where they are floating, numbers as float32 [n, ...].

    Raises:
        BadData: as `label_tensor`; no targets; numbers that are not finite, or that look like class numbers.
    """
    if values is None:
        raise BadData(
            f"{where}: there are none.", "Only ids of tokens, [n, t] and of a type wider than uint8, are their own targets.", "Give y."
        )
    tensor = _tensor(values, where)
    if not tensor.is_floating_point() and tensor.ndim > 2:
        what = f"{where}: labels have shape {list(tensor.shape)}, {tensor.dtype}."
        raise BadData(
            what,
            "A class for each position is not known here; one label a sample is, or numbers to predict, which are floating.",
            "Give what the network puts out as float32, a mask of 0 and 1 for instance.",
        )
    if not tensor.is_floating_point():
        return label_tensor(tensor, where=where)
    _require_finite(tensor, where)
    if tensor.ndim < 3 and bool(((tensor == 0) | (tensor == 1)).all()):
        return label_tensor(tensor.to(torch.int64), where=where)
    if tensor.ndim == 1 and bool((tensor == tensor.round()).all()):
        why = "They are whole numbers, so they may be classes."
        raise BadData(f"{where}: labels are {tensor.dtype}.", why, "Convert them to integers, or give numbers to predict as [n, 1].")
    return tensor.to(torch.float32).reshape(len(tensor), *(tensor.shape[1:] or (1,)))


def label_tensor(values: Any, *, where: str) -> Int[Tensor, "n *a"]:
    """Labels as int64 [n], or [n, a] for a attributes that a sample has (1) or has not (0).

    Raises:
        BadData: they are not integers, neither one a sample nor 0 and 1 for each attribute, negative, or one-hot.
    """
    tensor = _tensor(values, where)
    if tensor.ndim == 2 and tensor.shape[1] == 1:
        tensor = tensor[:, 0]
    if tensor.ndim not in (1, 2):
        raise BadData(f"{where}: labels have shape {list(tensor.shape)}.", "A sample has one class number, or a row of attributes.")
    if tensor.is_floating_point() or tensor.is_complex():
        raise BadData(f"{where}: labels are {tensor.dtype}.", "A label is a class number.", "Convert them to integers.")
    if tensor.ndim == 2:
        _require_attributes(tensor, where)
    if len(tensor) and int(tensor.min()) < 0:
        raise BadData(f"{where}: the smallest label is {int(tensor.min())}.", "Classes are numbered from 0.")
    return tensor.to(torch.int64)


def _require_attributes(tensor: Tensor, where: str) -> None:
    """Refuse rows that are no attributes: other numbers than 0 and 1, or one-hot classes."""
    if bool(((tensor != 0) & (tensor != 1)).any()):
        what, why = f"{where}: labels have shape {list(tensor.shape)}.", "Several numbers a sample are attributes, each 0 or 1."
        raise BadData(what, why, "Give one class number a sample, or 0 and 1.")
    if len(tensor) and bool((tensor.sum(dim=1) == 1).all()):
        why = "Every row has exactly one 1, so these are classes and not attributes."
        raise BadData(f"{where}: labels have shape {list(tensor.shape)}.", why, "Give argmax of one-hot rows.")


def _tensor(values: Any, where: str) -> Tensor:
    if isinstance(values, Tensor):
        return values.detach().cpu()
    try:
        array = np.asarray(values)
        return torch.as_tensor(np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("=")).reshape(array.shape))
    except (TypeError, ValueError, RuntimeError) as error:
        raise BadData(f"{where}: not an array of numbers ({error}).", "", "Give a tensor or a numeric numpy array.") from error


def _require_finite(tensor: Tensor, where: str) -> None:
    bad = (~torch.isfinite(tensor)).reshape(len(tensor), -1).any(dim=1)
    if bool(bad.any()):
        raise BadData(
            f"{where}: {int(bad.sum())} of {len(tensor)} samples hold NaN or infinite values, first row {int(bad.nonzero()[0])}.",
            "Every number computed from them would be undefined.",
            "Remove or fill them.",
        )


def _require_named_labels(samples: Samples, where: str) -> None:
    if samples.texts:  # a vocabulary may hold a piece twice
        return
    twice = sorted(name for name, times in Counter(samples.classes).items() if times > 1)
    if twice:
        raise BadData(f"{where}: {len(twice)} names are given twice, first {twice[0]!r}.", "A name tells one class or attribute.")
    if not samples.chooses:
        return
    if samples.has_attributes:
        if samples.classes and len(samples.classes) != samples.outputs:
            raise BadData(f"{where}: there are {samples.outputs} attributes and {len(samples.classes)} names.", "Each needs one.")
        return
    largest = int(samples.targets.max())
    if samples.classes and largest >= len(samples.classes):
        raise BadData(f"{where}: the label {largest} has no name.", f"{len(samples.classes)} classes are named, numbered from 0.")
