"""The recipe of `compare`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from sparsify_cli.recipes.option import Option, Texts
from sparsify_cli.recipes.shared import DataFields, OutputFields


@dataclass(frozen=True, kw_only=True)
class CompareRecipe(DataFields, OutputFields):
    """Set any number of networks side by side, on the same samples: sizes, times, accuracy, who pays."""

    verb: ClassVar[str] = "compare"
    networks: Annotated[Texts, Option("Artifacts or checkpoint files, two or more; the page is about the first.", positional=True)] = ()
    arch: Annotated[
        str, Option("Architecture of files that do not know theirs: a name, or path/file.py:callable.", shelf="architectures")
    ] = ""
    arch_arg: Annotated[Texts, Option("Option of the architecture.", metavar="KEY=VALUE")] = ()
    dense: Annotated[
        str, Option("What all are measured against; left out = the first one's dense ancestor, else the first itself.", metavar="MODEL")
    ] = ""
    split: Annotated[str, Option("train, validation or test.")] = "test"
    gate: Annotated[
        Texts,
        Option("Condition on the first that is not the baseline, e.g. 'change.accuracy>=-0.015'; exit 3 otherwise.", metavar="GATE"),
    ] = ()
