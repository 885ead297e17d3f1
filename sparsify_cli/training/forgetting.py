"""How well a model has forgotten, and what it cost, as a function of a step of its parameters.

Samples to forget whose class stays are to be treated like samples never seen. With the mean losses `seen` on retained and
`unseen` on validation samples of the same mixture of classes, both before the step, the target of their mean loss is

    before + (unseen - seen) * min(1, before / seen) :

what the model pays on unseen samples, plus what they were harder than retained ones to begin with; where they were easier,
the gap shrinks in proportion, because an easy sample is not a memorised one. Before the step, because a step that hurts a
class raises the loss of its validation samples too, and chasing that moving target overshoots what retraining does (half a
class of digits: 0.67 nats, where retraining gives 0.06 and unseen samples of that class had 0.07). Samples of a class of
which nothing is retained are to be answered wrongly, since a model trained without a class never answers it; so is an attribute
that nobody has any more.

Source: ours.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from sparsify_cli.contracts.unlearner import Request
from sparsify_cli.maths.macs import macs_per_weight
from sparsify_cli.maths.per_sample_gradients import Coordinates
from sparsify_cli.training.modes import evaluating
from sparsify_cli.values.arrays import as_taken_by
from sparsify_cli.values.choices import alike, choices, in_any, of_samples, unheard_of
from sparsify_cli.values.samples import Samples

LEAST, MOST, WORK = 200, 2000, 10**10
SHARE = 3
"""Where a class goes, the part of the probe that is looked at: a share of right answers near 0 is asked for, not a mean loss."""
BATCH = 500
"""Samples in one forward pass."""


Outcome = tuple[Float[Tensor, "n *a"], Float[Tensor, "n *a"]]
"""Loss of each answer, and 1 or 0 where it is right or wrong."""
ENDS = 40.0
"""Nats; margins beyond are cut, because a loss of 0 has none."""


@dataclass(frozen=True, eq=False)
class Reading:
    """What a set of parameters does, found out when it is asked: losses in nats, accuracies as fractions.

    Validation is on the classes that stay. A step that is too short needs no validation pass, so none is made for it.
    """

    judge: Judge
    parameters: Mapping[str, Tensor]

    @property
    def forget_loss(self) -> float:
        """Mean over the samples to forget."""
        return _mean(self._losses)

    @property
    def forget_accuracy(self) -> float:
        """On the samples to forget."""
        return _mean(self._forget[1])

    @property
    def gone_accuracy(self) -> float:
        """On the answers of which none is retained."""
        return _mean(self._forget[1][self.judge.unheard])

    @property
    def validation_accuracy(self) -> float:
        """On the classes that stay."""
        return _mean(self._validation[1])

    @property
    def reached(self) -> bool:
        """The samples are forgotten."""
        return self.gone_accuracy <= self.judge.forgotten and self._unpaid <= 0

    @property
    def missing(self) -> float:
        """Nats that are missing to `reached`: of loss, or of the margin of the surest answer that is to be wrong.

        Both fall about in a straight line with the step. At most 0 about where it is reached.
        """
        return max(self._unpaid, -margin(self._forget[0][self.judge.unheard], self.judge.forgotten))

    @property
    def _unpaid(self) -> float:
        """Nats of mean loss that samples whose class stays are missing to the target."""
        stays = ~self.judge.gone
        return self.judge.target - _mean(self._losses[stays]) if bool(stays.any()) else -ENDS

    @property
    def _losses(self) -> Float[Tensor, " forget"]:
        return of_samples(self._forget[0], self.judge.forget.targets)

    @property
    def acceptable(self) -> bool:
        """What stays has not suffered; a hair of room, for an unchanged accuracy must not fail by rounding at tolerance 0."""
        return self.validation_accuracy >= self.judge.floor - 1e-9

    @cached_property
    def _forget(self) -> Outcome:
        start = self.judge.start
        return start[0] if start and self.parameters is self.judge.parameters else self.judge.outcome(self.parameters, self.judge.forget)

    @cached_property
    def _validation(self) -> Outcome:
        start = self.judge.start
        return (
            start[1] if start and self.parameters is self.judge.parameters else self.judge.outcome(self.parameters, self.judge.validation)
        )


@dataclass(frozen=True, eq=False)
class Judge:
    """Tries steps on probe samples; the model itself never changes.

    Args:
        unheard: right answers of forget samples that no retained sample has, see `unheard_of`.
        target: loss that forget samples whose class stays are to reach.
        floor: validation accuracy that must be kept.
        start: what the model as it is does with the samples to forget and for validation.
    """

    model: nn.Module
    parameters: dict[str, Tensor]
    coordinates: Coordinates
    forget: Samples
    retain: Samples
    validation: Samples
    unheard: Bool[Tensor, "forget *a"]
    forgotten: float
    target: float = 0.0
    floor: float = 0.0
    start: tuple[Outcome, Outcome] | None = None

    @classmethod
    def of(
        cls, model: nn.Module, coordinates: Coordinates, request: Request, *, forgotten: float, tolerance: float, most: int, seed: int
    ) -> Judge:
        """Draw the probe samples and set target and floor by the model as it is.

        Args:
            model: left as it was.
            coordinates: which parameters a step moves.
            request: samples to forget, retained and validation samples.
            forgotten: accuracy on a wholly forgotten class that counts as forgotten, fraction.
            tolerance: fall of validation accuracy that is acceptable, fraction.
            most: samples of each kind at most, drawn at random; 0 = `probe_size`.
            seed: for the draw.
        """
        quiet = copy.deepcopy(model).eval()
        most = most or probe_size(quiet, request.forget, len(request.forget) + len(request.retain))
        parameters = {name: p.detach() for name, p in quiet.named_parameters()}
        left = request.retain.targets
        if bool(unheard_of(request.forget.targets, left).any()):
            most = max(min(LEAST, most), most // SHARE)
        forget = draw(request.forget, most, seed)
        validation = draw(request.validation.take(answered_by(request.validation.targets, left)), most, seed)
        retain = draw(request.retain, most, seed)
        unheard = unheard_of(forget.targets, left)
        return cls(quiet, parameters, coordinates, forget, retain, validation, unheard, forgotten)._started(tolerance)

    def _started(self, tolerance: float) -> Judge:
        known, retained, unknown = alike(self.forget.targets[~self.gone], self.retain.targets, self.validation.targets)
        here = Reading(self, self.parameters)
        seen, _ = self.outcome(self.parameters, self.retain)
        before = _mean(here._losses[~self.gone])
        level = float(of_samples(seen, self.retain.targets) @ mixture(retained, known))
        unseen, right = of_samples(here._validation[0], self.validation.targets), here._validation[1]
        gap = float(unseen @ mixture(unknown, known)) - level
        target = before + gap * (min(1.0, before / level) if level else 1.0)
        return replace(self, target=target, floor=_mean(right) - tolerance, start=(here._forget, here._validation))

    @cached_property
    def gone(self) -> Bool[Tensor, " forget"]:
        """Forget samples with an answer that no retained sample has: their class, or one of their attributes, goes as a whole."""
        return in_any(self.unheard)

    @cached_property
    def before(self) -> Reading:
        """The model as it is."""
        return self.judged(self.parameters)

    def read(self, step: Float[Tensor, " d"]) -> Reading:
        """What the model does after `step`."""
        return self.judged(self.coordinates.moved(self.parameters, step))

    def retained_loss(self, step: Float[Tensor, " d"]) -> float:
        """Mean loss of the probed samples that stay, after `step`."""
        losses = self.outcome(self.coordinates.moved(self.parameters, step), self.retain)[0]
        return _mean(of_samples(losses, self.retain.targets))

    @property
    def sureness(self) -> float:
        """Mean slope of a forget sample's loss by its margin, before the step: the chance it gives to other answers."""
        return max(1e-12, float(-torch.expm1(-self.before._losses).mean()))

    def judged(self, parameters: Mapping[str, Tensor]) -> Reading:
        """What the model does with these parameters (and buffers, where given)."""
        return Reading(self, parameters)

    def outcome(self, parameters: Mapping[str, Tensor], samples: Samples) -> Outcome:
        """Of each sample, in eval mode."""
        return outcomes(self.model, samples, parameters)


def probe_size(model: nn.Module, samples: Samples, n: int) -> int:
    """Samples of each kind that may be looked at for every step that is tried.

    At most 10^10 multiply-accumulates and a tenth of the training set, because forgetting is to cost next to nothing beside training
    anew; but 200 to 2,000 samples.

    Args:
        model: in eval mode.
        samples: as the model takes them.
        n: samples in the training set.
    """
    if not len(samples):
        return MOST
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    work = sum(uses * sizes[name] for name, uses in macs_per_weight(model, samples.inputs).items() if name in sizes)
    return max(LEAST, min(MOST, n // 10, WORK // max(1, work)))


@torch.no_grad()
def outcomes(model: nn.Module, samples: Samples, parameters: Mapping[str, Tensor] | None = None) -> Outcome:
    """Loss (nats) of each answer and which are right (1 or 0), float64; a non-finite loss counts as enormous.

    Args:
        model: in the mode it is to run in.
        samples: in order.
        parameters: to be taken instead of the model's own.
    """
    if not len(samples):
        return torch.zeros(samples.targets.shape, dtype=torch.float64), torch.zeros(samples.targets.shape, dtype=torch.float64)
    parts = torch.split(samples.inputs, BATCH)
    logits = torch.cat([functional_call(model, dict(parameters or {}), (as_taken_by(model, x),)).cpu() for x in parts]).double()
    rows, right = choices(logits, samples.targets)
    losses = cross_entropy(rows, right, reduction="none").nan_to_num(1e30, posinf=1e30)
    return losses.reshape(samples.targets.shape), (rows.argmax(dim=1) == right).double().reshape(samples.targets.shape)


def margin(losses: Float[Tensor, " n"], share: float) -> float:
    """By how much wrong answers are ahead, nats, at the answer that must be wrong so that at most a share is right; `ENDS` of none.

    From losses alone: log(e^loss - 1) = log(sum of e^logit over the wrong answers) - the logit of the right one.

    Args:
        losses: of each answer.
        share: that may stay right, fraction.
    """
    if not len(losses) or share >= 1:
        return ENDS
    ahead = losses + torch.log(-torch.expm1(-losses)).clamp(min=-ENDS)
    return max(-ENDS, min(ENDS, float(ahead.sort().values[int(share * len(losses) + 1e-9)])))


def right_answers(model: nn.Module, samples: Samples) -> Float[Tensor, " n"]:
    """1 where the model in eval mode answers rightly, else 0; the share of right attributes."""
    with evaluating(model):
        right = outcomes(model, samples)[1]
    return right if right.ndim == 1 else right.mean(dim=1)


def answered_by(targets: Int[Tensor, "n *a"], retained: Int[Tensor, "m *a"]) -> Int[Tensor, " some"]:
    """Positions of the samples all of whose right answers some retained sample has.

    Args:
        targets: labels, or 0 and 1 for each attribute.
        retained: the same of the samples that stay.
    """
    return (~in_any(unheard_of(targets, retained))).nonzero().reshape(-1)


def draw(samples: Samples, most: int, seed: int) -> Samples:
    """At most `most` samples, at random without replacement; all of them in order when there are no more."""
    if len(samples) <= most:
        return samples
    return samples.take(torch.randperm(len(samples), generator=torch.Generator().manual_seed(seed))[:most])


def mixture(targets: Int[Tensor, " n"], like: Int[Tensor, " m"]) -> Float[Tensor, " n"]:
    """Weights of samples that sum to 1 and mix their classes as in `like`; even where no class is shared."""
    if not len(targets):
        return torch.zeros(0, dtype=torch.float64)
    classes = int(torch.cat([targets, like]).max()) + 1
    wanted = torch.bincount(like, minlength=classes).double() / torch.bincount(targets, minlength=classes).clamp(min=1)
    weights = wanted[targets]
    return weights / weights.sum() if weights.sum() > 0 else torch.full_like(weights, 1 / len(weights))


def _mean(values: Tensor) -> float:
    return float(values.mean()) if len(values) else 0.0
