"""What happened while training, one JSON object a line: epochs, changes of masks, warnings. Written while the run lasts.

The lines are part of a run's resumable state, so a resumed run has each of them once.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sparsify_cli.recipes.process import rank
from sparsify_cli.stages.mirror import Mirror
from sparsify_cli.values.artifact import LOG

Entry = Mapping[str, Any]


class TrainingLog:
    """The lines of a run, in memory and in a file.

    Args:
        path: where to write; None, or another process than the first, keeps them in memory only.
        entries: those of the run that is resumed.
        mirror: hears every new line as well.
    """

    def __init__(self, path: Path | None, entries: Sequence[Entry] = (), mirror: Mirror | None = None) -> None:
        self.entries: list[Entry] = list(entries)
        self.mirror = mirror
        self.path = path if rank() == 0 else None
        if self.path is not None:
            self.path.write_text("".join(_line(entry) for entry in entries))

    def add(self, entry: Entry) -> None:
        """One more line."""
        self.entries.append(entry)
        if self.path is not None:
            with self.path.open("a") as file:
                file.write(_line(entry))
        self._mirrored(lambda mirror: mirror.hear(entry))

    def close(self) -> None:
        """No more lines."""
        self._mirrored(lambda mirror: mirror.close())

    def _mirrored(self, tell: Callable[[Mirror], None]) -> None:
        """Tell the mirror; when that fails, say so and do without it: the file is the record."""
        if self.mirror is None:
            return
        mirror = self.mirror
        try:
            tell(mirror)
        except Exception as error:  # whatever a disk or a server says
            self.mirror = None
            step = self.entries[-1].get("step", 0) if self.entries else 0
            self.add({"event": "warning", "step": step, "text": f"the mirror failed and is left out from here on: {error}."})


def read_log(folder: Path) -> list[Entry]:
    """The lines an artifact has; none where there is no log or it is damaged."""
    try:
        found = [json.loads(line) for line in (folder / LOG).read_text().splitlines()]
    except (OSError, ValueError):
        return []
    return [entry for entry in found if isinstance(entry, dict) and _is_sound(entry)]


NUMBERS = ("step", "accuracy", "sparsity", "mask_change", "sad", "dead_channels", "share", "rate")
"""What is a number in every entry that has it."""


def _is_sound(entry: Entry) -> bool:
    """False for a line that no run of ours writes: a log may be anybody's."""
    densities = entry.get("densities", {})
    if not isinstance(densities, dict):
        return False
    numbers = [*(entry[name] for name in NUMBERS if name in entry), *densities.values()]
    needed = {"epoch": ("step", "accuracy", "sparsity"), "overlap": ("share",)}.get(str(entry.get("event")), ("step",))
    return all(isinstance(n, int | float) and math.isfinite(n) for n in numbers) and all(name in entry for name in needed)


def warnings_in(entries: Sequence[Entry], do: str = "--allocation uniform or erk spares thin layers.") -> tuple[str, ...]:
    """What a person should know, each sentence once; also when a layer ends with hardly any weight, and what to `do` about that."""
    said = [str(entry["text"]) for entry in entries if entry.get("event") == "warning"]
    changes = [entry for entry in entries if "least_density" in entry]
    if changes and changes[-1]["thin_layers"]:
        last = changes[-1]
        more = f", {last['thin_layers']} layers in all under 2 %" if last["thin_layers"] > 1 else ""
        said.append(f"{last['thinnest']} keeps {last['least_density']:.2%} of its weights{more}: {do}")
    return tuple(dict.fromkeys(said))


def _line(entry: Entry) -> str:
    return json.dumps(entry) + "\n"
