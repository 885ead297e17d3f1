"""Which network a memo was made for: what is prepared holds at one set of weights."""

from __future__ import annotations

import hashlib
from collections.abc import Collection

import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from sparsify_cli.contracts.unlearner import Memo, Request
from sparsify_cli.errors import BadRequest
from sparsify_cli.values.mask_set import MaskSet

MODEL, N, HOW = "model_sha256", "n", "made_with"


def fingerprint(model: nn.Module, masks: MaskSet) -> UInt8[Tensor, " 32"]:
    """sha256 over every tensor of the model (running statistics included) and the masks, as 32 bytes."""
    state = hashlib.sha256(masks.digest().encode())
    for name, tensor in sorted(model.state_dict().items()):
        state.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        state.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return torch.tensor(list(state.digest()), dtype=torch.uint8)


def stamped(memo: Memo, model: nn.Module, masks: MaskSet, n: int, *, how: str = "") -> Memo:
    """A memo that says which model and how many training samples it was made for, and with which options.

    Args:
        memo: what is kept.
        model, masks: what it holds at.
        n: training samples.
        how: options it hangs on; empty = as the memo says already.
    """
    said = {HOW: _digest(how)} if how else {}
    return {**memo, **said, MODEL: fingerprint(model, masks), N: torch.tensor(n)}


def _digest(text: str) -> UInt8[Tensor, " 32"]:
    return torch.tensor(list(hashlib.sha256(text.encode()).digest()), dtype=torch.uint8)


def checked(
    memo: Memo | None, keys: set[str], model: nn.Module, request: Request, noun: str, *, how: str, mapped: Collection[str] = ()
) -> Memo:
    """A memo that was made for this model, these masks and this training set.

    Args:
        memo: of `prepare`.
        keys: what it must hold.
        model: as it is now.
        request: what is to be forgotten and retained.
        noun: what was prepared, for the sentence: `Fisher`.
        how: options it must have been made with.
        mapped: what may stay where a file has mapped it, to be read from there later: whoever writes into that file meanwhile changes it.

    Raises:
        BadRequest: there is none, it was made for something else, or nothing is retained.
    """
    if memo is None or not set(memo) >= keys | {MODEL, N, HOW}:
        why = "It is in the memo of the method's own --prepare." if memo is None else "The memo was prepared for another method."
        raise BadRequest(f"There is no {noun} to erase with.", why, "Prepare with this --unlearner first.")
    if not torch.equal(memo[MODEL], fingerprint(model, request.masks)):
        why = f"A {noun} holds at one set of weights."
        raise BadRequest("The memo was made for another model or other masks.", why, "Run prepare again.")
    if not torch.equal(memo[HOW], _digest(how)):
        what = f"The memo was made with other options than {how}."
        raise BadRequest(what, f"They decide what the {noun} is.", "Give the options it was prepared with, or prepare again.")
    n, k, rest = int(memo[N]), len(request.forget), len(request.retain)
    if k + rest != n:
        what = f"The memo was made for {n} training samples; {k} to forget and {rest} to retain make {k + rest}."
        raise BadRequest(what, "The step divides by the number of retained samples.", "Split the same training set, or prepare again.")
    if not rest:
        what = f"All {n} training samples are to be forgotten."
        raise BadRequest(what, "Nothing would be left to learn from.", "Initialise a new model.")
    return {name: tensor if name in mapped else _aligned(tensor) for name, tensor in memo.items()}


LINE = 64
"""Bytes of a line of the processor's cache."""


def _aligned(tensor: Tensor) -> Tensor:
    """The tensor at an address from which products round as they do for tensors made here; files are mapped at any."""
    return tensor if tensor.data_ptr() % LINE == 0 else tensor.clone()
