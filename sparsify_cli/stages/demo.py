"""`demo`: the whole job on scikit-learn's real handwritten digits, with a report at the end.

train a small batch-norm network -> prune 90 % -> fine-tune -> embed nested levels -> extract each -> unlearn a class
-> validate -> export packed and ONNX -> report. Each step is the verb a person would type, through the same stages.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

from sparsify_cli.contracts.listener import Listener
from sparsify_cli.errors import Anomalous, Regression
from sparsify_cli.recipes.option import Choice, decimal
from sparsify_cli.recipes.shared import MachineFields
from sparsify_cli.recipes.verbs import (
    DemoRecipe,
    EmbedRecipe,
    ExportRecipe,
    ExtractRecipe,
    FinetuneRecipe,
    PruneRecipe,
    ReportRecipe,
    TrainRecipe,
    UnlearnRecipe,
    ValidateRecipe,
)
from sparsify_cli.stages.embed import embed, logits_digest
from sparsify_cli.stages.export import export
from sparsify_cli.stages.extract import extract
from sparsify_cli.stages.finetune import finetune
from sparsify_cli.stages.outcome import Outcome, Table
from sparsify_cli.stages.prune import prune
from sparsify_cli.stages.report import report
from sparsify_cli.stages.subject import open_path
from sparsify_cli.stages.tables import said
from sparsify_cli.stages.train import train
from sparsify_cli.stages.unlearn import unlearn
from sparsify_cli.stages.validate import validate

M = TypeVar("M", bound=MachineFields)
FORGOTTEN = "class:3"
SPARSITY = Fraction(9, 10)
DENSE = 20
"""Epochs of the dense training; fine-tuning takes half of them, each embedded level three quarters."""

QUICK = 6
LOSS_ALLOWED = 0.015
"""How far below the dense accuracy the fine-tuned network may end, fraction."""


@dataclass(frozen=True)
class Steps:
    """What the demo made, by name of the step."""

    dense: Outcome
    pruned: Outcome
    finetuned: Outcome
    embedded: Outcome
    levels: tuple[Outcome, ...]
    unlearned: Outcome
    exported: tuple[Outcome, ...]
    page: Outcome


def demo(recipe: DemoRecipe, listener: Listener) -> Outcome:
    """Run every verb once and gather what they measured."""
    steps = _run(recipe, listener)
    identical = _identical_levels(steps)
    files = (*steps.page.files, *(file for outcome in steps.exported for file in outcome.files))
    return Outcome(
        "demo",
        f"Done. {steps.page.headline}",
        steps.page.report,
        tables=(Table("the whole job", ("step", "what came out"), tuple(_story(steps))), *steps.page.tables),
        notes=(f"{identical} of {len(steps.levels)} extracted levels give the logits of the network that was trained, bit for bit.",),
        hints=(f"open {steps.page.files[0]}",),
        files=files,
        facts={"artifacts": _artifacts(steps), "identical_levels": identical},
        failure=_lost_too_much(steps),
    )


def _run(recipe: DemoRecipe, listener: Listener) -> Steps:
    epochs, tell = QUICK if recipe.quick else DENSE, listener.note
    tell("1/8 train a small batch-norm network on the digits")
    dense = train(_like(recipe, TrainRecipe(arch="cnn", data="digits", epochs=epochs)), listener)
    tell("2/8 prune 90 % of its weights in one shot")
    pruned = prune(_like(recipe, PruneRecipe(model=str(dense.artifact), sparsity=SPARSITY)), listener)
    tell("3/8 fine-tune what is left, with the dense network as teacher")
    finetuned = finetune(
        _like(recipe, FinetuneRecipe(model=str(pruned.artifact), epochs=max(4, epochs // 2), objective=Choice("distill"))), listener
    )
    tell("4/8 embed nested sparse networks in one dense network")
    embedded = embed(_like(recipe, EmbedRecipe(model=str(dense.artifact), levels=recipe.levels, epochs=max(4, epochs * 3 // 4))), listener)
    tell("5/8 extract each of them by masking alone")
    levels = tuple(
        extract(_like(recipe, ExtractRecipe(model=str(embedded.artifact), level=decimal(level))), listener) for level in recipe.levels
    )
    tell(f"6/8 unlearn {FORGOTTEN} from the dense network")
    unlearned = unlearn(_like(recipe, UnlearnRecipe(model=str(dense.artifact), forget=FORGOTTEN)), listener)
    tell("7/8 export, verified against the network")
    exported = tuple(
        export(_like(recipe, ExportRecipe(model=str(finetuned.artifact), to=Choice(name))), listener) for name in ("packed", "onnx")
    )
    tell("8/8 validate and report")
    also = tuple(str(outcome.artifact) for outcome in (*levels, unlearned))
    page = report(_like(recipe, ReportRecipe(model=str(finetuned.artifact), also=also)), listener)
    return Steps(dense, pruned, finetuned, embedded, levels, unlearned, exported, page)


def _like(demo: DemoRecipe, recipe: M) -> M:
    """A verb's recipe with the demo's seed and threads."""
    return replace(recipe, seed=demo.seed, threads=demo.threads)


def _story(steps: Steps) -> Iterator[tuple[str, str]]:
    yield "train", steps.dense.headline
    yield "prune", steps.pruned.headline
    yield "finetune", steps.finetuned.headline
    yield "embed", steps.embedded.headline
    for outcome in steps.levels:
        yield "extract", f"{outcome.headline} Test accuracy {_validated(outcome)}."
    yield "unlearn", steps.unlearned.headline
    for outcome in steps.exported:
        yield "export", outcome.headline


def _validated(outcome: Outcome) -> str:
    measured = validate(ValidateRecipe(model=str(outcome.artifact)), Listener())
    return said(measured.report.get("accuracy"))


def _identical_levels(steps: Steps) -> int:
    """How many extracted levels give exactly the logits of the trained network.

    Raises:
        Anomalous: not all of them: an extraction must be exact.
    """
    expected: list[str] = steps.embedded.report.facts["logits_sha256"]
    same = sum(logits_digest(open_path(_folder(outcome))) == sha for outcome, sha in zip(steps.levels, expected, strict=True))
    if same < len(steps.levels):
        raise Anomalous(
            f"Only {same} of {len(steps.levels)} extracted levels equal the network that was trained.", "Extraction must be exact."
        )
    return same


def _lost_too_much(steps: Steps) -> Regression | None:
    now, before = steps.finetuned.report.get("accuracy"), steps.dense.report.get("accuracy")
    lost = (before.value or 0) - (now.value or 0) if now and before else 0.0
    if lost <= LOSS_ALLOWED:
        return None
    return Regression(f"The fine-tuned network lost {100 * lost:.1f} points of accuracy.", f"The demo allows {100 * LOSS_ALLOWED:.1f}.")


def _folder(outcome: Outcome) -> Path:
    return outcome.artifact or Path()


def _artifacts(steps: Steps) -> dict[str, Any]:
    named = {
        "dense": steps.dense,
        "pruned": steps.pruned,
        "finetuned": steps.finetuned,
        "embedded": steps.embedded,
        "unlearned": steps.unlearned,
    }
    return {
        **{name: str(outcome.artifact) for name, outcome in named.items()},
        "levels": [str(outcome.artifact) for outcome in steps.levels],
        "exported": [str(outcome.artifact) for outcome in steps.exported],
        "report": str(steps.page.artifact),
    }
