"""Group lasso while training: whole filters, channels, shapes or layers become exactly zero (SSL).

    minimise E(W) + lam * sum over groups of |g|^(p/2) * |w_g|     p = `size_power`, 0 as published

    proximal      the optimizer's step on E; then for each kind of group in turn
                  w_g <- w_g * max(0, 1 - lr * lam * |g|^(p/2) / |w_g|), with the learning rate of the step
    subgradient   g = dE/dW + lam * sum over kinds of |g|^(p/2) * w_g / |w_g| (0/0 is 0); the optimizer's step; then
                  every weight in a group with |w| < `threshold` becomes 0
    fine-tuning   for the last `finetune` of the run lam is 0, and groups that are zero stay zero

Groups come and go until fine-tuning begins; then the zero ones become masks. How many there are of each layer and kind is told
then, and how many weights are zero besides: the threshold also zeroes single weights, which may move again in fine-tuning.

Momentum amplifies the subgradient of the penalty and not the proximal step: lam = 0.1 of the proximal step is lam = 0.01 of the
subgradient at momentum 0.9. The subgradient makes weights swing around zero by lr * lam / (1 - momentum), and only where that is
below the threshold do they become zero: it needs a long time at a small learning rate before `finetune`. Weight decay shrinks
what survives; the authors set it to 0 until fine-tuning. A network keeps the inputs of its first weight (the data) and the outputs
of its last (the classes), in the order of its parameters, unless `first` and `last` say otherwise.

Source: Wen et al. 2016 (SSL, arXiv 1608.03665), section 3; official wenwei202/caffe branch scnn, `sgd_solver.cpp` (subgradient),
`blob.cpp` and `common.hpp` (threshold 1e-4). Differs: proximal is the default; kinds that overlap are applied in turn, which is
not their joint proximal operator; with AdamW the proximal step uses the plain learning rate, not its diagonal metric; the
threshold concerns weights in groups only, until fine-tuning; one lam for all layers (theirs has a multiplier for each). What was
pruned before the run stays pruned.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from pydantic import BeforeValidator
from torch import Tensor

from sparsify_cli.contracts.regime import Regime
from sparsify_cli.errors import BadRequest
from sparsify_cli.recipes.duration import Duration
from sparsify_cli.training import guard, masking
from sparsify_cli.training.weight_groups import KINDS, Groups, groups_of
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.run import Run
from sparsify_cli.values.shards import whole

VARIANTS = ("proximal", "subgradient")


def _joined(value: Any) -> Any:
    return ",".join(str(part) for part in value) if isinstance(value, list | tuple) else value


Names = Annotated[str, BeforeValidator(_joined)]


@dataclass(frozen=True, kw_only=True)
class Ssl(Regime):
    """Structured sparsity learning.

    Args:
        groups: what may vanish, separated by commas: filters, channels, shapes, layers.
        lam: weight of the penalty, >= 0.
        variant: proximal, or subgradient as in the official code.
        size_power: p; 1 weighs a group by the root of its size.
        threshold: subgradient: weights below it become 0 after every step.
        finetune: how long the network trains without the penalty, at the end of the run.
        first: let inputs of the first weight vanish too.
        last: let outputs of the last weight vanish too.
        only: globs of the weights whose groups may vanish, separated by commas.
    """

    aims: ClassVar[bool] = False
    prunes: ClassVar[bool] = False

    groups: Names = "filters,channels"
    lam: float = 0.1
    variant: str = "proximal"
    size_power: int = 0
    threshold: float = 1e-4
    finetune: str = "0.25run"
    first: bool = False
    last: bool = False
    only: Names = "*"

    def __post_init__(self) -> None:
        """Read every option once, so that a mistyped one is refused before anything is loaded."""
        Duration.parse(self.finetune)
        strange = [kind for kind in self._kinds if kind not in KINDS]
        if strange or len(set(self._kinds)) < len(self._kinds):
            raise BadRequest(f"The groups of ssl cannot be {self.groups!r}.", "", f"Name some of {', '.join(KINDS)}, each once.")
        if self.variant not in VARIANTS:
            raise BadRequest(f"ssl has no variant {self.variant!r}.", "", f"Choose {' or '.join(VARIANTS)}.")
        if self.size_power not in (0, 1):
            raise BadRequest(f"ssl cannot weigh groups with size_power {self.size_power}.", "", "Choose 0 (as published) or 1.")
        if not (0 <= self.lam < math.inf and 0 <= self.threshold < math.inf):
            raise BadRequest(f"ssl cannot have lam {self.lam} and threshold {self.threshold}.", "", "Give numbers of at least 0.")

    def start(self, run: Run) -> None:
        """Tell what will be shrunk.

        Raises:
            BadRequest: there is no group to shrink, or fine-tuning leaves no step before it.
        """
        found = self._groups(run)
        if not found:
            raise BadRequest(
                f"ssl finds no {' or '.join(self._kinds)} that may vanish.",
                f"Of the weights that match {self.only}, the first keeps its inputs and the last its outputs.",
                "Set regime.first or regime.last, other groups, or another regime.only.",
            )
        if self._freeze_at(run) < 1:
            what = f"ssl would fine-tune {self.finetune} of {run.total} steps, and have none before."
            raise BadRequest(what, "", "Make regime.finetune shorter, or train more --epochs.")
        guard.enforce(run)
        decay = max(float(group.get("weight_decay", 0)) for group in run.optimizer.param_groups)
        run.tell("ssl", lam=self.lam, weights=len({one.name for one in found}), weight_decay=decay)

    def step(self, run: Run, loss: Callable[[], Tensor]) -> Tensor:
        """One step on loss and penalty; without the penalty in fine-tuning."""
        freeze_at = self._freeze_at(run)
        if run.step == freeze_at:
            self._freeze(run)
        if run.step >= freeze_at:
            return guard.descend(run, loss)
        found = self._groups(run)
        value = guard.gradients(run, loss)
        if self.variant == "subgradient":
            self._add_subgradient(run, found)
        guard.update(run)
        self._make_zeros(run, found)
        return value

    def finish(self, run: Run) -> None:
        """Zero groups become masks, unless they are."""
        if run.step <= self._freeze_at(run):
            self._freeze(run)

    def is_settled(self, run: Run) -> bool:
        """Zero groups are masked."""
        return run.step > self._freeze_at(run)

    @property
    def _kinds(self) -> tuple[str, ...]:
        return tuple(part.strip() for part in self.groups.split(","))

    def _groups(self, run: Run) -> list[Groups]:
        only = [part.strip() for part in self.only.split(",")]
        return groups_of(run.model, self._kinds, first=self.first, last=self.last, only=only)

    def _freeze_at(self, run: Run) -> int:
        """Steps before fine-tuning."""
        return run.total - Duration.parse(self.finetune).steps(per_epoch=run.per_epoch, total=run.total)

    def _weight_of(self, one: Groups, weight: Tensor) -> float:
        """Factor of a group's norm in the penalty."""
        return self.lam * math.sqrt(one.size(weight)) ** self.size_power

    @torch.no_grad()
    def _add_subgradient(self, run: Run, found: list[Groups]) -> None:
        parameters = dict(run.model.named_parameters())
        for one in found:
            weight = parameters[one.name]
            if weight.grad is not None:
                weight.grad.add_(one.directions(_free(run, one.name, weight)), alpha=self._weight_of(one, weight))

    @torch.no_grad()
    def _make_zeros(self, run: Run, found: list[Groups]) -> None:
        """The proximal step, or the threshold; frozen weights are no part of either."""
        parameters = dict(run.model.named_parameters())
        rates = {id(weight): float(group["lr"]) for group in run.optimizer.param_groups for weight in group["params"]}
        for one in found:
            weight = parameters[one.name]
            free = _free(run, one.name, weight)
            if self.variant == "subgradient":
                made = free.masked_fill(free.abs() < self.threshold, 0)
            else:
                made = one.shrunk(free, rates[id(weight)] * self._weight_of(one, weight))
            weight.copy_(made if free is weight else torch.where(run.frozen[one.name][0], weight, made))

    def _freeze(self, run: Run) -> None:
        """Zero groups are masked from here on; tell how many there are."""
        weights = whole(run.weights())
        kept = {one.name: torch.ones_like(weights[one.name], dtype=torch.bool) for one in groups_of(run.model, ("filters",))}
        for one in self._groups(run):
            weight = weights[one.name]
            zero = one.zero(weight).expand_as(weight)
            if one.name in run.frozen:
                zero = zero & ~run.frozen[one.name][0]
            kept[one.name] &= ~zero
        if all(bool(mask.all()) for mask in kept.values()):
            run.tell("warning", text=f"no group of ssl became zero: raise regime.lam ({self.lam:g}), or train longer.")
        else:
            masking.switch(run, MaskSet(kept) & run.masks, event="zero groups frozen")
        _tell_zeros(run)


def _free(run: Run, name: str, weight: Tensor) -> Tensor:
    """The weight, its frozen positions counted as 0; itself when none is."""
    return weight.masked_fill(run.frozen[name][0], 0) if name in run.frozen else weight


def _tell_zeros(run: Run) -> None:
    """How many groups of each weight and kind are zero, whether they were asked for or not, and how many weights."""
    weights = whole(run.weights())
    found = groups_of(run.model, KINDS)
    for name in dict.fromkeys(one.name for one in found):
        zeros = {one.kind: one.zero(weights[name]) for one in found if one.name == name}
        counts = {kind: int(zero.sum()) for kind, zero in zeros.items()} | {f"all_{kind}": zero.numel() for kind, zero in zeros.items()}
        run.tell("zero groups", layer=name, **counts, weights=int((weights[name] == 0).sum()), all_weights=weights[name].numel())
