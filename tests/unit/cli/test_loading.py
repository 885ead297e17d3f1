"""Ctrl-C while modules are loaded ends the process with the sentence and the code; elsewhere nothing is changed."""

import signal
import subprocess
import sys
import threading

import pytest

from sparsify_cli.cli.loading import CODE, SAID, loading
from sparsify_cli.errors import INTERRUPTED

TEXT = """
import os, signal, sys
from sparsify_cli.cli.loading import loading
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever starts the tests may have it ignored
try:
    with loading():
        {within}
    os.kill(os.getpid(), signal.SIGINT)
except KeyboardInterrupt:
    sys.exit(7)
"""


def ended(within: str) -> tuple[int, bytes]:
    """Exit code and words of a process that does this while it loads, and is interrupted afterwards."""
    done = subprocess.run([sys.executable, "-c", TEXT.format(within=within)], capture_output=True, check=False)
    return done.returncode, done.stderr


def test_interrupted_within() -> None:
    """Whatever the half-loaded module would make of the interruption, the process has ended."""
    assert ended("os.kill(os.getpid(), signal.SIGINT)") == (CODE, SAID)
    assert CODE == INTERRUPTED


def test_interrupted_afterwards() -> None:
    """The work itself is interrupted as ever, so that it can save what it has."""
    assert ended("pass") == (7, b"")


@pytest.mark.parametrize("place", ["another listener", "another thread"])
def test_it_touches_nobody_elses_handler(place: str) -> None:
    """A program that uses the command line inside keeps its own answer; outside the main thread there is nothing to set."""
    found, listener = [], signal.SIG_IGN if place == "another listener" else signal.default_int_handler
    before = signal.signal(signal.SIGINT, listener)

    def look() -> None:
        with loading():
            found.append(signal.getsignal(signal.SIGINT))

    try:
        one = threading.Thread(target=look)
        (look if place == "another listener" else one.start)()
        if one.ident:
            one.join()
    finally:
        signal.signal(signal.SIGINT, before)
    assert found == [listener]
