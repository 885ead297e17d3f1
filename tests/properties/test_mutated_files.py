"""Property: whatever happens to a file on its way, the tool reads it or says in one sentence why not.

Small real files of every kind are damaged some hundred times (`HYPOTHESIS_PROFILE=deep`: more than a hundred times as often): bits
flipped, cut off, blocks doubled, lost, moved and overwritten, numbers of headers replaced, lengths set to huge values,
directories of archives edited, two files spliced. Each seed is repeatable: the message names it.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import random
import re
import resource
import shutil
import struct
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import typer.main

from sparsify_cli.cli.app import main
from tests.kinds_graphs import KINDS

TIMES = 2500 if os.environ.get("HYPOTHESIS_PROFILE") == "deep" else 20
"""Mutations of each kind."""

FUZZED = (
    *("bare", "legacy", "tar", "lightning", "views", "corners", "whole module", "torch-prune", "safetensors", "shards", "index"),
    *("sparse-bitmask", "scripted", "exported", "exported 2.7", "exported 2.8", "ONNX", "ONNX typed", "ONNX external"),
)
SECONDS, MEGABYTES = 5, 300
HUGE = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**53, 2**63 - 1, 2**63, 2**64 - 1)
SAFE = frozenset({"bare", "legacy", "lightning", "views", "safetensors", "shards", "index"})
"""Kinds whose usual loader can be trusted with damaged files: if it reads the damaged original, it reads the result."""

Mutation = Callable[[bytearray, random.Random, bytes], None]


def somewhere(data: bytearray, chance: random.Random) -> int:
    """A position, most often near an end or beside text, where structure is."""
    if not data:
        return 0
    near = min(int(chance.paretovariate(0.3)), len(data)) - 1
    signs = [found.start() for found in re.finditer(rb"PK..|[{\"]|torch|weight", data[:200_000])] or [0]
    return chance.choice(
        (near, len(data) - 1 - near, chance.randrange(len(data)), min(chance.choice(signs) + chance.randrange(30), len(data) - 1))
    )


def flip(data: bytearray, chance: random.Random, other: bytes) -> None:
    """A few bits."""
    for _ in range(chance.randint(1, 4)):
        data[somewhere(data, chance)] ^= 1 << chance.randrange(8)


def cut(data: bytearray, chance: random.Random, other: bytes) -> None:
    """The end is missing."""
    del data[chance.choice((len(data) * chance.randrange(10) // 10, somewhere(data, chance))) :]


def double(data: bytearray, chance: random.Random, other: bytes) -> None:
    """A block comes twice."""
    at, size = somewhere(data, chance), chance.choice((1, 2, 4, 8, 16, 64, 512))
    data[at:at] = data[at : at + size]


def lose(data: bytearray, chance: random.Random, other: bytes) -> None:
    """A block is missing."""
    at = somewhere(data, chance)
    del data[at : at + chance.choice((1, 2, 4, 8, 16, 64, 512))]


def fill(data: bytearray, chance: random.Random, other: bytes) -> None:
    """A block of one byte, as lost sectors leave."""
    at, size = somewhere(data, chance), chance.choice((1, 4, 16, 512))
    data[at : at + size] = bytes([chance.choice((0, 0xFF, ord("9"), chance.randrange(256)))]) * len(data[at : at + size])


def renumber(data: bytearray, chance: random.Random, other: bytes) -> None:
    """A number in a text is another one."""
    numbers = list(re.finditer(rb"\d+", data[:200_000]))
    if numbers:
        found = chance.choice(numbers)
        said = int(found[0]) if len(found[0]) < 20 else 0
        data[found.start() : found.end()] = str(chance.choice((said + 1, said * 2, max(0, said - 1), -1, "1e9", *HUGE))).encode()


def measure(data: bytearray, chance: random.Random, other: bytes) -> None:
    """A length or offset is huge, or nothing."""
    form = chance.choice(("<Q", "<I", "<H", ">Q", ">I", "B"))
    at, value = somewhere(data, chance), chance.choice(HUGE)
    packed = struct.pack(form, value & ((1 << 8 * struct.calcsize(form)) - 1))
    data[at : at + len(packed)] = packed


def relist(data: bytearray, chance: random.Random, other: bytes) -> None:
    """A field in the directory of an archive, or of a member's own header, is another one."""
    headers = [found.start() for found in re.finditer(rb"PK(\x01\x02|\x03\x04|\x05\x06|\x06\x06|\x06\x07|\x07\x08)", data)]
    if not headers:
        return measure(data, chance, other)
    at = min(chance.choice(headers) + chance.randrange(4, 46, 2), len(data) - 1)
    form = chance.choice(("<H", "<I"))
    packed = struct.pack(form, chance.choice(HUGE) & ((1 << 8 * struct.calcsize(form)) - 1))
    data[at : at + len(packed)] = packed
    return None


def splice(data: bytearray, chance: random.Random, other: bytes) -> None:
    """A part of another kind of file."""
    start = chance.randrange(len(other))
    at, part = somewhere(data, chance), other[start : start + chance.choice((4, 32, 1024))]
    data[at : at + len(part)] = part


def swap(data: bytearray, chance: random.Random, other: bytes) -> None:
    """A piece of text stands in another's place: names, keys, members."""
    words = list(re.finditer(rb"[a-z_][a-z_.]{3,30}", data[:200_000]))
    if len(words) > 1:
        one, two = chance.choice(words), chance.choice(words)
        data[one.start() : one.end()] = two[0] if chance.random() < 0.5 else two[0][: len(one[0])].ljust(len(one[0]), b"x")


MUTATIONS: tuple[Mutation, ...] = (flip, cut, double, lose, fill, renumber, measure, relist, splice, swap)


def mutated(data: bytes, seed: int, other: bytes) -> tuple[str, bytes]:
    """What happens to a file for a seed, once or twice."""
    chance, changed, names = random.Random(seed), bytearray(data), []
    for mutation in (MUTATIONS[seed % len(MUTATIONS)], *([chance.choice(MUTATIONS)] if chance.random() < 0.3 else [])):
        if changed:
            mutation(changed, chance, other)
            names.append(mutation.__name__)
    return "+".join(names), bytes(changed)


def damaged_file(path: Path, seed: int) -> Path:
    """The file of a checkpoint that is damaged: any one of a folder, most often one with weights."""
    files = sorted(file for file in (path if path.is_dir() else path.parent).iterdir() if path.is_dir() or file.name != "config.json")
    return files[seed % len(files)]


def outcome(verb: str, path: Path, flags: tuple[str, ...]) -> tuple[int, str, str]:
    """Exit code, output and what was said; a warning of any library counts as said."""
    out, said = io.StringIO(), io.StringIO()
    words = [verb, str(path), *flags, "--format", "quiet"] + (["--sparsity", "0.8", "--out", "out"] if verb == "prune" else [])
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(said), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        code = main(words)
    return code, out.getvalue(), said.getvalue() + "".join(f"{found.message}" for found in caught)


def judge(verb: str, code: int, out: str, said: str) -> str:
    """What is wrong with an outcome; empty when nothing is."""
    lines = said.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    if any(word in out + said for word in ("Traceback", "Something unexpected", "Out of memory", "The system refused")):
        return "unexpected"
    if code == 0:
        return "" if not errors else "success with an error"
    if code not in {1, 2, 5} or len(errors) != 1 or [line for line in lines if not line.startswith(("error: ", "note: "))]:
        return "not one sentence"
    return "" if not Path("out").exists() and not (verb == "inspect" and out) else "something was left"


def loads(load: Callable[[Path], object], path: Path) -> bool:
    """Whether the usual loader reads a path."""
    try:
        load(path)
    except Exception:
        return False
    return True


def memory() -> int:
    """The most memory this process ever had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


@pytest.mark.timeout(TIMES * 2)
@pytest.mark.parametrize("name", FUZZED)
def test_damaged_files_are_read_or_refused(name, tmp_path, monkeypatch):
    """Never a traceback, a hang, memory that a header claims, a changed input or a folder left behind."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr(typer.main, "get_command", functools.cache(typer.main.get_command))  # the same each time, and slow
    kind, folder = KINDS[name], tmp_path / "made"
    folder.mkdir()
    given = kind.make(folder)
    other = KINDS["ONNX" if name != "ONNX" else "safetensors"].make(tmp_path).read_bytes()
    outcome("inspect", given, kind.flags), outcome("prune", given, kind.flags)  # imports and caches are not counted
    shutil.rmtree("out")
    before, codes, wrong = memory(), Counter(), []
    for seed in range(TIMES):
        file = damaged_file(given, seed)
        whole = file.read_bytes()
        what, data = mutated(whole, seed, other)
        file.write_bytes(data)
        verb, started = ("prune", "inspect")[seed // len(MUTATIONS) % 3 == 2], time.process_time()
        code, out, said = outcome(verb, given, kind.flags)
        if found := judge(verb, code, out, said) or ("slow" if time.process_time() - started > SECONDS else ""):
            wrong.append(f"seed {seed}, {what} of {file.name}, {verb}: {found}: {said[-300:]}")
        if verb == "prune" and code == 0:
            made = json.loads(Path("out/manifest.json").read_text())
            result = Path("out") / made["weights"]["file"]
            if made["status"] != "complete" or not result.exists():
                wrong.append(f"seed {seed}, {what} of {file.name}: not complete")
            elif name in SAFE and loads(kind.load, given) and not loads(kind.load, result):
                wrong.append(f"seed {seed}, {what} of {file.name}: the original loads and the result does not")
        if file.read_bytes() != data:
            wrong.append(f"seed {seed}: the input was changed")
        shutil.rmtree("out", ignore_errors=True)
        file.write_bytes(whole)
        codes[code] += 1
    assert wrong == []
    assert memory() - before < MEGABYTES
    assert codes[0] > 0 and codes[1] + codes[2] > 0
