"""Assembles the verbs; `main(argv)` turns our errors into a sentence and an exit code.

A verb is a stage: the recipe of `prune` goes to `sparsify_cli.stages.prune.prune`, which is imported (and torch with
it) only when the verb runs.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer
from typer.exceptions import TyperException

from sparsify_cli.cli import console
from sparsify_cli.cli.console import Format, Watcher
from sparsify_cli.cli.env import env
from sparsify_cli.cli.list import list_
from sparsify_cli.cli.options import command
from sparsify_cli.cli.resume import interrupted_recipe
from sparsify_cli.errors import INTERRUPTED, BadRequest, Interrupted, SparsifyError
from sparsify_cli.recipes.recipe import Recipe, resolve
from sparsify_cli.recipes.verbs import RECIPES
from sparsify_cli.stages.outcome import Outcome

ABOUT = """Make a trained PyTorch network smaller, nested or forgetful, and prove what that did to it.

Each verb writes one folder, runs/NNN-verb-name, that later verbs take; given no model they take the newest that fits.

Exit codes: 0 done; 1 the run failed; 2 the request was malformed; 3 a gate did not hold; 4 a result too odd to accept;
5 the target cannot be reached; 130 interrupted."""

app = typer.Typer(
    name="sparsify",
    help=ABOUT,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def run_verb(
    kind: type[Recipe],
    flags: Mapping[str, Any],
    *,
    recipe_file: Path | None,
    settings: Sequence[str] | None,
    dry_run: bool,
    how: Format,
    resume: Path | None = None,
) -> None:
    """Resolve a verb's recipe, run its stage, show the outcome."""
    if resume is not None:
        given = {**flags, "recipe": recipe_file, "set": settings or None, "dry_run": dry_run or None}
        outcome = _resumed(kind, given, resume)
    else:
        recipe = resolve(kind, file=recipe_file, settings=settings or (), flags=flags)
        outcome = _planned(recipe) if dry_run else _staged(recipe)
    if int(os.environ.get("RANK", "0")) == 0:  # under torchrun the first process speaks for all
        console.show(outcome, how)
    if outcome.failure is not None:
        raise outcome.failure


def _staged(recipe: Recipe, *, resume: Path | None = None) -> Outcome:
    """Run the stage of a recipe's verb."""
    stage = getattr(importlib.import_module(f"sparsify_cli.stages.{recipe.verb}"), recipe.verb)
    importlib.import_module("sparsify_cli.stages.machine").prepare(recipe)
    outcome: Outcome = stage(recipe, Watcher(), **({"resume": resume} if resume else {}))
    return outcome


def _planned(recipe: Recipe) -> Outcome:
    outcome: Outcome = importlib.import_module("sparsify_cli.stages.dry_run").dry_run(recipe)
    return outcome


def _resumed(kind: type[Recipe], flags: Mapping[str, Any], folder: Path) -> Outcome:
    given = [f"--{name.replace('_', '-')}" for name, value in flags.items() if value is not None]
    if given:
        raise BadRequest(
            f"--resume continues the run as it was asked for; {', '.join(given)} cannot change now.", "", "Give --resume alone."
        )
    return _staged(interrupted_recipe(kind, folder), resume=folder)


def _register() -> None:
    for kind in RECIPES:
        app.command(kind.verb)(command(kind, run_verb))
    app.command("list")(list_)
    app.command("env")(env)


_register()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code. `SPARSIFY_DEBUG=1` re-raises our errors."""
    arguments = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    try:
        code = app(args=arguments, prog_name="sparsify", standalone_mode=False)
    except SystemExit:  # the reader of a pipe went away: there is nobody to tell
        return 1
    except TyperException as error:
        return _failed(_misspelt(error))
    except SparsifyError as error:
        return _failed(error)
    except MemoryError:
        return _failed(SparsifyError("The machine is out of memory.", "", "Use a smaller --batch-size or model."))
    except OSError as error:
        return _failed(SparsifyError(f"The system refused: {error}.", "", "Check paths, permissions and free space."))
    if code == INTERRUPTED:  # typer's word for a KeyboardInterrupt
        return _failed(Interrupted("Interrupted.", "Nothing half-written is left."))
    return int(code or 0)


def _misspelt(error: TyperException) -> BadRequest:
    """What typer says about flags and verbs, as an error of ours."""
    path = getattr(getattr(error, "ctx", None), "command_path", "sparsify")
    said = error.format_message().replace("Value error, ", "")
    return BadRequest(said if said.endswith(("?", ".")) else f"{said}.", "", f"See: {path} --help")


def _failed(error: SparsifyError) -> int:
    if os.environ.get("SPARSIFY_DEBUG") == "1" and error.exit_code != INTERRUPTED:
        raise error
    console.error(str(error))
    return error.exit_code


def run() -> None:
    """The console command `sparsify`."""
    sys.exit(main())
