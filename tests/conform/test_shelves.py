"""Every file of every shelf keeps the promises all strategies make; a new file is found by itself."""

from __future__ import annotations

import dataclasses
import inspect
import re
import typing

import pytest
from pydantic import TypeAdapter

from sparsify_cli.shelf import ROOT, SHELVES, Shelf

STRATEGIES = [(package, name) for package in SHELVES for name in Shelf(package)._files()]
EACH = pytest.mark.parametrize(("package", "name"), sorted(STRATEGIES), ids=lambda word: word)


def loaded(package: str, name: str) -> type:
    """The strategy class behind a name."""
    return Shelf(package).load(name)


def required(strategy: type) -> dict[str, str]:
    """Values for the fields that have no default: locations, which are text."""
    missing = [f for f in dataclasses.fields(strategy) if f.default is f.default_factory is dataclasses.MISSING]
    return {f.name: "somewhere" for f in missing}


@pytest.mark.parametrize("package", SHELVES)
def test_shelf_holds_something(package):
    """Every shelf is a folder with at least one strategy and a contract of its noun."""
    assert (ROOT / package / "__init__.py").is_file()
    assert (ROOT / "contracts" / f"{SHELVES[package]}.py").is_file()
    assert Shelf(package).names() != []


@EACH
def test_name_is_kebab_and_the_class(package, name):
    """The command-line word is kebab case, and file, class and word are the same name."""
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name)
    assert loaded(package, name).__name__.lower() == name.replace("-", "")


@EACH
def test_summary_is_one_sentence(package, name):
    """`sparsify list` shows a real sentence: the first line of the file's docstring."""
    summary = Shelf(package).summary(name)
    assert not summary.startswith("(")
    assert 10 <= len(summary) <= 140
    assert summary.endswith((".", ":"))


@EACH
def test_strategy_is_a_frozen_dataclass(package, name):
    """A strategy is a frozen, documented, concrete dataclass: a value that prints and compares."""
    strategy = loaded(package, name)
    assert dataclasses.is_dataclass(strategy)
    assert strategy.__dataclass_params__.frozen
    assert not inspect.isabstract(strategy)
    assert strategy.__doc__
    assert not strategy.__doc__.startswith(f"{strategy.__name__}(")


@EACH
def test_strategy_has_defaults(package, name):
    """A strategy is made without options, apart from a location; two made alike are equal."""
    strategy = loaded(package, name)
    given = required(strategy)
    assert set(given) <= {"path"}
    assert strategy(**given) == strategy(**given)


@EACH
def test_options_are_validated(package, name):
    """Every field has a type that pydantic reads and writes: its default comes back unchanged, an unknown option is refused."""
    strategy = loaded(package, name)
    hints = typing.get_type_hints(strategy, include_extras=True)
    made = strategy(**required(strategy))
    for field in dataclasses.fields(strategy):
        adapter, default = TypeAdapter(hints[field.name]), getattr(made, field.name)
        assert adapter.validate_python(default) == default
        assert adapter.validate_json(adapter.dump_json(default)) == default
    with pytest.raises(TypeError):
        strategy(**required(strategy), no_such_option=1)


@EACH
def test_options_are_explained(package, name):
    """Every option is explained by name in the docstring of the module, of the class, or of one that it takes options from."""
    strategy = loaded(package, name)
    text = "\n".join([*(str(kind.__doc__) for kind in strategy.__mro__[:-1]), str(inspect.getmodule(strategy).__doc__)])
    assert [f.name for f in dataclasses.fields(strategy) if not re.search(rf"\b{f.name}\b", text)] == []


@pytest.mark.parametrize("package", SHELVES)
def test_unknown_name_is_answered(package):
    """An unknown name is an error that lists the names there are."""
    from sparsify_cli.errors import UnknownName

    with pytest.raises(UnknownName) as caught:
        Shelf(package).load("no-such-strategy")
    assert all(name in str(caught.value) for name in Shelf(package).names())
    assert caught.value.exit_code == 2
