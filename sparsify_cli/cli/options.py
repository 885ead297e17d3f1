"""Recipe fields become command-line flags: an option is declared once, in `recipes/`, and read here."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import MISSING, Field, fields
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import typer

from sparsify_cli.cli.console import Format
from sparsify_cli.recipes.option import Choice, Option, Texts, decimal
from sparsify_cli.recipes.recipe import Recipe
from sparsify_cli.shelf import Shelf

RecipeFile = Annotated[Path | None, typer.Option("--recipe", help="YAML recipe; flags win over it.", metavar="FILE")]
Settings = Annotated[list[str] | None, typer.Option("--set", help="Set one option of the recipe.", metavar="PATH=VALUE")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the resolved recipe and the plan; change nothing.")]
FormatFlag = Annotated[
    Format, typer.Option("--format", help="How results are printed to stdout; quiet = only the path written, for list only names.")
]
Resume = Annotated[Path | None, typer.Option("--resume", help="Continue this interrupted run.", metavar="ARTIFACT")]

Force = Annotated[bool, typer.Option("--force-recipe", help="Continue with the flags given here, although the run began with others.")]

COMMON = {"recipe_file": (RecipeFile, None), "settings": (Settings, None), "dry_run": (DryRun, False), "how": (FormatFlag, Format.HUMAN)}
RESUMABLE = {"train", "finetune", "embed", "prune"}
TRAINING = RESUMABLE - {"prune"}
OURS = "common_"
"""Put before parameters that every verb has, so that a recipe's field may be called `how` too."""


def command(kind: type[Recipe], run: Callable[..., None]) -> Callable[..., None]:
    """A function with one keyword parameter for each field of `kind`, for Typer to read.

    Args:
        kind: the verb's recipe.
        run: called as run(kind, flags, recipe_file=..., settings=..., dry_run=..., how=..., resume=..., force=...).
    """

    def verb(**values: Any) -> None:
        common = {name: values.pop(OURS + name) for name in (*COMMON, "resume", "force") if OURS + name in values}
        run(kind, values, **common)

    parameters = [_field_parameter(kind, f) for f in fields(kind)]  # type: ignore[arg-type]
    again = {"resume": (Resume, None), **({"force": (Force, False)} if kind.verb in TRAINING else {})}
    extra = {**COMMON, **(again if kind.verb in RESUMABLE else {})}
    parameters += [_parameter(OURS + name, annotation, default) for name, (annotation, default) in extra.items()]
    verb.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    verb.__annotations__ = {p.name: p.annotation for p in parameters}
    verb.__doc__ = (kind.__doc__ or "").strip()
    verb.__name__ = kind.verb
    return verb


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    """The annotations of a recipe; asked for once a field, and slow."""
    return get_type_hints(kind, include_extras=True)


def _parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _field_parameter(kind: Any, f: Field[Any]) -> inspect.Parameter:
    hint = _hints(kind)[f.name]
    option, base = next(part for part in get_args(hint) if isinstance(part, Option)), _flag_type(hint)
    if option.positional:
        declared: Any = typer.Argument(help=option.help, show_default=False, metavar=option.metavar or f.name.upper())
        return _parameter(f.name, Annotated[base | None, declared], None)
    flag = "--" + f.name.replace("_", "-")
    names = [flag, f"--no-{flag[2:]}"] if base is bool else [flag]
    metavar = None if base is bool else option.metavar or _metavar(option)
    declared = typer.Option("/".join(names), help=_help(option, f), show_default=False, metavar=metavar)
    return _parameter(f.name, Annotated[base | None, declared], None)


def _flag_type(hint: Any) -> Any:
    if hint is bool or get_args(hint)[:1] in ((bool,), (bool | None,)):
        return bool
    repeated = get_args(Texts)[1] in get_args(hint)
    return list[str] if repeated else str


def _metavar(option: Option) -> str:
    return "NAME" if option.shelf else "VALUE"


def _help(option: Option, f: Field[Any]) -> str:
    choices = filter(None, (option.also, *(Shelf(option.shelf).names() if option.shelf else ())))
    names = f" One of: {', '.join(choices)}." if option.shelf else ""
    return f"{option.help}{names}{_default(f)}"


def _default(f: Field[Any]) -> str:
    value = None if f.default is MISSING else f.default
    if value is None or value in ("", ()) or isinstance(value, bool):
        return ""
    if isinstance(value, tuple):
        value = ",".join(decimal(Fraction(v)) for v in value)
    return f" Default {value.name if isinstance(value, Choice) else value}."
