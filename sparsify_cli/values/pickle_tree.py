"""Pickles read as data: what a pickle says, as a tree, without importing or calling anything that it names.

A pickle is a program for a small stack machine. This one has the same stack, but where a program would import something
it keeps a `Name`, where it would call something it keeps a `Call` with the arguments, and where it would ask its loader for
something (torch: a storage) it keeps a `Persistent`. Numbers, text, lists, tuples and dictionaries are themselves.

The tree of a hostile pickle may contain itself, and share parts so often that it is endless to walk: who walks it counts
steps and remembers where it is. Keys of dictionaries that Python would have to hash with care (tuples, giant numbers)
are kept as `Opaque`.

Source: Python's `pickletools` (every opcode of protocols 0 to 5) and `pickle._Unpickler` (what it does).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from sparsify_cli.values.pickle_nodes import Call, Name, NotAPickle, Opaque, Persistent, Tree
from sparsify_cli.values.pickle_steps import STEPS, STOP, Machine, Stream

__all__ = ["Call", "Name", "NotAPickle", "Opaque", "Persistent", "Reading", "Tree", "names_in", "read_pickle", "read_tree"]

STEP_LIMIT = 20_000_000
"""Opcodes of one pickle; a checkpoint has some 40 a tensor."""


@dataclass(frozen=True)
class Reading:
    """One pickle.

    Args:
        tree: what it makes.
        end: first byte behind it.
        names: everything it would import, in order, also what it throws away again.
        persistent: everything it asks its loader for, in order.
    """

    tree: Tree
    end: int
    names: tuple[str, ...]
    persistent: tuple[Persistent, ...]


def read_pickle(stream: Stream, start: int = 0) -> Reading:
    """The pickle that begins at byte `start` of a stream.

    Raises:
        NotAPickle: it is cut off, or no pickle.
    """
    machine = Machine(stream, start)
    try:
        tree = _run(machine)
    except NotAPickle:
        raise
    except (LookupError, TypeError, ValueError, ArithmeticError, struct.error, RecursionError, MemoryError) as error:
        raise NotAPickle(f"the pickle at byte {start} does not parse at byte {machine.at} ({type(error).__name__})") from error
    return Reading(tree, machine.at, tuple(machine.names), tuple(machine.persistent))


def read_tree(stream: Stream, start: int = 0) -> tuple[Tree, int]:
    """What the pickle that begins at byte `start` makes, and the first byte behind it.

    Raises:
        NotAPickle: it is cut off, or no pickle.
    """
    reading = read_pickle(stream, start)
    return reading.tree, reading.end


def names_in(stream: Stream, start: int = 0) -> tuple[str, ...]:
    """Everything the pickle that begins at byte `start` would import, in order.

    Raises:
        NotAPickle: it is cut off, or no pickle.
    """
    return read_pickle(stream, start).names


def _run(machine: Machine) -> Tree:
    data, end = machine.data, machine.end
    for _ in range(STEP_LIMIT):
        at = machine.at
        if at >= end:
            raise NotAPickle(f"it ends at byte {end} within a pickle")
        machine.at = at + 1
        code = data[at]
        if code == STOP:
            return machine.stack.pop()
        step = STEPS.get(code)
        if step is None:
            raise NotAPickle(f"byte {at} is {code:#04x}, which is no step of a pickle")
        step(machine)
    raise NotAPickle(f"it has more than {STEP_LIMIT} steps")
