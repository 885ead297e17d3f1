"""The recipe of each verb."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from sparsify_cli.recipes.analyze import AnalyzeRecipe
from sparsify_cli.recipes.compare import CompareRecipe
from sparsify_cli.recipes.masks import MasksRecipe
from sparsify_cli.recipes.option import (
    Allocation,
    BudgetText,
    Choice,
    Levels,
    MillisecondsText,
    Option,
    PatternText,
    SizeText,
    Strategy,
    Texts,
)
from sparsify_cli.recipes.pattern import Pattern
from sparsify_cli.recipes.recalibrate import RecalibrateRecipe
from sparsify_cli.recipes.recipe import Recipe
from sparsify_cli.recipes.shared import DataFields, MachineFields, ModelFields, OutputFields, SparsityFields, TrainFields, WeightsFields


@dataclass(frozen=True, kw_only=True)
class PruneRecipe(ModelFields, DataFields, SparsityFields, WeightsFields):
    """Remove weights in one shot, without training."""

    verb: ClassVar[str] = "prune"
    allocation: Annotated[Allocation, Option("How the zeros are shared among layers.")] = "auto"
    budget: Annotated[
        BudgetText | None, Option("Instead of --sparsity: params=0.1, macs=0.25 or bytes=2MB of the whole network.", metavar="KIND=AMOUNT")
    ] = None
    solver: Annotated[
        Strategy | None,
        Option("Repair the weights that stay, with data; left out = nothing is repaired.", shelf="solvers", also="auto"),
    ] = None
    samples: Annotated[int, Field(ge=1), Option("Training samples that --solver, or a criterion that sees inputs, looks at.")] = 1024
    augment: Annotated[int, Field(ge=0, le=100), Option("Flipped and shifted copies of each calibration image; 0 = the image itself.")] = 0
    target: Annotated[
        Literal["dense", "own"], Option("What a --solver imitates: the dense network's outputs, or the layer's own on its inputs now.")
    ] = "dense"
    batchnorm: Annotated[bool, Option("Re-estimate batch-norm statistics when architecture and data are known.")] = True
    permute: Annotated[
        bool, Option("N:M: first reorder channels so that the pattern costs less; the network's outputs stay what they are.")
    ] = False
    effort: Annotated[
        Literal["auto", "normal", "high"],
        Option(
            "high = afterwards the weights that stay are trained to imitate the dense network, for minutes; "
            "auto = with --solver auto, where much was lost; normal = never."
        ),
    ] = "auto"
    passes: Annotated[int, Field(ge=1), Option("Passes over the calibration samples of --effort auto and high.")] = 15
    minutes: Annotated[
        float | None,
        Field(gt=0, le=1e6),
        Option("Of one core, that --solver auto may spend on ALPS and imitation, counted in operations; left out = by --effort."),
    ] = None
    bias: Annotated[bool, Option("Correct biases for the shift of mean outputs, with --solver.")] = True
    strict: Annotated[bool, Option("Refuse to go on when a layer cannot carry the pattern, instead of leaving it dense.")] = False
    allow_nonfinite: Annotated[bool, Option("Accept NaN and infinite weights: they rank like zeros, so they go first.")] = False


@dataclass(frozen=True, kw_only=True)
class TrainRecipe(ModelFields, DataFields, SparsityFields, TrainFields, OutputFields):
    """Train a network from scratch (or from a checkpoint), dense or becoming sparse."""

    verb: ClassVar[str] = "train"
    without: Annotated[
        str, Option("Training samples a new network is never shown, named as by unlearn --forget: the reference of its --audit.")
    ] = ""
    regime: Annotated[Strategy, Option("How the masks evolve.", shelf="regimes")] = Choice("fixed")
    batchnorm: Annotated[
        bool, Option("Measure batch-norm statistics again on batches as trained on; kept where validation loss falls.")
    ] = False


@dataclass(frozen=True, kw_only=True)
class FinetuneRecipe(ModelFields, DataFields, SparsityFields, TrainFields, WeightsFields):
    """Train a pruned network further; masks hold after every step."""

    verb: ClassVar[str] = "finetune"
    regime: Annotated[Strategy, Option("How the masks evolve.", shelf="regimes")] = Choice("fixed")
    batchnorm: Annotated[
        bool, Option("Measure batch-norm statistics again on batches as trained on; kept where validation loss falls.")
    ] = False
    transfer: Annotated[
        Literal["none", "linear", "full"],
        Option("Another task, with a new dense classifier: linear = only it is trained, on features computed once; full = all is."),
    ] = "none"
    head: Annotated[
        str, Option("--transfer: the layer that is replaced; left out = the linear one that gives the outputs.", metavar="LAYER")
    ] = ""


@dataclass(frozen=True, kw_only=True)
class EmbedRecipe(ModelFields, DataFields, SparsityFields, TrainFields, OutputFields):
    """Nest several sparse networks inside one network (ELSA)."""

    verb: ClassVar[str] = "embed"
    levels: Annotated[Levels, Option("Sparsities to embed, e.g. 0.95,0.8,0.5; trained sparsest first.")] = ()
    epochs: Annotated[
        int, Field(ge=0), Option("Passes over the training data for each level; 0 = in one shot, untrained, by --criterion or --solver.")
    ] = 10
    solver: Annotated[
        Strategy | None,
        Option(
            "With --epochs 0: repair each level around the weights of sparser ones; one that works on layers.", shelf="solvers", also="auto"
        ),
    ] = None
    samples: Annotated[int, Field(ge=1), Option("Training samples that --solver looks at.")] = 1024
    regime: Annotated[Strategy, Option("How each level's masks evolve.", shelf="regimes")] = Choice("gmp")
    state: Annotated[
        Literal["private", "shared-affine", "shared"],
        Option("Batch norm and biases: of each level; statistics alone of each; or none, measured again on data by extract."),
    ] = "private"
    classifier: Annotated[
        Literal["shared", "private"], Option("The last linear layer: nested like the others, or dense and of each level's own.")
    ] = "shared"


@dataclass(frozen=True, kw_only=True)
class ExtractRecipe(ModelFields, DataFields, OutputFields):
    """Take one sparse network out of an embedded artifact, by masking alone."""

    verb: ClassVar[str] = "extract"
    level: Annotated[str, Option("A sparsity that was embedded (0.8) or a level number (2).")] = ""
    max_bytes: Annotated[
        SizeText | None,
        Option(
            "Instead: the densest level for which at most this is read of the file, e.g. 5MB. What is written may be larger.",
            metavar="SIZE",
        ),
    ] = None
    max_latency: Annotated[
        MillisecondsText | None, Option("Instead: the densest level that was measured to take at most this, e.g. 3ms.", metavar="TIME")
    ] = None
    to: Annotated[Strategy | None, Option("Write it in this format, in one step.", shelf="exporters")] = None


@dataclass(frozen=True, kw_only=True)
class ShrinkRecipe(ModelFields, DataFields, OutputFields):
    """Remove zeroed filters, channels and neurons for real; outputs stay what they are."""

    verb: ClassVar[str] = "shrink"
    compact: Annotated[
        float,
        Field(ge=0, le=1),
        Option("Convolutions with zero columns become matrix products where at most this share of the work is left; 0 = none."),
    ] = 0.0


@dataclass(frozen=True, kw_only=True)
class UnlearnRecipe(ModelFields, DataFields, WeightsFields):
    """Forget training samples, with evidence: in one step (SSSE), or by another method."""

    verb: ClassVar[str] = "unlearn"
    forget: Annotated[str, Option("A CSV or JSON file of sample ids, class:NAME, attribute:NAME, or random:5%.")] = ""
    unlearner: Annotated[Strategy, Option("How samples are forgotten.", shelf="unlearners")] = Choice("ssse")
    prepare: Annotated[bool, Option("Only prepare: compute and store what later erasures need.")] = False
    memo: Annotated[str, Option("Artifact of an earlier --prepare.")] = ""
    batchnorm: Annotated[bool, Option("Measure batch-norm statistics again on what stays: they remember forgotten samples too.")] = False
    audit: Annotated[
        bool, Option("Measure what an auditor asks: membership attacks, distances of answers, how fast the samples are relearned.")
    ] = False
    reference: Annotated[
        Texts,
        Option(
            "--audit: a network trained anew without the samples (--unlearner retrain), to compare with; a second one, of another --seed, "
            "shows how far two such networks are apart.",
            metavar="ARTIFACT",
        ),
    ] = ()
    most_harm: Annotated[
        float, Field(ge=0, le=1), Option("Largest fall of test accuracy on the classes that stay; a larger one is exit 4.")
    ] = 0.1
    gate: Annotated[Texts, Option("Condition that must hold, e.g. 'accuracy_forget_after<=0.15'; exit 3 otherwise.", metavar="GATE")] = ()


@dataclass(frozen=True, kw_only=True)
class ValidateRecipe(ModelFields, DataFields, OutputFields):
    """Measure a network: accuracy, calibration, groups, sparsity, bytes, latency."""

    verb: ClassVar[str] = "validate"
    out: Annotated[str, Option("Folder to write report.json into; it must not exist. Left out = nothing is written.")] = ""
    split: Annotated[str, Option("train, validation or test.")] = "test"
    gate: Annotated[Texts, Option("Condition that must hold, e.g. 'accuracy>=0.95'; exit 3 otherwise.", metavar="GATE")] = ()


@dataclass(frozen=True, kw_only=True)
class ExportRecipe(ModelFields, DataFields, OutputFields):
    """Write the network in another format, and verify it."""

    verb: ClassVar[str] = "export"
    to: Annotated[Strategy, Option("Format.", shelf="exporters")] = Choice("packed")
    level: Annotated[str, Option("For an embedded artifact: the level to export.")] = ""


@dataclass(frozen=True, kw_only=True)
class TicketRecipe(Recipe):
    """Does a winning ticket really win? The verdict on trained artifacts, by rigorous conditions."""

    verb: ClassVar[str] = "ticket"
    dense: Annotated[Texts, Option("The best dense network of any recipe tried; several seeds.", metavar="ARTIFACT")] = ()
    ticket: Annotated[Texts, Option("finetune or train --regime imp.", metavar="ARTIFACT")] = ()
    reinit: Annotated[Texts, Option("The same with regime.branch=reinit.", metavar="ARTIFACT")] = ()
    random: Annotated[Texts, Option("The same with regime.branch=random.", metavar="ARTIFACT")] = ()
    finetuned: Annotated[Texts, Option("Pruned once and trained as long, at the same sparsity.", metavar="ARTIFACT")] = ()


@dataclass(frozen=True, kw_only=True)
class TransferRecipe(Recipe):
    """How well do sparse networks transfer? Their errors on several tasks beside the dense network's."""

    verb: ClassVar[str] = "transfer"
    artifact: Annotated[Texts, Option("Artifacts of finetune --transfer, the dense network's too; several seeds.", positional=True)] = ()
    results: Annotated[str, Option("Or (also) a CSV file with columns task, model, sparsity, accuracy.", metavar="FILE")] = ""


@dataclass(frozen=True, kw_only=True)
class ReportRecipe(ModelFields, DataFields, OutputFields):
    """Compare a compressed network with its dense ancestor: one HTML page, JSON, Markdown and CSV."""

    verb: ClassVar[str] = "report"
    dense: Annotated[str, Option("Compare with this file or artifact instead of the dense ancestor.", metavar="MODEL")] = ""
    split: Annotated[str, Option("train, validation or test.")] = "test"
    also: Annotated[Texts, Option("Another artifact to show beside it.", metavar="ARTIFACT")] = ()
    population: Annotated[
        Texts, Option("The same network from another seed: its answers, and its dense ancestor's, are averaged in.", metavar="ARTIFACT")
    ] = ()
    sparsities: Annotated[
        Levels, Option("Prune a dense network to each of these first, and show numbers against sparsity, e.g. 0.5,0.8,0.9,0.95.")
    ] = ()
    pattern: Annotated[PatternText, Option("With --sparsities: unstructured, N:M, N:MT, block:RxC.")] = Pattern()
    solver: Annotated[
        Strategy | None, Option("With --sparsities: repair the weights that stay; as for prune.", shelf="solvers", also="auto")
    ] = None
    epochs: Annotated[int, Field(ge=0), Option("With --sparsities: fine-tune each for so many passes.")] = 0
    forecast: Annotated[bool, Option("Instead, from a dense network alone: which answers and whose bias compression puts at risk.")] = False
    score: Annotated[str, Option("Say how right this forecast of the dense ancestor was.", metavar="FORECAST")] = ""
    identity: Annotated[
        Texts, Option("Attribute that tells groups apart like a group column, for amplified bias and forecasts.", metavar="ATTRIBUTE")
    ] = ()
    gate: Annotated[Texts, Option("Condition that must hold, e.g. 'change.accuracy>=-0.015'; exit 3 otherwise.", metavar="GATE")] = ()


@dataclass(frozen=True, kw_only=True)
class InspectRecipe(Recipe):
    """Look inside a file or an artifact, or compare two."""

    verb: ClassVar[str] = "inspect"
    path: Annotated[Texts, Option("Checkpoint file or folder, or artifact; a second one to compare with it.", positional=True)] = ()
    entry: Annotated[str, Option("Keys that lead to the weights inside the file, e.g. ema or model.encoder.", metavar="A.B")] = ""
    values: Annotated[
        bool | None, Option("Read every number, or none, to count zeros and find patterns; left out = up to 256 MB of tensors.")
    ] = None
    all: Annotated[bool, Option("Show a row for every tensor, however many there are.")] = False
    trust_pickle: Annotated[bool, Option("Read a pickle that names code: its tensors are read, nothing is run.")] = False


@dataclass(frozen=True, kw_only=True)
class DemoRecipe(MachineFields):
    """The whole job on embedded real data, with a report at the end."""

    verb: ClassVar[str] = "demo"
    quick: Annotated[bool, Option("A short version: fewer epochs, the same path.")] = False
    levels: Annotated[Levels, Option("Sparsities to embed.")] = (Fraction(95, 100), Fraction(8, 10), Fraction(5, 10))


RECIPES: tuple[type[Recipe], ...] = (
    TrainRecipe,
    PruneRecipe,
    FinetuneRecipe,
    EmbedRecipe,
    ExtractRecipe,
    ShrinkRecipe,
    RecalibrateRecipe,
    UnlearnRecipe,
    ValidateRecipe,
    ExportRecipe,
    ReportRecipe,
    CompareRecipe,
    TicketRecipe,
    TransferRecipe,
    MasksRecipe,
    AnalyzeRecipe,
    InspectRecipe,
    DemoRecipe,
)
"""Every verb that takes a recipe, in the order of the path of data."""
