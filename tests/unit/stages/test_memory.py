"""Memory: what is needed is told, and what the machine does not have is refused before anything starts."""

from __future__ import annotations

import pytest

from sparsify_cli.contracts.listener import Listener
from sparsify_cli.errors import BadRequest
from sparsify_cli.maths.memory import machine_memory
from sparsify_cli.stages import memory as module_under_test
from sparsify_cli.stages.memory import Need, require_room


class Heard(Listener):
    """Remembers notes."""

    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


def test_half_of_the_memory_may_be_planned_with(monkeypatch):
    """50 of 100 bytes are told and taken, 51 are refused with the flag and both numbers."""
    monkeypatch.setattr(module_under_test, "machine_memory", lambda: 100)
    listener = Heard()
    require_room(Need("--solver x", 50), listener)
    assert len(listener.notes) == 1 and listener.notes[0].startswith("--solver x") and "50" in listener.notes[0]
    with pytest.raises(BadRequest, match=r"--solver x needs 51 .*100 "):
        require_room(Need("--solver x", 51), listener)
    assert len(listener.notes) == 1


def test_this_machine_has_memory():
    """Between 64 MiB and a petabyte."""
    assert 1 << 26 < machine_memory() < 1 << 50
