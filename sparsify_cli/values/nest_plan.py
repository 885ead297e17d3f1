"""What the header of a nest's file says (`nest_file.py`): levels, tensors, how places are written, where each level lies.

Nothing but the header is read for it, and it is believed only where it does not contradict itself or the size of the file.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

from sparsify_cli.errors import UnreadableFile
from sparsify_cli.values.nest import State
from sparsify_cli.values.ranges import Ranges, ranges
from sparsify_cli.values.rice import Code
from sparsify_cli.values.safetensors_header import TORCH_WORDS, Header, parse_header
from sparsify_cli.values.strict_json import shown

SCHEMA = "sparsify/nest/2"
AGAIN = "Run `sparsify embed` again."
KEYS = {"schema", "block", "sparsities", "weights", "side", "codes", "own", "state", "sha256", "header", "ties"}
NUMBER = re.compile(r"[0-9]{1,99}([/.][0-9]{1,99})?")
MOST = 255
"""Levels that a byte can number."""
LONGEST = 1 << 27
"""Bytes of a header that is believed."""
LARGEST = 1 << 40
"""Longest side of a tensor that is believed."""
Described = tuple[str, str, tuple[int, ...]]
"""Name, dtype as torch says it, shape."""


@dataclass(frozen=True, eq=False)
class Plan:
    """What a header says.

    Args:
        sparsities: of each level, falling.
        block: weights that stay or go together.
        weights, side: what there is, in the order of the file.
        codes: for each level and weight tensor, how its places are written.
        own: for each level, which of `side` it stores.
        state: what levels have of their own.
        digests: sha256 of the bytes of each level.
        ties: second names of tensors -> the first.
        start: where the first level begins.
        ends: where each level ends, from the beginning of the file.
        sha256: of the header, without the eight bytes of its length.
    """

    sparsities: tuple[Fraction, ...]
    block: int
    weights: tuple[Described, ...]
    side: tuple[Described, ...]
    codes: tuple[tuple[Code, ...], ...]
    own: tuple[tuple[int, ...], ...]
    state: State
    digests: tuple[str, ...]
    start: int
    ends: tuple[int, ...]
    sha256: str = ""
    ties: Mapping[str, str] = field(default_factory=dict)

    @property
    def levels(self) -> int:
        """How many networks there are."""
        return len(self.sparsities)


def read_plan(source: Ranges) -> Plan:
    """What the header says; nothing else is read.

    Raises:
        UnreadableFile: it is damaged or no nest's.
    """
    raw = _raw_header(source)
    header = parse_header(raw, source.size, source.name)
    about = header.metadata
    if about.get("schema") != SCHEMA:
        raise UnreadableFile(f"{source.name} holds no networks nested in one another.", "", "Give what `sparsify embed` wrote.")
    sparsities = _sparsities(source.name, about.get("sparsities", ""))
    try:
        weights, side = (tuple(_read_described(one) for one in json.loads(about[key])) for key in ("weights", "side"))
        codes = tuple(tuple(_read_code(one) for one in level) for level in json.loads(about["codes"]))
        own = tuple(tuple(_natural(i) for i in level) for level in json.loads(about["own"]))
        state = _state(about["state"])
        digests = tuple(map(str, json.loads(about["sha256"])))
        ends = list(_ends(header, len(sparsities)))
        ties = {str(name): str(first) for name, first in json.loads(about.get("ties", "{}")).items()}
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise damaged(source.name, "Its header does not say what its levels hold.") from error
    block = int(text) if (text := about.get("block", "1")[:9]).isascii() and text.isdigit() else 1
    seal, (start, *ends) = hashlib.sha256(raw).hexdigest(), ends or [0]
    plan = Plan(sparsities, block, weights, side, codes, own, state, digests, start, tuple(ends), seal, ties)
    if flaw := _plan_flaw(plan, header):
        raise damaged(source.name, flaw)
    entries = [(name, place.dtype, tuple(place.shape)) for name, place in header.places.items()]
    if about.get("header", "") not in ("", header_digest(entries, about)):
        raise damaged(source.name, "Its header is not as it was written.")
    if odd := about.keys() - KEYS:
        raise damaged(source.name, f"Its header says something that is not known: {shown(min(odd))}.")
    return plan


def header_digest(entries: Sequence[Described], about: Mapping[str, str]) -> str:
    """sha256 over what a header says, in words of its own: a bit that turned over in it is found without the folder's manifest.

    Args:
        entries: tensors of the file, in order.
        about: its metadata; `header`, the digest itself, does not count.
    """
    told = sorted((key, text) for key, text in about.items() if key != "header")
    return hashlib.sha256(json.dumps([told, [[name, word, list(shape)] for name, word, shape in entries]]).encode()).hexdigest()


def is_nest_file(path: Path) -> bool:
    """True for a file that `write_nest` wrote; only the header is read."""
    if path.suffix != ".safetensors" or not path.is_file():
        return False
    try:
        with ranges(path) as source:
            return parse_header(_raw_header(source), source.size, source.name).metadata.get("schema") == SCHEMA
    except (UnreadableFile, OSError):
        return False


def _read_described(value: Any) -> Described:
    name, word, shape = value
    sizes = tuple(_natural(size) for size in shape)
    if not isinstance(name, str) or word not in TORCH_WORDS or max(sizes, default=0) > LARGEST:
        raise ValueError(value)
    return name, str(word), sizes


def _read_code(value: Any) -> Code:
    k, count, written, size = (_natural(one) for one in value)
    return Code(k, count, bool(written), size)


def _state(text: str) -> State:
    if text not in get_args(State):
        raise ValueError(text)
    state: State = text  # type: ignore[assignment]
    return state


def _natural(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(value)
    return value


def _raw_header(source: Ranges) -> bytes:
    """Length and JSON, in two requests."""
    if source.size < 8:
        raise damaged(source.name, "It is too short.")
    length = int.from_bytes(source.take(0, 8), "little")
    if length > min(LONGEST, source.size - 8):
        raise damaged(source.name, "Its header does not end.")
    return source.take(8, 8 + length)


def _ends(header: Header, levels: int) -> Iterator[int]:
    """Where the first level begins and each one ends; levels have to lie one after the other."""
    spans = [[place for name, place in header.places.items() if name.partition("/")[0] == str(level)] for level in range(1, levels + 1)]
    if not all(spans) or sum(map(len, spans)) != len(header.places):
        raise ValueError("tensors of no level")
    yield min(place.offset for place in spans[0])
    for here, after in pairwise([*spans, []]):
        end = max(place.end for place in here)
        if any(place.offset < end for place in after):
            raise ValueError("levels in another order")
        yield end


def _sparsities(name: str, text: str) -> tuple[Fraction, ...]:
    """The sparsities a header names: a JSON list of fractions in [0, 1], strictly falling."""
    try:
        listed = json.loads(text)
        if not isinstance(listed, list) or not listed or not all(isinstance(one, str) and NUMBER.fullmatch(one) for one in listed):
            raise ValueError(text)
        found = tuple(map(Fraction, listed))
    except (ValueError, ArithmeticError, RecursionError) as error:
        raise damaged(name, "Its header does not say which levels it holds.") from error
    if found[0] > 1 or len(found) > MOST or any(after >= before for before, after in pairwise(found)):
        raise damaged(name, f"Its sparsities {', '.join(listed)} do not fall within [0, 1].")
    return found


def _plan_flaw(plan: Plan, header: Header) -> str:
    """What contradicts itself in a header; nothing when all is well."""
    wanted = (plan.levels, len(plan.weights))
    places = set(range(len(plan.side)))
    if (
        len(plan.own) != plan.levels
        or set(plan.own[0]) != places
        or any(len(set(one)) < len(one) or not set(one) <= places for one in plan.own)
    ):
        return "It does not say which side state belongs to which level."
    if len(plan.digests) != plan.levels:
        return f"It holds the sha256 of {len(plan.digests)} of its {plan.levels} levels."
    if not plan.weights or len(plan.codes) != wanted[0] or any(len(codes) != wanted[1] for codes in plan.codes):
        return f"It says of {len(plan.codes)} levels which of {wanted[1]} tensors' weights they hold; it has {wanted[0]}."
    names = [name for name, _, _ in (*plan.weights, *plan.side)]
    if len(set(names)) < len(names):
        return "It names a tensor twice."
    if set(plan.ties) & set(names) or not set(plan.ties.values()) <= set(names):
        return "It gives tensors second names that are others' first, or of none."
    largest = sum(math.prod(shape) for _, _, shape in plan.weights)
    if largest > MOST * max(1, header_bytes(header)):  # a weight takes a bit at least, unless all of a level are alike
        return f"It says that it holds {largest:,} weights."
    return ""


def header_bytes(header: Header) -> int:
    """Bytes of all tensors."""
    return sum(place.end - place.offset for place in header.places.values())


def damaged(name: str, why: str) -> UnreadableFile:
    """The error about a file whose parts contradict each other."""
    return UnreadableFile(f"{name} is damaged.", why, AGAIN)
