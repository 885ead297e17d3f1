"""Groups of fields that several verbs share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from sparsify_cli.recipes.duration import Duration, Interval
from sparsify_cli.recipes.option import (
    Allocation,
    Choice,
    DurationText,
    IntervalText,
    Option,
    PatternText,
    Shares,
    Sparsity,
    Strategy,
    Texts,
)
from sparsify_cli.recipes.pattern import Pattern
from sparsify_cli.recipes.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class ModelFields(Recipe):
    """Which network."""

    model: Annotated[str, Option("Checkpoint file or artifact folder; empty = the newest artifact that fits.", positional=True)] = ""
    arch: Annotated[str, Option("Architecture: a name, package.module:callable or path/file.py:callable.", shelf="architectures")] = ""
    arch_arg: Annotated[Texts, Option("Option of the architecture.", metavar="KEY=VALUE")] = ()
    entry: Annotated[str, Option("Keys that lead to the weights inside the file, e.g. ema or model.encoder.", metavar="A.B")] = ""
    trust_pickle: Annotated[
        bool, Option("Read a pickle that names code: its tensors are read, nothing is run, and the code stays in what is written.")
    ] = False


@dataclass(frozen=True, kw_only=True)
class DataFields(Recipe):
    """Which data."""

    data: Annotated[
        str, Option("Data: digits, idx:FOLDER, folder:PATH, npz:FILE, module:callable or file.py:callable.", shelf="datasets")
    ] = ""
    data_arg: Annotated[Texts, Option("Option of the dataset.", metavar="KEY=VALUE")] = ()


@dataclass(frozen=True, kw_only=True)
class MachineFields(Recipe):
    """What makes a run repeatable."""

    seed: Annotated[int, Field(ge=0), Option("Seed of everything random.")] = 0
    threads: Annotated[int, Field(ge=0), Option("CPU threads; 0 = one a core. One is exactly repeatable.")] = 1


@dataclass(frozen=True, kw_only=True)
class OutputFields(MachineFields):
    """Where the result goes."""

    out: Annotated[str, Option("Folder to write; default runs/NNN-verb-name.")] = ""


@dataclass(frozen=True, kw_only=True)
class WeightsFields(OutputFields):
    """How changed weights are written."""

    save_as: Annotated[
        Literal["same", "safetensors"], Option("same = the format, names, wrapper and types of the file they came from; or safetensors.")
    ] = "same"
    extras: Annotated[
        Literal["keep", "drop"], Option("What lies beside the weights (optimizer, epoch, arguments): keep it as it is, or drop it.")
    ] = "keep"


@dataclass(frozen=True, kw_only=True)
class SparsityFields(MachineFields):
    """Which weights go."""

    sparsity: Annotated[Sparsity | None, Option("Fraction of zeros among prunable weights, in [0, 1].")] = None
    pattern: Annotated[PatternText, Option("unstructured, N:M (keep N of M inputs; N:MT = outputs too) or block:RxC.")] = Pattern()
    criterion: Annotated[Strategy, Option("How weights are ranked.", shelf="criteria")] = Choice("magnitude")
    allocation: Annotated[Allocation, Option("How the zeros are shared among layers.")] = "global"
    skip: Annotated[Texts, Option("Leave tensors matching this glob (or re:EXPRESSION) dense.", metavar="GLOB")] = ()
    include: Annotated[Texts, Option("Prune only tensors matching this glob (or re:EXPRESSION).", metavar="GLOB")] = ()


SELF = "self"
"""The teacher that is the network itself, as it was at the start; no path."""


@dataclass(frozen=True, kw_only=True)
class TrainFields(Recipe):
    """How weights are trained."""

    epochs: Annotated[int, Field(ge=1), Option("Passes over the training data (for embed: for each level).")] = 10
    batch_size: Annotated[int, Field(ge=1), Option("Samples a step, over all processes.")] = 64
    optimizer: Annotated[Literal["sgd", "adam", "adamw"], Option("Optimizer; adamw decays weights apart from their gradients.")] = "sgd"
    lr: Annotated[float, Field(gt=0), Option("Peak learning rate.")] = 0.05
    momentum: Annotated[float, Field(ge=0, lt=1), Option("SGD momentum.")] = 0.9
    nesterov: Annotated[bool, Option("SGD: Nesterov's momentum.")] = False
    weight_decay: Annotated[float, Field(ge=0), Option("Weight decay.")] = 5e-4
    clip: Annotated[float, Field(ge=0), Option("Largest norm of a step's gradient; 0 = no limit.")] = 0.0
    accumulate: Annotated[int, Field(ge=1), Option("Parts a batch is computed in, to save memory; gradients add up.")] = 1
    augment: Annotated[
        Literal["none", "flip", "crop-flip"],
        Option("Training images: none, flip, or crop-flip (shifted by up to an eighth too)."),
    ] = "none"
    workers: Annotated[
        int, Field(ge=0, le=64), Option("Threads that prepare batches ahead, two each; they change nothing but the time.")
    ] = 0
    schedule: Annotated[Literal["cosine", "linear", "multi-step", "constant"], Option("Learning-rate schedule.")] = "cosine"
    floor: Annotated[float, Field(ge=0, le=1), Option("cosine, linear: share of --lr that is left at the end.")] = 0.0
    milestones: Annotated[Shares, Option("multi-step: shares of the run, in [0, 1], where the rate falls.")] = (0.5, 0.75)
    gamma: Annotated[float, Field(gt=0, le=1), Option("multi-step: factor at each milestone.")] = 0.1
    warmup: Annotated[DurationText, Option("Linear warm-up, e.g. 1ep, 100it or 0.05run.")] = Duration.parse("0.05run")
    objective: Annotated[Strategy, Option("What is minimised: a name, or file.py:callable of (model, batch).", shelf="objectives")] = (
        Choice("cross-entropy")
    )
    distill_weight: Annotated[
        str, Option("distill: the teacher's share in [0, 1]; auto = by the noise of gradients.", metavar="SHARE|auto")
    ] = ""
    teacher: Annotated[str, Option("distill: the file or artifact that teaches, or self; default the dense ancestor.", metavar="MODEL")] = (
        ""
    )
    teacher_arch: Annotated[
        str, Option("distill: the teacher's architecture, where it is another one and its file is no artifact.", shelf="architectures")
    ] = ""
    teacher_arch_arg: Annotated[Texts, Option("Option of the teacher's architecture.", metavar="KEY=VALUE")] = ()
    average: Annotated[float, Field(ge=0, lt=1), Option("Decay of averaged weights (EMA), written beside the last ones; 0 = none.")] = 0.0
    keep: Annotated[
        Literal["last", "best"], Option("Whose weights: the last epoch's, or the best's on validation data at full sparsity.")
    ] = "last"
    patience: Annotated[int, Field(ge=0), Option("Stop when so many epochs at full sparsity bring nothing better; 0 = never.")] = 0
    save_every: Annotated[IntervalText, Option("How often a resumable state is written: 1ep, 200it or 5min.")] = Interval.parse("1ep")
    mirror: Annotated[
        str, Option("Send the log's numbers to tensorboard[:FOLDER] or mlflow[:ADDRESS] too.", metavar="tensorboard|mlflow")
    ] = ""
    device: Annotated[str, Option("auto, cpu or cuda.")] = "auto"
    precision: Annotated[str, Option("32-true, bf16-mixed, 16-mixed or 64-true.")] = "32-true"
    parallel: Annotated[
        Literal["ddp", "fsdp"],
        Option("Under torchrun each process holds the network (ddp), or some rows of weights, gradients and optimizer (fsdp)."),
    ] = "ddp"
