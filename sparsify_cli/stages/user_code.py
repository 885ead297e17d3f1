"""A user's own callables: what they may accept and return, and what is said when they do not.

A callable for data is asked for one split where it has a parameter `split` (or a first parameter without a default), and returns that
split or None; otherwise it returns all of them, `{"train": ..., "test": ...}`, (train, test) or (train, validation, test). One
split is a `Samples`, `(x, y)`, `{"x": ..., "y": ..., "ids": ..., "groups": ..., "classes": ...}` or a map-style torch
Dataset of `(x, y, ...)`. Without a validation split a fixed 10 % of train is held out.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sparsify_cli.contracts.architecture import Architecture
from sparsify_cli.contracts.dataset import Dataset, Split
from sparsify_cli.contracts.objective import Loss
from sparsify_cli.errors import BadData, BadRequest, BrokenPlugin, MissingContext, SparsifyError
from sparsify_cli.maths.holdout import hold_out
from sparsify_cli.shelf import user_callable
from sparsify_cli.values.arrays import samples_from
from sparsify_cli.values.checkpoint import Spec
from sparsify_cli.values.copies import copy_of
from sparsify_cli.values.samples import Samples

KEYS: dict[Split, tuple[str, ...]] = {"train": ("train",), "validation": ("validation", "val"), "test": ("test",)}
TUPLES: dict[int, tuple[Split, ...]] = {2: ("train", "test"), 3: ("train", "validation", "test")}
MEND = "Mend it, then run the command again; a callable for data returns None for a split it does not have."
LOSS = "A loss takes (model, batch), with batch.inputs and batch.targets, and returns the mean over the batch."
FIELDS = ("x", "y", "ids", "groups", "classes")


def user_module(spec: Spec) -> nn.Module:
    """The module a user's callable builds, or a copy of the module it is.

    Raises:
        BadRequest: an option it does not take.
        BrokenPlugin: it raises, or returns something else.
    """
    found = user_callable(spec.name)
    if isinstance(found, nn.Module):
        return copy_of(found)
    built = _called(spec.name, found, (), spec.options)
    built = built.build() if isinstance(built, Architecture) else built
    if isinstance(built, nn.Module):
        return built
    raise BrokenPlugin(
        f"{spec.name} returned {_type(built)}.",
        "An architecture returns a torch.nn.Module.",
        "Return the module, not its weights or its class.",
    )


def user_loss(name: str) -> Loss:
    """A user's own loss, (model, batch) -> scalar, checked at every call.

    Raises:
        BrokenPlugin: (when called) it raises, or returns something else.
    """
    found = user_callable(name)

    def loss(model: nn.Module, batch: Samples) -> Tensor:
        value = _called(name, found, (model, batch), {}, mend=LOSS)
        if isinstance(value, Tensor) and value.ndim == 0:
            if torch.is_grad_enabled() and not value.requires_grad:
                raise BrokenPlugin(
                    f"{name} returned a number that does not depend on the network.", "There is no gradient to follow.",
                    "Compute it from model(batch.inputs), without detach or item.",
                )  # fmt: skip
            return value
        shape = f" of shape {tuple(value.shape)}" if isinstance(value, Tensor) else ""
        raise BrokenPlugin(f"{name} returned {_type(value)}{shape}.", "A loss is one number.", "Return the mean over the batch, a scalar.")

    return loss


def user_samples(spec: Spec, split: Split) -> Samples:
    """One split of what a user's callable loads.

    Raises:
        BadRequest: an option it does not take.
        BrokenPlugin: it raises.
        BadData: what it returns is no data.
        MissingContext: it has no train, or no test split.
    """
    key = json.dumps(dict(spec.options), sort_keys=True)
    if split == "test":
        return _needed(spec.name, key, "test")
    validation = _split(spec.name, key, "validation")
    if split == "validation" and validation is not None:
        return validation
    train = _needed(spec.name, key, "train")
    if validation is not None:
        return train
    stay, held = hold_out(len(train))
    return train.take((held if split == "validation" else stay).sort().values)


def _needed(name: str, options_json: str, split: Split) -> Samples:
    found = _split(name, options_json, split)
    if found is not None:
        return found
    raise MissingContext(f"{name} has no {split} split.", "It returned None or left it out.", f"Let it return one for {split!r}.")


@lru_cache(maxsize=8)
def _split(name: str, options_json: str, split: Split) -> Samples | None:
    found, options = user_callable(name), json.loads(options_json)
    how = _split_parameter(found, options)
    if how is None:
        outcome = _pick(_everything(name, options_json), split, name)
    elif how == "split":
        outcome = _called(name, found, (), {"split": split, **options})
    else:
        outcome = _called(name, found, (split,), options)
    return None if outcome is None else _as_samples(outcome, split, name)


@lru_cache(maxsize=2)
def _everything(name: str, options_json: str) -> Any:
    return _called(name, user_callable(name), (), json.loads(options_json))


def _split_parameter(found: Callable[..., Any], options: Mapping[str, Any]) -> str | None:
    """How the split is handed over: as the keyword `split`, as the "first" argument, or not at all (None)."""
    parameters = list(_parameters(found).values())
    named = next((p for p in parameters if p.name == "split"), None)
    if named is not None:
        return "first" if named.kind is inspect.Parameter.POSITIONAL_ONLY else "split"
    first = parameters[0] if parameters else None
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    wanted = first is not None and first.kind in positional and first.default is first.empty and first.name not in options
    return "first" if wanted else None


def _parameters(found: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(found).parameters
    except (TypeError, ValueError):  # builtins may have no signature
        return {}


def _called(name: str, found: Callable[..., Any], arguments: tuple[Any, ...], options: Mapping[str, Any], mend: str = MEND) -> Any:
    _require_fit(name, found, arguments, options)
    try:
        return found(*arguments, **options)
    except SparsifyError:
        raise
    except Exception as error:
        raise BrokenPlugin(f"{name} failed{_place(error)}.", f"{type(error).__name__}: {error}.", mend) from error


def _require_fit(name: str, found: Callable[..., Any], arguments: tuple[Any, ...], options: Mapping[str, Any]) -> None:
    try:
        signature = inspect.signature(found)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(*arguments, **options)
    except TypeError as error:
        raise BadRequest(
            f"{name} cannot be called with the options {dict(options)}: {error}.",
            f"It is {name}{signature}.",
            "Set options with key=value.",
        ) from error


def _place(error: BaseException) -> str:
    """Where the exception was raised, innermost."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    return "" if frame is None else f" in {frame.tb_frame.f_code.co_filename}, line {frame.tb_lineno}"


def _pick(outcome: Any, split: Split, name: str) -> Any:
    """One split of everything a callable returned; None where it is left out."""
    if isinstance(outcome, Dataset):
        return outcome
    if isinstance(outcome, Mapping) and "train" in outcome:
        return next((outcome[key] for key in KEYS[split] if key in outcome), None)
    if isinstance(outcome, tuple | list) and len(outcome) in TUPLES and not isinstance(outcome[0], torch.Tensor | np.ndarray):
        return dict(zip(TUPLES[len(outcome)], outcome, strict=True)).get(split)
    raise BadData(
        f"{name} returned {_type(outcome)}, which holds no splits.",
        "A callable without a `split` parameter returns all splits at once.",
        'Return {"train": ..., "test": ...}, or take the parameter `split` and return that one.',
    )


def _as_samples(outcome: Any, split: Split, name: str) -> Samples:
    """One split of whatever kind as `Samples`."""
    if isinstance(outcome, Samples):
        return outcome
    if isinstance(outcome, Dataset):
        return outcome.load(split)
    if isinstance(outcome, Mapping):
        return _from_mapping(outcome, split, name)
    if isinstance(outcome, tuple | list) and len(outcome) == 2:
        return samples_from(*outcome, split=split, where=name)
    if hasattr(outcome, "__getitem__") and hasattr(outcome, "__len__") and not isinstance(outcome, torch.Tensor | np.ndarray | str):
        return _from_items(outcome, split, name)
    raise BadData(
        f"{name} returned {_type(outcome)} for {split}.",
        "That is no split.",
        "Return (x, y), a mapping with x and y, or a map-style torch Dataset.",
    )


def _from_mapping(outcome: Mapping[str, Any], split: Split, name: str) -> Samples:
    missing, unknown = {"x"} - set(outcome), set(outcome) - set(FIELDS)
    if missing or unknown:
        raise BadData(
            f"{name} returned the keys {sorted(map(str, outcome))} for {split}.",
            f"Known: {', '.join(FIELDS)}; x is needed, and y but for texts.",
        )
    if not isinstance(outcome.get("groups") or {}, Mapping):
        raise BadData(f"{name} returned groups as {_type(outcome['groups'])}.", "", 'Return {"column": [one value a sample], ...}.')
    rest = {key: outcome[key] for key in FIELDS[2:] if outcome.get(key) is not None}
    return samples_from(outcome["x"], outcome.get("y"), split=split, where=name, **rest)


def _from_items(dataset: Any, split: Split, name: str) -> Samples:
    """Every item of a map-style dataset, in order."""
    items = [_item(dataset, i, f"{name}, {split}[{i}]") for i in range(len(dataset))]
    if not items:
        raise BadData(f"{name} has no sample in {split}.")
    where, classes = f"{name}: {split}", getattr(dataset, "classes", None)
    x, y = _stacked([x for x, _ in items], where), _stacked([y for _, y in items], f"{where} labels")
    return samples_from(x, y, split=split, where=name, classes=classes if isinstance(classes, list | tuple) else ())


def _stacked(items: Sequence[torch.Tensor], where: str) -> torch.Tensor:
    odd = next((i for i, one in enumerate(items) if one.shape != items[0].shape), None)
    if odd is None:
        return torch.stack(list(items))
    shapes = [list(items[i].shape) for i in (0, odd)]
    what = f"{where}[0] has shape {shapes[0]}, {where.split()[-1]}[{odd}] has {shapes[1]}."
    raise BadData(what, "One network takes one shape.", "Resize or pad.")


def _item(dataset: Any, position: int, where: str) -> tuple[torch.Tensor, torch.Tensor]:
    try:
        item = dataset[position]
    except Exception as error:
        raise BrokenPlugin(f"{where} failed{_place(error)}.", f"{type(error).__name__}: {error}.", "Mend the dataset.") from error
    if not (isinstance(item, tuple | list) and len(item) >= 2 and isinstance(item[0], torch.Tensor | np.ndarray | int | float)):
        kind = _type(item[0]) if isinstance(item, tuple | list) and item else _type(item)
        raise BadData(f"{where} is {kind}.", "An item is (x, y, ...) with x a tensor or array.", "Add a transform that makes a tensor.")
    return torch.as_tensor(item[0]), _label(item[1], where)


def _label(value: Any, where: str) -> torch.Tensor:
    try:
        label = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        label = torch.empty(0)
    if not label.numel() or (label.is_floating_point() and not bool(torch.isfinite(label).all())):
        raise BadData(f"{where} has the label {value!r}.", "A label is one class number, 0 and 1 for each attribute, or numbers.")
    return label


def _type(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
