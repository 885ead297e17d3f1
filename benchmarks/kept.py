"""Cells that a benchmark measured, kept so that a second call goes on with what is missing. Run by itself, it writes the tables anew."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Cell = dict[str, Any]
OF = ("bias", "channels", "elsa", "one_shot", "sparse_training", "unlearning", "unlearning_time")


@dataclass(frozen=True)
class Kept:
    """`NAME.jsonl`, and `NAME.txt` with the tables made of it.

    Args:
        script: NAME.py.
        by: what tells one cell from another; of a cell that was measured twice the last counts.
        tables: the text of all cells.
    """

    script: Path
    by: tuple[str, ...]
    tables: Callable[[list[Cell]], str]

    def cells(self) -> list[Cell]:
        """What was measured so far."""
        file = self.script.with_suffix(".jsonl")
        found = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        return list({tuple(cell[key] for key in self.by): cell for cell in found}.values())

    def there(self, *by: str) -> set[tuple[Any, ...]]:
        """What is known already, by some of the keys."""
        return {tuple(cell[key] for key in by or self.by) for cell in self.cells()}

    def add(self, cells: Iterable[Cell]) -> None:
        """Keep cells, and write the tables anew."""
        with self.script.with_suffix(".jsonl").open("a") as file:
            file.writelines(json.dumps(cell) + "\n" for cell in cells)
        self.write()

    def write(self) -> str:
        """Write the tables anew; they are returned, too."""
        text = self.tables(self.cells())
        self.script.with_suffix(".txt").write_text(text)
        return text


def in_columns(cells: Iterable[Cell], widths: Mapping[str, int]) -> str:
    """A heading and a row a cell, a column of its width for each number."""
    lines = [{name: name for name in widths}, *cells]
    return "".join("".join(f"{line.get(name, '-')!s:<{width}}" for name, width in widths.items()).rstrip() + "\n" for line in lines)


if __name__ == "__main__":
    for name in OF:
        kept = importlib.import_module(name).KEPT
        if kept.cells():
            kept.write()
