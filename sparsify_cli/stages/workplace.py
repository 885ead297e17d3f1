"""The folder of a training verb: claimed, kept resumable while the run lasts, finished atomically.

Under `torchrun` only the first process writes; the others work in a folder that is thrown away.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from sparsify_cli.errors import BadRequest, Diverged, Interrupted, SparsifyError, UnreadableFile
from sparsify_cli.recipes.process import rank
from sparsify_cli.recipes.shared import OutputFields
from sparsify_cli.stages.origin import origin_notes
from sparsify_cli.stages.write import Product, data_identity, manifest, output_folder, write_product
from sparsify_cli.training.engine import leave
from sparsify_cli.values.artifact import RUN, Artifact, claimed, is_artifact, relative_to, write_manifest
from sparsify_cli.values.atomic import replace_file


@dataclass(frozen=True, eq=False)
class Workplace:
    """A claimed folder.

    Args:
        folder: where the artifact grows.
        about: the unfinished product, for the manifest of an interrupted run.
        resumed: the state an interrupted run left, or None.
        notes: what is not as it was when that run began.
    """

    folder: Path
    about: Product
    resumed: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()

    def save(self, state: Mapping[str, Any]) -> None:
        """Write a resumable state, then the manifest that says the run is not finished."""
        replace_file(self.folder / RUN, lambda path: torch.save(dict(state), path))
        write_manifest(self.folder, manifest(self.folder, self.about, status="interrupted"))

    def finish(self, product: Product) -> None:
        """Write the finished artifact; the resumable state goes last."""
        write_product(self.folder, product)
        (self.folder / RUN).unlink(missing_ok=True)


@contextmanager
def workplace(recipe: OutputFields, about: Product, name: str, *, resume: Path | None) -> Iterator[Workplace]:
    """Claim the folder a recipe asks for, or the interrupted one that is resumed.

    Args:
        recipe: says where.
        about: the unfinished product, for the manifest.
        name: what is worked on.
        resume: an interrupted run's folder.

    Raises:
        Interrupted: with the command that continues.
    """
    if rank() > 0:
        with tempfile.TemporaryDirectory(prefix="sparsify-") as scratch:
            yield Workplace(Path(scratch), about, _state(resume) if resume else None)
        leave()
        return
    folder, held = (resume, True) if resume else output_folder(recipe, name)
    with claimed(folder, held=held):
        about = replace(about, facts={**about.facts, **_began(about, folder)})
        notes = origin_notes(Artifact.open(folder).manifest) if resume else ()
        try:
            yield Workplace(folder, about, _resumable(folder, about) if resume else None, notes)
        except (Interrupted, KeyboardInterrupt) as stop:
            raise _interrupted(stop, folder, recipe.verb) from stop
        except Diverged as error:
            raise _diverged(error, folder) from error
        except Exception as error:
            if (folder / RUN).is_file() and not isinstance(error, UnreadableFile):
                error.add_note(f"The training so far is kept; to go on from there: sparsify {recipe.verb} --resume {folder}")
            raise
    leave()


def _began(about: Product, folder: Path) -> dict[str, str]:
    """What a resumed run must find again: the training data, and where relative paths start."""
    data = {"data_sha256": data_identity(about.subject.samples("train"))} if about.subject.data else {}
    return {"started_in": relative_to(Path.cwd(), folder), **data}


def _interrupted(stop: BaseException, folder: Path, verb: str) -> Interrupted:
    """What is left after Ctrl-C, also after a second one."""
    what = stop.what if isinstance(stop, SparsifyError) else "Interrupted at once."
    if not is_artifact(folder):
        return Interrupted(what, "Nothing was written: no epoch had ended yet.", "Start it again.")
    if (folder / RUN).is_file():
        kept = "Everything so far is kept." if isinstance(stop, SparsifyError) else "The last state that was saved is kept."
        return Interrupted(what, kept, f"Continue: sparsify {verb} --resume {folder}")
    return Interrupted(what, f"{folder} was finished already.")


def _diverged(error: Diverged, folder: Path) -> Diverged:
    """The error, with what is left: a run that is resumed repeats its steps, so a kept state does not help."""
    if not is_artifact(folder):
        return Diverged(error.what, f"{error.why} Nothing was kept.", error.do)
    epochs = len(_state(folder)["history"])
    kept = f"The state after {epochs} epoch{'' if epochs == 1 else 's'} is kept in {folder}, but resuming it repeats the same steps."
    return Diverged(error.what, f"{error.why} {kept}", error.do)


def _resumable(folder: Path, about: Product) -> Mapping[str, Any]:
    """The state to go on from, once it is sure that the run started from what is there now."""
    manifest_then = Artifact.open(folder).manifest
    parent = manifest_then.get("parent")
    if about.parent is not None and parent is not None and parent["sha256"] != about.parent.checkpoint.source.sha256:
        raise UnreadableFile(
            f"{about.parent.path} is not what {folder} started from.", "Its sha256 differs from the one in the manifest.",
            "Put the original back, or start the run again.",
        )  # fmt: skip
    then, now = manifest_then.get("facts", {}).get("data_sha256"), about.facts.get("data_sha256")
    if then is not None and then != now:
        raise BadRequest(
            f"The training data is not what {folder} started from: sha256 {str(then)[:12]}..., now {str(now)[:12]}....",
            "Other samples, or another order, would give neither run.",
            "Put the original data back, or start the run again.",
        )
    return _state(folder)


def _state(folder: Path) -> Mapping[str, Any]:
    path = folder / RUN
    try:
        state: Mapping[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch reports a damaged file as many kinds of exception
        raise UnreadableFile(f"{path} cannot be read.", "The interrupted run cannot go on from it.", "Start it again.") from error
    return state
