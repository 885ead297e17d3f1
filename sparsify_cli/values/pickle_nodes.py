"""What a tree that was read from a pickle is made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Tree = Any
"""Numbers, text, bytes, None, list, tuple, dict, set, `Name`, `Call`, `Persistent`; `Opaque` as keys and in sets."""


class NotAPickle(ValueError):
    """What contradicts what, as part of a sentence."""


@dataclass(frozen=True, slots=True)
class Name:
    """Something a pickle would import: module and name, joined with a dot."""

    text: str


@dataclass(frozen=True, slots=True, eq=False)
class Opaque:
    """A key or member of a set that is not hashed by its value."""

    value: Tree


@dataclass(frozen=True, slots=True, eq=False)
class Persistent:
    """Something a pickle asks its loader for, by an identifier of any kind."""

    id: Tree


@dataclass(slots=True, eq=False)
class Call:
    """A call that a pickle would make, and what it would do to the result.

    Args:
        function: a `Name` most of the time.
        args, kwargs: what it is called with.
        state: what the result is told to restore; None = nothing.
        items: keys and values set on the result, in order.
        appended: values appended to the result.
    """

    function: Tree
    args: tuple[Tree, ...] = ()
    kwargs: Tree = None
    state: Tree = None
    items: list[tuple[Tree, Tree]] = field(default_factory=list)
    appended: list[Tree] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Full name of what is called; empty when it has none.

        A class that torch before 1.6 kept beside its source is asked for as ("module", class, file, source).
        """
        function = self.function
        if isinstance(function, Persistent) and isinstance(function.id, tuple) and len(function.id) > 1:
            function = function.id[1]
        return function.text if isinstance(function, Name) else ""
