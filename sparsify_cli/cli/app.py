"""Assembles the verbs; `main(argv)` turns our errors into a sentence and an exit code.

A verb is a stage: the recipe of `prune` goes to `sparsify_cli.stages.prune.prune`, which is imported (and torch with
it) only when the verb runs.
"""

from __future__ import annotations

import importlib
import io
import os
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.exceptions import TyperException

from sparsify_cli import __version__
from sparsify_cli.cli import console
from sparsify_cli.cli.console import Format, Watcher
from sparsify_cli.cli.env import env
from sparsify_cli.cli.list import list_
from sparsify_cli.cli.loading import loading
from sparsify_cli.cli.options import command
from sparsify_cli.cli.resume import interrupted_recipe
from sparsify_cli.errors import INTERRUPTED, BadRequest, Interrupted, SparsifyError
from sparsify_cli.recipes.process import rank
from sparsify_cli.recipes.recipe import Recipe, resolve
from sparsify_cli.recipes.shared import MachineFields, OutputFields, TrainFields
from sparsify_cli.recipes.verbs import RECIPES
from sparsify_cli.stages.outcome import Outcome
from sparsify_cli.values.artifact import require_free

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


def _version(asked: bool) -> None:
    """Say which version this is, and end."""
    if asked:
        typer.echo(f"sparsify {__version__}")
        raise typer.Exit


@app.callback(help=ABOUT)
def _everything(
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_version)] = False,
) -> None:
    """What goes before a verb."""
    del version


def run_verb(
    kind: type[Recipe],
    flags: Mapping[str, Any],
    *,
    recipe_file: Path | None,
    settings: Sequence[str] | None,
    dry_run: bool,
    how: Format,
    resume: Path | None = None,
    force: bool = False,
) -> None:
    """Resolve a verb's recipe, run its stage, show the outcome."""
    if _elsewhere(kind):
        return
    if force and resume is None:
        raise BadRequest("--force-recipe changes a run that is resumed.", "", "Add --resume ARTIFACT, or leave it out.")
    if resume is not None:
        given = {**flags, "recipe": recipe_file, "set": settings or None, "dry_run": dry_run or None}
        outcome = _resumed(kind, given, resume, force=force)
    else:
        recipe = resolve(kind, file=recipe_file, settings=settings or (), flags=flags)
        if isinstance(recipe, OutputFields) and recipe.out and not dry_run:
            require_free(Path(recipe.out))  # before minutes of work, not after
        outcome = _planned(recipe) if dry_run else _staged(recipe)
    if rank() == 0:  # under torchrun the first process speaks for all
        console.show(outcome, how)
    if outcome.failure is not None:
        raise outcome.failure


def _elsewhere(kind: type[Recipe]) -> bool:
    """True in the further processes of `torchrun` for a verb that does not train: only the first one speaks.

    Raises:
        BadRequest: this is the first of them.
    """
    if issubclass(kind, TrainFields) or "TORCHELASTIC_RUN_ID" not in os.environ or int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return False
    if rank() > 0:
        return True
    raise BadRequest(f"`{kind.verb}` does not run under torchrun.", "Every process would do the same work.", "Call sparsify directly.")


def _staged(recipe: Recipe, *, resume: Path | None = None) -> Outcome:
    """Run the stage of a recipe's verb."""
    with loading():
        stage = getattr(importlib.import_module(f"sparsify_cli.stages.{recipe.verb}"), recipe.verb)
    if isinstance(recipe, MachineFields):  # the others do not compute, and some of them start without torch
        importlib.import_module("sparsify_cli.stages.machine").prepare(recipe)
    outcome: Outcome = stage(recipe, Watcher(), **({"resume": resume} if resume else {}))
    return outcome


def _planned(recipe: Recipe) -> Outcome:
    with loading():
        stage = importlib.import_module("sparsify_cli.stages.dry_run")
    outcome: Outcome = stage.dry_run(recipe, Watcher())
    return outcome


def _resumed(kind: type[Recipe], flags: Mapping[str, Any], folder: Path, *, force: bool) -> Outcome:
    """Go on with an interrupted run; with `force` under flags that it did not begin with."""
    given = {name: value for name, value in flags.items() if value is not None}
    if given and not force:
        then = _began_with(kind, folder)
        listed = ", ".join(f"--{name.replace('_', '-')}" + (f" (was {then[name]})" if name in then else "") for name in given)
        hint = ", or add --force-recipe" if issubclass(kind, TrainFields) else ""
        raise BadRequest(f"--resume continues the run as it was asked for; {listed} cannot change now.", "", f"Give --resume alone{hint}.")
    return _staged(interrupted_recipe(kind, folder, given), resume=folder)


def _began_with(kind: type[Recipe], folder: Path) -> Mapping[str, Any]:
    """What an interrupted run was asked for; nothing where there is none."""
    try:
        return interrupted_recipe(kind, folder, {}).to_plain()
    except SparsifyError:
        return {}


def _register() -> None:
    for kind in RECIPES:
        app.command(kind.verb)(command(kind, run_verb))
    app.command("list")(list_)
    app.command("env")(env)


_register()


@cache
def _command() -> Any:
    """The command line, put together once: it has hundreds of options."""
    return typer.main.get_command(app)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code. `SPARSIFY_DEBUG=1` re-raises errors."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without the letter must not cost the result
    arguments = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    try:
        code = _command()(args=arguments, prog_name="sparsify", standalone_mode=False)
    except SystemExit:  # the reader of a pipe went away: there is nobody to tell
        return 1
    except TyperException as error:
        return _failed(_misspelt(error))
    except Exception as error:
        return _failed(_ours(error), error)
    if code == INTERRUPTED:  # typer's word for a KeyboardInterrupt
        return _failed(Interrupted("Interrupted.", "Nothing was written."))
    return int(code or 0)


def _ours(error: Exception) -> SparsifyError:
    """Any error as one of ours."""
    if _is_out_of_memory(error) or _is_out_of_memory(error.__cause__):
        return SparsifyError("Out of memory.", _first_line(error), "Use a smaller --batch-size, narrower layers (--arch-arg) or less data.")
    if isinstance(error, SparsifyError):
        return error
    if isinstance(error, OSError):
        return SparsifyError(f"The system refused: {error}.", "", "Check paths, permissions and free space.")
    return SparsifyError(
        f"Something unexpected happened: {type(error).__name__}: {_first_line(error)}",
        "This is a bug in sparsify or in the code it was given.",
        "Run again with SPARSIFY_DEBUG=1 to see where.",
    )


def _is_out_of_memory(error: BaseException | None) -> bool:
    """Whether Python, numpy or torch (processor or accelerator) could not get the memory it asked for."""
    if isinstance(error, MemoryError):
        return True
    said = str(error).lower()
    return isinstance(error, RuntimeError) and any(word in said for word in ("not enough memory", "out of memory", "can't allocate memory"))


def _first_line(error: BaseException) -> str:
    """The first line of what an error says, as a sentence."""
    line = next(iter(str(error).strip().splitlines()), "no reason given")
    return f"{line[:300].rstrip('. ')}."


def _misspelt(error: TyperException) -> BadRequest:
    """What typer says about flags and verbs, as an error of ours."""
    path = getattr(getattr(error, "ctx", None), "command_path", "sparsify")
    said = error.format_message().replace("Value error, ", "")
    return BadRequest(said if said.endswith(("?", ".")) else f"{said}.", "", f"See: {path} --help")


def _failed(error: SparsifyError, cause: Exception | None = None) -> int:
    if os.environ.get("SPARSIFY_DEBUG") == "1" and error.exit_code != INTERRUPTED:
        raise cause or error
    console.error(" ".join((str(error), *getattr(cause, "__notes__", ()))))
    return error.exit_code
