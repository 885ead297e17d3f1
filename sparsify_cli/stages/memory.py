"""What a method will hold in memory, told before it starts and refused where the machine does not have it."""

from __future__ import annotations

import os

from sparsify_cli.contracts.listener import Listener
from sparsify_cli.errors import BadRequest
from sparsify_cli.pages.wording import size

SHARE = 0.5
"""Most of the machine's memory that a method may plan with."""


def machine_memory() -> int:
    """Bytes of memory of this machine."""
    known = hasattr(os, "sysconf")
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if known else 1 << 34


def require_room(what: str, needed: int, listener: Listener) -> None:
    """Say what is needed, and refuse what does not fit.

    Args:
        what: the flag that asks for it.
        needed: bytes.
        listener: hears the number.

    Raises:
        BadRequest: with what is needed and what there is.
    """
    there = machine_memory()
    if needed > SHARE * there:
        raise BadRequest(
            f"{what} needs {size(needed)} of memory; this machine has {size(there)}, half of which may be used.",
            "It holds gradients or curvature of all pruned weights.",
            "Choose fewer --samples, a smaller block, --skip large layers, or another --solver.",
        )
    listener.note(f"{what} will hold about {size(needed)}")
