"""Erasing from one network, or from every network of a nest, sparsest first.

In a nest the weights of a sparser network belong to the denser ones too. So each level forgets with the weights of the levels before it
as those have become, and moves only its own: the weights it adds, and its private batch norm and biases. Masks stay what they are, and
every level is extracted from the result as before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from sparsify_cli.contracts.listener import Listener
from sparsify_cli.contracts.unlearner import Erasure, Memo, Request, Unlearner
from sparsify_cli.stages.levels import level_network
from sparsify_cli.stages.memos import Prepared, moved
from sparsify_cli.stages.plan import tied_names, untied
from sparsify_cli.stages.subject import Subject
from sparsify_cli.stages.write import in_own_types
from sparsify_cli.training.batchnorm import recalibrate
from sparsify_cli.training.forgetting import draw
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.report import Finding
from sparsify_cli.values.samples import Samples
from sparsify_cli.values.small_floats import stored_as

STATISTICS = 5000
"""Most retained samples that batch-norm statistics are measured on again."""
BATCH = 128
SHIFT = "memo_moved_by_sparser_levels"
SHIFTED = "How far sparser levels had moved the weights of this level since preparing, when its own step was taken; relative to their norm."


@dataclass(frozen=True, eq=False)
class Network:
    """One network of a subject.

    Args:
        level: 1 = the only or sparsest one.
        subject: as a network of its own.
        frozen: weights that sparser networks own.
    """

    level: int
    subject: Subject
    frozen: MaskSet


@dataclass(frozen=True, eq=False)
class Erased:
    """One network before and after."""

    level: int
    request: Request
    before: Subject
    after: Subject
    erasure: Erasure

    @property
    def changed(self) -> bool:
        """Whether any weight is another one now, in the type it is written in; running statistics do not count."""
        old, new = (in_own_types(one.checkpoint).tensors for one in (self.before, self.after))
        statistics = {name for name, _ in self.before.module().named_buffers()}
        return any(not torch.equal(_wide(old[name]), _wide(tensor)) for name, tensor in new.items() if name not in statistics)


def _wide(tensor: Tensor) -> Tensor:
    """In twice the precision, complex numbers whole."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float64))


def networks(subject: Subject) -> list[Network]:
    """The only network, or one a level, sparsest first."""
    if subject.nest is None:
        return [Network(1, subject, MaskSet())]
    nest = subject.nest
    owned = [MaskSet(), *(nest.masks(level) for level in range(1, nest.levels))]
    return [Network(level, level_network(subject, level), owned[level - 1]) for level in range(1, nest.levels + 1)]


def prepared(method: Unlearner, subject: Subject, train: Samples, listener: Listener) -> dict[int, Memo | None]:
    """Prepare every network, after saying how much work each is."""
    memos = {}
    for network in networks(subject):
        module, masks = network.subject.module(), network.subject.masks
        if effort := method.effort(module, train, masks):
            listener.note(effort)
        memos[network.level] = method.prepare(module, train, masks)
    return memos


def erase_all(
    method: Unlearner, subject: Subject, request: Request, memos: Callable[[], Prepared], *, seed: int, batchnorm: bool
) -> tuple[list[Erased], Prepared]:
    """Erase from every network.

    Args:
        method: of forgetting.
        subject: a network or a nest.
        request: samples; masks and frozen weights are filled in.
        memos: what was or is prepared.
        seed: of draws.
        batchnorm: measure running statistics again on what stays.
    """
    known, done = memos(), list[Erased]()
    renew = batchnorm or (
        subject.nest is not None and subject.nest.state == "shared"
    )  # whose statistics are measured, on samples that stay
    for network in networks(subject):
        before = network.subject
        start = _with_frozen(before, network.frozen, done[-1].after) if done else before
        asked = replace(request, masks=before.masks, frozen=network.frozen, fresh=partial(_fresh, before))
        n, module = len(request.forget) + len(request.retain), start.module()
        memo = known.of(network.level, module if start is before else before.module(), module, before.masks, n)
        erasure = _with_age(method.erase(module, asked, memo), memo, before, start)
        after = _after(start, erasure.tensors)
        done.append(Erased(network.level, asked, before, _renewed(after, request.retain, seed) if renew else after, erasure))
    return done, known


def _with_age(erasure: Erasure, memo: Memo | None, before: Subject, start: Subject) -> Erasure:
    """With the number of how far sparser levels had moved a level's weights, where something was prepared for it before they did."""
    if memo is None or start is before:
        return erasure
    return replace(
        erasure, findings=(*erasure.findings, Finding(name=SHIFT, value=moved(before, start), unit="fraction", definition=SHIFTED))
    )


def shift_notes(done: list[Erased]) -> Iterator[str]:
    """For which levels what was prepared is older than what sparser levels have become, and by how much."""
    shifts = [(one.level, f.value) for one in done for f in one.erasure.findings if f.name == SHIFT and f.value]
    if shifts:
        told = " and ".join(f"of level {level} by {value:.2%}" for level, value in shifts)
        yield f"what was prepared is stale for denser levels: sparser ones forgot before and moved the weights {told} since."


def rejoined(subject: Subject, done: list[Erased]) -> Subject:
    """The subject with what every level has become."""
    if subject.nest is None:
        return done[0].after
    covered = {*subject.nest.index, *subject.nest.ties}
    side = tuple({name: t for name, t in one.after.checkpoint.tensors.items() if name not in covered} for one in done)
    last = done[-1].after.checkpoint.tensors
    nest = replace(subject.nest, side=side, state="private")
    return replace(subject, checkpoint=subject.checkpoint.with_tensors(dict(last)), nest=nest)


def _with_frozen(subject: Subject, frozen: MaskSet, before: Subject) -> Subject:
    """A level's network with the weights of the level before as they have become."""
    tensors = subject.checkpoint.tensors
    taken = {name: torch.where(mask, before.checkpoint.tensors[name], tensors[name]) for name, mask in frozen.items()}
    joined = untied({**tensors, **taken}, tied_names(subject.checkpoint, subject.architecture))
    return subject.changed(subject.checkpoint.with_tensors(joined), subject.masks)


def _after(subject: Subject, changed: Mapping[str, Tensor]) -> Subject:
    before = subject.checkpoint.tensors
    erased = subject.masks.apply({**before, **{name: stored_as(tensor, before[name].dtype) for name, tensor in changed.items()}})
    tensors = untied(erased, tied_names(subject.checkpoint, subject.architecture))
    return subject.changed(in_own_types(subject.checkpoint.with_tensors(tensors)), subject.masks)


def _renewed(subject: Subject, retain: Samples, seed: int) -> Subject:
    """With running statistics measured on what stays."""
    module = subject.module()
    if len(retain) < 2:
        return subject
    recalibrate(module, draw(retain, STATISTICS, seed).inputs, batch=BATCH)
    buffers: dict[str, Tensor] = {name: b for name, b in module.named_buffers() if name in subject.checkpoint.tensors}
    return subject.changed(subject.checkpoint.with_tensors({**subject.checkpoint.tensors, **buffers}), subject.masks)


def _fresh(subject: Subject, seed: int) -> nn.Module:
    """A network of the same architecture as it was before training."""
    torch.manual_seed(seed)
    return subject.built()


def levels_of(done: list[Erased]) -> Iterator[tuple[str, Erased]]:
    """Scope and network; the last one is what a nest stands for, and has the scope of the whole."""
    for one in done:
        yield "all" if one is done[-1] else f"level:{one.level}", one
