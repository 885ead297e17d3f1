"""What a method will hold in memory: told before it starts, refused where the machine does not have it, and given back after."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from dataclasses import dataclass

from sparsify_cli.contracts.listener import Listener
from sparsify_cli.errors import BadRequest
from sparsify_cli.maths.memory import machine_memory
from sparsify_cli.pages.wording import size

SHARE = 0.5
"""Most of the machine's memory that a method may plan with."""


LARGE = 1 << 28
"""Bytes of weights from which a network counts as large."""
M_MMAP_THRESHOLD, PAGES = -3, 1 << 20
"""An option of glibc's malloc: blocks of so many bytes get pages of their own, which go back to the system when they are freed."""


def give_back_freed(weights: int) -> None:
    """For large networks: let the system have freed tensors back at once.

    Without it, malloc keeps the room of freed tensors up to 32 MB among others that live on, and a pass over a network of 100 million
    weights holds over a gigabyte more. For small networks it would cost time, since every activation would get pages of its own.

    Args:
        weights: bytes of the network's tensors.
    """
    if weights >= LARGE:
        with suppress(OSError, AttributeError):  # another malloc has no such option
            ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, PAGES)


@dataclass(frozen=True)
class Need:
    """What a method will hold.

    Args:
        what: the flag that asks for it.
        bytes: at most, about.
        why, do: of a refusal.
        largest: what takes most of it, where one thing does.
    """

    what: str
    bytes: int
    why: str = "It holds gradients or curvature of all pruned weights."
    do: str = "Choose fewer --samples, a smaller block, --skip large layers, or another --solver."
    largest: str = ""


def require_room(need: Need, listener: Listener) -> None:
    """Say what is needed, and refuse what does not fit.

    Args:
        need: for what, and how much.
        listener: hears the number.

    Raises:
        BadRequest: with what is needed and what there is.
    """
    there = machine_memory()
    if need.bytes > SHARE * there:
        lack = f"{need.what} needs {size(need.bytes)} of memory; there are {size(there)}, half of which may be used."
        raise BadRequest(lack, need.why, need.do)
    most = f", most of it for {need.largest}" if need.largest else ""
    listener.note(f"{need.what} will hold about {size(need.bytes)}{most}")
