"""Recipes: what a person asked for, validated. Defaults < recipe file < --set a.b=c < flags.

A recipe is a frozen dataclass, one a verb; all of its problems are shown together, each with its path and value.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, TypeVar, cast

from pydantic import ConfigDict, TypeAdapter, ValidationError

from sparsify_cli.errors import BadRequest, MissingFile, UnknownName
from sparsify_cli.recipes.option import Choice
from sparsify_cli.recipes.yaml import read_yaml, write_yaml

R = TypeVar("R", bound="Recipe")


def adapter(kind: type[Any]) -> TypeAdapter[Any]:
    """What reads and writes values of a type; it takes longer to make than to use."""
    return _adapter(cast(Hashable, kind))


@cache
def _adapter(kind: Hashable) -> TypeAdapter[Any]:
    return TypeAdapter(cast(Any, kind))


class Recipe:
    """Base of every verb's recipe; subclasses are frozen keyword-only dataclasses."""

    verb: ClassVar[str] = ""
    __pydantic_config__ = ConfigDict(extra="forbid", arbitrary_types_allowed=True, allow_inf_nan=False)

    def to_plain(self) -> dict[str, Any]:
        """Plain JSON values, the verb first; `resolve` reads them back."""
        values: dict[str, Any] = adapter(type(self)).dump_python(self, mode="json")
        return {"verb": self.verb, **values}

    def to_yaml(self) -> str:
        """The recipe as a YAML document."""
        return write_yaml(self.to_plain())

    def digest(self) -> str:
        """sha256 of the recipe's canonical JSON; the same request has the same digest everywhere."""
        return hashlib.sha256(json.dumps(self.to_plain(), sort_keys=True).encode()).hexdigest()


def resolve(kind: type[R], *, file: Path | None = None, settings: Sequence[str] = (), flags: Mapping[str, Any] | None = None) -> R:
    """A verb's recipe from its sources, later ones winning.

    Args:
        kind: the verb's recipe class.
        file: a YAML recipe.
        settings: `path.to.field=value` texts, values in YAML.
        flags: what the command line gave; None values were not given.

    Raises:
        BadRequest: with every problem, path and value.
    """
    values: dict[str, Any] = _from_file(kind, file) if file else {}
    for text in settings:
        values = merged(values, _from_setting(text))
    values = merged(values, {k: v for k, v in (flags or {}).items() if v is not None})
    return validated(kind, values)


def validated(kind: type[R], values: Mapping[str, Any]) -> R:
    """`values` as a recipe of this kind.

    Raises:
        BadRequest: with every problem, path and value.
    """
    known = {f.name for f in fields(kind)}  # type: ignore[arg-type]
    unknown = [key for key in values if key not in known and key != "verb"]
    if unknown:
        raise UnknownName(f"option of `{kind.verb}` named", str(unknown[0]), known)
    try:
        recipe: R = adapter(kind).validate_python(_named(kind, values))
    except ValidationError as error:
        raise BadRequest(problems(error)) from error
    return recipe


def _named(kind: type[Recipe], values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` without the verb; options of a default strategy get that strategy's name."""
    result = {key: value for key, value in values.items() if key != "verb"}
    for f in fields(kind):  # type: ignore[arg-type]
        if isinstance(f.default, Choice) and isinstance(result.get(f.name), Mapping):
            result[f.name] = merged({"name": f.default.name}, result[f.name])
    return result


def problems(error: ValidationError) -> str:
    """Every problem of a validation error on its own sentence: path, value, reason."""
    return " ".join(_problem(dict(one)) for one in error.errors())


def _problem(one: dict[str, Any]) -> str:
    path = ".".join(str(part) for part in one["loc"])
    reason = _in_our_words(str(one["msg"]).removeprefix("Value error, ").rstrip("."))
    if one["type"] == "missing":
        return f"{path}: required and not given."
    return f"{path} = {one['input']!r}: {reason}."


PLAIN = {
    "a valid integer": "a whole number",
    "a valid number": "a number",
    "a valid boolean": "true or false",
    "a valid string": "a text",
    "greater than or equal to": "at least",
    "less than or equal to": "at most",
}
"""The validation library's words, and ours."""


def _in_our_words(reason: str) -> str:
    """`Input should be a valid integer, unable to ...` -> `it must be a whole number`."""
    if not reason.startswith("Input should be "):
        return reason
    wanted = reason.removeprefix("Input should be ")
    for theirs, ours in PLAIN.items():
        if wanted.startswith(theirs):
            kept = wanted.removeprefix(theirs) if theirs.endswith("to") else ""
            return f"it must be {ours}{kept}"
    return f"it must be {wanted}"


def _from_file(kind: type[Recipe], file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise MissingFile(f"There is no recipe {file}.")
    try:
        values = read_yaml(file.read_text(encoding="utf-8"), name=str(file))
    except UnicodeDecodeError as error:
        raise BadRequest(f"{file} is not a recipe.", "It is not text in UTF-8.", "A recipe is a YAML file.") from error
    if not isinstance(values, dict):
        raise BadRequest(f"{file} holds no recipe.", "A recipe is a mapping of options.")
    verb = values.get("verb", kind.verb)
    if verb != kind.verb:
        raise BadRequest(f"{file} is a recipe for `{verb}`, not for `{kind.verb}`.", "", f"Run: sparsify {verb} --recipe {file}")
    return values


def _from_setting(text: str) -> dict[str, Any]:
    path, equals, value = text.partition("=")
    if not equals or not path:
        raise BadRequest(f"{text!r} sets nothing.", "", "Write --set path.to.field=value.")
    nested: Any = read_yaml(value, name=f"the value of {path}")
    for key in reversed(path.split(".")):
        nested = {key: nested}
    return dict(nested)


def merged(base: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """`base` updated with `new`, mappings merged key by key; a strategy's bare name counts as `{name: ...}`."""
    result = dict(base)
    for key, value in new.items():
        result[key] = _merged_value(result.get(key), value)
    return result


def _merged_value(old: Any, new: Any) -> Any:
    if isinstance(old, str) and isinstance(new, Mapping):
        return {"name": old, **new}
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return merged(old, new)
    if isinstance(old, Mapping) and isinstance(new, str) and old.get("name", new) == new:
        return {"name": new, **old}
    return new
