"""A shelf: strategies found by file name, listed without importing them.

One file is one strategy: `criteria/lamp.py` holds the one subclass of the shelf's contract and is called
`lamp` on the command line (`weight_norm.py` is `weight-norm`). Third parties add theirs through entry points
of the group `sparsify.<package>`. A broken file is listed and fails loudly when it is loaded.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from sparsify_cli.errors import BadRequest, BrokenPlugin, MissingFile, UnknownName

ROOT = Path(__file__).parent

SHELVES = {
    "criteria": "criterion",
    "solvers": "solver",
    "regimes": "regime",
    "objectives": "objective",
    "unlearners": "unlearner",
    "metrics": "metric",
    "exporters": "exporter",
    "architectures": "architecture",
    "datasets": "dataset",
    "formats": "format",
}
"""Package of each shelf -> the noun its contract is called by (`contracts/<noun>.py`, class `<Noun>`)."""


@dataclass(frozen=True)
class Shelf:
    """Strategies of one kind, one file each."""

    package: str

    @property
    def noun(self) -> str:
        """The word for one strategy of this shelf."""
        return SHELVES[self.package]

    def names(self) -> list[str]:
        """Every strategy on the shelf, in kebab case, sorted; nothing is imported."""
        return sorted({*self._files(), *self._entry_points()})

    def summary(self, name: str) -> str:
        """First line of a strategy's module docstring, read without importing it."""
        path = self._files().get(name)
        if path is None:
            return f"from the entry point {self._entry_points()[name].value}"
        return (_docstring(path) or "(no docstring)").splitlines()[0]

    def load(self, name: str) -> type[Any]:
        """The strategy class called `name`.

        Raises:
            UnknownName: there is no such file or entry point.
            BrokenPlugin: it is there and does not import, or does not hold exactly one strategy.
        """
        if name in self._files():
            snake = name.replace("-", "_")
            return self._only_strategy(_imported(f"sparsify_cli.{self.package}.{snake}"), name)
        points = self._entry_points()
        if name in points:
            return self._checked(_loaded(points[name]), name)
        own = " Your own: path/file.py:callable." if self.package in ("architectures", "datasets") else ""
        raise UnknownName(self.noun, name, self.names(), f"See `sparsify list {self.package}`.{own}")

    def _files(self) -> Mapping[str, Path]:
        files = (ROOT / self.package).glob("[!_]*.py")
        return {path.stem.replace("_", "-"): path for path in files}

    def _entry_points(self) -> Mapping[str, importlib.metadata.EntryPoint]:
        points = _installed(importlib.metadata.entry_points, tuple(sys.path)).select(group=f"sparsify.{self.package}")
        return {point.name: point for point in points}

    def _base(self) -> type[Any]:
        contract = importlib.import_module(f"sparsify_cli.contracts.{self.noun}")
        base: type[Any] = getattr(contract, self.noun.capitalize())
        return base

    def _only_strategy(self, module: ModuleType, name: str) -> type[Any]:
        base = self._base()
        found = [
            value
            for value in vars(module).values()
            if inspect.isclass(value) and issubclass(value, base) and value.__module__ == module.__name__
        ]
        if len(found) == 1:
            return found[0]
        raise BrokenPlugin(
            f"The {self.noun} {name!r} does not load.",
            f"Its file defines {len(found)} subclasses of {base.__name__}; exactly one is expected.",
        )

    def _checked(self, value: Any, name: str) -> type[Any]:
        if inspect.isclass(value) and issubclass(value, self._base()):
            return value
        raise BrokenPlugin(f"The {self.noun} {name!r} is not a subclass of {self._base().__name__}.")


@functools.cache
def _installed(find: Callable[[], importlib.metadata.EntryPoints], path: tuple[str, ...]) -> importlib.metadata.EntryPoints:
    """Every entry point of every installed package: read once, since a start asks for them many times."""
    del path  # what is installed depends on it
    return find()


def _docstring(path: Path) -> str | None:
    try:
        return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    except SyntaxError as error:
        return f"(broken: {error.msg}, line {error.lineno})"


def _imported(module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except Exception as error:
        raise BrokenPlugin(f"{module} does not import.", f"{type(error).__name__}: {error}.") from error


def _loaded(point: importlib.metadata.EntryPoint) -> Any:
    try:
        return point.load()
    except Exception as error:
        raise BrokenPlugin(f"The entry point {point.name!r} ({point.value}) does not load.", f"{type(error).__name__}: {error}.") from error


def user_callable(spec: str) -> Callable[..., Any]:
    """The object a user names: `package.module:name` or `path/file.py:name`.

    The current folder, or the file's folder, can be imported from while the module loads. A file is imported once a process.

    Raises:
        BadRequest: the text is neither form, or the object is not callable.
        MissingFile: there is no such file or module.
        UnknownName: it holds no such name.
        BrokenPlugin: importing it raises.
    """
    place, colon, name = spec.rpartition(":")
    if not (place and colon and name):
        raise BadRequest(f"{spec!r} names no callable.", "", "Write package.module:name or path/file.py:name.")
    is_file = place.endswith(".py")
    module = _from_file(Path(place)) if is_file else _from_package(place)
    if not hasattr(module, name):
        public = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise UnknownName(f"callable in {place} called", name, public)
    found: Any = getattr(module, name)
    if callable(found):
        return found  # type: ignore[no-any-return]
    raise BadRequest(f"{spec} is {type(found).__name__}, which cannot be called.", "", "Name a function or a class.")


def _from_package(name: str) -> ModuleType:
    try:
        with _importable(Path.cwd()):
            return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise MissingFile(
                f"There is no module {error.name}.", f"{name} was asked for.", "Install it, or name a file: path/file.py:name."
            ) from error
        raise _broken(name, error) from error
    except (Exception, SystemExit) as error:  # a script without a main guard may leave the interpreter
        raise _broken(name, error) from error


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise MissingFile(f"There is no file {path}.", "", "Write path/file.py:name, relative to the current folder or absolute.")
    path = path.resolve()
    name = f"sparsify_user_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None, "a .py file always has a loader"
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        with _importable(path.parent):
            spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise _broken(str(path), error) from error
    return module


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Let modules of `folder` be imported; afterwards the search path is as it was, but for what the module added to it itself."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        if str(folder) in sys.path:
            sys.path.remove(str(folder))


def _broken(name: str, error: BaseException) -> BrokenPlugin:
    return BrokenPlugin(f"{name} does not import.", f"{type(error).__name__}: {error}.", "Mend it, then run the command again.")
