"""From the words of a person to a network and its data: `--arch cnn --data idx:FOLDER` -> a module and samples.

A name is on a shelf, or it is a user's own `package.module:callable` or `path/file.py:callable`.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from sparsify_cli.contracts.architecture import Architecture
from sparsify_cli.contracts.dataset import Dataset, Split
from sparsify_cli.errors import BadData, BadRequest, BrokenPlugin, KeyMismatch, UnknownName
from sparsify_cli.maths.compact_conv import compacted
from sparsify_cli.maths.identities import without
from sparsify_cli.maths.resize import resized
from sparsify_cli.recipes.recipe import adapter
from sparsify_cli.shelf import Shelf
from sparsify_cli.stages.hugging_face import plainly_called
from sparsify_cli.stages.output_form import in_a_column
from sparsify_cli.stages.user_code import user_module, user_samples
from sparsify_cli.values.arrays import as_taken_by
from sparsify_cli.values.checkpoint import Spec
from sparsify_cli.values.losses import require_answers
from sparsify_cli.values.samples import Samples

WORDS = {"true": True, "false": False, "null": None}


def parse_spec(text: str, args: Sequence[str]) -> Spec:
    """Read a name with its options.

    Args:
        text: `digits`, `idx:FOLDER`, `package.module:callable` or `path/file.py:callable`; paths become absolute.
        args: `key=value` each.

    Raises:
        BadRequest: an option that is not `key=value`, is given twice, or a location that is empty.
    """
    options = _options(args)
    left, colon, right = text.partition(":")
    if colon and left in Shelf("datasets").names():
        return Spec(left, {"path": _location(left, right), **options})
    place, _, name = text.rpartition(":")
    return Spec(f"{Path(place).expanduser().resolve()}:{name}" if place.endswith(".py") else text, options)


def build_architecture(spec: Spec) -> nn.Module:
    """A freshly initialised module, as small as it was made by `shrink`.

    Raises:
        UnknownName: no such architecture, file or callable.
        BadRequest: an option it does not take.
        BrokenPlugin: a user's callable raises or returns no module.
        KeyMismatch: it is not the architecture that was shrunk.
    """
    module = _built(spec)
    _require_sizes(module, spec)
    try:
        without(module, spec.identity)
        module = resized(module, spec.resized) if spec.resized else module
        return compacted(module, {name: (kept[0], kept[1]) for name, kept in spec.compact.items()})
    except AttributeError as error:
        raise KeyMismatch(
            f"The network cannot be made as small as it was: {spec.name} lacks a part of the one that was shrunk.",
            f"{error}.",
            "Name the architecture that was shrunk with --arch and --arch-arg, as it was then.",
        ) from error


def _require_sizes(module: nn.Module, spec: Spec) -> None:
    """Refuse lazy layers, which have no numbers yet."""
    lazy = [name for name, tensor in (*module.named_parameters(), *module.named_buffers()) if is_lazy(tensor)]
    if lazy:
        others = f" and {len(lazy) - 1} more" if lazy[1:] else ""
        raise BrokenPlugin(
            f"{spec.name} builds a network whose sizes are not known yet: {lazy[0]}{others} lazy.",
            "Lazy layers learn their sizes from the first input.",
            "Run the network once on an example where it is built, or name the sizes.",
        )


def _built(spec: Spec) -> nn.Module:
    if ":" in spec.name:
        return in_a_column(plainly_called(user_module(spec)))
    strategy: Architecture = _strategy("architectures", spec)
    return strategy.build()


def load_samples(spec: Spec, split: Split) -> Samples:
    """One split; the same split is the same samples in the same order at every call.

    Raises:
        UnknownName: no such dataset, file or callable.
        MissingFile: the location is not there.
        BadRequest: an option it does not take.
        BadData: what is there is no data.
        MissingContext: there is no such split.
        BrokenPlugin: a user's callable raises.
    """
    if ":" in spec.name:
        return user_samples(spec, split)
    dataset: Dataset = _strategy("datasets", spec)
    return dataset.load(split)


def check_inputs(module: nn.Module, samples: Samples) -> None:
    """Make sure that the network takes the data and has an output for every class; nothing is changed.

    Raises:
        BadData: it does not, or has not.
    """
    shape = list(samples.inputs.shape[1:])
    output = _tried(module, samples)
    if isinstance(output, Tensor) and not samples.chooses:
        require_answers(output, samples)
        return
    if not isinstance(output, Tensor) or output.ndim != 2:
        what = f"shape {list(output.shape)}" if isinstance(output, Tensor) else f"type {type(output).__name__}{_told(output)}"
        raise BadData(
            f"The network's output for inputs of shape {shape} has {what}.",
            f"Logits [n, classes] are needed, here [n, {samples.outputs}].",
            "Choose another --arch, for instance a function in a file of yours that returns a network around it: --arch FILE.py:NAME.",
        )
    if samples.has_attributes:
        if output.shape[1] != samples.outputs:
            what = f"The data has {samples.outputs} attributes, the network {output.shape[1]} outputs."
            raise BadData(what, "Every attribute needs one.", "Check that --arch and --data belong together.")
        return
    needed = max(samples.outputs, int(samples.targets.max()) + 1)
    if output.shape[1] < needed:
        raise BadData(
            f"The data has {needed} classes, the network {output.shape[1]} outputs.",
            "Every class needs an output.",
            f"Give a trained network a new classifier with `finetune --transfer full`, or train one with --arch-arg classes={needed}.",
        )


def _tried(module: nn.Module, samples: Samples) -> Any:
    """The module's output for two samples, in eval mode; every submodule's mode is put back."""
    modes = {part: part.training for part in module.modules()}
    try:
        with torch.no_grad():
            if len(samples) and not samples.inputs.is_floating_point():
                module.eval()(as_taken_by(module, _extremes(samples)))
            return module.eval()(as_taken_by(module, samples.inputs[:2]))
    except Exception as error:  # whatever the network says about inputs it does not take
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise BadData(
            f"The network does not take the data: inputs of shape {list(samples.inputs.shape[1:])}, {samples.inputs.dtype}.",
            f"It says: {said[0].rstrip('.')}.",
            _advice(module, samples, error),
        ) from error
    finally:
        for part, training in modes.items():
            part.training = training


def _told(output: Any) -> str:
    """What several things that a network puts out are, the first of them."""
    parts = output.items() if isinstance(output, Mapping) else enumerate(output) if isinstance(output, tuple | list) else ()
    shapes = [f"{key}: {list(part.shape) if isinstance(part, Tensor) else type(part).__name__}" for key, part in parts]
    return f" ({', '.join(shapes[:4])})" if shapes else ""


def _extremes(samples: Samples) -> Tensor:
    """The inputs with the largest and the smallest number, wherever they are: tokens that no embedding may have."""
    flat = samples.inputs.reshape(len(samples), -1)
    return samples.inputs[[int(flat.amax(1).argmax()), int(flat.amin(1).argmin())]]


def _advice(module: nn.Module, samples: Samples, error: Exception) -> str:
    """What to do about inputs that a network does not take: what is known to go wrong most often, where it shows."""
    shape = samples.inputs.shape[1:]
    if isinstance(error, IndexError) and (missing := _row_that_is_missing(module, samples)) is not None:
        name, asked, rows = missing
        return f"The embedding {name} has {rows} rows and was asked for row {asked}: check the tokenizer and the length of texts."
    if len(shape) == 3 and shape[2] in (1, 3, 4) and shape[0] not in (1, 3, 4):
        return "Channels come last here, and networks of torch want them first: x.permute(0, 3, 1, 2)."
    return "Choose other data with --data, or another network with --arch and --arch-arg (in_channels, inputs)."


def _row_that_is_missing(module: nn.Module, samples: Samples) -> tuple[str, int, int] | None:
    """The first embedding that is asked for a row it has not: its name, the row, and how many it has."""
    found: list[tuple[str, int, int]] = []

    def look(name: str, part: nn.Embedding, given: tuple[Any, ...]) -> None:
        if given and isinstance(given[0], Tensor) and given[0].numel() and int(given[0].max()) >= part.num_embeddings:
            found.append((name, int(given[0].max()), part.num_embeddings))

    embeddings = [(name, part) for name, part in module.named_modules() if isinstance(part, nn.Embedding)]
    hooks = [part.register_forward_pre_hook(lambda it, given, name=name: look(name, it, given)) for name, part in embeddings]
    with contextlib.suppress(Exception), torch.no_grad():
        module.eval()(as_taken_by(module, _extremes(samples)))
    for hook in hooks:
        hook.remove()
    return found[0] if found else None


def _strategy(package: str, spec: Spec) -> Any:
    """An instance from a shelf with validated options."""
    shelf = Shelf(package)
    strategy = shelf.load(spec.name)
    known = [field.name for field in fields(strategy) if field.init]
    flag = "--data-arg" if package == "datasets" else "--arch-arg"
    if "path" in known and "path" not in spec.options:
        raise BadRequest(f"The dataset {spec.name} needs a location.", "", f"Write --data {spec.name}:PATH.")
    _require_known(shelf.noun, spec, known, flag)
    try:
        return adapter(strategy).validate_python(dict(spec.options))
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']} (got {e['input']!r})" for e in error.errors())
        raise BadRequest(
            f"The {shelf.noun} {spec.name} does not take these options: {problems}.", "", f"Set them with {flag} key=value."
        ) from error


def _require_known(noun: str, spec: Spec, known: Sequence[str], flag: str) -> None:
    unknown = [name for name in spec.options if name not in known]
    if unknown == ["path"]:
        raise BadRequest(f"The {noun} {spec.name} takes no location.", "", f"Write --data {spec.name}.")
    if unknown:
        raise UnknownName(f"option of the {noun} {spec.name} called", unknown[0], known, f"Set options with {flag} key=value.")


def _location(name: str, text: str) -> str:
    if not text:
        raise BadRequest(f"{name}: names no location.", "", f"Write {name}:PATH.")
    return str(Path(text).expanduser().resolve())


def _options(args: Sequence[str]) -> dict[str, Any]:
    pairs = [_pair(text) for text in args]
    names = [name for name, _ in pairs]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise BadRequest(
            f"The option {repeated[0]} is given {names.count(repeated[0])} times.", "Only one of them would count.", "Give it once."
        )
    return dict(pairs)


def _pair(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    name = key.strip().replace("-", "_")
    if not equals or not name.isidentifier():
        raise BadRequest(f"{text!r} is not an option.", "", "Write key=value, for instance width=32.")
    return name, scalar(value.strip())


def scalar(text: str) -> Any:
    """The value a person means: a whole number, a number, true, false, null, or else text; quotes keep a text a text."""
    if text.lower() in WORDS:
        return WORDS[text.lower()]
    if re.fullmatch(r"[-+]?[0-9]+", text):
        return int(text)
    if re.fullmatch(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", text):
        return float(text)
    quoted = re.fullmatch(r"(['\"])(.*)\1", text)
    return quoted[2] if quoted else text
