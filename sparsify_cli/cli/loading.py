"""Ctrl-C while modules are loaded: nothing is written yet, and a module that is loaded by half is no place to unwind from.

An interrupted import of torch ends in whatever error its halves run into, and Python's own answer during ours is a traceback.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SAID = b"error: Interrupted. Nothing was written.\n"
CODE = 130
"""As `sparsify_cli.errors.INTERRUPTED`, which is not loaded yet."""


@contextmanager
def loading() -> Iterator[None]:
    """Within it Ctrl-C ends the process at once, with the sentence and the exit code; a caller's own handler stays."""
    ours = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not ours:
        yield
        return
    signal.signal(signal.SIGINT, _leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _leave(number: int, frame: FrameType | None) -> None:
    del number, frame
    os.write(2, SAID)
    os._exit(CODE)
