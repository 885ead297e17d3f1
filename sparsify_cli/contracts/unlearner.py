"""The promise of an unlearner: forget samples after the fact, in two separate steps.

`prepare` may read the whole training set once and returns what must be kept for later (a memo); `erase` is given the samples to
forget, and for methods that need them retained and validation samples: some train on them, some look at a few to judge a step.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor, nn

from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.report import Finding
from sparsify_cli.values.samples import Samples

Memo = dict[str, Tensor]
"""What `prepare` keeps: plain named tensors, saved in an artifact."""


@dataclass(frozen=True, eq=False)
class Request:
    """What `erase` is given.

    Args:
        forget: the samples to forget.
        retain: training samples that stay.
        validation: held-out samples, for choosing the step; never the test split.
        masks: support of a sparse model; pruned weights stay zero.
        frozen: kept weights that may not move, because a sparser network inside this one owns them.
        fresh: seed -> a network as it was before training; None = the model's own layers, drawn anew.
    """

    forget: Samples
    retain: Samples
    validation: Samples
    masks: MaskSet = field(default_factory=MaskSet)
    frozen: MaskSet = field(default_factory=MaskSet)
    fresh: Callable[[int], nn.Module] | None = None


@dataclass(frozen=True, eq=False)
class Erasure:
    """The result of `erase`.

    Args:
        tensors: changed parameters and buffers by name, as in a state dict.
        findings: step norm, damping, epsilon, whatever the method chose.
    """

    tensors: Mapping[str, Tensor]
    findings: tuple[Finding, ...] = ()


class Unlearner(ABC):
    """Forgets samples. A frozen dataclass; its fields are its options."""

    as_trained: ClassVar[tuple[str, ...]] = ()
    """Options that, left out, are what the network was trained with, where that is recorded."""

    @property
    def idle(self) -> bool:
        """Whether its options ask that nothing changes, such as a step of length 0."""
        return False

    def effort(self, model: nn.Module, train: Samples, masks: MaskSet) -> str:
        """One sentence on what preparing will take, shown before it starts; empty when it takes nothing worth saying."""
        del model, train, masks
        return ""

    @abstractmethod
    def prepare(self, model: nn.Module, train: Samples, masks: MaskSet) -> Memo | None:
        """Read the training set once; None when the method needs nothing kept. The model is left as it was."""

    @abstractmethod
    def erase(self, model: nn.Module, request: Request, memo: Memo | None) -> Erasure:
        """The parameters after forgetting. The model is left as it was; an empty forget set changes nothing.

        Raises:
            BadRequest: the memo was made for another model or method.
        """
