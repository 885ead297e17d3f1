"""Numbers of a training log sent to TensorBoard or MLflow as well, where these are installed.

Every number of a line becomes one point, named by its event: `epoch/accuracy`, `pruned/mask_change`. The log file stays the record;
a mirror is only ever written to.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any

from sparsify_cli.errors import BadRequest, UnknownName
from sparsify_cli.recipes.process import rank

PACKAGES = {"tensorboard": "torch.utils.tensorboard", "mlflow": "mlflow"}
"""What can be mirrored to -> the module that writes it."""


@dataclass(frozen=True)
class Mirror:
    """Somewhere else that hears of every line.

    Args:
        send: takes name -> number, and the step.
        close: called once at the end.
    """

    send: Callable[[Mapping[str, float], int], None]
    close: Callable[[], None]

    def hear(self, entry: Mapping[str, Any]) -> None:
        """One line of the log."""
        kind, step = str(entry.get("event", "training")).replace(" ", "_"), int(entry.get("step", 0))
        numbers = {f"{kind}/{name}": float(value) for name, value in entry.items() if name != "step" and _is_number(value)}
        if numbers:
            self.send(numbers, step)


def require_mirror(text: str) -> None:
    """Refuse what cannot be mirrored to, before anything is trained.

    Raises:
        UnknownName: no such place.
        BadRequest: its package is not installed.
    """
    if not text:
        return
    name = _name(text)
    if name not in PACKAGES:
        raise UnknownName("place to mirror to called", name, list(PACKAGES), "Write --mirror tensorboard or --mirror mlflow.")
    try:
        importlib.import_module(PACKAGES[name])
    except ImportError as error:
        raise BadRequest(f"--mirror {name} needs the package {name}, which is not installed.", "", f"pip install {name}") from error


def mirror(text: str, folder: Path | None, settings: Mapping[str, Any], *, step: int = 0) -> Mirror | None:
    """Open a mirror; None when none is asked for, or on another process than the first.

    Args:
        text: `tensorboard`, `tensorboard:FOLDER`, `mlflow` or `mlflow:ADDRESS`.
        folder: of the run; TensorBoard's files go into its `tensorboard`, or under its name into the folder that is given.
        settings: of the run, for MLflow's parameters.
        step: from which it goes on.

    Raises:
        BadRequest: it cannot be opened; nothing is trained then.
    """
    if not text or rank() or folder is None:
        return None
    try:
        return _opened(text, folder, settings, step)
    except Exception as error:  # whatever the package, its storage or a server has against it
        said = shorten(str(error), 300, placeholder=" ...").rstrip(". ") or type(error).__name__
        do = "Mend that, name another place, or leave --mirror out."
        raise BadRequest(f"--mirror {text} cannot be written to.", f"{_name(text)} says: {said}.", do) from error


def _opened(text: str, folder: Path, settings: Mapping[str, Any], step: int) -> Mirror:
    where = text.partition(":")[2]
    if _name(text) == "tensorboard":
        return _tensorboard(Path(where) / folder.name if where else folder / "tensorboard", step)
    return _mlflow(where, folder.name, settings)


def _name(text: str) -> str:
    return text.partition(":")[0]


def _tensorboard(folder: Path, step: int) -> Mirror:
    writer = importlib.import_module(PACKAGES["tensorboard"]).SummaryWriter(str(folder), purge_step=step or None)

    def send(numbers: Mapping[str, float], at: int) -> None:
        for name, value in numbers.items():
            writer.add_scalar(name, value, at)

    return Mirror(send, writer.close)


def _mlflow(address: str, name: str, settings: Mapping[str, Any]) -> Mirror:
    mlflow = importlib.import_module(PACKAGES["mlflow"])
    if address:
        mlflow.set_tracking_uri(address)
    mlflow.start_run(run_name=name)
    mlflow.log_params({key: str(value)[:500] for key, value in settings.items()})
    return Mirror(lambda numbers, at: mlflow.log_metrics(dict(numbers), step=at), mlflow.end_run)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
