"""Which process this is, of several that `torchrun` started together."""

from __future__ import annotations

import os


def rank() -> int:
    """0 for the first process and outside torchrun, whatever else a job wrapper exported as RANK."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return 0
    text = os.environ.get("RANK", "0")
    return int(text) if text.isdigit() else 0
