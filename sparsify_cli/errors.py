"""Every user-facing error and its exit code.

    SparsifyError             1  the run failed
      BadRequest              2  the request was malformed
        UnknownName           2  no such name; nearest match and the list
        MissingFile           2  a path that is not there
        UnreadableFile        2  truncated, corrupt or of an unknown kind
        UnsafePickle          2  reading it would run code
        KeyMismatch           2  tensors that do not fit the architecture
        NonFinite             2  NaN or infinite weights
        BadData               2  data of the wrong shape, type or range
        BrokenPlugin          2  a shelf file or a user's own file that does not load
        MissingContext        2  no architecture, data or artifact where one is needed
      Regression              3  a gate did not hold
      Anomalous               4  a result too good or too odd to accept
      Infeasible              5  the target cannot be reached
      Busy                    1  another process writes the same folder
      DiskFailure             1  the file system refused (full disk, permissions)
      Diverged                1  a non-finite loss
    Interrupted             130  Ctrl-C

An error says what (names and numbers), why, and what to do, in that order.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

INTERRUPTED = 130


class SparsifyError(Exception):
    """The run failed: what happened, why, and what to do about it."""

    exit_code = 1

    def __init__(self, what: str, why: str = "", do: str = "") -> None:
        self.what, self.why, self.do = what, why, do
        super().__init__(" ".join(part for part in (what, why, do) if part))


class BadRequest(SparsifyError):
    """The request was malformed."""

    exit_code = 2


class UnknownName(BadRequest):
    """No such name: says the nearest match and lists what there is."""

    def __init__(self, noun: str, name: str, known: Iterable[str], do: str = "") -> None:
        names = sorted(known)
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
        hint = f"Did you mean {near[0]!r}?" if near else ""
        listed = f"Known: {', '.join(names)}." if names else "None is known."
        super().__init__(f"There is no {noun} {name!r}.", f"{hint} {listed}".strip(), do)


class MissingFile(BadRequest):
    """A path that is not there."""


class UnreadableFile(BadRequest):
    """A file that is truncated, corrupt or of an unknown kind."""


class UnsafePickle(BadRequest):
    """A file that cannot be read without running code it contains."""


class KeyMismatch(BadRequest):
    """The tensors of a checkpoint do not fit the architecture."""


class NonFinite(BadRequest):
    """NaN or infinite weights."""


class BadData(BadRequest):
    """Data of the wrong shape, type or range."""


class MissingContext(BadRequest):
    """No architecture, data or artifact where one is needed."""


class Regression(SparsifyError):
    """A gate did not hold."""

    exit_code = 3


class Anomalous(SparsifyError):
    """A result too good or too odd to accept."""

    exit_code = 4


class Infeasible(SparsifyError):
    """The target cannot be reached."""

    exit_code = 5


class Busy(SparsifyError):
    """Another process writes the same folder."""


class DiskFailure(SparsifyError):
    """The file system refused: full disk, permissions, a path in the way."""


class Diverged(SparsifyError):
    """A non-finite loss."""


class BrokenPlugin(BadRequest):
    """A shelf file, or a file the user named, that does not load."""


class Interrupted(SparsifyError):
    """Ctrl-C, after everything worth keeping was written."""

    exit_code = INTERRUPTED
