"""In which form a network answers: one number a sample or several, logits or probabilities. Everything else sees logits, a row a sample.

    [n] or [n, 1] and labels 0 and 1   yes or no: one attribute, which a sample has or has not (the same labels are two classes for a
                                       network with two outputs, so only data and network together tell what is meant)
    ends in a softmax                  logits are log p; softmax gives p back
    ends in a sigmoid                  logits are log p / (1 - p); a sigmoid gives p back
    several things at once             of a tuple, list or mapping what is called `logits`, or else the only tensor that can be an answer
                                       for each sample (beside features); where it is several only in training, the first

A network ends in one where the tensor that it returns was made by it, as autograd's graph says; changes of shape in between do not
matter. Some do so only in eval mode. Numbers to predict are left as they are. What is exported or written answers as its own code says.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from sparsify_cli.training.modes import evaluating
from sparsify_cli.values.arrays import as_taken_by
from sparsify_cli.values.copies import copy_of
from sparsify_cli.values.samples import Samples

SLACK = 1e-2
"""How far probabilities may sum to something else than one, in 16 bits too."""
NAMED = "yes"
"""The attribute, where data does not name its second class."""
RESHAPING = re.compile(
    r"((Unsafe)?View|ReshapeAlias|(Un)?[Ss]queeze|Select|Slice|Clone|T|Transpose|Permute|Alias|ToCopy|Clamp(Min|Max)?)Backward\d+"
)
"""Backward nodes of changes of shape, type and range."""


def in_a_column(module: nn.Module) -> nn.Module:
    """The same network; where it puts out one number a sample, [n], it is called as if it put out [n, 1]."""
    module.register_forward_hook(_column)
    return module


@dataclass(frozen=True)
class Forms:
    """In which form a network answers in eval mode, and when it trains: `softmax`, `sigmoid`, or empty: logits, or numbers.

    `entry` and `trained_entry` say where among several things the answer is; None where it puts out nothing else.
    """

    evaluated: str = ""
    trained: str = ""
    entry: int | str | None = None
    trained_entry: int | str | None = None

    def __call__(self, module: nn.Module, _: tuple[Any, ...], output: Any) -> Any:
        """A forward hook: logits of what the network put out."""
        answer = _taken(output, self.trained_entry if module.training else self.entry)
        change = CHANGES.get(self.trained if module.training else self.evaluated)
        return change(answer) if change is not None and isinstance(answer, Tensor) else answer


def in_logits(module: nn.Module, forms: Forms) -> nn.Module:
    """The same network; where it puts out probabilities it is called as if it put out logits."""
    if forms != Forms():
        module.register_forward_hook(forms)
    return module


def as_written(module: nn.Module) -> nn.Module:
    """The same network, called as its own code says; of several things it puts out only the answer, as elsewhere."""
    ours = [(key, hook) for key, hook in module._forward_hooks.items() if hook is _column or isinstance(hook, Forms)]
    for key, hook in ours:
        del module._forward_hooks[key]
        if isinstance(hook, Forms):
            in_logits(module, Forms(entry=hook.entry, trained_entry=hook.trained_entry))
    return module


def may_be_yes_or_no(samples: Samples) -> bool:
    """True where labels are 0 and 1 of at most two classes."""
    return samples.kind == "classes" and len(samples.classes) in (0, 2) and int(samples.targets.max()) <= 1


def yes_or_no(samples: Samples) -> Samples:
    """The same samples, of which each has one attribute or has it not."""
    return replace(samples, targets=samples.targets[:, None], classes=samples.classes[1:] or (NAMED,))


def puts_out_one_number(module: nn.Module, samples: Samples) -> bool:
    """Whether the network gives one number a sample."""
    with evaluating(module):
        output = _tried(module, samples, 2)
    output = _taken(output, _entry(output, samples, min(2, len(samples))))
    return isinstance(output, Tensor) and output.ndim == 2 and output.shape[1] == 1


def forms_of(module: nn.Module, samples: Samples) -> Forms:
    """What the network's answers to these samples are, found out with a copy, in eval mode and as it trains."""
    try:
        aside = copy_of(module)  # a network may keep what it has computed
    except Exception:  # and some cannot be copied
        with evaluating(module):
            output = _tried(module, samples, 2)
        entry = _entry(output, samples, min(2, len(samples)))
        found = _form(_taken(output, entry), samples)
        return Forms(found, found, entry, entry)
    count = min(2, len(samples))
    output, trained = _tried(aside.eval(), samples, 2), _tried(aside.train(), samples, 2)
    entry = _entry(output, samples, count)
    found = _form(_taken(output, entry), samples)
    if trained is None:  # a layer that takes no two samples in training; it will get more
        return Forms(found, "", entry, entry)
    then = entry if _is_there(trained, entry, samples, count) else _entry(trained, samples, count, first=not _parts(output))
    return Forms(found, _form(_taken(trained, then), samples) if found else "", entry, then)


def _is_there(output: Any, entry: int | str | None, samples: Samples, count: int) -> bool:
    part = _parts(output).get(entry)
    return isinstance(part, Tensor) and (entry == "logits" or _is_answer(part, samples, count))


def _parts(output: Any) -> dict[Any, Any]:
    """What a network puts out, by position or name, where it is several things."""
    if isinstance(output, Mapping):
        return dict(output)
    return dict(enumerate(output)) if isinstance(output, tuple | list) else {}


def _entry(output: Any, samples: Samples, count: int, *, first: bool = False) -> int | str | None:
    """Where the answer is; None where it is nowhere, or may be in several places and not the first is asked for."""
    parts = {key: part for key, part in _parts(output).items() if isinstance(part, Tensor)}
    if "logits" in parts:
        return "logits"
    fitting = [key for key, part in parts.items() if _is_answer(part, samples, count)]
    return fitting[0] if len(fitting) == 1 or (fitting and first) else None


def _is_answer(part: Tensor, samples: Samples, count: int) -> bool:
    if samples.kind == "tokens":
        return part.shape[:-1] == samples.inputs[:count].shape and part.shape[-1] >= samples.outputs
    if samples.kind == "numbers":
        return part.shape == samples.targets[:count].shape
    one = samples.kind == "classes" and may_be_yes_or_no(samples) and part.shape == (count, 1)  # a number that may be a yes or no
    return part.shape == (count, samples.outputs) or one


def _taken(output: Any, entry: int | str | None) -> Any:
    return output if entry is None else _parts(output).get(entry, output)


def _form(output: Any, samples: Samples) -> str:
    if samples.kind == "numbers":
        return ""
    made = output.grad_fn if isinstance(output, Tensor) else None
    while made is not None and RESHAPING.fullmatch(made.name()):
        made = made.next_functions[0][0]
    name = "" if made is None else made.name().lower()
    form = next((form for form in CHANGES if name.startswith(form)), "")
    sums_to_one = form != "softmax" or bool(((output.double().sum(-1) - 1).abs() < SLACK).all())
    return form if sums_to_one else ""


def _tried(module: nn.Module, samples: Samples, count: int) -> Any:
    """The output for the first samples; None where the network does not take them, which others say."""
    try:
        with torch.enable_grad():
            return module(as_taken_by(module, samples.inputs[:count]))
    except Exception:  # whatever a network says about inputs it does not take
        return None


def _column(_: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
    if not (isinstance(output, Tensor) and output.ndim < 2 and args and isinstance(args[0], Tensor) and args[0].ndim):
        return output
    return output.reshape(-1, 1) if output.numel() == len(args[0]) else output


def _log(output: Tensor) -> Tensor:
    exact = _exact(output)
    return exact.clamp_min(torch.finfo(exact.dtype).tiny).log()


def _logit(output: Tensor) -> Tensor:
    exact = _exact(output)
    return exact.logit(torch.finfo(exact.dtype).eps)


def _exact(output: Tensor) -> Tensor:
    """In float32 at least: in 16 bits a probability near one has no logarithm to speak of."""
    return output.float() if output.element_size() < 4 else output


CHANGES: dict[str, Callable[[Tensor], Tensor]] = {"softmax": _log, "sigmoid": _logit}
