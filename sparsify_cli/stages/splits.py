"""Splits of data, read once by each process: a verb asks for them several times. And how a network of an architecture answers them.

Data and architectures are named by the JSON of their specs.
"""

from __future__ import annotations

import functools
import json
from contextlib import suppress

import torch
from torch import nn

from sparsify_cli.contracts.dataset import Split
from sparsify_cli.errors import SparsifyError
from sparsify_cli.stages.output_form import Forms, forms_of, may_be_yes_or_no, puts_out_one_number, yes_or_no
from sparsify_cli.stages.resolve import build_architecture, load_samples
from sparsify_cli.values.checkpoint import Spec
from sparsify_cli.values.samples import Samples

_KNOWN: dict[tuple[str, str], Forms] = {}
"""Data and architecture -> in which form the network answers."""


@functools.lru_cache(maxsize=3)
def samples_asked(data: str, split: Split, architecture: str) -> Samples:
    """A split as a network is asked about it: labels 0 and 1 are yes and no to one that puts out one number."""
    samples = loaded_once(data, split)
    if not architecture or not may_be_yes_or_no(samples):
        return samples
    with torch.random.fork_rng(devices=[]):  # a network that is only looked at takes no random numbers from others
        module = build_architecture(Spec(**json.loads(architecture)))
    return yes_or_no(samples) if puts_out_one_number(module, samples) else samples


@functools.lru_cache(maxsize=3)
def loaded_once(spec: str, split: Split) -> Samples:
    """A split as it is read."""
    return load_samples(Spec(**json.loads(spec)), split)


def forms_once(data: str, architecture: str, module: nn.Module) -> Forms:
    """In which form a network answers, found out with test samples, which most verbs need anyway.

    Args:
        data: which data.
        architecture: which network, without its weights.
        module: one of them; left as it was.
    """
    if (data, architecture) not in _KNOWN:
        with torch.random.fork_rng(devices=[]):
            samples = _any_split(data)
            _KNOWN[data, architecture] = Forms() if samples is None else forms_of(module, samples)
    return _KNOWN[data, architecture]


def _any_split(data: str) -> Samples | None:
    """Samples of one split; None where data is not there, which those say who need it."""
    splits: tuple[Split, ...] = ("test", "train")
    for split in splits:
        with suppress(SparsifyError):
            return loaded_once(data, split)
    return None
