"""TorchScript modules read as data: which attributes of the pickled modules are the tensors of their state dict.

A module is pickled as its class and its attributes; the class lies in the archive as text, whose first lines name its
parameters and buffers. Those lines are read as text. A class whose lines are not there counts every tensor it has, as does
one of torch before 1.6, which named no buffers.

Source: torch 2.13, `torch/csrc/jit/serialization/{pickler,python_print,import}.cpp`, and what `state_dict()` of a loaded
script module holds: parameters, then buffers (those that are not persistent, too), then modules within.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from sparsify_cli.values.layout import Place
from sparsify_cli.values.pickle_tree import Call, Tree
from sparsify_cli.values.torch_tables import Contradiction, Resolve, key_text

SCRIPT = "__torch__."
"""Beginning of the names of classes whose source lies in the archive."""
CUSTOM = "__torch__.torch.classes."
"""Beginning of the names of classes that a library registers: they pack their tensors as they like."""

CLASS = re.compile(r"^class ([^\s(:]+)(\(Module\))?:\n((?:  __(?:parameters|buffers)__ = \[[^\n]*\]\n)*)", re.MULTILINE)
LIST = re.compile(r"^  __(parameters|buffers)__ = \[([^\n]*)\]$", re.MULTILINE)
QUOTED = re.compile(r'"([^"]*)"')

DEPTH_LIMIT = 100
"""Modules within modules."""
TEXT_LIMIT = 1 << 26
"""Letters of all dotted names together; modules that are shared count each time."""


@dataclass(frozen=True)
class ScriptClass:
    """What the source of a class says.

    Args:
        is_module: False for an ordinary class of the script.
        parameters, buffers: names of attributes; None when the source does not name them.
    """

    is_module: bool = True
    parameters: frozenset[str] | None = None
    buffers: frozenset[str] | None = None

    def holds(self, name: str) -> bool:
        """True when an attribute belongs to the state dict, if it is a tensor."""
        return self.parameters is None or self.buffers is None or name in self.parameters or name in self.buffers


@dataclass
class ScriptState:
    """Tensors of a script module by dotted name: places, and what is no plain run of numbers."""

    table: dict[str, Place] = field(default_factory=dict)
    odd: dict[str, str] = field(default_factory=dict)


def classes_in(source: str) -> dict[str, ScriptClass]:
    """The classes in one source file of an archive, by name."""
    return {name: _script_class(bool(module), lines) for name, module, lines in CLASS.findall(source)}


def script_state(tree: Tree, resolve: Resolve, class_of: Callable[[str], ScriptClass]) -> ScriptState:
    """The state dict of a pickled script module.

    Args:
        tree: what its pickle says.
        resolve: tells tensors from other nodes.
        class_of: what the source says of a class, by its full name.

    Raises:
        Contradiction: it is no module, a tensor does not fit its storage, or there is no end to it.
    """
    if not _is_object(tree):
        raise Contradiction("its pickle holds no script module")
    found, left = ScriptState(), TEXT_LIMIT
    waiting: list[tuple[Call, str, int]] = [(tree, "", 0)]
    while waiting:
        node, prefix, depth = waiting.pop()
        script = class_of(node.name)
        names = _attributes(node)
        left -= sum(len(prefix) + len(name) + 1 for name, _ in names)
        if depth > DEPTH_LIMIT or left < 0:
            raise Contradiction(f"its modules are nested more than {DEPTH_LIMIT} deep or without an end")
        _keep(found, prefix, names, resolve, script)
        inner = [(value, f"{prefix}{name}.", depth + 1) for name, value in names if _is_object(value)]
        waiting += reversed([one for one in inner if class_of(one[0].name).is_module])
    return found


def _script_class(is_module: bool, lines: str) -> ScriptClass:
    named = {kind: frozenset(QUOTED.findall(listed)) for kind, listed in LIST.findall(lines)}
    return ScriptClass(is_module, named.get("parameters"), named.get("buffers"))


def _is_object(node: Tree) -> bool:
    """True for a module or an object of a script's class: it restores its attributes from a dictionary."""
    return isinstance(node, Call) and node.name.startswith(SCRIPT) and isinstance(node.state, dict)


def _attributes(node: Call) -> list[tuple[str, Any]]:
    return [(text, value) for key, value in node.state.items() if (text := key_text(key))]


def _keep(found: ScriptState, prefix: str, attributes: list[tuple[str, Any]], resolve: Resolve, script: ScriptClass) -> None:
    """Put the tensors of one module into the state: parameters first, as a state dict does."""
    for name, what in _tensors(attributes, resolve, script):
        if isinstance(what, Place):
            found.table[prefix + name] = what
        else:
            found.odd[prefix + name] = what


def _tensors(attributes: list[tuple[str, Any]], resolve: Resolve, script: ScriptClass) -> Iterator[tuple[str, Place | str]]:
    first = script.parameters or frozenset()
    for name, value in sorted(attributes, key=lambda one: one[0] not in first):
        if isinstance(value, Call) and value.name.startswith(CUSTOM):
            yield name, f"packed by the class {value.name.removeprefix(CUSTOM)[:80]}"
        elif script.holds(name) and (what := resolve(value)) is not None:
            yield name, what
