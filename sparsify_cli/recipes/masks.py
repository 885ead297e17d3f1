"""The recipe of `masks`: masks as things of their own, taken out of one network and put onto another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from sparsify_cli.recipes.option import Option, Texts
from sparsify_cli.recipes.shared import WeightsFields

Action = Literal["extract", "apply", "diff", "merge", "stats"]
How = Literal["and", "or", "vote"]


@dataclass(frozen=True, kw_only=True)
class MasksRecipe(WeightsFields):
    """Take masks out of a sparse network, put them onto another, compare and merge them."""

    verb: ClassVar[str] = "masks"
    action: Annotated[
        Action,
        Option(
            "extract MODEL: its masks as a file; apply MODEL --masks F: zero what they leave out; diff A B: overlap and IoU; "
            "merge A B ...: one of several; stats A: sparsity and patterns.",
            positional=True,
        ),
    ] = "stats"
    paths: Annotated[Texts, Option("A masks file, an artifact folder or a sparse checkpoint (its exact zeros).", positional=True)] = ()
    masks: Annotated[str, Option("apply: where the masks come from.", metavar="PATH")] = ""
    how: Annotated[How, Option("merge: keep what all keep (and), any (or), or more than half, ties dropped (vote).", metavar="NAME")] = (
        "and"
    )
    entry: Annotated[str, Option("Keys that lead to the weights inside a file, e.g. ema.", metavar="A.B")] = ""
    trust_pickle: Annotated[bool, Option("Read a pickle that names code: its tensors are read, nothing is run.")] = False
    skip: Annotated[Texts, Option("Leave out tensors matching this glob.", metavar="GLOB")] = ()
    include: Annotated[Texts, Option("Only tensors matching this glob.", metavar="GLOB")] = ()
