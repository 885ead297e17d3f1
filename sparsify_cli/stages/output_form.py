"""In which form a network answers: one number a sample or several, logits or probabilities. Everything else sees logits, a row a sample.

    [n] or [n, 1] and labels 0 and 1   yes or no: one attribute, which a sample has or has not (the same labels are two classes for a
                                       network with two outputs, so only data and network together tell what is meant)
    ends in a softmax                  logits are log p; softmax gives p back
    ends in a sigmoid                  logits are log p / (1 - p); a sigmoid gives p back

A network ends in one where the tensor that it returns was made by it, as autograd's graph says; changes of shape in between do not
matter. Some do so only in eval mode. Numbers to predict are left as they are. What is exported or written answers as its own code says.
"""

from __future__ import annotations

import re
from collections.abc import Callable
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
    """In which form a network answers in eval mode, and when it trains: `softmax`, `sigmoid`, or empty: logits, or numbers."""

    evaluated: str = ""
    trained: str = ""

    def __call__(self, module: nn.Module, _: tuple[Any, ...], output: Any) -> Any:
        """A forward hook: logits of what the network put out."""
        change = CHANGES.get(self.trained if module.training else self.evaluated)
        return change(output) if change is not None and isinstance(output, Tensor) else output


def in_logits(module: nn.Module, forms: Forms) -> nn.Module:
    """The same network; where it puts out probabilities it is called as if it put out logits."""
    if forms != Forms():
        module.register_forward_hook(forms)
    return module


def as_written(module: nn.Module) -> nn.Module:
    """The same network, called as its own code says."""
    for key in [key for key, hook in module._forward_hooks.items() if hook is _column or isinstance(hook, Forms)]:
        del module._forward_hooks[key]
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
    return isinstance(output, Tensor) and output.ndim == 2 and output.shape[1] == 1


def forms_of(module: nn.Module, samples: Samples) -> Forms:
    """What the network's answers to these samples are; one that ends in probabilities is also tried in training mode, as a copy."""
    if samples.kind == "numbers":
        return Forms()
    try:
        aside = copy_of(module)  # a network may keep what it has computed
    except Exception:  # and some cannot be copied
        with evaluating(module):
            found = _form(_tried(module, samples, 1))
        return Forms(found, found)
    found = _form(_tried(aside.eval(), samples, 1))
    return Forms(found, _form(_tried(aside.train(), samples, 2)) if found else "")


def _form(output: Any) -> str:
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
