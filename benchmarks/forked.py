"""Many runs of one command on one network, without doing what they share again: a process that has done it forks for each run.

What is shared, because it hangs on the network, the samples and the seed and on nothing that a run may ask for: imports, reading
samples, the dense network's predictions, the curves by which `dp` shares weights out. Each is done the first time it is needed, and
its processor time is added to every run that would have done it, so that a run's time is that of the command alone.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import hashlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Run:
    """What a run took: exit code, seconds of processor (what it shares included) and clock, peak memory in MB, last words."""

    code: int
    cpu: float
    clock: float
    mb: int
    said: str


class Forked:
    """Runs `sparsify` in processes forked from this one; they compute in one thread, since others do not survive a fork."""

    def __init__(self) -> None:
        import sparsify_cli.stages.evidence as compare
        import sparsify_cli.stages.prune  # noqa: F401
        import sparsify_cli.stages.shares as shares
        import sparsify_cli.stages.splits as splits

        self._known: dict[Hashable, tuple[Any, float]] = {}
        self._lent = 0.0
        self._running: dict[int, tuple[Any, Path, float]] = {}
        self._start = time.process_time()
        compare.predict = self._once(compare.predict, lambda module, samples: (_digest(module), samples.ids[:1], len(samples)))
        shares.measured = self._once(shares.measured, lambda recipe, before, chooser, *_: _curves_hang_on(recipe, before, chooser))
        splits.loaded_once = self._once(splits.loaded_once, lambda *asked: asked)

    def warm(self, words: Sequence[str]) -> None:
        """Run a command here, for what others share with it."""
        _run(words)
        gc.collect()
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)

    def start(self, words: Sequence[str], about: Any) -> None:
        """Run a command in a process of its own."""
        told = Path(tempfile.mkdtemp())
        child = os.fork()
        if not child:
            self._child(words, told)
        self._running[child] = about, told, time.monotonic()

    @property
    def running(self) -> int:
        """How many runs have not ended."""
        return len(self._running)

    def ended(self) -> tuple[Any, Run]:
        """Wait for the next run to end: what it was about, and what it took."""
        child, status, usage = os.wait4(-1, 0)
        about, told, started = self._running.pop(child)
        shared = self._start + float(_text(told / "lent") or 0)
        clock = time.monotonic() - started + shared
        run = Run(
            os.waitstatus_to_exitcode(status),
            usage.ru_utime + usage.ru_stime + shared,
            clock,
            usage.ru_maxrss // 1024,
            _text(told / "said"),
        )
        shutil.rmtree(told)
        return about, run

    def _child(self, words: Sequence[str], told: Path) -> None:
        code = 1
        try:
            self._lent = 0.0
            with (told / "said").open("w") as said, (told / "out").open("w") as out:
                os.dup2(said.fileno(), 2)
                os.dup2(out.fileno(), 1)
            code = _run(words)
            (told / "lent").write_text(str(self._lent))
        finally:
            os._exit(code)

    def _once(self, function: Callable[..., Any], key: Callable[..., Hashable]) -> Callable[..., Any]:
        @functools.wraps(function)
        def known(*args: Any) -> Any:
            name = (function.__name__, key(*args))
            if name not in self._known:
                started = time.process_time()
                found = function(*args)
                self._known[name] = found, time.process_time() - started
                return found
            found, took = self._known[name]
            self._lent += took
            return found

        return known


def _run(words: Sequence[str]) -> int:
    from sparsify_cli.cli.app import main

    code = main(words)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    return code


def _digest(module: Any) -> str:
    found = hashlib.sha256()
    for tensor in module.state_dict().values():
        found.update(tensor.detach().contiguous().numpy().tobytes())
    return found.hexdigest()


def _curves_hang_on(recipe: Any, before: Any, chooser: Any) -> Hashable:
    from sparsify_cli.contracts.solver import LayerSolver
    from sparsify_cli.stages.solve import solver_of

    repaired = isinstance(solver_of(recipe), LayerSolver)
    chosen = () if repaired else (recipe.criterion, recipe.pattern)
    return repaired, chosen, recipe.seed, recipe.samples, recipe.augment, chooser.names, before.checkpoint.source.sha256


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""
