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

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sparsify_cli.contracts.unlearner import Request
from sparsify_cli.maths.macs import macs_per_weight
from sparsify_cli.maths.per_sample_gradients import Coordinates
from sparsify_cli.training.modes import evaluating
from sparsify_cli.values.arrays import as_taken_by, handy_batch, small_batch
from sparsify_cli.values.channels_last import order_for
from sparsify_cli.values.choices import alike, choices, in_any, of_samples, unheard_of
from sparsify_cli.values.copies import copy_of
from sparsify_cli.values.samples import Samples

LEAST, MOST, WORK = 200, 2000, 10**10
SHARE, EACH = 3, 20
"""Where whole classes go and nothing else, the part of the forget and retain probes that is looked at; and samples of each that goes."""
ENDS = 1e30
"""Nats; what is not finite counts as so much."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """What became of each answer, float64, worked out when it is asked; a loss or lead that is not finite counts as enormous.

    Args:
        rows: logits of every choice.
        targets: what is right, as labels or attributes.
        answers: which of each row is right.
    """

    rows: Float[Tensor, "m options"]
    targets: Int[Tensor, "n *a"]
    answers: Int[Tensor, " m"]

    @cached_property
    def losses(self) -> Float[Tensor, "n *a"]:
        """Nats."""
        return self._told(cross_entropy(self.rows, self.answers, reduction="none"))

    @cached_property
    def right(self) -> Float[Tensor, "n *a"]:
        """1 or 0."""
        return self._told((self.rows.argmax(dim=1) == self.answers).double())

    @cached_property
    def ahead(self) -> Float[Tensor, "n *a"]:
        """By how much a wrong answer is ahead, nats."""
        right = self.answers.unsqueeze(1)
        return self._told(self.rows.scatter(1, right, float("-inf")).amax(dim=1) - self.rows.gather(1, right).squeeze(1))

    def _told(self, values: Tensor) -> Tensor:
        return values.nan_to_num(ENDS, posinf=ENDS, neginf=-ENDS).reshape(self.targets.shape)


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
        return _mean(self._forget.right)

    @property
    def gone_accuracy(self) -> float:
        """On the answers of which none is retained."""
        return _mean(self._forget.right[self.judge.unheard])

    @property
    def validation_accuracy(self) -> float:
        """On the classes that stay."""
        return _mean(self._validation.right)

    @cached_property
    def reached(self) -> bool:
        """The samples are forgotten."""
        return self.gone_accuracy <= self.judge.forgotten and self._unpaid <= 0

    @cached_property
    def missing(self) -> tuple[float, float]:
        """Nats that are missing to `reached`: of mean loss, and of the lead of a wrong answer where the last that counts is to be wrong.

        Both fall about in a straight line with the step; both are at most 0 where it is reached, up to ties.
        """
        return self._unpaid, -lead(self._forget.ahead[self.judge.unheard], self.judge.forgotten)

    @cached_property
    def _unpaid(self) -> float:
        """Nats of mean loss that samples whose class stays are missing to the target."""
        stays = ~self.judge.gone
        return self.judge.target - _mean(self._losses[stays]) if bool(stays.any()) else -ENDS

    @cached_property
    def _losses(self) -> Float[Tensor, " forget"]:
        return of_samples(self._forget.losses, self.judge.forget.targets)

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
    """Tries steps on probe samples; a copy of the model takes them, for the time of a look.

    Args:
        unheard: right answers of forget samples that no retained sample has, see `unheard_of`.
        target: loss that forget samples whose class stays are to reach.
        unseen: mean loss of validation samples of the same mixture of classes.
        floor: validation accuracy that must be kept.
        start: what the model as it is does with the samples to forget and for validation.
        stays: its mean loss on the samples that stay.
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
    unseen: float = 0.0
    floor: float = 0.0
    start: tuple[Outcome, Outcome] | None = None
    stays: float = 0.0

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
            most: samples of each kind at most, drawn at random; 0 = `probe_size`, where whole classes go a third to forget and retained.
            seed: for the draw.
        """
        quiet = copy_of(model).eval()
        left, unheard = request.retain.targets, unheard_of(request.forget.targets, request.retain.targets)
        chosen = not most
        few = most = most or probe_size(quiet, request.forget, len(request.forget) + len(request.retain))
        if chosen and len(request.forget) and bool(in_any(unheard).all()):
            few = max(LEAST, most // SHARE)
        parameters = {name: p.detach() for name, p in quiet.named_parameters()}
        forget = _with_each(request.forget, unheard, few, seed)
        validation = draw(request.validation, most, seed, of=answered_by(request.validation.targets, left))
        retain = draw(request.retain, few, seed)
        unheard = unheard_of(forget.targets, left)
        order = order_for(quiet, retain.inputs)
        forget, retain, validation = (replace(one, inputs=order(one.inputs)) for one in (forget, retain, validation))
        return cls(quiet, parameters, coordinates, forget, retain, validation, unheard, forgotten)._started(tolerance)

    def _started(self, tolerance: float) -> Judge:
        known, retained, unknown = alike(self.forget.targets[~self.gone], self.retain.targets, self.validation.targets)
        here = Reading(self, self.parameters)
        seen = of_samples(self.outcome(self.parameters, self.retain).losses, self.retain.targets)
        before, level = _mean(here._losses[~self.gone]), float(seen @ mixture(retained, known))
        unseen, right = of_samples(here._validation.losses, self.validation.targets), here._validation.right
        price = float(unseen @ mixture(unknown, known))
        target = before + (price - level) * (min(1.0, before / level) if level else 1.0)
        return replace(
            self, target=target, unseen=price, floor=_mean(right) - tolerance, start=(here._forget, here._validation), stays=_mean(seen)
        )

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
        losses = self.outcome(self.coordinates.moved(self.parameters, step), self.retain).losses
        return _mean(of_samples(losses, self.retain.targets))

    @property
    def sureness(self) -> float:
        """Mean slope of a forget sample's loss by its margin, before the step: the chance it gives to other answers."""
        return max(1e-12, float(-torch.expm1(-self.before._losses).mean()))

    def judged(self, parameters: Mapping[str, Tensor]) -> Reading:
        """What the model does with these parameters."""
        return Reading(self, parameters)

    @cached_property
    def _places(self) -> dict[str, nn.Parameter]:
        return dict(self.model.named_parameters())

    def outcome(self, parameters: Mapping[str, Tensor], samples: Samples) -> Outcome:
        """Of each sample, in eval mode."""
        with _standing_in(self._places, parameters):
            return outcomes(self.model, samples)


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


@contextmanager
def _standing_in(places: Mapping[str, nn.Parameter], values: Mapping[str, Tensor]) -> Iterator[None]:
    """Parameters with other numbers inside, none copied; of `functional_call` a small network's pass would be a part."""
    own = {name: places[name].data for name in values}
    try:
        for name, value in values.items():
            places[name].data = value.detach()
        yield
    finally:
        for name, value in own.items():
            places[name].data = value


@torch.no_grad()
def outcomes(model: nn.Module, samples: Samples) -> Outcome:
    """What a model does with each answer.

    Args:
        model: in the mode it is to run in.
        samples: in order.
    """
    if not len(samples):
        return Outcome(torch.zeros(0, 2, dtype=torch.float64), samples.targets, samples.targets.reshape(-1))
    parts = torch.split(samples.inputs, small_batch(samples.inputs, handy_batch(model)))
    logits = torch.cat([model(as_taken_by(model, x)).cpu() for x in parts]).double()
    rows, right = choices(logits, samples.targets)
    return Outcome(rows, samples.targets, right)


def lead(ahead: Float[Tensor, " n"], share: float) -> float:
    """By how much a wrong answer is ahead, nats, where one must be so that at most a share is right; `ENDS` of none.

    Args:
        ahead: of each answer that is to be wrong.
        share: that may stay right, fraction.
    """
    right = int(share * len(ahead) + 1e-9)
    return float(ahead.sort().values[right]) if right < len(ahead) else ENDS


def _with_each(samples: Samples, unheard: Bool[Tensor, "n *a"], most: int, seed: int) -> Samples:
    """As `draw`, but with `EACH` of every class, or attribute, that goes, or all of it, so that none is forgotten to be forgotten."""
    if len(samples) <= most or not bool(unheard.any()):
        return draw(samples, most, seed)
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(seed))
    going = (
        unheard.T if unheard.ndim == 2 else torch.stack([unheard & (samples.targets == one) for one in samples.targets[unheard].unique()])
    )
    first = torch.cat([order[members[order]][:EACH] for members in going]).unique()
    return samples.take(torch.cat([first, order[~torch.isin(order, first)]])[:most])


def right_answers(model: nn.Module, samples: Samples) -> Float[Tensor, " n"]:
    """1 where the model in eval mode answers rightly, else 0; the share of right attributes."""
    with evaluating(model):
        right = outcomes(model, samples).right
    return right if right.ndim == 1 else right.mean(dim=1)


def answered_by(targets: Int[Tensor, "n *a"], retained: Int[Tensor, "m *a"]) -> Int[Tensor, " some"]:
    """Positions of the samples all of whose right answers some retained sample has.

    Args:
        targets: labels, or 0 and 1 for each attribute.
        retained: the same of the samples that stay.
    """
    return (~in_any(unheard_of(targets, retained))).nonzero().reshape(-1)


def draw(samples: Samples, most: int, seed: int, *, of: Int[Tensor, " some"] | None = None) -> Samples:
    """At most `most` samples, at random without replacement; all of them in order when there are no more.

    Args:
        samples: to draw from.
        most: at most so many.
        seed: of the draw.
        of: positions to draw from; None = all.
    """
    there = len(samples) if of is None else len(of)
    if there <= most:
        return samples if of is None else samples.take(of)
    drawn = torch.randperm(there, generator=torch.Generator().manual_seed(seed))[:most]
    return samples.take(drawn if of is None else of[drawn])


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
