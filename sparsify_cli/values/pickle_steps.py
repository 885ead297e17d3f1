"""The steps of a pickle: the stack machine of `pickle_tree.py` and what each opcode does to it.

Source: Python's `pickletools` (every opcode of protocols 0 to 5) and `pickle._Unpickler` (what it does).
"""

from __future__ import annotations

import codecs
import mmap
import struct
from collections.abc import Callable
from typing import Any

from sparsify_cli.values.pickle_nodes import Call, Name, NotAPickle, Opaque, Persistent, Tree

LINE_LIMIT = 1 << 20
"""Bytes of an operand that ends with its line (protocol 0)."""

PIECE_LIMIT = 1 << 28
"""Bytes of one text or run of bytes."""

Stream = bytes | bytearray | mmap.mmap

OLD_MODULES = {"__builtin__": "builtins", "copy_reg": "copyreg", "torch.tensor": "torch._tensor"}
"""Modules that have another name today."""

STOP = ord(".")
"""The step that ends a pickle."""


class Machine:
    """The stack machine: where it is in the stream, its stack, the stacks below each mark, its memo."""

    __slots__ = ("at", "data", "end", "memo", "names", "outer", "persistent", "stack")

    def __init__(self, data: Stream, start: int) -> None:
        self.data, self.at, self.end = data, start, len(data)
        self.stack: list[Tree] = []
        self.outer: list[list[Tree]] = []
        self.memo: dict[int, Tree] = {}
        self.names: dict[str, None] = {}
        self.persistent: list[Persistent] = []

    def take(self, length: int) -> bytes:
        """The next bytes."""
        at, stop = self.at, self.at + length
        if not 0 <= length <= PIECE_LIMIT or stop > self.end:
            raise NotAPickle(f"{length} bytes are announced at byte {at}, and {self.end - at} follow")
        self.at = stop
        return bytes(self.data[at:stop])

    def line(self) -> bytes:
        """The next bytes up to the end of their line."""
        stop = self.data.find(b"\n", self.at, min(self.end, self.at + LINE_LIMIT))
        if stop < 0:
            raise NotAPickle(f"the line at byte {self.at} does not end")
        piece = self.take(stop - self.at)
        self.at += 1
        return piece

    def number(self, form: str, width: int) -> Any:
        """The next number, of a form of `struct`."""
        return struct.unpack(form, self.take(width))[0]

    def since_mark(self) -> list[Tree]:
        """What was pushed since the last mark; the mark goes."""
        items, self.stack = self.stack, self.outer.pop()
        return items

    def name(self, module: str, name: str) -> Name:
        """Something that would be imported."""
        text = f"{OLD_MODULES.get(module, module)}.{name}"
        self.names[text] = None
        return Name(text)


Step = Callable[[Machine], None]


def _pushing(read: Callable[[Machine], Tree]) -> Step:
    """A step that pushes what `read` gives."""

    def step(machine: Machine) -> None:
        value = read(machine)  # may change which stack is on top
        machine.stack.append(value)

    return step


def _fresh(make: Callable[[], Tree]) -> Step:
    """A step that pushes something new."""
    return _pushing(lambda _: make())


def _counted(form: str, width: int, decode: Callable[[bytes], Tree]) -> Step:
    """A step that pushes bytes whose number is told first, decoded."""
    return _pushing(lambda machine: decode(machine.take(machine.number(form, width))))


def _numeric(form: str, width: int) -> Step:
    return _pushing(lambda machine: machine.number(form, width))


def _text(data: bytes) -> str:
    return str(data, "utf-8", "surrogatepass")


def _old_text(data: bytes) -> str | bytes:
    """Text of Python 2, which is bytes when it is no UTF-8."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data


def _long(data: bytes) -> int:
    return int.from_bytes(data, "little", signed=True)


def _whole(machine: Machine) -> int | bool:
    line = machine.line()
    return line == b"01" if line in (b"00", b"01") else int(line)


def _quoted(machine: Machine) -> str | bytes:
    line = machine.line().strip()
    if len(line) < 2 or line[:1] not in (b"'", b'"') or line[:1] != line[-1:]:
        raise NotAPickle(f"the text before byte {machine.at} has no quotes")
    data, _ = codecs.escape_decode(line[1:-1])  # what pickle itself uses
    return _old_text(data)


def _key(value: Tree) -> Tree:
    """A key as one that hashes in constant time, whatever a file holds."""
    if isinstance(value, list | dict | set):
        raise NotAPickle(f"a {type(value).__name__} is a key")
    large = isinstance(value, int) and value.bit_length() > 60
    return Opaque(value) if large or isinstance(value, tuple | frozenset) else value


def _pairs(items: list[Tree]) -> list[tuple[Tree, Tree]]:
    if len(items) % 2:
        raise NotAPickle(f"{len(items)} keys and values are not pairs")
    return list(zip(items[::2], items[1::2], strict=True))


def _set(target: Tree, pairs: list[tuple[Tree, Tree]]) -> None:
    if isinstance(target, dict):
        target.update((_key(key), value) for key, value in pairs)
    elif isinstance(target, Call):
        target.items.extend(pairs)
    else:
        raise NotAPickle(f"items are set on a {type(target).__name__}")


def _extend(target: Tree, values: list[Tree]) -> None:
    if isinstance(target, list):
        target.extend(values)
    elif isinstance(target, Call):
        target.appended.extend(values)
    else:
        raise NotAPickle(f"values are appended to a {type(target).__name__}")


def _dictionary(machine: Machine) -> dict[Tree, Tree]:
    return {_key(key): value for key, value in _pairs(machine.since_mark())}


def _mark(machine: Machine) -> None:
    machine.outer.append(machine.stack)
    machine.stack = []


def _pop(machine: Machine) -> None:
    if machine.stack:
        machine.stack.pop()
    else:
        machine.since_mark()


def _append(machine: Machine) -> None:
    value = machine.stack.pop()
    _extend(machine.stack[-1], [value])


def _appends(machine: Machine) -> None:
    values = machine.since_mark()
    _extend(machine.stack[-1], values)


def _set_item(machine: Machine) -> None:
    value, key = machine.stack.pop(), machine.stack.pop()
    _set(machine.stack[-1], [(key, value)])


def _set_items(machine: Machine) -> None:
    pairs = _pairs(machine.since_mark())
    _set(machine.stack[-1], pairs)


def _add_items(machine: Machine) -> None:
    values = machine.since_mark()
    target = machine.stack[-1]
    if isinstance(target, set):
        target.update(_key(value) for value in values)
    else:
        _extend(target, values)


def _tuple(length: int) -> Step:
    def step(machine: Machine) -> None:
        if len(machine.stack) < length:
            raise NotAPickle(f"{length} values are taken from {len(machine.stack)}")
        machine.stack[-length:] = [tuple(machine.stack[-length:])]

    return step


def _called(function: Tree, args: Tree, kwargs: Tree = None) -> Call:
    if not isinstance(args, tuple):
        raise NotAPickle(f"something is called with a {type(args).__name__}")
    if isinstance(function, Name) and args and function.text in ("copyreg.__newobj__", "copyreg._reconstructor"):
        function, args = args[0], args[1:]
    return Call(function, args, kwargs)


def _reduce(machine: Machine) -> None:
    args, function = machine.stack.pop(), machine.stack.pop()
    machine.stack.append(_called(function, args))


def _new_with_names(machine: Machine) -> None:
    kwargs, args, function = machine.stack.pop(), machine.stack.pop(), machine.stack.pop()
    machine.stack.append(_called(function, args, kwargs))


def _object(machine: Machine) -> None:
    function, *args = machine.since_mark()
    machine.stack.append(Call(function, tuple(args)))


def _instance(machine: Machine) -> None:
    function = _imported(machine)
    args = machine.since_mark()
    machine.stack.append(Call(function, tuple(args)))


def _build(machine: Machine) -> None:
    state = machine.stack.pop()
    target = machine.stack[-1]
    if not isinstance(target, Call):
        raise NotAPickle(f"a {type(target).__name__} is told to restore itself")
    target.state = state


def _imported(machine: Machine) -> Name:
    module = machine.line().decode()
    return machine.name(module, machine.line().decode())


def _stacked_name(machine: Machine) -> Name:
    name, module = machine.stack.pop(), machine.stack.pop()
    if not isinstance(name, str) or not isinstance(module, str):
        raise NotAPickle("something that is no text is imported")
    return machine.name(module, name)


def _persistent(machine: Machine, identifier: Tree) -> Persistent:
    asked = Persistent(identifier)
    machine.persistent.append(asked)
    return asked


def _remembered(read: Callable[[Machine], int]) -> Step:
    return _pushing(lambda machine: machine.memo[read(machine)])


def _remembering(read: Callable[[Machine], int]) -> Step:
    def step(machine: Machine) -> None:
        machine.memo[read(machine)] = machine.stack[-1]

    return step


def _nothing(machine: Machine) -> None:
    """A step without effect on a stack like this one."""


def _listed(machine: Machine) -> int:
    return int(machine.line())


_STEPS: dict[bytes, Step] = {
    b"(": _mark,
    b"0": _pop,
    b"1": lambda machine: (machine.since_mark(), None)[1],
    b"2": _pushing(lambda machine: machine.stack[-1]),
    b"F": _pushing(lambda machine: float(machine.line())),
    b"I": _pushing(_whole),
    b"J": _numeric("<i", 4),
    b"K": _numeric("<B", 1),
    b"L": _pushing(lambda machine: int(machine.line().rstrip(b"L"))),
    b"M": _numeric("<H", 2),
    b"N": _fresh(type(None)),
    b"P": _pushing(lambda machine: _persistent(machine, machine.line().decode())),
    b"Q": _pushing(lambda machine: _persistent(machine, machine.stack.pop())),
    b"R": _reduce,
    b"S": _pushing(_quoted),
    b"T": _counted("<i", 4, _old_text),
    b"U": _counted("<B", 1, _old_text),
    b"V": _pushing(lambda machine: str(machine.line(), "raw-unicode-escape")),
    b"X": _counted("<I", 4, _text),
    b"a": _append,
    b"b": _build,
    b"c": _pushing(_imported),
    b"d": _pushing(_dictionary),
    b"}": _fresh(dict),
    b"e": _appends,
    b"g": _remembered(_listed),
    b"h": _remembered(lambda machine: machine.take(1)[0]),
    b"i": _instance,
    b"j": _remembered(lambda machine: int(machine.number("<I", 4))),
    b"l": _pushing(Machine.since_mark),
    b"]": _fresh(list),
    b"o": _object,
    b"p": _remembering(_listed),
    b"q": _remembering(lambda machine: machine.take(1)[0]),
    b"r": _remembering(lambda machine: int(machine.number("<I", 4))),
    b"s": _set_item,
    b"t": _pushing(lambda machine: tuple(machine.since_mark())),
    b")": _fresh(tuple),
    b"u": _set_items,
    b"G": _numeric(">d", 8),
    b"B": _counted("<I", 4, bytes),
    b"C": _counted("<B", 1, bytes),
    b"\x80": lambda machine: (machine.take(1), None)[1],
    b"\x81": _reduce,
    b"\x82": _pushing(lambda machine: machine.name("copyreg", f"extension {machine.number('<B', 1)}")),
    b"\x83": _pushing(lambda machine: machine.name("copyreg", f"extension {machine.number('<H', 2)}")),
    b"\x84": _pushing(lambda machine: machine.name("copyreg", f"extension {machine.number('<i', 4)}")),
    b"\x85": _tuple(1),
    b"\x86": _tuple(2),
    b"\x87": _tuple(3),
    b"\x88": _fresh(lambda: True),
    b"\x89": _fresh(bool),
    b"\x8a": _counted("<B", 1, _long),
    b"\x8b": _counted("<i", 4, _long),
    b"\x8c": _counted("<B", 1, _text),
    b"\x8d": _counted("<Q", 8, _text),
    b"\x8e": _counted("<Q", 8, bytes),
    b"\x8f": _fresh(set),
    b"\x90": _add_items,
    b"\x91": _pushing(lambda machine: frozenset(_key(value) for value in machine.since_mark())),
    b"\x92": _new_with_names,
    b"\x93": _pushing(_stacked_name),
    b"\x94": _remembering(lambda machine: len(machine.memo)),
    b"\x95": lambda machine: (machine.take(8), None)[1],
    b"\x96": _counted("<Q", 8, bytes),
    b"\x98": _nothing,
}
"""Opcode -> what it does. Buffers that lie outside of the pickle (0x97) are not there in any file."""

STEPS: dict[int, Step] = {code[0]: step for code, step in _STEPS.items()}
"""The same by the byte's number."""
